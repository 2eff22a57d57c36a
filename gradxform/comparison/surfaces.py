"""Two-dimensional test functions: where algorithms go, how fast they arrive, and where they stay stuck."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mode
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.comparison.contestants import Contestant
from gradxform.comparison.report import Table, number
from gradxform.transformation import apply_updates

Point: TypeAlias = tuple[float, float]

REACHED = 0.1
"""How near to a minimum counts as having reached it."""

NEAR = 0.25
"""How near to a minimum or saddle a run must end to count as being there."""

NOISE = 1.0
"""The standard deviation of each coordinate of one example's gradient around the whole gradient."""

__all__ = [
    "SURFACES",
    "Surface",
    "SurfaceReport",
    "SurfaceRow",
    "distance",
    "merit",
    "race_surfaces",
    "surface_row",
    "trajectories",
]


@dataclass(frozen=True)
class Surface:
    """A function of two numbers.

    Attributes:
      name, equation: for people.
      value: ``(x, y) -> f``.
      start: where every run begins.
      minima: where the least value is taken.
      window: what to draw: ``(x from, x to, y from, y to)``.
      local_minima: minima that are not the least.
      saddles: points with zero gradient that are no minima.
    """

    name: str
    equation: str
    value: Callable[[Any, Any], Any]
    start: Point
    minima: tuple[Point, ...]
    window: tuple[float, float, float, float]
    local_minima: tuple[Point, ...] = ()
    saddles: tuple[Point, ...] = ()


def _rastrigin(x: Any, y: Any) -> Any:
    return 20 + x * x - 10 * jnp.cos(2 * jnp.pi * x) + y * y - 10 * jnp.cos(2 * jnp.pi * y)


def _rastrigin_minima(most: int = 5) -> tuple[Point, ...]:
    """The minima of Rastrigin's function beside the origin, by Newton's method from the whole numbers."""
    x = np.arange(-most, most + 1, dtype=float)
    for _ in range(20):
        slope = 2 * x + 20 * np.pi * np.sin(2 * np.pi * x)
        x = x - slope / (2 + 40 * np.pi**2 * np.cos(2 * np.pi * x))
    return tuple((float(a), float(b)) for a in x for b in x if a or b)


