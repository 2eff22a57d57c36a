"""Newton's direction from the differences of past gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradxform.arguments import whole
from gradxform.arithmetic import (
    compute_dtype,
    next_count,
    real_dtype,
    safe_sqrt,
    slot_like,
    sum_of_squares,
    total_of,
)
from gradxform.transformation import GradientTransformation, Params, Updates
from gradxform.trees import PyTree, check_all_inexact, check_gradient, flatten, flatten_like, map_leaves

__all__ = ["ScaleByLBFGSState", "filled_grads", "real_dtype_of", "real_vdot", "scale_by_lbfgs"]


class ScaleByLBFGSState(NamedTuple):
    """The state of `scale_by_lbfgs`.

    Attributes:
      count: steps taken, int32.
      params: the parameters of the last step.
      updates: its gradients.
      diff_params_memory: the last `m` differences of parameters, the one of step `t` in row ``(t - 1) % m``.
      diff_updates_memory: the differences of gradients beside them.
      weights_memory: one over the inner product of each pair, and 0 in rows not used yet.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple's own method, which no one calls on a state
    params: Params
    updates: Updates
    diff_params_memory: PyTree
    diff_updates_memory: PyTree
    weights_memory: jax.Array


def scale_by_lbfgs(memory_size: int = 10, scale_init_precond: bool = True) -> GradientTransformation:
    r"""Multiply by the inverse Hessian that the last steps are evidence of: :math:`u = H g`.

    Each pair :math:`s = w_t - w_{t-1}`, :math:`y = g_t - g_{t-1}` corrects the estimate such that
    :math:`H y = s`:

    .. math::
      H \leftarrow (I - \rho s y^\top) H (I - \rho y s^\top) + \rho s s^\top, \quad
      \rho = \frac{1}{y^\top s}

    beginning from :math:`\gamma I` and the oldest pair; :math:`H` itself is never formed. Here
    :math:`\gamma = y^\top s / y^\top y` of the newest pair, and :math:`\min(1, 1 / \lVert g \rVert)` in the
    first step, when there is none.

    Complex gradients are to be conjugated, as for any descent along what `jax.grad` returns.

    Args:
      memory_size: `m`, how many pairs to remember, at least 1.
      scale_init_precond: whether to begin from :math:`\gamma I`; otherwise from :math:`I`.

    Returns:
      A `GradientTransformation` with ``2 m + 2`` slots the size of the parameters; its update needs
      the parameters.

    Raises:
      TypeError: `memory_size` is no integer.
      ValueError: it is below 1; in `update`, the parameters are missing.

    References:
      Nocedal and Wright, `Numerical optimization <https://doi.org/10.1007/978-0-387-40065-5>`_, 2006,
      algorithm 7.4.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_lbfgs()
      >>> _, state = tx.update(8.0, tx.init(2.0), 2.0)
      >>> tx.update(4.0, state, 1.0)[0].item()
      1.0
    """
    whole("scale_by_lbfgs", memory_size=memory_size)

    def init(params: Params) -> ScaleByLBFGSState:
        check_all_inexact(params, root="params", who="scale_by_lbfgs")

        def memory(param: Any) -> jax.Array:
            return jnp.zeros((memory_size, *jnp.shape(param)), compute_dtype(jnp.result_type(param)))

        return ScaleByLBFGSState(
            count=jnp.zeros((), jnp.int32),
            params=jax.tree.map(slot_like, params),
            updates=jax.tree.map(slot_like, params),
            diff_params_memory=jax.tree.map(memory, params),
            diff_updates_memory=jax.tree.map(memory, params),
            weights_memory=jnp.zeros(memory_size, real_dtype_of(params)),
        )

    def update(
        grads: Updates, state: ScaleByLBFGSState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ScaleByLBFGSState]:
        if params is None:
            raise ValueError("scale_by_lbfgs needs the parameters: call update(grads, state, params)")
        filled = filled_grads("scale_by_lbfgs", grads, params)
        direction, state = _newton(filled, state, params, scale_init_precond)
        names = "grads", "the direction", "params"
        return map_leaves(_in_dtype_of, grads, direction, params, who="scale_by_lbfgs", names=names), state

    return GradientTransformation(init, update)


def real_dtype_of(params: Params) -> Any:
    """The dtype of what is real of the whole tree, such as its loss: float32, or wider if a leaf is."""
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    return real_dtype(compute_dtype(*dtypes)) if dtypes else jnp.dtype(jnp.float32)


