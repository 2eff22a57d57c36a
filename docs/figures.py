"""The pictures of the pages on the algorithms: each shows something measured, at the moment it is drawn.

`python docs/figures.py` draws them into `docs/figures/`, for reading on GitHub; the site draws its own when
it is built. What each picture shows, the tests assert of the same numbers.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

import gradxform as gx
from gradxform.comparison.surfaces import SURFACES

Gradient = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""``(w, step, key) -> gradient``."""

FOLDER = Path(__file__).with_suffix("")
FIGURES: dict[str, Callable[[], Figure]] = {}

# Told apart by colour-blind people too, and readable on white and on black.
BLUE, ORANGE, GREEN, PINK, GREY = "#2f86c6", "#d55e00", "#009e73", "#cc79a7", "#808080"
STYLE: dict[str, Any] = {
    "font.size": 10,
    "svg.hashsalt": "gradxform",
    "text.color": GREY,
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "lines.linewidth": 1.7,
}


def path(
    tx: gx.GradientTransformation,
    gradient: Gradient,
    start: Any,
    steps: int,
    project: Callable[[jax.Array], jax.Array] = lambda w: w,
) -> jax.Array:
    """Where an optimizer is at the start and after every step: ``[steps + 1, ...]``."""

    def step(carry: Any, t: jax.Array) -> tuple[Any, jax.Array]:
        w, state = carry
        grads = gradient(w, t, jax.random.fold_in(jax.random.key(0), t))
        updates, state = tx.update(grads, state, w)
        w = project(gx.apply_updates(w, updates))
        return (w, state), w

    start = jnp.asarray(start, float)
    _, points = jax.lax.scan(step, (start, tx.init(start)), jnp.arange(steps))
    return jnp.concatenate([start[None], points])


