"""Second moments that need less memory than the parameters: one number a row and a column, not a cell."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradxform.arithmetic import abs_squared, compute_dtype, ema_of, real_dtype, safe_sqrt, slot_like
from gradxform.hyperparams import Hyperparam, nonnegative, positive, unit
from gradxform.rule import Lift, Rule, Step, lift
from gradxform.slots import NonNegative

__all__ = ["FactoredSlots", "SM3Slots", "scale_by_factored_rms", "scale_by_sm3"]


class FactoredSlots(NamedTuple):
    """What `scale_by_factored_rms` remembers: means over columns and rows; or of each cell by itself.

    What an array does not need has one element.
    """

    v_row: NonNegative
    v_col: NonNegative
    v: NonNegative


class SM3Slots(NamedTuple):
    """What `scale_by_sm3` remembers: a vector for each axis, and the moving average of updates."""

    mu: tuple[NonNegative, ...]
    nu: jax.Array


def power_decay(step: Any, exponent: Any) -> Any:
    r"""Adafactor's decay of the second moment: :math:`1 - (t + 1)^{-c}`, where `t` counts from 0."""
    return 1 - (step + 1) ** -exponent


def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: Hyperparam = 0.8,
    step_offset: Hyperparam = 0,
    min_dim_size_to_factor: int = 128,
    epsilon: Hyperparam = 1e-30,
    decay_rate_fn: Callable[[Any, Any], Any] = power_decay,
) -> Lift:
    r"""Divide by the root mean square, kept for rows and columns only.

    .. math::
      r \leftarrow \operatorname{avg} \bar{g^2}_{\text{row}}, \quad
      c \leftarrow \operatorname{avg} \bar{g^2}_{\text{column}}, \quad
      u_{ij} = \frac{g_{ij}}{\sqrt{r_i c_j / \bar r}}

    The two longest axes of an array count as its rows and columns. An array without two axes that are
    long enough keeps the average of every cell.

    Args:
      factored: whether to factor at all.
      decay_rate: the exponent :math:`c` of the averages' decay :math:`1 - t^{-c}`, in [0, 1].
      step_offset: the step to count from, for a run that goes on with the state of
        another; up to there every step is a first one, whose decay is 0.
      min_dim_size_to_factor: how long the two axes must be at least.
      epsilon: what is added to the squares, above 0.
      decay_rate_fn: ``(step, decay_rate) -> decay``, the step counted from 0.

    Returns:
      A `GradientTransformation` with two vectors for each matrix.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Shazeer and Stern, `Adafactor: adaptive learning rates with sublinear
      memory cost <https://arxiv.org/abs/1804.04235>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.scale_by_factored_rms(min_dim_size_to_factor=2)
      >>> state = tx.init(jnp.ones((300, 200)))
      >>> [slot.shape for slot in state.slots[0]]
      [(200,), (300,), (1,)]
    """

    def axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
        """The longest axis but one, and the longest."""
        if not factored or len(shape) < 2:
            return None
        *_, second, first = (int(axis) for axis in np.argsort(shape))
        return (second, first) if shape[second] >= min_dim_size_to_factor else None

    def init(param: Any) -> FactoredSlots:
        dtype, chosen = real_dtype(compute_dtype(jnp.result_type(param))), axes(jnp.shape(param))
        if chosen is None:
            return FactoredSlots(jnp.zeros(1, dtype), jnp.zeros(1, dtype), slot_like(param, real=True))
        rows, columns = (jnp.zeros(np.delete(jnp.shape(param), axis), dtype) for axis in reversed(chosen))
        return FactoredSlots(rows, columns, jnp.zeros(1, dtype))

    def update(grad: Any, slots: FactoredSlots, param: Any, step: Step) -> tuple[Any, FactoredSlots]:
        decay = decay_rate_fn(jnp.maximum(step.t - 1 - step.step_offset, 0), step.decay_rate)
        squares, chosen = abs_squared(grad) + step.epsilon, axes(grad.shape)
        if chosen is None:
            v = ema_of(slots.v, squares, decay)
            return grad * lax.rsqrt(v), slots._replace(v=v)
        second, first = chosen
        v_row = ema_of(slots.v_row, squares.mean(first), decay)
        v_col = ema_of(slots.v_col, squares.mean(second), decay)
        mean = v_row.mean(second - (second > first), keepdims=True)
        row, column = lax.rsqrt(v_row / mean), lax.rsqrt(v_col)
        update = grad * jnp.expand_dims(row, first) * jnp.expand_dims(column, second)
        return update, FactoredSlots(v_row, v_col, slots.v)

    hyperparams = {
        "decay_rate": unit(decay_rate),
        "step_offset": step_offset,
        "epsilon": positive(epsilon),
    }
    equation = "r, c ← avg g² by row, by column, u = g / √(r · c / mean(r))"
    return lift(
        Rule("scale_by_factored_rms", update, init, hyperparams, equation, scope="array", counts=True)
    )


