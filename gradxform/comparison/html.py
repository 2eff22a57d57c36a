"""One page with a whole report in it: a table to sort, curves to zoom into, trajectories that play.

The page needs no network: plotly.js stands in it, and its policy forbids every request.
"""

import base64
import json
import math
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jax
import numpy as np

import gradxform
from gradxform.comparison.contestants import CONTESTANTS, Contestant
from gradxform.comparison.race import Progress
from gradxform.comparison.report import Curve, Report, Table, number, plain
from gradxform.comparison.surfaces import (
    NOISE,
    REACHED,
    SURFACES,
    Surface,
    SurfaceReport,
    SurfaceRow,
    merit,
    surface_row,
    trajectories,
)

STEPS = 2000
"""How long the runs on the surfaces are, beside a report that has none."""

POINTS = 101
"""How many points of a surface are drawn along each axis."""

_KEYS = {
    "steps/s": "steps_per_second",
    "state B/param": "state_bytes",
    "above minimum": "final_value",
    "ended at": "ended",
}
"""The headings whose record is not called after them."""

_BEST = '<span class="only-read"> best</span>'

__all__ = ["write_html"]


def write_html(
    report: Table | Sequence[Table],
    path: str | Path,
    *,
    contestants: Sequence[Contestant] = tuple(CONTESTANTS.values()),
    progress: Progress = lambda what, fraction: None,
) -> Path:
    """Write a report as one interactive page that needs no network.

    The table is sorted by a click on its heading. Curves are hovered, zoomed
    and toggled. The algorithms' trajectories on the test functions play, and a
    slider goes through the learning rates, each with what came of it: too
    small, right, too large, diverging.

    Args:
      report: what `compare` or the race on the surfaces returned, or several
        of them.
      path: the file; its folder is made if it does not exist.
      contestants: who runs on the surfaces, over its `surface_rates`; ``()``
        leaves the surfaces out.
      progress: told what is going on and the fraction that is done.

    Returns:
      The file.

    Raises:
      ImportError: plotly or matplotlib is not installed.
      OSError: the file cannot be written.
      ValueError: there is no report.

    Example:
      >>> import tempfile
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> from gradxform.comparison import compare
      >>> from gradxform.comparison.html import write_html
      >>> x = jnp.linspace(-1, 1, 50)
      >>> loss = lambda w, batch: ((w * batch["x"] - batch["y"]) ** 2).mean()
      >>> report = compare(loss, jnp.zeros(()), {"x": x, "y": 3 * x}, {"sgd": gx.sgd},
      ...                  batch_size=10, learning_rates=[0.001, 0.5], epochs=3, seeds=2)
      >>> page = write_html(report, tempfile.mkdtemp() + "/report.html", contestants=())
      >>> "plotly" in page.read_text()
      True
    """
    from plotly.offline import get_plotlyjs  # an extra

    reports = [report] if isinstance(report, Table) else list(report)
    if not reports:
        raise ValueError("write_html: there is no report to write")
    raced = next((each for each in reports if isinstance(each, SurfaceReport)), None)
    steps = raced.steps if raced else STEPS
    picked = {(row.surface, row.algorithm): row.learning_rate for row in raced.rows} if raced else {}
    contestants = [each for each in contestants if each.surface_rates]

    curves = [name for each in reports if isinstance(each, Report) for name in each.curves]
    styles, colours = _styles(dict.fromkeys([*curves, *(each.name for each in contestants)]))
    data: dict[str, Any] = {
        "styles": styles,
        "reports": [_curves(each) if isinstance(each, Report) else None for each in reports],
    }
    body = [_head(reports, contestants)]
    body += [_results(place, each, styles) for place, each in enumerate(reports)]
    if contestants:
        frames = _frames(steps)
        data |= {
            "frames": frames.tolist(),
            "points": POINTS,
            "surfaces": _surfaces(contestants, steps, frames, picked, progress),
        }
        body.append(_on_surfaces(contestants, steps, styles))
    # No "<" in the data: nothing in it can end the script that it stands in.
    encoded = json.dumps(plain(data), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "title": escape(f"gradxform compare: {'; '.join(each._title() for each in reports)}"),
        "colours": colours,
        "body": "\n".join(body),
        "plotly": get_plotlyjs(),
        "data": encoded,
    }
    template = files("gradxform.comparison").joinpath("page.html").read_text("utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


# ---- what is drawn


def _styles(names: Iterable[str]) -> tuple[dict[str, dict[str, str]], str]:
    """For each algorithm the name of its colour and its dashes; and the colours as a style sheet.

    They are those of the pictures. Black is white on a dark page.
    """
    from gradxform.comparison.plots import line_styles as styles_of

    styles, light, dark = {}, "", ""
    for i, (name, style) in enumerate(styles_of(names).items()):
        dashes = style["linestyle"]
        pixels = "solid" if isinstance(dashes, str) else ",".join(f"{3 * length:g}px" for length in dashes[1])
        styles[name] = {"colour": f"--series-{i}", "dash": pixels}
        light += f"--series-{i}: {style['color']}; "
        if style["color"] == "#000000":
            dark += f"--series-{i}: #ffffff; "
    sheet = f":root {{ {light}}}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}"
    return styles, sheet


def _curves(report: Report) -> dict[str, Any]:
    """The curves, for each the mean and the range over the seeds, and the grids of learning rates."""

    def series(values: Sequence[Sequence[float]]) -> dict[str, list[float]]:
        runs = np.asarray(values, float)
        # Where a seed has no number the curve has none.
        runs = np.where(np.isfinite(runs).all(0), runs, np.nan)
        return {
            "middle": runs.mean(0).tolist(),
            "low": runs.min(0).tolist(),
            "high": runs.max(0).tolist(),
        }

    def curve(curve: Curve) -> dict[str, Any]:
        return {
            "seconds": list(curve.seconds),
            "training loss": series(curve.train_loss),
            "validation loss": series(curve.validation_loss),
            f"test {report.score_name}": series(curve.test_score),
        }

    return {
        "epochs": report.epochs,
        "curves": {name: curve(each) for name, each in report.curves.items()},
        "sensitivity": {
            name: {
                "learning_rates": list(grid.learning_rates),
                "start_loss": grid.start_loss,
                "train_loss": list(grid.train_loss),
                "validation_loss": list(grid.validation_loss),
                "diverged": list(grid.diverged),
                "picked": grid.picked,
            }
            for name, grid in report.sensitivity.items()
        },
    }


def _frames(steps: int, each: int = 48) -> np.ndarray:
    """Which steps are drawn: the first ones all, later ones ever more sparsely.

    The strides are odd, so that a run that swings from side to side at every
    step is still seen to.
    """
    strides = np.repeat(3 ** np.arange(16), each)
    frames = np.concatenate([[0], np.cumsum(strides)])
    return np.append(frames[frames < steps], steps)


def _surfaces(
    contestants: Sequence[Contestant],
    steps: int,
    frames: np.ndarray,
    picked: Mapping[tuple[str, str], float],
    progress: Progress,
) -> dict[str, Any]:
    """Every surface, and on it for every algorithm one run at each learning rate and what came of it."""
    drawn = {name: {**_ground(surface), "runs": {}} for name, surface in SURFACES.items()}
    done, total = 0, len(contestants) * len(SURFACES)
    for contestant in contestants:
        rates = contestant.surface_rates
        points_on = trajectories(contestant, rates, steps, seeds=1)
        for name, surface in SURFACES.items():
            progress(f"page: {contestant.name} on {name}", done / total)
            done += 1
            points = points_on(surface)
            x, y = np.moveaxis(points[:, 0, frames], -1, 0)
            with np.errstate(invalid="ignore", over="ignore"):  # of a diverged run
                above = np.asarray(surface.value(x, y)) - surface.value(*surface.minima[0])
                ends = [
                    surface_row(surface, contestant.name, rate, run)
                    for rate, run in zip(rates, points, strict=True)
                ]
            rows = [row for _, row in ends]
            best = min(range(len(rates)), key=lambda i: merit(ends[i]))
            chosen = picked.get((name, contestant.name))  # by the report, which may be of other grids
            drawn[name]["runs"][contestant.name] = {
                "learning_rates": list(rates),
                "picked": best if chosen not in rates else rates.index(chosen),
                "verdicts": [
                    {"verdict": _verdict(row.ended, i - best), "outcome": _outcome(row, steps)}
                    for i, row in enumerate(rows)
                ],
                "points": _encoded(np.stack([x, y, above], axis=-1), "<f4"),
            }
    progress("page", 1.0)
    return drawn


def _ground(surface: Surface) -> dict[str, Any]:
    left, right, bottom, top = surface.window
    x, y = np.meshgrid(np.linspace(left, right, POINTS), np.linspace(bottom, top, POINTS))
    heights = np.asarray(surface.value(x, y), float)
    heights -= heights.min()
    if not surface.local_minima:  # the ground is flat around a minimum: contours in powers of the height
        heights = np.log10(np.maximum(heights, heights.max() * 1e-4))
    heights -= heights.min()
    return {
        "window": surface.window,
        "start": surface.start,
        "minima": surface.minima,
        "saddles": surface.saddles,
        # The colours and contours need them on a scale of any unit.
        "heights": {
            "dtype": "u2",
            "bdata": _encoded(heights / heights.max() * (2**16 - 1), "<u2"),
            "shape": f"{POINTS}, {POINTS}",
        },
    }


def _verdict(ended: str, beyond_best: int) -> str:
    """What to say of a learning rate, by where its run ended.

    Args:
      ended: as in `SurfaceRow`.
      beyond_best: its place in the grid less that of the best rate.
    """
    if ended == "diverged":
        return "diverging"
    if ended == "minimum":
        return "right"
    if ended != "elsewhere":
        return "stuck"
    return "too small" if beyond_best < 0 else "too large" if beyond_best > 0 else "closest"


def _outcome(row: SurfaceRow, steps: int) -> str:
    near = f"within {REACHED:g} of a minimum"
    arrival = f"never {near}" if row.steps is None else f"{near} first at step {row.steps:,.0f}"
    if row.ended == "diverged":
        end = f"after {steps:,} steps more than 100 away, or at no number"
    else:
        place = "" if row.ended == "elsewhere" else f"near a {row.ended}, "
        end = f"after {steps:,} steps {place}{number(max(row.final_value, 0.0))} above the least value"
    return f"{arrival}; {end}"


def _encoded(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(array.astype(dtype).tobytes()).decode()


# ---- what is read


def _head(reports: Sequence[Table], contestants: Sequence[Contestant]) -> str:
    versions = (
        f"gradxform {gradxform.__version__}, jax {jax.__version__}, jaxlib {version('jaxlib')}, "
        f"Python {platform.python_version()}, {jax.devices()[0].device_kind}"
    )
    grids: dict[str, Sequence[float]] = {
        f"{report.task}: {name}": grid.learning_rates
        for report in reports
        if isinstance(report, Report)
        for name, grid in report.sensitivity.items()
    }
    grids |= {f"surfaces: {each.name}": each.surface_rates for each in contestants}
    listed = "".join(
        f"<dt>{escape(name)}</dt><dd>{', '.join(f'{rate:g}' for rate in rates)}</dd>"
        for name, rates in grids.items()
    )
    folded = f"<details><summary>The learning rates tried</summary><dl>{listed}</dl></details>"
    return f'<h1>gradxform compare</h1>\n<p class="muted">{escape(versions)}</p>\n{folded if grids else ""}'


def _table(report: Table) -> str:
    """The table; each cell carries the number it is sorted by, and the best of a column is marked."""
    head, rows = report._cells()
    records, merits = report.records(), _merits(report)
    # On the surfaces every surface has its own best.
    groups = [record.get("surface") for record in records]
    headings, columns = [], []
    for i, (heading, texts) in enumerate(zip(head, zip(*rows, strict=True), strict=True)):
        key = _KEYS.get(heading, heading.replace(" ", "_"))
        kind = ' class="text"' if i in report._texts else ""
        better = merits.get(key)
        values = [_value(record.get(key, text), text) for record, text in zip(records, texts, strict=True)]
        best = {group: _best(values, groups, group, better) for group in groups}
        order = "descending" if better is max else "ascending"
        headings.append(
            f'<th scope="col"{kind} data-first="{order}">'
            f'<button type="button" data-role="sort">{escape(heading)}</button></th>'
        )
        columns.append(
            [
                f'<td class="best" data-value="{value}">{escape(text)}{_BEST}</td>'
                if better and value != "" and value == best[group]
                else f'<td{kind} data-value="{escape(str(value))}">{escape(text)}</td>'
                for value, text, group in zip(values, texts, groups, strict=True)
            ]
        )
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in zip(*columns, strict=True))
    notes = escape(report._notes()).replace("\n", "<br>")
    which = "of its surface" if any(groups) else "of its column"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="table of results">'
        f'<table class="sortable"><thead><tr>{"".join(headings)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
        f'<p class="notes">Bold: the best {which}. A click on a heading sorts.<br>{notes}</p>'
    )


