r"""Parameters in few bits that lose no update.

A bfloat16 number has eight bits after the point. An update a thousand times smaller than its weight is
below half of the last one, and rounding to the nearest number loses it at every step. Each rule here
mends that in its own way; it stands last in the chain, and its update is given in float32, so that
`apply_updates` rounds once and to the number that the rule has chosen.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradxform.arguments import as_key
from gradxform.arithmetic import compute_dtype, copy_of, slot_like
from gradxform.hyperparams import tunable
from gradxform.rule import Lift, Rule, Slots, Step, lift

__all__ = [
    "CompensationSlots",
    "MasterSlots",
    "compensated_sum",
    "master_copy",
    "round_stochastically",
    "stochastic_rounding",
]


class MasterSlots(NamedTuple):
    """What `master_copy` remembers: the parameter in float32; nothing where it is so wide itself."""

    master: jax.Array | None


class CompensationSlots(NamedTuple):
    """What `compensated_sum` remembers: what rounding has taken from the parameter so far."""

    compensation: jax.Array


def stochastic_rounding(key: jax.Array | int) -> Lift:
    r"""Round the new parameter up or down at random, so that on average nothing is lost.

    .. math::
      w \leftarrow \begin{cases}
        \lceil w + u \rceil & \text{with probability }
          (w + u - \lfloor w + u \rfloor) / (\lceil w + u \rceil - \lfloor w + u \rfloor) \\
        \lfloor w + u \rfloor & \text{otherwise}
      \end{cases}

    :math:`\lfloor \cdot \rfloor` and :math:`\lceil \cdot \rceil` are the
    neighbours in the parameter's dtype. It remembers nothing: the random numbers
    come from the key, the number of the step and the leaf. Leaves of float32 and
    wider are left as they are.

    Args:
      key: a random key, or a number to make one from. It stands in the state
        (``set_hyperparams(state, key=...)`` sets it).

    Returns:
      A `GradientTransformation` without slots, to stand last in a `chain`; its
      update needs the parameters, and is float32 where they are narrower.

    Raises:
      TypeError: the key is neither a random key nor an integer.
      ValueError: in `chain`, another part comes after it.

    References:
      Gupta et al., `Deep learning with limited numerical precision
      <https://arxiv.org/abs/1502.02551>`_, 2015.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> params = jnp.ones(10_000, jnp.bfloat16)
      >>> tx = gx.chain(gx.sgd(1.0), gx.stochastic_rounding(0))
      >>> updates, _ = tx.update(jnp.full_like(params, 1e-3), tx.init(params), params)
      >>> round(jnp.mean(gx.apply_updates(params, updates), dtype=float).item(), 3)
      0.999
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        if not _narrow(step.dtype):
            return grad, slots
        return round_stochastically(param + grad, step.dtype, step.key) - param, slots

    return lift(
        Rule(
            "stochastic_rounding",
            update,
            hyperparams={"key": tunable(as_key("stochastic_rounding", key))},
            equation="w + u is a neighbour of w + g at random, w + g on average",
            needs_params=True,
            random=True,
            exact=True,
        )
    )


def master_copy() -> Lift:
    r"""Keep the parameters in float32 beside: :math:`m \leftarrow m + u,\; w \leftarrow \text{round}(m)`.

    The parameters are at every step the copy, rounded. Weight decay and all
    else that comes before it sees the parameters, not the copy. Leaves of
    float32 and wider need no copy and have none.

    Returns:
      A `GradientTransformation` with a float32 slot for narrower leaves, to
      stand last in a `chain`; its update needs the parameters, and is float32
      where they are narrower.

    Raises:
      ValueError: in `chain`, another part comes after it.

    References:
      Micikevicius et al., `Mixed precision training
      <https://arxiv.org/abs/1710.03740>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> params = jnp.ones(1, jnp.bfloat16)
      >>> tx = gx.chain(gx.sgd(1.0), gx.master_copy())
      >>> _, state = tx.update(jnp.full_like(params, 1e-3), tx.init(params), params)
      >>> round(state.slots[-1].master.item(), 3)
      0.999
    """

    def init(param: Any) -> MasterSlots:
        return MasterSlots(copy_of(param) if _narrow(jnp.result_type(param)) else None)

    def update(grad: Any, slots: MasterSlots, param: Any, step: Step) -> tuple[Any, MasterSlots]:
        if slots.master is None:
            return grad, slots
        master = slots.master + grad
        return _nearest(master, step.dtype) - param, MasterSlots(master)

    equation = "m ← m + g, u = round(m) − w"
    return lift(Rule("master_copy", update, init, equation=equation, needs_params=True, exact=True))