def figure(draw: Callable[[], Figure]) -> Callable[[], Figure]:
    """Register a picture under the name of the function that draws it."""
    FIGURES[draw.__name__.replace("_", "-")] = draw
    return draw


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure and its panels, side by side."""
    drawn = Figure(figsize=(4.3 * count + 1.0, 3.5), layout="constrained")
    return drawn, list(np.atleast_1d(drawn.subplots(1, count)))


def spaced(steps: int, count: int = 300) -> np.ndarray:
    """Steps to draw: enough for a smooth line on a logarithmic axis."""
    return np.unique(np.geomspace(1, steps, count).astype(int))


# Gradient descent


def rates_against_curvature(steps: int = 40) -> dict[float, np.ndarray]:
    """The loss ½ L w² of gradient descent, by the learning rate in units of 1 / L; L = 10."""
    curvature = 10.0
    runs = {}
    for factor in (0.05, 1.0, 1.9, 2.1):
        w = path(gx.sgd(factor / curvature), lambda w, t, key: curvature * w, 1.0, steps)
        runs[factor] = np.asarray(0.5 * curvature * w**2, float)
    return runs


@figure
def gradient_descent_rates() -> Figure:
    """A learning rate that is too small, right, nearly too large, and too large."""
    drawn, (axes,) = panels(1)
    labels = {
        0.05: "0.05 / L: too small",
        1.0: "1 / L: right",
        1.9: "1.9 / L: to and fro",
        2.1: "2.1 / L: too large",
    }
    for (factor, losses), colour in zip(
        rates_against_curvature().items(), (BLUE, GREEN, PINK, ORANGE), strict=True
    ):
        axes.plot(np.maximum(losses, 1e-16), color=colour, label=labels[factor])
    axes.set(
        yscale="log",
        ylim=(1e-6, 1e4),
        xlabel="step",
        ylabel="loss ½ L w²",
        title="One curvature L, four rates",
    )
    axes.legend()
    return drawn


def leaving_a_saddle(steps: int = 2000) -> dict[str, np.ndarray]:
    """The distance from the ridge of ½x² - ½y² + ¼y⁴, started a millionth beside it."""
    surface = SURFACES["saddle"]

    def gradient(w: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        return jax.grad(lambda w: surface.value(w[0], w[1]))(w)

    optimizers = {"gradient descent": gx.sgd(0.01), "RMSprop": gx.rmsprop(0.01), "Adam": gx.adam(0.01)}
    return {
        name: np.abs(np.asarray(path(tx, gradient, (-1.5, 1e-6), steps))[:, 1])
        for name, tx in optimizers.items()
    }


@figure
def gradient_descent_saddle() -> Figure:
    """How long each is stuck at a saddle."""
    drawn, (axes,) = panels(1)
    for (name, distance), colour in zip(leaving_a_saddle().items(), (BLUE, PINK, GREEN), strict=True):
        axes.plot(distance, color=colour, label=name)
    axes.axhline(1.0, color=GREY, linestyle=":", linewidth=1)
    axes.annotate("minimum", (1990, 1.0), ha="right", va="bottom")
    axes.set(
        yscale="log",
        xlabel="step",
        ylabel="|y|, distance from the ridge",
        title="Leaving a saddle, rate 0.01",
    )
    axes.legend(loc="lower right")
    return drawn


# Stochastic gradient descent


def noise_floors(steps: int = 3000, runs: int = 400) -> dict[float, tuple[np.ndarray, float]]:
    """For each rate, the mean of w² with noisy gradients w + N(0, 1), and what theory says it ends at."""
    floors = {}
    for rate in (0.3, 0.03, 0.003):

        def noisy(w: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
            return w + jax.random.normal(key, w.shape)

        squares = path(gx.sgd(rate), noisy, np.full(runs, 3.0), steps) ** 2
        floors[rate] = np.asarray(squares.mean(1), float), rate / (2 - rate)
    return floors


def decayed(steps: int = 3000, runs: int = 400) -> np.ndarray:
    """The same with a rate that falls as 1 / t."""

    def noisy(w: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        return w + jax.random.normal(key, w.shape)

    tx = gx.sgd(lambda count: 1.0 / (count + 1.0))
    return np.asarray((path(tx, noisy, np.full(runs, 3.0), steps) ** 2).mean(1), float)


@figure
def sgd_noise_floor() -> Figure:
    """A constant rate ends at a floor in proportion to it; a falling one has none."""
    drawn, (axes,) = panels(1)
    for (rate, (squares, floor)), colour in zip(noise_floors().items(), (ORANGE, PINK, BLUE), strict=True):
        at = spaced(len(squares) - 1)
        axes.plot(at, squares[at], color=colour, label=f"rate {rate:g}")
        axes.axhline(floor, color=colour, linestyle=":", linewidth=1)
    falling = decayed()
    axes.plot(at, falling[at], color=GREEN, label="rate 1 / t")
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="mean of w²")
    axes.set_title("Noisy gradients: dotted, where theory puts the floor")
    axes.legend()
    return drawn


# Mini-batch gradient descent


def steps_by_batch_size(target: float = 0.02, most: int = 4000) -> dict[int, float]:
    """The fewest steps, over a grid of rates, to come below a loss, by the batch size.

    Ten curvatures from 0.1 to 1; an example's gradient has noise of standard deviation 1 in each coordinate,
    that of a batch of B examples 1 / √B. The loss is the mean over 16 runs.
    """
    curvatures = jnp.geomspace(0.1, 1.0, 10)
    rates = jnp.geomspace(1e-3, 1.5, 24)

    def losses(rate: jax.Array, noise: jax.Array) -> jax.Array:
        def gradient(w: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
            return curvatures * w + noise * jax.random.normal(key, w.shape)

        w = path(gx.sgd(rate), gradient, jnp.ones((16, 10)), most)
        return 0.5 * (curvatures * w**2).sum(-1).mean(-1)

    of_grid = jax.jit(jax.vmap(losses, in_axes=(0, None)))
    fewest = {}
    for size in 2 ** np.arange(2, 15, 2):
        below = np.asarray(of_grid(rates, size**-0.5)) < target
        fewest[int(size)] = float(np.where(below.any(1), below.argmax(1), np.inf).min())
    return fewest


@figure
def mini_batch_sizes() -> Figure:
    """A larger batch saves steps, up to a size from which on it only costs examples."""
    drawn, (steps, examples) = panels(2)
    measured = steps_by_batch_size()
    sizes, needed = np.array(list(measured)), np.array(list(measured.values()))
    steps.plot(sizes, needed, "o-", color=BLUE, label="measured")
    steps.plot(sizes, needed[0] * sizes[0] / sizes, ":", color=GREY, label="in proportion to 1 / B")
    steps.set(ylim=(needed.min() / 2, needed.max() * 2), ylabel="steps", title="Steps to the same loss")
    steps.legend()
    examples.plot(sizes, needed * sizes, "o-", color=ORANGE)
    examples.set(ylabel="gradients of one example", title="What those steps cost")
    for axes in (steps, examples):
        axes.set(xscale="log", yscale="log", xlabel="batch size B")
    return drawn


# AdaGrad


def effective_rates(steps: int = 10_000) -> dict[str, np.ndarray]:
    """The size of each update where every gradient is 1 or -1, in units of the learning rate."""

    def signs(w: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        return jax.random.rademacher(key, w.shape, w.dtype)

    optimizers = {"AdaGrad": gx.adagrad(1.0), "RMSprop": gx.rmsprop(1.0)}
    return {
        name: np.abs(np.diff(np.asarray(path(tx, signs, 0.0, steps), float)))
        for name, tx in optimizers.items()
    }


def following(steps: int = 6000, moves_at: int = 3000) -> dict[str, np.ndarray]:
    """The distance from a minimum that goes from 0 to 1 half way, with noisy gradients."""

    def gradient(w: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        return w - (t >= moves_at) + jax.random.normal(key, w.shape)

    optimizers = {"AdaGrad": gx.adagrad(0.1), "RMSprop": gx.rmsprop(0.01)}
    places = {name: np.asarray(path(tx, gradient, jnp.ones(200), steps)) for name, tx in optimizers.items()}
    minimum = (np.arange(steps + 1) > moves_at)[:, None]
    return {name: np.sqrt(((place - minimum) ** 2).mean(1)) for name, place in places.items()}


@figure
def adagrad_dies() -> Figure:
    """AdaGrad's steps become ever smaller, so that it cannot follow when something changes."""
    drawn, (sizes, distances) = panels(2)
    for (name, size), colour in zip(effective_rates().items(), (ORANGE, BLUE), strict=True):
        at = spaced(len(size))
        sizes.plot(at, size[at - 1], color=colour, label=name)
    sizes.plot(at, at**-0.5, ":", color=GREY, label="1 / √t")
    sizes.set(xscale="log", yscale="log", xlabel="step t", ylabel="update / learning rate")
    sizes.set_title("Every gradient is 1 or −1")
    sizes.legend()
    for (name, distance), colour in zip(following().items(), (ORANGE, BLUE), strict=True):
        distances.plot(np.arange(len(distance))[::10], distance[::10], color=colour, label=name)
    distances.set(xlabel="step", ylabel="distance from the minimum", title="The minimum moves at step 3000")
    distances.legend()
    return drawn