def _merits(report: Table) -> dict[str, Callable[..., Any]]:
    """Which of a record's numbers are better the higher, and which the lower."""
    if not isinstance(report, Report):
        return {"reached": max, "steps": min, "final_value": min}
    return {
        f"test_{report.score_name}": max if report.score_name == "accuracy" else min,
        "final_loss": min,
        "seconds": min,
        "steps_per_second": max,
        "state_bytes": min,
    }


def _value(value: Any, text: str) -> Any:
    """What a cell is sorted by: text, a number, or nothing where the cell shows none."""
    if isinstance(value, str):
        return value
    shown = value is not None and math.isfinite(value) and any(map(str.isdigit, text))
    return value if shown else ""


def _best(values: Sequence[Any], groups: Sequence[Any], group: Any, better: Callable[..., Any] | None) -> Any:
    numbers = [value for value, of in zip(values, groups, strict=True) if of == group and value != ""]
    return better(numbers) if better and numbers else None


def _legend(names: Iterable[str], styles: Mapping[str, Mapping[str, str]]) -> str:
    """A box to tick for each algorithm; it toggles it in all plots."""

    def entry(name: str) -> str:
        dashes = styles[name]["dash"].replace("px", "").replace("solid", "none")
        return (
            f'<label><input type="checkbox" checked data-toggles="{escape(name)}">'
            '<svg aria-hidden="true" viewBox="0 0 32 10"><line x1="0" y1="5" x2="32" y2="5" stroke-width="3" '
            f'stroke="var({styles[name]["colour"]})" stroke-dasharray="{dashes}"/></svg>'
            f"{escape(name)}</label>"
        )

    entries = "".join(map(entry, names))
    return f'<div class="legend" role="group" aria-label="shown algorithms">{entries}</div>'


