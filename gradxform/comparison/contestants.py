"""Who takes part: the seven algorithms with their batch sizes and learning-rate grids."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradxform.optimizers.adaptive import adadelta, adagrad, adam, rmsprop
from gradxform.optimizers.gradient_descent import sgd
from gradxform.transformation import GradientTransformation

__all__ = ["CONTESTANTS", "Contestant", "half_decades"]


@dataclass(frozen=True)
class Contestant:
    """An algorithm: an update rule, a way to draw a batch, and the learning rates to try.

    Attributes:
      name: what tables and pictures call it.
      make: learning rate -> transformation. The rate is traced, so that a
        whole grid trains in one program; any library's factory will do.
      batch_size: examples a step; ``None`` for the whole data set.
      learning_rates: the grid; empty if `make` takes no notice of the rate.
      surface_rates: the grid on two-dimensional test functions.
    """

    name: str
    make: Callable[[Any], GradientTransformation]
    batch_size: int | None
    learning_rates: tuple[float, ...]
    surface_rates: tuple[float, ...] = ()


def half_decades(low: float, high: float) -> tuple[float, ...]:
    """The numbers 1, 3, 10, 30, ... and 0.3, 0.1, ... from `low` to `high`."""
    every = [float(f"{digit}e{power}") for power in range(-9, 9) for digit in (1, 3)]
    return tuple(rate for rate in every if low <= rate <= high)


_SLOPES = half_decades(3e-4, 1.0)

CONTESTANTS: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        Contestant("gradient-descent", sgd, None, half_decades(0.01, 30.0), _SLOPES),
        Contestant("sgd", sgd, 1, half_decades(1e-3, 3.0), _SLOPES),
        Contestant("mini-batch", sgd, 32, half_decades(1e-2, 30.0), _SLOPES),
        Contestant("adagrad", adagrad, 32, half_decades(1e-3, 3.0), half_decades(3e-3, 10.0)),
        Contestant("rmsprop", rmsprop, 32, half_decades(1e-4, 0.3), half_decades(3e-4, 1.0)),
        Contestant("adadelta", adadelta, 32, half_decades(0.1, 300.0), half_decades(0.1, 300.0)),
        Contestant("adam", adam, 32, half_decades(1e-4, 0.3), half_decades(3e-4, 1.0)),
    )
}
"""The seven algorithms by name. AdaDelta has no learning rate; its grid is of a factor on the update."""
