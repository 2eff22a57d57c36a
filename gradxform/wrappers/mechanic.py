"""A learning rate for any optimizer, found on the way."""

from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.arguments import whole
from gradxform.arithmetic import compute_dtype, copy_of, next_count, real_dtype, safe_sqrt, totals_of
from gradxform.hyperparams import Scalar
from gradxform.slots import Exact
from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.trees import map_leaves
from gradxform.wrappers.wrapper import Wrapper, beside, conform, no_steps

__all__ = ["MechanicState", "mechanize"]


class MechanicState(NamedTuple):
    """The state of `mechanize`.

    Attributes:
      base_optimizer_state: the base optimizer's state.
      count: steps taken, int32.
      r, m, v: for each decay the reward, the largest gain and the sum of squared gains.
      s: for each decay its part of the learning rate, which is their sum.
      x0: where the parameters started.
    """

    base_optimizer_state: State
    count: jax.Array  # type: ignore[assignment]  # a tuple's own method, which no one calls on a state
    r: jax.Array
    m: jax.Array
    v: jax.Array
    s: jax.Array
    x0: Exact


def mechanize(
    base_optimizer: GradientTransformation,
    weight_decay: Scalar = 0.01,
    eps: Scalar = 1e-8,
    s_init: Scalar = 1e-6,
    num_betas: int = 6,
) -> Wrapper:
    r"""Scale all that an optimizer has done so far by a learning rate that bets on the gradients find.

    .. math::
      \Delta \leftarrow \Delta + u, \quad w \leftarrow w_0 + \sum_i s_i \Delta

    Each :math:`s_i` is the wealth of a gambler who forgets by :math:`\beta_i = 1 - 10^{-i}` and
    wins where :math:`\langle g, \Delta \rangle < 0`.

    Args:
      base_optimizer: any optimizer, with a learning rate (or schedule) of at most 1.
      weight_decay: what draws the parameters to 0, at least 0.
      eps: keeps divisions finite, above 0.
      s_init: what the learning rate starts at, above 0.
      num_betas: how many gamblers there are, at least 1.

    Returns:
      A `GradientTransformation` with a `MechanicState`: the base optimizer's, and a slot the size
      of the parameters; its update needs the parameters.

    Raises:
      TypeError: `num_betas` is no integer.
      ValueError: an argument is out of its bounds, or the parameters are missing.

    References:
      Cutkosky, Defazio and Mehta, `Mechanic: a learning rate tuner
      <https://arxiv.org/abs/2306.00144>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.mechanize(gx.sgd(1.0), s_init=0.5), {"w": 1.0}
      >>> updates, state = tx.update({"w": 1.0}, tx.init(params), params)
      >>> bool(updates["w"] < 0)
      True
    """
    whole("mechanize", num_betas=num_betas)
    if isinstance(weight_decay, int | float) and not weight_decay >= 0:
        raise ValueError(f"mechanize: weight_decay must be at least 0, got {weight_decay!r}")
    for name, value in (("eps", eps), ("s_init", s_init)):
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"mechanize: {name} must be above 0, got {value!r}")
    accepted = accepted_keywords(base_optimizer.update)

    def init(params: Params) -> MechanicState:
        dtypes = map(jnp.result_type, jax.tree.leaves(params))
        dtype = real_dtype(compute_dtype(jnp.float32, *dtypes))
        r, m, v = (jnp.zeros(num_betas, dtype) for _ in range(3))
        x0 = jax.tree.map(copy_of, params)
        s = jnp.full(num_betas, s_init, dtype)
        return MechanicState(base_optimizer.init(params), no_steps(), r, m, v, s, x0)

    def update(
        grads: Updates, state: MechanicState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MechanicState]:
        if params is None:
            raise ValueError("mechanize needs the parameters: call update(grads, state, params)")
        steps, inner = base_optimizer.update(grads, state.base_optimizer_state, params, **accepted(extra))
        scale = state.s.sum()
        betas = (1 - 0.1 ** np.arange(1, num_betas + 1)).astype(state.s.dtype)
        sums: Any = (np.zeros((), state.s.dtype),) * 4
        leaves = [jax.tree.leaves(beside(grads, tree, "mechanize")) for tree in (params, state.x0)]
        for leaf in zip(jax.tree.leaves(grads), *leaves, strict=True):
            sums = _add_products(sums, *leaf)
        squares, sizes, along, inward = sums
        decay = weight_decay * scale * safe_sqrt(squares) / (safe_sqrt(sizes) + eps)
        gain = (along + decay * inward) / (scale + eps)
        m = jnp.maximum(betas * state.m, jnp.abs(gain) + eps)
        v = betas**2 * state.v + gain**2
        r = betas * state.r + jnp.clip(gain, -state.m, state.m) * state.s
        wealth = s_init / num_betas * m + jnp.maximum(r, 0)
        s = (wealth / (safe_sqrt(v) + eps)).astype(state.s.dtype)
        now = s.sum()

        def move(step: Any, param: Any, start: Any) -> Any:
            return _move(step, param, start, scale + eps, now)

        names = "updates", "params", "x0"
        updates = map_leaves(move, steps, params, state.x0, who="mechanize", names=names)
        r, m, v = conform((r, m, v), state[2:5])
        return updates, MechanicState(inner, next_count(state.count), r, m, v, s, state.x0)

    return Wrapper("mechanize", base_optimizer, init, update, "base_optimizer_state")


@jax.jit
def _add_products(sums: Any, grad: Any, param: Any, start: Any) -> Any:
    """Of one array the squared norms of gradient and parameters, and their products with the way back."""
    dtype = compute_dtype(jnp.result_type(grad), jnp.result_type(param))
    grad, param = jnp.asarray(grad, dtype), jnp.asarray(param, dtype)
    back = start - param
    pairs = (grad, grad), (param, param), (grad, back), (param, back)
    return tuple(map(add, sums, totals_of(*(jnp.real(jnp.conj(x) * y) for x, y in pairs))))


@jax.jit
def _move(step: Any, param: Any, start: Any, before: Any, now: Any) -> Any:
    """From where the parameters are to the start and all steps, the new one too, at the new scale."""
    way = (start - param) / before - step
    return jnp.asarray(start - now * way - param, jnp.result_type(param))