def _select(label: str, role: str, options: Iterable[str]) -> str:
    chosen = "".join(f"<option>{escape(option)}</option>" for option in options)
    return f'<label>{label} <select data-role="{role}">{chosen}</select></label>'


def _plot(role: str, label: str) -> str:
    return f'<div class="plot" data-role="{role}" role="group" aria-label="{escape(label)}"></div>'


def _slider(label: str, role: str, last: int) -> str:
    return (
        f'<label class="wide">{label} '
        f'<input type="range" min="0" max="{last}" value="{last}" data-role="{role}"></label>'
    )


def _results(place: int, report: Table, styles: Mapping[str, Mapping[str, str]]) -> str:
    """A report's table, and its curves if it has any."""
    parts = [f"<section>\n<h2>{escape(report._title())}</h2>", _table(report), "</section>"]
    if isinstance(report, Report) and report.curves:
        what = ("training loss", "validation loss", f"test {report.score_name}")
        parts += [
            f'<section data-report="{place}">\n<h2>Curves: {escape(report.task)}</h2>',
            '<p class="notes">The mean over the seeds, and the range from the lowest to the highest. '
            "Drag over a part to enlarge it, double-click to go back.</p>",
            f'<div class="controls">{_select("show", "what", dict.fromkeys(what))}'
            f"{_select('against', 'against', ('epochs', 'seconds'))}</div>",
            _legend(report.curves, styles),
            _plot("losses", f"curves of {report.task}"),
        ]
        if report.sensitivity:
            factor = " For adadelta it is a factor on the update." if "adadelta" in report.sensitivity else ""
            parts += [
                f"<h2>Sensitivity to the learning rate: {escape(report.task)}</h2>",
                f'<p class="notes">Ring: the rate picked by the validation loss.{factor}</p>',
                _legend(report.sensitivity, styles),
                _plot("sensitivity", "loss by learning rate"),
            ]
        parts.append("</section>")
    return "\n".join(parts)