def compensated_sum() -> Lift:
    r"""Kahan's sum: remember what rounding took, and add it to the next update.

    .. math::
      y = u + c, \quad w' = \text{round}(w + y), \quad c \leftarrow y - (w' - w), \quad w \leftarrow w'

    With bfloat16 parameters it needs two bytes a parameter where a float32 copy
    needs four. It serves float32 parameters too.

    Returns:
      A `GradientTransformation` with one slot of the parameter's own dtype, to
      stand last in a `chain`; its update needs the parameters, and is float32
      where they are narrower.

    Raises:
      ValueError: in `chain`, another part comes after it.

    References:
      Kahan, `Further remarks on reducing truncation errors
      <https://doi.org/10.1145/363707.363723>`_, 1965; Zamirai et al., `Revisiting bfloat16
      training <https://arxiv.org/abs/2010.06192>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> params = jnp.ones(1, jnp.bfloat16)
      >>> tx = gx.chain(gx.sgd(1.0), gx.compensated_sum())
      >>> _, state = tx.update(jnp.full_like(params, 1e-3), tx.init(params), params)
      >>> round(state.slots[-1].compensation.item(), 3)
      -0.001
    """

    def init(param: Any) -> CompensationSlots:
        return CompensationSlots(slot_like(param, dtype=jnp.result_type(param)))

    def update(grad: Any, slots: CompensationSlots, param: Any, step: Step) -> tuple[Any, CompensationSlots]:
        due = grad + slots.compensation
        moved = _nearest(param + due, step.dtype) - param
        return moved, CompensationSlots(due - moved)

    equation = "y = g + c, u = round(w + y) − w, c ← y − u"
    return lift(Rule("compensated_sum", update, init, equation=equation, needs_params=True, exact=True))


def round_stochastically(x: jax.Array, dtype: Any, key: jax.Array) -> jax.Array:
    """One of the two neighbours in a narrow dtype, at random; on average the number itself.

    Args:
      x: a float32 array of any shape. What is not finite stays so.
      dtype: the dtype to round to, narrower than float32.
      key: a random key.

    Returns:
      A float32 array of numbers that `dtype` has.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> x = jnp.full(10_000, 1.001)
      >>> rounded = gx.round_stochastically(x, jnp.bfloat16, jax.random.key(0))
      >>> sorted(set(rounded.tolist())), round(rounded.mean().item(), 3)
      ([1.0, 1.0078125], 1.001)
    """
    info = jnp.finfo(dtype)
    exponent = lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0x7F800000)
    power = lax.bitcast_convert_type(exponent, jnp.float32)  # the power of two at or below |x|
    least = max(float(info.smallest_subnormal), float(jnp.finfo(jnp.float32).tiny))
    gap = jnp.maximum(power * 2.0**-info.nmant, least)
    scaled = x / gap
    below = jnp.floor(scaled)
    up = jax.random.uniform(key, x.shape) < scaled - below
    return jnp.where(jnp.isfinite(x), (below + up) * gap, x)


def _narrow(dtype: Any) -> bool:
    return bool(compute_dtype(dtype) != dtype)


def _nearest(x: jax.Array, dtype: Any) -> jax.Array:
    """The nearest number that `dtype` has, in the dtype of `x`."""
    info = jnp.finfo(dtype)
    # A cast there and back the compiler may leave out, this it may not.
    return lax.reduce_precision(x, exponent_bits=info.nexp, mantissa_bits=info.nmant)
