"""The learning-rate range test: one short run whose rate grows until the loss explodes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.hyperparams import Schedule
from gradxform.schedules.decay import exponential_decay
from gradxform.training.fit import fit
from gradxform.training.history import NonFiniteError
from gradxform.transformation import GradientTransformation, Params
from gradxform.trees import PyTree

__all__ = ["RangeTest", "learning_rate_range_test"]

_WINDOW = 0.05
"""The share of the steps that the loss is averaged over, on either side."""


@dataclass(frozen=True, repr=False)
class RangeTest:
    """What `learning_rate_range_test` returns; `plot` draws it.

    Attributes:
      learning_rates: the rate of each step.
      loss: the loss of each step's batch, before that step's update.
      smoothed: the loss averaged over the steps around each; it is cut off
        as far above the start as its least value is below.
      suggestion: the rate at which the smoothed loss falls fastest, against
        the logarithm of the rate; ``None`` if it does not fall.
      lowest: the rate at which the smoothed loss is lowest: above it the loss
        rises again.
      diverged: the first rate above that at which the smoothed loss is back
        at where it started, or is not finite; ``None`` if it did not get there.
    """

    learning_rates: np.ndarray
    loss: np.ndarray
    smoothed: np.ndarray
    suggestion: float | None
    lowest: float
    diverged: float | None

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss against the learning rate; needs matplotlib.

        Args:
          ax: the matplotlib `Axes` to draw into; by default those of a new figure.

        Returns:
          The `Axes`.
        """
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.subplots(layout="constrained")[1]
        ax.plot(self.learning_rates, self.loss, alpha=0.3, label="loss")
        ax.plot(self.learning_rates, self.smoothed, label="smoothed")
        marks = {"suggestion": self.suggestion, "lowest": self.lowest, "diverged": self.diverged}
        for (name, rate), dashes in zip(marks.items(), ("-", "--", ":"), strict=True):
            if rate is not None:
                ax.axvline(rate, color="black", linestyle=dashes, linewidth=1, label=f"{name}: {rate:.3g}")
        low, high = self.smoothed.min(), self.smoothed.max()
        margin = 0.1 * (high - low) or 1.0
        # What explodes leaves through the ceiling.
        ax.set(xscale="log", xlabel="learning rate", ylabel="loss", ylim=(low - margin, high + margin))
        ax.legend()
        return ax

    def __repr__(self) -> str:
        def shown(rate: float | None) -> str:
            return "none" if rate is None else f"{rate:.3g}"

        return (
            f"RangeTest({self.learning_rates[0]:.3g} to {self.learning_rates[-1]:.3g}, suggestion "
            f"{shown(self.suggestion)}, lowest {shown(self.lowest)}, diverged {shown(self.diverged)})"
        )


def learning_rate_range_test(
    loss_fn: Callable[..., Any],
    params: Params,
    data: PyTree,
    make_tx: Callable[[Schedule], GradientTransformation],
    *,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 200,
    batch_size: int | None = None,
    key: jax.Array | int | None = None,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
) -> RangeTest:
    r"""Find where learning rates begin to work and where they stop, in one short run.

    The rate grows by the same factor every step, from `start` to `end`:
    :math:`\alpha_t = \alpha_0 (\alpha_T / \alpha_0)^{t / (T - 1)}`. At first the
    loss hardly moves, then it falls, and at some rate it explodes. Nothing of
    the run but its losses is kept. It costs a single run where `sweep` costs
    one for each rate; `sweep` sees where each of them ends.

    Args:
      loss_fn: ``loss_fn(params, batch)``, as `fit` takes it.
      params: a pytree of arrays, which is left as it is.
      data: a pytree of arrays with one row an example.
      make_tx: what makes a transformation from a schedule of the learning
        rate, such as `adam`.
      start: the first rate, above 0.
      end: the last rate, above `start`.
      steps: how many, at least 10.
      batch_size: the number of examples in a batch; by default all of them.
      key: the random key of the batches, or a number to make one from.
      value_and_grad: what takes the gradients, as in `fit`.

    Returns:
      A `RangeTest` with the rates and losses up to the first loss that is not
      finite.

    Raises:
      ValueError: the rates are not positive and rising, there are fewer than
        10 steps, or the very first loss is not finite.

    References:
      Smith, `Cyclical learning rates for training neural networks
      <https://arxiv.org/abs/1506.01186>`_, 2017, section 3.3.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[1.0], [3.0]])
      >>> loss = lambda w, batch: jnp.mean((batch @ w) ** 2)  # its curvature is 10
      >>> test = gx.learning_rate_range_test(loss, jnp.ones(1), x, gx.sgd, start=1e-4)
      >>> test.suggestion < 2 / 10 < test.diverged
      True
    """
    if not 0 < start < end < math.inf:
        raise ValueError(
            f"learning_rate_range_test: start and end must be positive and rising, got {start} and {end}"
        )
    if steps < 10:
        raise ValueError(f"learning_rate_range_test: steps must be at least 10, got {steps}")
    schedule = exponential_decay(start, steps - 1, end / start)
    try:
        history = fit(
            loss_fn,
            params,
            data,
            make_tx(schedule),
            batch_size=batch_size,
            steps=steps,
            key=key,
            progress=False,
            value_and_grad=value_and_grad,
        ).history
    except NonFiniteError as error:
        history = error.result.history
    if not len(history):
        raise ValueError("learning_rate_range_test: the loss is not finite before the first step")
    rates = np.asarray(schedule(jnp.arange(steps)), float)
    return _read(rates, history.loss.astype(float), steps)


def _read(rates: np.ndarray, loss: np.ndarray, steps: int) -> RangeTest:
    """What the losses say of the rates; those after the last loss ended the run."""
    after = float(rates[len(loss)]) if len(loss) < steps else None
    rates = rates[: len(loss)]
    width = max(1, round(_WINDOW * steps))
    begun = loss[:width].mean()
    # What explodes would otherwise lift the average of the steps before.
    smoothed = _average(np.minimum(loss, begun + max(0.0, begun - loss.min())), width)
    lowest = int(smoothed.argmin())
    slope = np.gradient(smoothed, np.log(rates))[: lowest + 1] if lowest else np.zeros(1)
    steepest = int(slope.argmin())
    back = np.flatnonzero(smoothed[lowest:] >= begun) + lowest if lowest else np.arange(1)
    return RangeTest(
        rates,
        loss,
        smoothed,
        float(rates[steepest]) if slope[steepest] < 0 else None,
        float(rates[lowest]),
        float(rates[back[0]]) if back.size else after,
    )


def _average(values: np.ndarray, width: int) -> np.ndarray:
    """The average over the neighbours within `width`, less the farther away."""
    weights = np.bartlett(2 * width + 1)
    return np.convolve(values, weights, "same") / np.convolve(np.ones_like(values), weights, "same")
