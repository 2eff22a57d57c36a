"""Looking at the updates between two parts of a chain."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradxform.hyperparams import Hyperparam
from gradxform.primitives.moments import ema
from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.trees import PyTree
from gradxform.wrappers.wrapper import conform

Measure = Callable[[Updates], PyTree]

__all__ = ["MonitorState", "SnapshotState", "measure_with_ema", "monitor", "snapshot"]


class SnapshotState(NamedTuple):
    """The state of `snapshot`.

    Attributes:
      measurement: the measurement under its name.
    """

    measurement: dict[str, PyTree]


class MonitorState(NamedTuple):
    """The state of `monitor`.

    Attributes:
      measurements: the last measurements by name; at the start those of the parameters.
      measure_states: the states of those that have one.
    """

    measurements: dict[str, PyTree]
    measure_states: tuple[State, ...]


def _kept(measurement: PyTree) -> PyTree:
    """Copies, as what was measured may be donated, of types that stay."""
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.result_type(x)), measurement)


def _like(old: Any, new: Any) -> Any:
    """The new state with the old one's dtypes; a measurement of a tree that has changed stays as it is."""
    before: Any = jax.tree.structure(old)
    return conform(new, old) if before == jax.tree.structure(new) else new


def snapshot(measure_name: str, measure: Measure) -> GradientTransformation:
    """Keep a measurement of the updates that pass here; `gradxform.tree.get` reads it from the state.

    Args:
      measure_name: its name.
      measure: updates -> an array or a tree of arrays, whose shapes are always
        the same. At `init` it is taken of the parameters, whose dtypes it keeps.

    Returns:
      A `GradientTransformation` that leaves the updates as they are.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.chain(gx.snapshot("first", lambda updates: updates[0]), gx.scale(2.0))
      >>> _, state = tx.update([3.0], tx.init([0.0]))
      >>> float(state[0].measurement["first"])
      3.0
    """

    def init(params: Params) -> SnapshotState:
        return SnapshotState({measure_name: _kept(measure(params))})

    def update(
        grads: Updates, state: SnapshotState, params: Params | None = None
    ) -> tuple[Updates, SnapshotState]:
        return grads, _like(state, SnapshotState({measure_name: _kept(measure(grads))}))

    return GradientTransformation(init, update)


def monitor(measures: Mapping[str, Measure | GradientTransformation]) -> GradientTransformation:
    """Keep several measurements of the updates that pass here, also such as have a memory.

    Args:
      measures: name to a function of the updates, or to a transformation that
        turns them into the measurement, such as `measure_with_ema`.

    Returns:
      A `GradientTransformation` that leaves the updates as they are.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.monitor({"first": lambda updates: updates[0]})
      >>> _, state = tx.update([3.0], tx.init([0.0]))
      >>> float(state.measurements["first"])
      3.0
    """
    parts: dict[str, Any] = {
        name: measure if hasattr(measure, "update") else _stateless(measure)
        for name, measure in measures.items()
    }

    def measured(
        updates: Updates, states: tuple[State, ...], params: Params | None, extra: dict[str, Any]
    ) -> MonitorState:
        results = {
            name: part.update(updates, state, params, **accepted_keywords(part.update)(extra))
            for (name, part), state in zip(parts.items(), states, strict=True)
        }
        measurements = {name: _kept(measurement) for name, (measurement, _) in results.items()}
        return MonitorState(measurements, tuple(state for _, state in results.values()))

    def init(params: Params) -> MonitorState:
        states = tuple(part.init(params) for part in parts.values())
        # There from the start, so that the state keeps its structure.
        return MonitorState(measured(params, states, params, {}).measurements, states)

    def update(
        grads: Updates, state: MonitorState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MonitorState]:
        return grads, _like(state, measured(grads, state.measure_states, params, extra))

    return GradientTransformation(init, update)


def _stateless(measure: Any) -> GradientTransformation:
    return GradientTransformation(
        lambda params: (), lambda updates, state, params=None: (measure(updates), state)
    )


def measure_with_ema(
    measure: Measure, decay: Hyperparam, debias: bool = True, accumulator_dtype: Any = None
) -> GradientTransformation:
    r"""The moving average of a measurement: :math:`m \leftarrow \beta m + (1 - \beta) f(g)`, for `monitor`.

    Args:
      measure: :math:`f`, a function of the updates.
      decay: :math:`\beta`.
      debias: whether to divide by :math:`1 - \beta^t`.
      accumulator_dtype: the dtype to keep the average in.

    Returns:
      A `GradientTransformation` from the updates to the average.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.monitor({"mean": gx.measure_with_ema(lambda updates: updates[0], 0.5)})
      >>> _, state = tx.update([3.0], tx.init([0.0]))
      >>> float(tx.update([6.0], state)[1].measurements["mean"])
      5.0
    """
    average = ema(decay, debias, accumulator_dtype)

    def of(updates: Updates) -> PyTree:
        # An average of booleans is one of numbers.
        return jax.tree.map(lambda x: x * 1.0, measure(updates))

    def init(params: Params) -> State:
        return average.init(of(params))

    def update(grads: Updates, state: State, params: Params | None = None) -> tuple[Updates, State]:
        return average.update(of(grads), state)

    return GradientTransformation(init, update)
