"""The pictures of a report, drawn with matplotlib, which is imported only here."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from gradxform.comparison.contestants import CONTESTANTS

if TYPE_CHECKING:
    from gradxform.comparison.report import Report
    from gradxform.comparison.surfaces import SurfaceReport

__all__ = ["line_styles", "report_figures", "save_figures", "surface_figures"]

# Okabe and Ito's colours, told apart by colour-blind people too; the line style says it once more.
_COLOURS = ("#000000", "#56B4E9", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00")
_DASHES: tuple[Any, ...] = ("-", (0, (1, 1)), "-", (0, (5, 1.5)), "-", (0, (3, 1, 1, 1)), "-")

_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def line_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and dashes by name: an algorithm that the library knows looks the same in every picture."""
    known = list(CONTESTANTS)
    names = list(names)
    place = {name: known.index(name) if name in known else i for i, name in enumerate(names)}
    if len(set(place.values())) < len(names):
        place = {name: i for i, name in enumerate(names)}
    return {
        name: {"color": _COLOURS[i % 7], "linestyle": _DASHES[(i + i // 7) % 7], "linewidth": 1.6}
        for name, i in place.items()
    }


def save_figures(figures: dict[str, Figure], folder: Path) -> list[Path]:
    """Write figures into `folder` under their names; returns the files."""
    files = []
    for name, figure in figures.items():
        FigureCanvasAgg(figure)
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=110)
    return files


def report_figures(report: "Report") -> dict[str, Figure]:
    """Loss, learning-rate sensitivity and gradient noise, each if there is something to draw."""
    with matplotlib.rc_context(_STYLE):
        figures = {"loss": _losses(report)}
        if report.sensitivity:
            figures["learning-rates"] = _sensitivity(report)
        if report.noise is not None and len(report.noise.batch_sizes) > 1:
            figures["gradient-noise"] = _noise(report)
    return figures


def _finite(values: Any) -> np.ndarray:
    array = np.asarray(values, float)
    return np.where(np.isfinite(array), array, np.nan)


def _legend(figure: Figure, handles: list[Any], names: list[str], columns: int = 7) -> None:
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(columns, len(names)), handlelength=2.4
    )


def _losses(report: "Report") -> Figure:
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    by_epoch, by_second = figure.subplots(1, 2, sharey=True)
    styles = line_styles(report.curves)
    handles = []
    lowest, highest, timed = np.inf, 0.0, False
    for name, curve in report.curves.items():
        losses = _finite(curve.train_loss)
        whole = np.isfinite(losses).all(0)
        middle, low, high = losses.mean(0), losses.min(0), losses.max(0)
        epochs, seconds = np.arange(losses.shape[1]), np.asarray(curve.seconds)
        handles += by_epoch.plot(epochs[whole], middle[whole], **styles[name])
        # Time starts at 0, which a logarithmic axis does not have.
        later = whole & (seconds > 0)
        by_second.plot(seconds[later], middle[later], **styles[name])
        for axes, x, where in ((by_epoch, epochs, whole), (by_second, seconds, later)):
            axes.fill_between(
                x[where], low[where], high[where], color=styles[name]["color"], alpha=0.12, linewidth=0
            )
        timed = timed or bool(later.any())
        if whole.any():
            lowest = min(lowest, low[whole].min())
            highest = max(highest, middle[0])
    by_epoch.set(xlabel="epoch", ylabel="training loss", title=f"{report.task}: loss against epochs")
    by_second.set(xlabel="seconds of training, one run alone", title="loss against seconds")
    by_epoch.set_xlim(0, report.epochs)
    if timed:
        by_second.set_xscale("log")
    if 0 < lowest < highest:
        # What diverges leaves through the ceiling instead of flattening all others.
        by_epoch.set(yscale="log", ylim=(lowest * 0.8, highest * 3))
    _legend(figure, handles, list(report.curves))
    return figure


def _sensitivity(report: "Report") -> Figure:
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = figure.subplots()
    styles = line_styles(report.sensitivity)
    every = list(report.sensitivity.values())
    start = max(grid.start_loss for grid in every)
    ends = np.concatenate([_finite(grid.train_loss) for grid in every])
    kept = ends[np.isfinite(ends) & (ends > 0) & (ends <= start)]
    floor = min(kept.min() if kept.size else start, start / 10)
    # Half a decade or a tenth of the picture above the start is the divergent region.
    ceiling = start * max(10**0.5, (start / floor) ** 0.12)
    strip = (start * ceiling) ** 0.5
    handles = []
    for name, grid in report.sensitivity.items():
        rates, losses = np.asarray(grid.learning_rates), _finite(grid.train_loss)
        diverged = np.asarray(grid.diverged)
        shown = np.where(diverged, strip, losses)
        style = styles[name]
        handles += axes.plot(rates, shown, **style)
        axes.plot(rates[~diverged], shown[~diverged], "o", markersize=3.5, color=style["color"])
        axes.plot(rates[diverged], shown[diverged], "x", markersize=7, color=style["color"])
        axes.plot(
            rates[grid.picked],
            shown[grid.picked],
            "o",
            markersize=11,
            markerfacecolor="none",
            color=style["color"],
        )
    axes.axhspan(start, ceiling, color="#d9d9d9", alpha=0.6, linewidth=0)
    axes.text(0.01, strip, "diverged", transform=axes.get_yaxis_transform(), va="center", color="#555555")
    axes.set(xscale="log", yscale="log", ylim=(floor * 0.7, ceiling))
    axes.set(
        xlabel="learning rate (for adadelta a factor on the update)"
        if "adadelta" in report.sensitivity
        else "learning rate",
        ylabel=f"training loss after {report.epochs} epochs",
        title=f"{report.task}: sensitivity to the learning rate  (ring: picked on the validation split)",
    )
    _legend(figure, handles, list(report.sensitivity), columns=4)
    return figure


def _noise(report: "Report") -> Figure:
    assert report.noise is not None
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    sizes, variance = np.asarray(report.noise.batch_sizes), np.asarray(report.noise.variance)
    fine = np.geomspace(1, sizes[-1], 200)
    left = (report.noise.examples - fine) / max(report.noise.examples - 1, 1)
    axes.plot(fine, variance[0] / fine, "--", color="#777777", label="1/B")
    axes.plot(
        fine,
        variance[0] / fine * left,
        color="#bbbbbb",
        label=f"1/B, drawn without replacement from {report.noise.examples:,}",
    )
    axes.plot(sizes, variance, "o", color=_COLOURS[2], label="measured")
    axes.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="E ‖batch gradient - whole gradient‖²")
    axes.set_title(f"{report.task}: gradient noise after one epoch of {report.noise.algorithm}")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend()
    return figure


