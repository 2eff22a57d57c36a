"""The sensitivity plot of a sweep, drawn with matplotlib, which is imported only here."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gradxform.training.sweep_result import Sweep

__all__ = ["plot_sweep"]

_WIDE = 10
"""From how many times the least value on the greatest is drawn on a logarithmic axis."""

_SIDE_BY_SIDE = 6
"""Up to how many values can be written side by side."""


def plot_sweep(sweep: "Sweep", names: tuple[str, ...], ax: Any) -> Any:
    """Draw a sweep over one hyperparameter or two; see `Sweep.plot`."""
    known = list(sweep.points[0])
    varying = [name for name in known if len({point[name] for point in sweep.points}) > 1]
    for name in names:
        if name not in known:
            raise ValueError(f"plot: the sweep has no {name!r}; it has {', '.join(known)}")
    names = names or tuple(varying) or (known[0],)
    if len(set(names)) != len(names) or len(names) > 2:
        raise ValueError(
            f"plot: one or two hyperparameters can be drawn, not {', '.join(names)}; "
            "name those to draw, the best over the others is shown"
        )
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(layout="constrained")[1]
    axes_values = [sorted({point[name] for point in sweep.points}) for name in names]
    shown = _best_of_each(sweep, names, axes_values)
    if len(names) == 1:
        _curve(sweep, names[0], axes_values[0], shown, ax)
    else:
        _map(sweep, names, axes_values, shown, ax)
    return ax


def _best_of_each(sweep: "Sweep", names: tuple[str, ...], axes_values: list[list[float]]) -> np.ndarray:
    """For each place of the picture, its best point; -1 where there is none."""
    from gradxform.training.sweep_result import Judge

    cost = Judge(sweep.by, sweep.mode).cost(sweep.final).mean(1)
    best = np.full([len(values) for values in axes_values], -1)
    for i, point in enumerate(sweep.points):
        place = tuple(values.index(point[name]) for name, values in zip(names, axes_values, strict=True))
        if best[place] < 0 or cost[i] < cost[best[place]]:
            best[place] = i
    return best


def _curve(sweep: "Sweep", name: str, values: list[float], shown: np.ndarray, ax: Any) -> None:
    final, x = sweep.final[shown], np.asarray(values)
    whole = np.isfinite(final).all(1)
    x_whole, final = x[whole], final[whole]
    (line,) = ax.plot(x_whole, final.mean(1), "o-", markersize=4)
    if final.shape[1] > 1:
        ax.fill_between(x_whole, final.min(1), final.max(1), color=line.get_color(), alpha=0.2, linewidth=0)
    # At the top, where a diverged loss is heading, whatever the scale.
    top = np.full(int((~whole).sum()), 0.97)
    ax.plot(x[~whole], top, "x", color="tab:red", transform=ax.get_xaxis_transform(), label="diverged")
    if sweep.best_index is not None and sweep.best_index[0] in shown:
        best = sweep.best_index[0]
        ring = {"markersize": 11, "markerfacecolor": "none", "color": line.get_color()}
        ax.plot(sweep.points[best][name], sweep.final[best].mean(), "o", **ring, label="best")
    if _is_wide(x):
        ax.set_xscale("log")
    if _is_wide(final):
        ax.set_yscale("log")
    ax.set(xlabel=name, ylabel=sweep.final_name)


def _map(
    sweep: "Sweep", names: tuple[str, ...], axes_values: list[list[float]], shown: np.ndarray, ax: Any
) -> None:
    from matplotlib.colors import LogNorm

    means = np.where(shown >= 0, sweep.final.mean(1)[shown], np.nan).T
    finite = means[np.isfinite(means)]
    ordered = "viridis_r" if sweep.mode == "min" else "viridis"
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(means),
        norm=LogNorm(finite.min(), finite.max()) if _is_wide(finite) else None,
        cmap=ordered,
    )
    ax.figure.colorbar(mesh, ax=ax, label=sweep.final_name)
    for x, y in np.argwhere((shown >= 0) & ~np.isfinite(means.T)) + 0.5:
        ax.plot(x, y, "x", color="tab:red")
    if sweep.best_index is not None:
        for x, y in np.argwhere(shown == sweep.best_index[0]) + 0.5:
            ax.plot(x, y, "o", markersize=14, markerfacecolor="none", color="black")
    for axis, name, values in zip((ax.xaxis, ax.yaxis), names, axes_values, strict=True):
        axis.set_ticks(np.arange(len(values)) + 0.5, [f"{value:.3g}" for value in values])
        axis.set_label_text(name)
    if len(axes_values[0]) > _SIDE_BY_SIDE:
        ax.tick_params(axis="x", labelrotation=90)


def _is_wide(values: np.ndarray) -> bool:
    return bool(values.size and values.min() > 0 and values.max() >= _WIDE * values.min())
