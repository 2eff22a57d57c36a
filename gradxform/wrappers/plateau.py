"""Smaller steps when a value stops improving."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradxform.arguments import check_bounds, whole_or_array
from gradxform.arithmetic import Scalar, compute_dtype, next_count, real_dtype
from gradxform.sparse import map_values
from gradxform.transformation import GradientTransformation, Params, Updates
from gradxform.wrappers.wrapper import conform, no_steps

__all__ = ["ReduceLROnPlateauState", "reduce_on_plateau"]


class ReduceLROnPlateauState(NamedTuple):
    """The state of `reduce_on_plateau`.

    Attributes:
      scale: the factor on the updates.
      best_value: the best mean value so far.
      plateau_count: how many mean values in a row were no improvement, int32.
      cooldown_count: how many mean values still to let pass, int32.
      count: how many values are in the mean now, int32.
      avg_value: the mean of those values.
    """

    scale: jax.Array
    best_value: jax.Array
    plateau_count: jax.Array
    cooldown_count: jax.Array
    count: jax.Array  # type: ignore[assignment]  # a tuple's own method, which no one calls on a state
    avg_value: jax.Array


def reduce_on_plateau(
    factor: float = 0.1,
    patience: int = 10,
    rtol: float = 1e-4,
    atol: float = 0.0,
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: Scalar = 0.0,
) -> GradientTransformation:
    r"""Scale the updates down each time that a value has not improved for a while: :math:`u = s g`.

    An improvement is a value below :math:`(1 - r) v_{best} - a`. After
    `patience` values without one, :math:`s \leftarrow \max(f s, s_{min})`.

    Args:
      factor: :math:`f`, strictly between 0 and 1.
      patience: how many values without improvement to wait for, at least 1.
      rtol: :math:`r`, in [0, 1).
      atol: :math:`a`, at least 0; `rtol` and `atol` are not both 0.
      cooldown: how many values to let pass after a reduction, at least 0.
      accumulation_size: how many values to take the mean of before looking at it, at least 1.
      min_scale: :math:`s_{min}`, in [0, 1].

    Returns:
      A `GradientTransformation` whose ``update`` takes the keyword argument
      ``value``, a scalar such as the loss.

    Raises:
      TypeError: one of the three numbers of values is no integer.
      ValueError: an argument is out of its bounds.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.chain(gx.sgd(1.0), gx.reduce_on_plateau(factor=0.5, patience=1))
      >>> state = tx.init([0.0])
      >>> for value in (3.0, 3.0):
      ...     updates, state = tx.update([1.0], state, value=value)
      >>> updates[0].item()
      -0.5
    """
    who = "reduce_on_plateau"
    whole_or_array(who, patience=patience, accumulation_size=accumulation_size)
    whole_or_array(who, least=0, cooldown=cooldown)
    no_rtol = isinstance(rtol, int | float) and rtol == 0
    bounds = [
        ("factor", factor, lambda x: 0 < x < 1, "strictly between 0 and 1"),
        ("rtol", rtol, lambda x: 0 <= x < 1, "in [0, 1)"),
        ("atol", atol, lambda x: x >= 0, "at least 0"),
        ("atol", atol, lambda x: x > 0 or not no_rtol, "above 0 where rtol is 0"),
        ("min_scale", min_scale, lambda x: 0 <= x <= 1, "in [0, 1]"),
    ]
    check_bounds(who, bounds)

    def init(params: Params) -> ReduceLROnPlateauState:
        dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
        dtype = real_dtype(compute_dtype(*dtypes)) if dtypes else jnp.float32
        return ReduceLROnPlateauState(
            scale=jnp.ones((), dtype),
            best_value=jnp.full((), jnp.inf, dtype),
            plateau_count=no_steps(),
            cooldown_count=no_steps(),
            count=no_steps(),
            avg_value=jnp.zeros((), dtype),
        )

    def look(state: ReduceLROnPlateauState) -> ReduceLROnPlateauState:
        """What the mean of the values says."""
        improved = state.avg_value < (1 - rtol) * state.best_value - atol
        waited = jnp.where(improved, 0, next_count(state.plateau_count))
        cooling = state.cooldown_count > 0
        reduce = ~cooling & (waited == patience)
        return ReduceLROnPlateauState(
            scale=jnp.where(
                cooling, state.scale, jnp.maximum(state.scale * jnp.where(reduce, factor, 1), min_scale)
            ),
            best_value=jnp.where(improved, state.avg_value, state.best_value),
            plateau_count=jnp.where(cooling | reduce, 0, waited),
            cooldown_count=jnp.where(cooling, state.cooldown_count - 1, jnp.where(reduce, cooldown, 0)),
            count=jnp.zeros_like(state.count),
            avg_value=jnp.zeros_like(state.avg_value),
        )

    def update(
        grads: Updates,
        state: ReduceLROnPlateauState,
        params: Params | None = None,
        *,
        value: Any,
        **extra: Any,
    ) -> tuple[Updates, ReduceLROnPlateauState]:
        if jnp.shape(value) != ():
            raise ValueError(f"reduce_on_plateau: value must be a scalar, it has shape {jnp.shape(value)}")
        count = next_count(state.count)
        mean = (state.count * state.avg_value + jnp.asarray(value, state.avg_value.dtype)) / count
        new = state._replace(count=count, avg_value=mean)
        looked = look(new)
        full = count == accumulation_size
        state = conform(jax.tree.map(lambda a, b: jnp.where(full, a, b), looked, new), state)
        return conform(map_values(lambda grad: state.scale * grad, grads), grads), state

    return GradientTransformation(init, update)
