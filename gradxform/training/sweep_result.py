"""What a sweep hands back: every point's history, the best, and a picture of how much each value matters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np

from gradxform.hyperparams import show
from gradxform.training.history import Evaluation, FitResult, History
from gradxform.transformation import Params

Mode: TypeAlias = Literal["min", "max"]

Keep: TypeAlias = Literal["best", "all"]

Seed: TypeAlias = int | jax.Array
"""What `fit` takes as its key."""

_MOST_LINES = 20

__all__ = ["Judge", "Keep", "Mode", "Runs", "Seed", "Sweep", "key_of"]


class Runs(NamedTuple):
    """What is remembered of runs; every array starts with the axes of points and seeds.

    Attributes:
      loss: of each step.
      metrics, hyperparams: by name, of each step.
      evaluations: by name, of each evaluation.
      nan: whether there is a parameter at the end that is not a number.
    """

    loss: np.ndarray
    metrics: dict[str, np.ndarray]
    hyperparams: dict[str, np.ndarray]
    evaluations: dict[str, np.ndarray]
    nan: np.ndarray

    @property
    def diverged_at(self) -> np.ndarray:
        """The first step of each run whose loss, or after the last whose update, was not finite; or -1."""
        bad = ~np.isfinite(self.loss)
        steps = self.loss.shape[-1]
        first = np.where(bad.any(-1), bad.argmax(-1) if steps else 0, steps)
        return np.where((first < steps) | self.nan, first, -1)


class Judge(NamedTuple):
    """By what runs are compared.

    Attributes:
      by: the name of what `evaluate` says, of a metric, or ``"loss"``.
      mode: whether the least or the greatest is the best.
    """

    by: str
    mode: Mode

    def final(self, runs: Runs) -> np.ndarray:
        """Each run's value at the end ``[points, seeds]``; not a number where it diverged."""
        if self.by in runs.evaluations:
            values = runs.evaluations[self.by][..., -1].astype(float)
        else:
            steps = runs.loss.shape[-1]
            of_steps = runs.loss if self.by == "loss" else runs.metrics[self.by]
            with np.errstate(invalid="ignore", over="ignore"):  # of a diverged run
                values = of_steps[..., steps - last_steps(steps) :].mean(-1, dtype=float)
        return np.where((runs.diverged_at < 0) & np.isfinite(values), values, np.nan)

    def cost(self, final: np.ndarray) -> np.ndarray:
        """The lower the better, and infinite where a run diverged."""
        return np.where(np.isnan(final), np.inf, final if self.mode == "min" else -final)

    def best(self, final: np.ndarray) -> tuple[int, int] | None:
        """The point with the best mean over the seeds, and its best seed; ``None`` if each has diverged."""
        cost = self.cost(final)
        point = int(cost.mean(1).argmin())
        return (point, int(cost[point].argmin())) if np.isfinite(cost[point]).all() else None


def key_of(seed: Seed) -> jax.Array:
    """The random key that `fit` makes of a seed."""
    return seed if isinstance(seed, jax.Array) else jax.random.key(seed)