def scale_by_sm3(b1: Hyperparam = 0.9, b2: Hyperparam = 1.0, eps: Hyperparam = 1e-8) -> Lift:
    r"""AdaGrad with one number for each slice along each axis.

    .. math::
      \nu_{ij} = \min(r_i, c_j) + |g_{ij}|^2, \quad
      r_i \leftarrow \max_j \nu_{ij}, \quad c_j \leftarrow \max_i \nu_{ij}, \quad
      u \leftarrow \operatorname{avg}_{\beta_1} \frac{g}{\sqrt{\nu + \epsilon}}

    Args:
      b1: :math:`\beta_1`, the decay of the average of updates, in [0, 1].
      b2: the decay of :math:`r` and :math:`c`, in [0, 1]: below 1 they are
        averages as RMSprop's instead of sums.
      eps: :math:`\epsilon`, at least 0.

    Returns:
      A `GradientTransformation` with a slot the size of the parameters, and a
      vector for each axis of each array.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Anil et al., `Memory-efficient adaptive optimization
      <https://arxiv.org/abs/1901.11150>`_, 2019.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.scale_by_sm3(b1=0.0, eps=0.0)
      >>> grad = jnp.asarray([[2.0, 0.0], [0.0, -3.0]])
      >>> tx.update(grad, tx.init(grad))[0].tolist()
      [[1.0, 0.0], [0.0, -1.0]]
    """

    def others(axis: int, ndim: int) -> tuple[int, ...]:
        return tuple(other for other in range(ndim) if other != axis)

    def init(param: Any) -> SM3Slots:
        whole, axes = slot_like(param, real=True), range(max(jnp.ndim(param), 1))
        shapes = [jnp.shape(param)[axis : axis + 1] for axis in axes]
        return SM3Slots(tuple(jnp.zeros(shape, whole.dtype) for shape in shapes), slot_like(param))

    def update(grad: Any, slots: SM3Slots, param: Any, step: Step) -> tuple[Any, SM3Slots]:
        spread = [
            jnp.expand_dims(vector, others(axis, grad.ndim)) if grad.ndim else vector
            for axis, vector in enumerate(slots.mu)
        ]
        least = spread[0]
        for vector in spread[1:]:
            least = jnp.minimum(least, vector)
        gain = jnp.where(step.b2 == 1, 1, 1 - step.b2)
        accumulated = step.b2 * least + gain * abs_squared(grad)
        scaled = jnp.where(accumulated > 0, grad / safe_sqrt(accumulated + step.eps), 0)
        nu = ema_of(slots.nu, scaled, step.b1)
        mu = tuple(jnp.max(accumulated, others(axis, grad.ndim), initial=0) for axis in range(len(slots.mu)))
        return nu, SM3Slots(mu, nu)

    hyperparams = {"b1": unit(b1), "b2": unit(b2), "eps": nonnegative(eps)}
    equation = "ν = min over axes + g², max over the other axes, u ← avg g / √(ν + eps)"
    return lift(Rule("scale_by_sm3", update, init, hyperparams, equation, scope="array"))
