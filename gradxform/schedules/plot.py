"""A look at a schedule."""

from typing import Any

import jax
import numpy as np

from gradxform.hyperparams import Schedule, show
from gradxform.schedules.curve import STEPS, require

__all__ = ["plot_schedule"]

POINTS = 10_000
"""More than a screen has pixels."""


def plot_schedule(schedule: Schedule, steps: int, ax: Any = None) -> Any:
    """Draw a schedule from count 0 to `steps`, both included; needs matplotlib.

    Args:
      schedule: any function of the count that JAX can trace.
      steps: the last count, at least 1.
      ax: the matplotlib `Axes` to draw into; by default those of a new figure.
        Several schedules can be drawn into one.

    Returns:
      The `Axes`. The line is labelled with the schedule, so `ax.legend()`
      tells several apart.

    Raises:
      TypeError, ValueError: `schedule` is no function, or `steps` is below 1.

    Example:
      >>> import gradxform as gx
      >>> from matplotlib.figure import Figure
      >>> ax = gx.plot_schedule(gx.cosine_decay_schedule(0.1, 100), 100, Figure().subplots())
      >>> ax.get_lines()[0].get_label()
      'cosine_decay_schedule(0.1, 100)'
    """
    if not callable(schedule):
        raise TypeError(f"plot_schedule: schedule must be a schedule (count -> value), got {schedule!r}")
    require("plot_schedule", "steps", steps, STEPS)
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots()[1]
    counts = np.unique(np.linspace(0, steps, min(int(steps), POINTS) + 1).astype(np.int32))
    ax.plot(counts, jax.vmap(schedule)(counts), label=show(schedule))
    ax.set(xlabel="step count", ylabel="value")
    return ax