def real_vdot(tree_x: PyTree, tree_y: PyTree) -> Any:
    r"""The inner product of trees as vectors of real numbers: :math:`\Re \sum_i \bar x_i y_i`."""

    # Not as a dot product: on accelerators that multiplies in less than float32.
    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        products = jnp.real(jnp.conj(x) * y) if jnp.iscomplexobj(x) or jnp.iscomplexobj(y) else lax.mul(x, y)
        return total_of(products)

    return sum(jax.tree.leaves(jax.tree.map(product, tree_x, tree_y)))


def filled_grads(who: str, grads: Updates, params: Params) -> Updates:
    """The gradients in at least float32, and zeros for parameters that have none."""
    leaves, treedef = flatten(params)
    given = flatten_like(treedef, params, grads, root="grads", like="params", who=who)

    def fill(index: int, param: Any, grad: Any) -> Any:
        if param is None:
            return None
        if grad is None:
            return slot_like(param)
        check_gradient(grad, param, params, index, who=who)
        return jnp.asarray(grad, compute_dtype(jnp.result_type(param)))

    return treedef.unflatten(map(fill, range(len(leaves)), leaves, given))


def _in_dtype_of(grad: Any, direction: jax.Array, param: Any) -> jax.Array:
    return direction.astype(jnp.result_type(param))


def _newton(
    grads: Updates, state: ScaleByLBFGSState, params: Params, scale_init_precond: bool
) -> tuple[Updates, ScaleByLBFGSState]:
    if not jax.tree.leaves(grads):
        return grads, state._replace(count=next_count(state.count))
    advanced: tuple[Updates, ScaleByLBFGSState] = _compiled(grads, state, params, scale_init_precond)
    return advanced


def _direction(
    grads: Updates, state: ScaleByLBFGSState, params: Params, scale_init_precond: bool
) -> tuple[Updates, ScaleByLBFGSState]:
    memory_size, dtype = state.weights_memory.shape[0], state.weights_memory.dtype
    first, row = state.count == 0, (state.count - 1) % memory_size
    params = jax.tree.map(lambda param, old: jnp.asarray(param, old.dtype), params, state.params)

    def difference(new: Any, old: Any) -> jax.Array:
        return jnp.where(first, 0, new - old)

    s = jax.tree.map(difference, params, state.params)
    y = jax.tree.map(difference, grads, state.updates)
    sy = jnp.asarray(real_vdot(y, s), dtype)
    usable = jnp.abs(sy) >= jnp.finfo(dtype).tiny  # one over less than that is infinite
    weight = jnp.where(usable, 1 / jnp.where(usable, sy, 1), 0)

    def remember(memory: jax.Array, new: jax.Array) -> jax.Array:
        return memory.at[row].set(new)

    steps = jax.tree.map(remember, state.diff_params_memory, s)
    changes = jax.tree.map(remember, state.diff_updates_memory, y)
    weights = remember(state.weights_memory, weight)
    gamma: Any = 1.0
    if scale_init_precond:
        yy = _squared_norm(y)
        of_pair = jnp.where(yy > 0, sy / jnp.where(yy > 0, yy, 1), 1)
        gamma = jnp.where(first, 1 / jnp.maximum(1, safe_sqrt(_squared_norm(grads))), of_pair)

    oldest_first = (state.count + jnp.arange(memory_size)) % memory_size

    def times(number: Any, tree: PyTree) -> PyTree:
        return jax.tree.map(lambda x: (number * x).astype(x.dtype), tree)

    def project(q: Updates, i: Any) -> tuple[Updates, Any]:
        s, y = jax.tree.map(lambda memory: memory[i], (steps, changes))
        alpha = weights[i] * real_vdot(s, q)
        return jax.tree.map(lax.sub, q, times(alpha, y)), alpha

    def correct(r: Updates, pair: tuple[Any, Any]) -> tuple[Updates, None]:
        i, alpha = pair
        s, y = jax.tree.map(lambda memory: memory[i], (steps, changes))
        return jax.tree.map(lax.add, r, times(alpha - weights[i] * real_vdot(y, r), s)), None

    q, alphas = lax.scan(project, grads, oldest_first, reverse=True)
    r, _ = lax.scan(correct, times(gamma, q), (oldest_first, alphas))
    return r, ScaleByLBFGSState(next_count(state.count), params, grads, steps, changes, weights)


_compiled = jax.jit(_direction, static_argnames="scale_init_precond")


def _squared_norm(tree: PyTree) -> Any:
    return sum(map(sum_of_squares, jax.tree.leaves(tree)))
