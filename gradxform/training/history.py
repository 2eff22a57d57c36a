"""What a training run remembers and hands back."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.transformation import Params, State
from gradxform.trees import PyTree

__all__ = ["Evaluation", "FitResult", "History", "NonFiniteError", "Snapshot", "StopTraining", "owned"]


class Evaluation(NamedTuple):
    """What `evaluate` said of the parameters.

    Attributes:
      step: the number of steps taken before.
      seconds: the time trained before.
      values: name to number.
    """

    step: int
    seconds: float
    values: dict[str, float]


@dataclass(frozen=True)
class History:
    """A training run, step by step.

    Attributes:
      loss: the loss of each step's batch, before that step's update.
      metrics: name to the values that the loss function returned beside it.
      hyperparams: name to the values that each step used, for hyperparameters
        that are schedules or tunables and single numbers.
      seconds: when each step was done, without the time to compile; steps
        of one compiled call are taken to be equally long.
      evaluations: what `evaluate` said, in order.
      start: the number of the first step.
    """

    loss: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    metrics: Mapping[str, np.ndarray] = field(default_factory=dict)
    hyperparams: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: np.ndarray = field(default_factory=lambda: np.zeros(0))
    evaluations: tuple[Evaluation, ...] = ()
    start: int = 0

    @property
    def steps(self) -> np.ndarray:
        """The number of each step."""
        return np.arange(self.start, self.start + len(self.loss))

    def __len__(self) -> int:
        return len(self.loss)

    def then(self, later: "History") -> "History":
        """This history and the one that goes on from it, in one."""
        if not len(self) and not self.evaluations:
            return later
        if not len(later):
            return replace(self, evaluations=self.evaluations + later.evaluations)

        def joined(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            # What only one of the two has is not known for the other.
            return {
                name: np.concatenate(
                    [
                        ours.get(name, np.full(len(self), np.nan, np.float32)),
                        theirs.get(name, np.full(len(later), np.nan, np.float32)),
                    ]
                )
                for name in {**ours, **theirs}
            }

        return History(
            np.concatenate([self.loss, later.loss]),
            joined(self.metrics, later.metrics),
            joined(self.hyperparams, later.hyperparams),
            np.concatenate([self.seconds, later.seconds]),
            self.evaluations + later.evaluations,
            self.start if len(self) else later.start,
        )

    def __repr__(self) -> str:
        if not len(self):
            return "History(0 steps)"
        parts = [f"{len(self):,} steps", f"loss {self.loss[0]:.4g} → {self.loss[-1]:.4g}"]
        parts += [f"{name} {values[0]:.4g} → {values[-1]:.4g}" for name, values in self.metrics.items()]
        if self.evaluations:
            latest = self.evaluations[-1].values.items()
            parts += [f"evaluated {name} {value:.4g}" for name, value in latest]
        return f"History({', '.join(parts)}, {self.seconds[-1]:.2f} s)"


@dataclass(frozen=True)
class FitResult:
    """What `fit` returns; given to `fit` in the parameters' place, training goes on from it.

    Attributes:
      params: the parameters after the last step.
      state: the transformation's state after the last step.
      history: losses, metrics, hyperparameters, times and evaluations.
      step: the number of steps taken in all.
      key: the random key that the run was made from.
      interrupted: whether Ctrl-C ended it.
      stopped: whether a callback ended it.
      compile_seconds: the time spent compiling.
    """

    params: Params
    state: State
    history: History
    step: int
    key: jax.Array
    interrupted: bool = False
    stopped: bool = False
    compile_seconds: float = 0.0

    def __repr__(self) -> str:
        ending = "interrupted, " if self.interrupted else "stopped, " if self.stopped else ""
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        return f"FitResult({ending}step {self.step:,}, {count:,} parameters, {self.history!r})"


@dataclass(frozen=True)
class Snapshot:
    """What a callback is told.

    Attributes:
      step: the number of steps taken so far.
      seconds: the time trained so far, without the time to compile.
      loss: the loss of the last step.
      metrics: what the loss function returned beside it.
      hyperparams: the schedules' and tunables' values at the last step.
      evaluation: what `evaluate` said just now; empty without one.
    """

    step: int
    seconds: float
    loss: float
    metrics: dict[str, float]
    hyperparams: dict[str, float]
    evaluation: dict[str, float]
    _live: tuple[Params, State] = field(repr=False)

    @cached_property
    def params(self) -> Params:
        """The parameters now; they may be kept."""
        return owned(self._live[0])

    @cached_property
    def state(self) -> State:
        """The transformation's state now; it may be kept."""
        return owned(self._live[1])


class StopTraining(Exception):  # noqa: N818 it is a message, as StopIteration is
    """Raised by a callback to end the training."""


class NonFiniteError(FloatingPointError):
    """A loss was infinite or not a number, or a step made parameters that are not numbers.

    Attributes:
      step: the number of the step, counted from 0.
      loss: its loss.
      batch: its batch: the indices of its examples, or, where batches came
        from an iterator, the batch itself.
      result: everything up to that step, from before its update.
    """

    def __init__(self, message: str, step: int, loss: float, batch: Any, result: FitResult) -> None:
        super().__init__(message)
        self.step, self.loss, self.batch, self.result = step, loss, batch, result


def owned(tree: PyTree) -> PyTree:
    """A copy in buffers of its own, which may be donated, and of types that no step changes."""

    def own(leaf: Any) -> jax.Array:
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            return jnp.copy(leaf)
        return jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True)

    return jax.tree.map(own, tree)