def _on_surfaces(
    contestants: Sequence[Contestant], steps: int, styles: Mapping[str, Mapping[str, str]]
) -> str:
    names = [each.name for each in contestants]
    options = "".join(
        f'<option value="{escape(name)}">{escape(name)}: {escape(surface.equation)}</option>'
        for name, surface in SURFACES.items()
    )
    surface = f'<label>surface <select data-role="surface">{options}</select></label>'
    noise = (
        f"A batch of B sees the gradient plus normal noise of standard deviation {NOISE:g}/√B. "
        "Later steps are drawn ever more sparsely."
    )
    factor = " For adadelta it is a factor on the update." if "adadelta" in names else ""
    return f"""<section data-trajectories>
<h2>Trajectories on a surface</h2>
<p class="notes">Each algorithm with the learning rate that does best there. {noise}</p>
<div class="controls">{surface}<button type="button" data-role="play">Play</button>
{_slider("step", "step", len(_frames(steps)) - 1)}<output data-role="told"></output></div>
{_legend(names, styles)}
{_plot("paths", "trajectories over contours")}
<ul class="outcomes" data-role="outcomes"></ul>
</section>
<section data-rates>
<h2>What the learning rate does</h2>
<p class="notes">Runs of {steps:,} steps. Right: the run ends near a minimum. Stuck: it ends near a saddle or
a local minimum. Diverging: it ends more than 100 away, or at no number. Otherwise the rate is too small or
too large, seen from the best one.{factor}</p>
<div class="controls">{_select("algorithm", "algorithm", names)}{surface}
{_slider("learning rate", "rate", 1)}</div>
<div class="rates" role="group" aria-label="learning rates" data-role="chips"></div>
<p aria-live="polite" data-role="told"></p>
<div class="pair">
<figure><figcaption>Where the run goes</figcaption>{_plot("way", "trajectory at this learning rate")}</figure>
<figure><figcaption>How far above the least value; grey: the other rates</figcaption>
{_plot("values", "value above the least by step")}</figure>
</div>
</section>"""