# RMSprop


def bouncing(steps: int = 400) -> dict[str, np.ndarray]:
    """|w| on ½w² without any noise, by optimizer and rate."""

    def slope(w: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        return w

    runs = {
        "gradient descent, 0.1": gx.sgd(0.1),
        "RMSprop, 0.1": gx.rmsprop(0.1),
        "RMSprop, 0.01": gx.rmsprop(0.01),
    }
    return {name: np.abs(np.asarray(path(tx, slope, 1.0, steps), float)) for name, tx in runs.items()}


def first_updates(steps: int = 30) -> dict[str, np.ndarray]:
    """The sizes of the first updates in units of the rate, where every gradient is 1."""
    optimizers = {
        "RMSprop": gx.rmsprop(1.0),
        "with bias correction": gx.rmsprop(1.0, bias_correction=True),
    }
    return {
        name: np.abs(np.diff(np.asarray(path(tx, lambda w, t, key: jnp.ones_like(w), 0.0, steps), float)))
        for name, tx in optimizers.items()
    }


@figure
def rmsprop_bounces() -> Figure:
    """RMSprop's steps do not shrink with the gradient; and its first ones are too long."""
    drawn, (places, sizes) = panels(2)
    for (name, distance), colour in zip(bouncing().items(), (GREY, ORANGE, BLUE), strict=True):
        places.plot(np.maximum(distance, 1e-9), color=colour, label=name, linewidth=1.2)
    places.set(yscale="log", ylim=(1e-3, 5), xlabel="step", ylabel="|w|, distance from the minimum")
    places.set_title("½w², no noise at all")
    places.legend(loc="upper right")
    for (name, size), colour in zip(first_updates().items(), (ORANGE, GREEN), strict=True):
        sizes.plot(np.arange(1, len(size) + 1), size, "o-", markersize=3, color=colour, label=name)
    sizes.set(ylim=(0, 3.5), xlabel="step", ylabel="update / learning rate", title="Every gradient is 1")
    sizes.legend()
    return drawn


# AdaDelta


def warming_up(steps: int = 2000) -> dict[float, np.ndarray]:
    """The sizes of AdaDelta's updates where every gradient is 1, by epsilon."""
    return {
        eps: np.abs(
            np.diff(
                np.asarray(path(gx.adadelta(eps=eps), lambda w, t, key: jnp.ones_like(w), 0.0, steps), float)
            )
        )
        for eps in (1e-8, 1e-6, 1e-4)
    }


def without_units(steps: int = 1500) -> dict[str, dict[float, np.ndarray]]:
    """The place w on ½c w², by optimizer and by c, the unit that the loss is measured in."""

    def run(tx: gx.GradientTransformation, unit: float) -> np.ndarray:
        return np.asarray(path(tx, lambda w, t, key: unit * w, 1.0, steps), float)

    optimizers = {"AdaDelta": gx.adadelta(eps=1e-6), "gradient descent": gx.sgd(0.01)}
    return {name: {unit: run(tx, unit) for unit in (1.0, 100.0)} for name, tx in optimizers.items()}


@figure
def adadelta_starts() -> Figure:
    """AdaDelta starts with steps that epsilon alone sets; and does not mind the loss's unit."""
    drawn, (sizes, places) = panels(2)
    for (eps, size), colour in zip(warming_up().items(), (BLUE, PINK, ORANGE), strict=True):
        at = spaced(len(size))
        sizes.plot(at, size[at - 1], color=colour, label=f"ε = {eps:g}")
    sizes.set(xscale="log", yscale="log", xlabel="step", ylabel="update", title="Every gradient is 1")
    sizes.legend()
    for (name, runs), colour in zip(without_units().items(), (ORANGE, BLUE), strict=True):
        for (unit, place), line in zip(runs.items(), ("-", "--"), strict=True):
            places.plot(
                np.arange(len(place))[::5], place[::5], line, color=colour, label=f"{name}, c = {unit:g}"
            )
    places.set(xlabel="step", ylabel="w", title="The same path for ½w² and 50w²")
    places.legend()
    return drawn


# Adam


def rare_and_large(steps: int = 20_000) -> dict[str, np.ndarray]:
    """Where each is between -1 and 1 if one gradient in a hundred is 110 and the others are -1.

    The mean gradient is 0.11, so -1 is best; every run starts there.
    """

    def gradient(w: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, 0.01, w.shape), 110.0, -1.0)

    def run(tx: gx.GradientTransformation) -> np.ndarray:
        places = path(tx, gradient, -jnp.ones(64), steps, lambda w: jnp.clip(w, -1, 1))
        return np.asarray(places.mean(1), float)

    return {
        "Adam": run(gx.adam(0.01, b2=0.99)),
        "SGD": run(gx.sgd(1e-4)),
        "AMSGrad": run(gx.amsgrad(0.01, b2=0.99)),
    }


@figure
def adam_rare_gradients() -> Figure:
    """Adam forgets rare large gradients, and goes the wrong way."""
    drawn, (axes,) = panels(1)
    for (name, place), colour in zip(rare_and_large().items(), (ORANGE, BLUE, GREEN), strict=True):
        at = np.arange(0, len(place), 50)
        axes.plot(at, place[at], color=colour, label=name, linewidth=1.2)
    axes.set(ylim=(-1.1, 1.1), xlabel="step", ylabel="mean of w over 64 runs")
    axes.set_title("One gradient in 100 is 110, the others −1: best is −1")
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.62))
    return drawn


def digest() -> str:
    """Which version of this file drew a picture."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def draw(name: str, folder: Path) -> Path:
    """Draw one of the `FIGURES` into a folder; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{name}.svg"
    with matplotlib.rc_context(STYLE):
        drawn = FIGURES[name]()
        FigureCanvasSVG(drawn)
        drawn.savefig(target, metadata={"Date": None, "Description": f"docs/figures.py {digest()}"})
    return target


if __name__ == "__main__":
    for each in FIGURES:
        print(draw(each, FOLDER))