def last_steps(steps: int) -> int:
    """Over how many steps at the end a value of every step is averaged."""
    return max(1, steps // 10)


@dataclass(frozen=True, repr=False)
class Sweep:
    """What `sweep` returns: a table when printed, a sensitivity plot by `plot`.

    The first axes of every array are the points and the seeds.

    Attributes:
      points: the hyperparameters of each point, by name.
      seeds: of the runs of each point: what `fit` takes as its key.
      loss: the loss of each step's batch: ``[points, seeds, steps]``.
      metrics: name to the values that the loss function returned beside it.
      hyperparams: name to the values that each step used, for hyperparameters
        that are schedules or tunables and single numbers.
      evaluations: name to what `evaluate` said: ``[points, seeds, evaluations]``.
      evaluated_at: the number of steps taken before each evaluation.
      diverged_at: the first step of each run whose loss was not finite, the
        number of all steps if the last update made parameters that are not
        numbers, and -1 if it did not diverge: ``[points, seeds]``.
      by: what the points are compared by.
      mode: whether the least of it or the greatest is the best.
      final: its value at the end of each run, the last evaluation's or the
        mean of the last tenth of the steps; not a number where it diverged.
      best_index: the places of the best point and of its best seed; ``None``
        if every point has a seed that diverged.
      seconds: the time trained, without the time to compile.
      compile_seconds: the time spent compiling.
      keep_params: of which runs the parameters and states are kept.
    """

    points: tuple[dict[str, float], ...]
    seeds: tuple[Seed, ...]
    loss: np.ndarray
    metrics: Mapping[str, np.ndarray]
    hyperparams: Mapping[str, np.ndarray]
    evaluations: Mapping[str, np.ndarray]
    evaluated_at: np.ndarray
    diverged_at: np.ndarray
    by: str
    mode: Mode
    final: np.ndarray
    best_index: tuple[int, int] | None
    seconds: float
    compile_seconds: float
    keep_params: Keep
    _ends: Any

    @property
    def diverged(self) -> np.ndarray:
        """Whether each run diverged: ``[points, seeds]``."""
        return self.diverged_at >= 0

    @property
    def best(self) -> dict[str, float]:
        """The hyperparameters of the best point: the best mean over the seeds, none of which diverged.

        Raises:
          ValueError: every point has a seed that diverged.
        """
        return self.points[self._best_index()[0]]

    @property
    def best_seed(self) -> Seed:
        """The best of the best point's seeds."""
        return self.seeds[self._best_index()[1]]

    @property
    def params(self) -> Params:
        """The parameters at the end of the best point's best seed."""
        return self.result().params

    def _best_index(self) -> tuple[int, int]:
        if self.best_index is None:
            raise ValueError(
                f"sweep: there is no best point, each has a seed that diverged, between the steps "
                f"{self.diverged_at[self.diverged].min()} and {self.diverged_at.max()}; "
                "sweep over lower learning rates, or clip the gradients"
            )
        return self.best_index

    def result(self, point: int | None = None, seed: int | None = None) -> FitResult:
        """What `fit` would have returned for one run; given to `fit`, training goes on from it.

        Args:
          point, seed: the run's places in `points` and `seeds`; by default the
            best point, and the best seed or the first one of the given point.

        Returns:
          A `FitResult`. To go on with ``make_tx(**point)``, give it arrays in
          place of numbers where it leaves parts out at some value, such as a
          weight decay of 0: the sweep's state has those parts.

        Raises:
          ValueError: the run's parameters were not kept; pass `sweep`
            ``keep_params="all"``.
        """
        if point is None:
            point, best_seed = self._best_index()
            seed = best_seed if seed is None else seed
        run = range(len(self.points))[point], range(len(self.seeds))[seed or 0]
        if self.keep_params == "best" and run != self.best_index:
            raise ValueError(
                f"sweep: the parameters of point {point}, seed {seed or 0} were not kept, only those of the "
                "best run; pass sweep keep_params='all'"
            )
        params, state = (
            self._ends if self.keep_params == "best" else jax.tree.map(lambda leaf: leaf[run], self._ends)
        )
        return FitResult(
            params,
            state,
            self.history(*run),
            self.loss.shape[-1],
            key_of(self.seeds[run[1]]),
            compile_seconds=self.compile_seconds,
        )

    def history(self, point: int, seed: int = 0) -> History:
        """One run, step by step, as `fit` returns it.

        Args:
          point, seed: its places in `points` and `seeds`.

        Returns:
          Its `History`; the times are those of the whole sweep.
        """
        run, steps = (point, seed), self.loss.shape[-1]
        seconds = self.seconds * np.arange(steps + 1) / max(1, steps)
        return History(
            self.loss[run],
            {name: values[run] for name, values in self.metrics.items()},
            {name: values[run] for name, values in self.hyperparams.items()},
            seconds[1:],
            tuple(
                Evaluation(
                    int(step),
                    float(seconds[step]),
                    {name: float(values[(*run, place)]) for name, values in self.evaluations.items()},
                )
                for place, step in enumerate(self.evaluated_at)
            ),
        )

    def plot(self, *names: str, ax: Any = None) -> Any:
        """Draw how much the hyperparameters matter; needs matplotlib.

        One is a curve with a band from the least to the greatest of the seeds,
        two are a map of the means. At the red crosses a seed diverged.

        Args:
          *names: the one or two to draw; by default those that vary. Each
            place shows the best over all others.
          ax: the matplotlib `Axes` to draw into; by default those of a new figure.

        Returns:
          The `Axes`.

        Raises:
          ValueError: more than two vary, or there is none of that name.
        """
        from gradxform.training.sweep_plot import plot_sweep  # matplotlib is an extra

        return plot_sweep(self, names, ax)

    @property
    def final_name(self) -> str:
        """What `final` is, in words."""
        if self.by in self.evaluations:
            return f"{self.by} at the end"
        return f"{self.by}, mean of the last {last_steps(self.loss.shape[-1]):,} steps"

    def __repr__(self) -> str:
        best = "all diverged" if self.best_index is None else f"best {_shown(self.best)}"
        return (
            f"Sweep({len(self.points)} points, {len(self.seeds)} seeds, {self.loss.shape[-1]:,} steps, "
            f"{best}, {self.seconds:.2f} s)"
        )

    def __str__(self) -> str:
        judge = Judge(self.by, self.mode)
        order = np.arange(len(self.points))
        if len(order) > _MOST_LINES:
            order = judge.cost(self.final).mean(1).argsort(kind="stable")[:_MOST_LINES]
        head = [*self.points[0], self.final_name]
        rows = [[*map(show, self.points[i].values()), self._outcome(i)] for i in order.tolist()]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in (head, ["─" * width for width in widths], *rows)
        ]
        left_out = len(self.points) - len(order)
        lines += [f"and {left_out:,} more, which are worse"] * (left_out > 0)
        lines += [
            f"The best has the {end} {name} of the grid: there may be better ones beyond."
            for name, end in self._edges()
        ]
        return "\n".join([repr(self), "", *lines])

    def _outcome(self, point: int) -> str:
        ended = self.diverged_at[point]
        if (ended >= 0).any():
            first = f"diverged at step {ended[ended >= 0].min():,}"
            return first if (ended >= 0).all() else f"{first}, {(ended >= 0).sum()} of {len(ended)} seeds"
        final = self.final[point]
        spread = f" ± {final.std(ddof=1):.2g}" if len(final) > 1 else ""
        best = self.best_index is not None and self.best_index[0] == point
        return f"{final.mean():.4g}{spread}{'  ← best' if best else ''}"

    def _edges(self) -> list[tuple[str, str]]:
        """The hyperparameters that have the least or the greatest value of the grid at the best point."""
        if self.best_index is None:
            return []
        edges = []
        for name, value in self.best.items():
            values = {point[name] for point in self.points}
            if len(values) > 2 and value in (min(values), max(values)):
                edges.append((name, "least" if value == min(values) else "greatest"))
        return edges


def _shown(point: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={show(value)}" for name, value in point.items())