SURFACES: dict[str, Surface] = {
    surface.name: surface
    for surface in (
        Surface(
            "bowl",
            "½x² + y²",
            lambda x, y: 0.5 * x * x + y * y,
            start=(-4.0, 3.0),
            minima=((0.0, 0.0),),
            window=(-5, 5, -4, 4),
        ),
        Surface(
            "valley",
            "½x² + 50y²",
            lambda x, y: 0.5 * x * x + 50 * y * y,
            start=(-4.0, 0.8),
            minima=((0.0, 0.0),),
            window=(-5, 3, -1.2, 1.2),
        ),
        Surface(
            "rosenbrock",
            "(1 - x)² + 100(y - x²)²",
            lambda x, y: (1 - x) ** 2 + 100 * (y - x * x) ** 2,
            start=(-1.2, 1.0),
            minima=((1.0, 1.0),),
            window=(-2, 2, -1, 3),
        ),
        Surface(
            "beale",
            "Σ (cₖ - x + xyᵏ)², k = 1, 2, 3",
            lambda x, y: (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2,
            start=(1.0, 1.5),
            minima=((3.0, 0.5),),
            window=(-1, 4.5, -1.5, 2),
            saddles=((0.0, 1.0),),
        ),
        Surface(
            "himmelblau",
            "(x² + y - 11)² + (x + y² - 7)²",
            lambda x, y: (x * x + y - 11) ** 2 + (x + y * y - 7) ** 2,
            start=(0.0, 0.0),
            minima=((3.0, 2.0), (-2.805118, 3.131313), (-3.779310, -3.283186), (3.584428, -1.848127)),
            window=(-5, 5, -5, 5),
            saddles=(
                (0.086678, 2.884255),
                (3.385154, 0.073852),
                (-3.073026, -0.081353),
                (-0.127961, -1.953715),
            ),
        ),
        Surface(
            "saddle",
            "½x² - ½y² + ¼y⁴",
            lambda x, y: 0.5 * x * x - 0.5 * y * y + 0.25 * y**4,
            start=(-1.5, 0.0),  # on the ridge: without noise nothing pushes off it
            minima=((0.0, 1.0), (0.0, -1.0)),
            window=(-2, 1.5, -1.6, 1.6),
            saddles=((0.0, 0.0),),
        ),
        Surface(
            "rastrigin",
            "20 + Σ (xᵢ² - 10 cos 2πxᵢ)",
            _rastrigin,
            start=(3.4, -2.3),
            minima=((0.0, 0.0),),
            window=(-4.5, 4.5, -4.5, 4.5),
            local_minima=_rastrigin_minima(),
        ),
    )
}
"""The test functions by name."""


def trajectories(
    contestant: Contestant, learning_rates: Sequence[float], steps: int, seeds: int
) -> Callable[[Surface], np.ndarray]:
    r"""Every step of runs on a surface, for a grid of rates and several seeds at once.

    A batch of B examples is stood for by the gradient plus normal noise of
    standard deviation `NOISE` :math:`/ \sqrt B`; the whole data set has none.

    Args:
      contestant: the algorithm.
      learning_rates: the grid.
      steps: how many.
      seeds: how many; the noise is the same for every algorithm.

    Returns:
      A function from one of `SURFACES` to ``[rates, seeds, steps + 1, 2]``, compiled once for all of them.
    """
    spread = 0.0 if contestant.batch_size is None else NOISE / contestant.batch_size**0.5
    noise = spread * jax.random.normal(jax.random.key(0), (seeds, steps, 2))
    values = [surface.value for surface in SURFACES.values()]

    def run(index: Any, start: jax.Array, rate: Any, noise: jax.Array) -> jax.Array:
        tx = contestant.make(rate)

        def value(point: jax.Array) -> Any:
            return jax.lax.switch(index, values, point[0], point[1])

        def step(carry: Any, noise: jax.Array) -> tuple[Any, jax.Array]:
            point, state = carry
            updates, state = tx.update(jax.grad(value)(point) + noise, state, point)
            point = apply_updates(point, updates)
            return (point, state), point

        _, points = jax.lax.scan(step, (start, tx.init(start)), noise)
        return jnp.concatenate([start[None], points])

    over_seeds = jax.vmap(run, in_axes=(None, None, None, 0))
    compiled = jax.jit(jax.vmap(over_seeds, in_axes=(None, None, 0, None)))
    names = list(SURFACES)

    def on(surface: Surface) -> np.ndarray:
        start = jnp.asarray(surface.start, float)
        return np.asarray(
            compiled(names.index(surface.name), start, jnp.asarray(learning_rates, float), noise)
        )

    return on


def distance(points: np.ndarray, places: tuple[Point, ...]) -> np.ndarray:
    """From each point to the nearest of the places; no number becomes infinity."""
    if not places:
        return np.full(points.shape[:-1], np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        distances = np.linalg.norm(points[..., None, :].astype(float) - np.asarray(places), axis=-1).min(-1)
    return np.where(np.isnan(distances), np.inf, distances)


def _ended(surface: Surface, point: np.ndarray) -> str:
    """Where a run is at its end."""
    if not np.isfinite(point).all() or np.abs(point).max() > 100:
        return "diverged"
    places = {
        "minimum": surface.minima,
        "local minimum": surface.local_minima,
        "saddle": surface.saddles,
    }
    distances = {name: float(distance(point, points)) for name, points in places.items()}
    nearest = min(distances, key=lambda name: distances[name])
    return nearest if distances[nearest] < NEAR else "elsewhere"


@dataclass(frozen=True)
class SurfaceRow:
    """How one algorithm did on one surface, at its best learning rate of the grid.

    Attributes:
      surface, algorithm: their names.
      learning_rate: the rate with which most seeds end at a minimum; among
        equals the fastest, then the one with the lowest value at the end.
      reached: how many seeds came within `REACHED` of a minimum.
      steps: the median of the steps that those took; ``None`` if there are none.
      final_value: the function at the end, less its minimum; mean over seeds.
      ended: where most seeds are at the end: ``"minimum"``, ``"local
        minimum"``, ``"saddle"``, ``"elsewhere"`` or ``"diverged"``.
    """

    surface: str
    algorithm: str
    learning_rate: float
    reached: int
    steps: float | None
    final_value: float
    ended: str


@dataclass(frozen=True, repr=False)
class SurfaceReport(Table):
    """What the race on the surfaces gives.

    Attributes:
      steps: of every run.
      seeds: runs of every algorithm.
      rows: a row for each surface and algorithm.
      paths: surface -> algorithm -> the points of the first seed.
    """

    steps: int
    seeds: int
    rows: tuple[SurfaceRow, ...]
    paths: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    _texts = (0, 1, 6)

    def records(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        return {"task": "surface", "steps": self.steps, "seeds": self.seeds, "rows": self.records()}

    def figures(self) -> dict[str, Any]:
        from gradxform.comparison.plots import surface_figures  # matplotlib is an extra

        return surface_figures(self)

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        head = ["surface", "algorithm", "learning rate", "reached", "steps", "above minimum", "ended at"]
        return head, [
            [
                row.surface,
                row.algorithm,
                f"{row.learning_rate:g}",
                f"{row.reached} of {self.seeds}",
                "-" if row.steps is None else f"{row.steps:,.0f}",
                number(row.final_value),
                row.ended,
            ]
            for row in self.rows
        ]

    def _title(self) -> str:
        return f"surface: {self.steps:,} steps, {self.seeds} seeds"

    def _notes(self) -> str:
        return "\n".join(
            (
                f"reached: seeds that came within {REACHED} of a minimum; steps: the median of those.",
                "learning rate: the best of the grid in hindsight; for adadelta a factor on the update.",
                "noise: a batch of B sees the gradient plus normal noise of standard deviation "
                f"{NOISE:g}/√B; gradient descent sees none.",
            )
        )


def race_surfaces(
    contestants: Sequence[Contestant],
    *,
    steps: int,
    seeds: int,
    progress: Callable[[str, float], None] = lambda what, fraction: None,
) -> SurfaceReport:
    """Let algorithms race over all `SURFACES`.

    Args:
      contestants: the algorithms, with their `surface_rates`.
      steps: of every run.
      seeds: runs of every algorithm.
      progress: told what is going on and the fraction that is done.

    Returns:
      The `SurfaceReport`.
    """
    rows: dict[tuple[str, str], SurfaceRow] = {}
    paths: dict[str, dict[str, np.ndarray]] = {name: {} for name in SURFACES}
    total = len(contestants) * len(SURFACES)
    for contestant in contestants:
        points_on = trajectories(contestant, contestant.surface_rates, steps, seeds)
        for surface in SURFACES.values():
            progress(f"{contestant.name} on {surface.name}", len(rows) / total)
            points = points_on(surface)
            candidates = [
                surface_row(surface, contestant.name, rate, runs)
                for rate, runs in zip(contestant.surface_rates, points, strict=True)
            ]
            best = min(range(len(candidates)), key=lambda i: merit(candidates[i]))
            rows[surface.name, contestant.name] = candidates[best][1]
            paths[surface.name][contestant.name] = points[best, 0]
    progress("done", 1.0)
    ordered = tuple(rows[name, each.name] for name in SURFACES for each in contestants)
    return SurfaceReport(steps, seeds, ordered, paths)


def merit(candidate: tuple[int, SurfaceRow]) -> tuple[float, ...]:
    """Lower is better: see `SurfaceRow.learning_rate`."""
    settled, row = candidate
    # To have passed a minimum by chance is no merit in a run that did not stay.
    steps = 0 if not settled else np.inf if row.steps is None else row.steps
    return -settled, steps, row.final_value


def surface_row(surface: Surface, name: str, rate: float, runs: np.ndarray) -> tuple[int, SurfaceRow]:
    """The row of one learning rate, and how many seeds ended at a minimum."""
    within = distance(runs, surface.minima) < REACHED
    first = within.argmax(1)[within.any(1)]
    ends = [_ended(surface, run[-1]) for run in runs]
    least = surface.value(*surface.minima[0])
    final = np.asarray(surface.value(runs[:, -1, 0], runs[:, -1, 1]), float) - least
    row = SurfaceRow(
        surface=surface.name,
        algorithm=name,
        learning_rate=rate,
        reached=len(first),
        steps=float(np.median(first)) if len(first) else None,
        final_value=float(final.mean()) if np.isfinite(final).all() else float("inf"),
        ended=mode(ends),
    )
    return ends.count("minimum"), row