def surface_figures(report: "SurfaceReport") -> dict[str, Figure]:
    """The first seed's trajectories over contours."""
    from gradxform.comparison.surfaces import REACHED, SURFACES, distance

    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(15, 7.6), layout="constrained")
        panels = list(figure.subplots(2, 4).flat)
        names = [row.algorithm for row in report.rows if row.surface == report.rows[0].surface]
        styles = line_styles(names)
        for axes, (name, paths) in zip(panels, report.paths.items(), strict=False):
            surface = SURFACES[name]
            left, right, bottom, top = surface.window
            x, y = np.meshgrid(np.linspace(left, right, 160), np.linspace(bottom, top, 160))
            heights = np.asarray(surface.value(x, y), float)
            heights -= min(float(surface.value(*surface.minima[0])), heights.min())
            levels = np.geomspace(max(heights.max() * 1e-4, 1e-3), heights.max(), 14)
            if name == "rastrigin":
                levels = np.linspace(0, heights.max(), 12)
            axes.contourf(x, y, heights + 1e-9, levels=[0, *levels[levels > 0]], cmap="Greys_r", alpha=0.22)
            axes.contour(x, y, heights, levels=levels, colors="#a8a8a8", linewidths=0.6, linestyles="solid")
            for algorithm, path in paths.items():
                points = _finite(path)
                # Up to where it leaves for good or arrives; from there on noise would paint over the others.
                stop = ~(np.abs(points).max(1) < 50) | (distance(points, surface.minima) < REACHED)
                points = points[: int(stop.argmax()) + 1 if stop.any() else None]
                axes.plot(*points.T, **{**styles[algorithm], "linewidth": 1.2}, alpha=0.9)
            axes.plot(*surface.start, "o", color="white", markeredgecolor="black", markersize=7, zorder=5)
            for place in surface.minima:
                axes.plot(*place, "*", color="white", markeredgecolor="black", markersize=13, zorder=5)
            for place in surface.saddles:
                axes.plot(*place, "X", color="white", markeredgecolor="black", markersize=7, zorder=5)
            axes.set(xlim=(left, right), ylim=(bottom, top), title=f"{name}: {surface.equation}")
        key = panels[len(report.paths)]
        handles = [key.plot([], [], **styles[name])[0] for name in names]
        marks = [("o", "start"), ("*", "minimum"), ("X", "saddle")]
        handles += [
            key.plot([], [], mark, color="white", markeredgecolor="black", markersize=9)[0]
            for mark, _ in marks
        ]
        key.legend(handles, [*names, *(what for _, what in marks)], loc="center", fontsize=12)
        key.axis("off")
    return {"surfaces": figure}
