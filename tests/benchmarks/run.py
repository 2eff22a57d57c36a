"""Run every race and write docs/benchmarks.json and the page made of it: ``python tests/benchmarks/run.py``.

Arguments go on to pytest (``test_sparse.py``, or ``-k trace``, say); then the table is printed and nothing is
written, as it would have holes. ``--again test_sparse.py`` measures whole sections anew and leaves the others
as they were. ``--page`` measures nothing and makes the page of what was measured. The exit status is 1 if a
target was missed.
"""

import ast
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
RESULTS, PAGE = DOCS / "benchmarks.json", DOCS / "benchmarks.md"
CONVERGENCE = DOCS / "measured" / "time-to-target.json"

SECTIONS = (
    *("test_stages", "test_passes", "test_memory", "test_training", "test_sparse", "test_storage"),
    *("test_sweep", "test_parallel", "test_wrappers", "test_catalogue", "test_import_time"),
)
"""The modules with races, as they follow on the page."""

PEERS = ("Optax", "PyTorch")
AHEAD = 1.02
"""A peer is ahead where the first quartile of the ratio is greater."""

INTRODUCTION = """\
# Benchmarks

`python tests/benchmarks/run.py` measures all of this and writes docs/benchmarks.json and this page; it wants
a machine that does nothing else. Each section is measured in a process of its own, and with
`run.py --again FILE` by itself. Each row is a race: the contestants take turns in one process, round by
round, with garbage collection off. The numbers are medians, with the first and third quartile in brackets;
the ratio is ours to the other's, of each round by itself, so below 1 we are ahead. `StableHLO` and memory
are counted and have no spread.
"""

CONVERGING = """\
## Time to a target

How soon an optimizer reaches a loss on held-out data, in the manner of AlgoPerf: on digits, breast-cancer and
text as `gradxform compare` has them, and with a transformer of two layers and 120,000 numbers that reads the
Python reference character by character. The target of a task lies 98 % of the way from the
first test loss to the lowest that AdamW comes to within half of the steps, the median of its seeds. Everyone
has its defaults and five constant learning rates, half a decade apart; taken is the one that is the soonest
at such a target on the validation data, with two seeds that are used for nothing else ("edge": the first or
last of the five). Then five seeds train, and are evaluated fifty times on the test data. Their median
counts; seconds are steps times the time of a step of `gx.fit` without evaluation or compiling. *sgd, one
example* takes as many examples one by one; *gradient descent* takes all of them in a step, a quarter as many
steps, and none of the transformer, of which one step takes longer than all those on batches. On text *lamb*,
*adafactor*, *muon*, *soap* and *prodigy*, which look at whole arrays, get whole gradients, and *soap* rotates
the classes only; the others get gradients row by row.
*schedule_free_adamw* is judged at the parameters that it steps from.

The ratio is to the best optimizer of the task: the median over the tasks. In brackets are 95 % of what comes
out when seeds are drawn anew (bootstrap). A target that was not reached counts as infinitely far away.
The seconds, and with them the order, are this machine's: on another of two cores, on which steps took a
quarter to a third of the time, *nadam* was first. Of the 74 races that were held on both, 70 took the same
steps.

`python tests/benchmarks/time_to_target.py`"""

_CALLS = (
    "Each leaf is a call of a function that leaves of its shape share, and XLA inlines the calls. Where the "
    "function is one or two operations that takes longer than it spares."
)

_EQUAL = (
    "Both programs are the same 400 operations on the same arrays, and their arguments are taken apart in "
    "the same time. What is left was not found."
)

REASONS: Sequence[tuple[Mapping[str, str], str]] = (
    (
        {"what": "compiled step", "case": "dadapt_adamw"},
        "A rule's sums over the tree are taken before it runs, so that its moments are computed for the sum "
        "and again for the step. Rules that hand on what they computed for the sum would close it.",
    ),
    ({"what": "steady step", "case": "SGD with momentum, 200 leaves", "rival": "Optax"}, _EQUAL),
    ({"what": "compiled step", "case": "momentum"}, _EQUAL),
    (
        {"what": "sweep", "case": "with compilation"},
        "The sweep compiles two loops of vectorized steps (an epoch's last batch is shorter) and the drawing "
        "of the orders, which takes longer than Optax's two steps; sixteen short loops in Python are done "
        "before. After 40 epochs the sweep is ahead, as it is when the program runs again. Batches that "
        "divide the data evenly need one loop, and a second sweep over the data draws its orders with the "
        "program of the first.",
    ),
    *(({"what": what}, _CALLS) for what in ("lower", "compile", "first step")),
    (
        {"what": "steady step", "rival": "PyTorch, fused"},
        "PyTorch's fused kernel goes through memory once and starts one kernel for a leaf. XLA on processors "
        "makes a loop of each result, and each loop reads its inputs again: 40 bytes a number for Adam in "
        "place of 28. It would be closed by fusions of several results in XLA. What was tried in JAX stands "
        "under *How often Adam goes through memory*; the one way that helps keeps parameters and moments in "
        "pieces, which would not be the arrays that a user hands over.",
    ),
    (
        {"what": "steady step", "rival": "PyTorch, foreach"},
        "Leaves so small cost the starting of kernels, not bytes: XLA starts one for each result of each "
        "leaf and hands it to its threads. Joining small leaves into one array would close it, at the price "
        "of a copy of the gradients and of a state that is no longer a tree like the parameters.",
    ),
)
"""Why a peer is ahead and what would close it, for the rows in which each field begins with these words."""

Row = dict[str, Any]
Section = dict[str, Any]


class Recorder:
    """A pytest plugin that keeps what the tests of each module recorded, and the names of those that failed.

    Given a file, it writes them there after each test: a process may end before the last one.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.sections: dict[str, Section] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = Path(report.nodeid.split("::")[0]).stem
        section = self.sections.setdefault(name, {"name": name, "failed": [], "rows": []})
        section["failed"] += [report.nodeid.split("/")[-1]] if report.failed else []
        if report.when == "call" and report.passed:
            section["rows"] += [value for name, value in report.user_properties if name == "row"]
        if self.file:
            self.file.write_text(json.dumps(section))


def met(row: Row) -> bool | None:
    """Whether the row's target is met; ``None`` without one."""
    ratio, targets = row["ratio"][1], [row[name] for name in ("at_most", "at_least", "limit")]
    if targets == [None] * 3:
        return None
    at_most, at_least, limit = targets
    return (
        (at_most is None or ratio <= at_most)
        and (at_least is None or ratio >= at_least)
        and (limit is None or row["ours"][1] <= limit)
    )


def behind(row: Row) -> bool:
    """Whether a peer is ahead in this row, by more than the rounds differ."""
    return row["rival"].startswith(PEERS) and row["ratio"][0] > AHEAD


def reason(row: Row) -> str:
    """Why a peer is ahead there."""
    for fields, why in REASONS:
        if all(f"{row[name]} ".startswith(f"{text} ") for name, text in fields.items()):
            return why
    return "Not looked into yet."


def page(sections: Sequence[Section], convergence: Mapping[str, Any] | None = None) -> str:
    """The page, from what was measured."""
    rows = [row for section in sections for row in section["rows"]]
    parts = [INTRODUCTION, _overview(rows), _behind(rows), *map(_section, sections)]
    if convergence is not None:
        parts.append(_convergence(convergence))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _circumstances(results: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in results["versions"].items())
    text = f"{results['date']}, {results['minutes']} minutes; {results['machine']}; {versions}."
    if results["failed"]:
        text += f" What failed and is missing: {', '.join(f'`{test}`' for test in results['failed'])}."
    return text


def _overview(rows: Sequence[Row]) -> str:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        peer = next((peer for peer in PEERS if row["rival"].startswith(peer)), None)
        if peer is not None:
            groups.setdefault((row["what"], peer), []).append(row)
    head = ("what", "against", "rows", "median of the ratios", "from", "to", "peer ahead", "targets missed")
    lines = []
    for (what, peer), group in groups.items():
        ratios = [row["ratio"][1] for row in group]
        missed = sum(met(row) is False for row in group)
        spread = [f"{number:.3g}" for number in (median(ratios), min(ratios), max(ratios))]
        lines.append((what, peer, str(len(group)), *spread, str(sum(map(behind, group))), str(missed)))
    return f"## In short\n\n{table(head, lines)}"


def _behind(rows: Sequence[Row]) -> str:
    text = (
        "## Where another is ahead\n\nThe rows in which the ratio to Optax or PyTorch is above "
        f"{AHEAD:g} in three quarters of the rounds, with the reason and what would close the gap."
    )
    groups: dict[str, list[Row]] = {}
    for row in filter(behind, rows):
        groups.setdefault(reason(row), []).append(row)
    if not groups:
        return f"{text}\n\nThere are none."
    head = ("what", "case", "against", "ratio")
    for why, group in groups.items():
        cells = [(row["what"], row["case"], row["rival"], _spread(row["ratio"])) for row in group]
        text += f"\n\n{why}\n\n{table(head, cells)}"
    return text


def _convergence(results: Mapping[str, Any]) -> str:
    head = ("", "optimizer", "seconds", "steps")
    ranked = [
        (str(place), each["optimizer"], _interval(each["seconds"]), _interval(each["steps"]))
        for place, each in enumerate(results["ranking"], 1)
    ]
    text = f"{CONVERGING}\n\n{_circumstances(results)}\n\n{table(head, ranked)}"
    order = [each["optimizer"] for each in results["ranking"]]
    head = ("optimizer", "rate", "steps", "seconds", "reached by", "lowest test loss")
    for task, about in results["tasks"].items():
        text += (
            f"\n\n**{task}**: test loss {about['target']:.4g}; {about['steps']:,} steps on batches of "
            f"{about['batch']}"
        )
        rows = {row["optimizer"]: row for row in results["rows"] if row["task"] == task}
        text += f"\n\n{table(head, [(name, *_runs(rows[name])) for name in order if name in rows])}"
    return text


def _interval(numbers: Sequence[float | None]) -> str:
    low, middle, high = ("∞" if number is None else f"{number:.3g}" for number in numbers)
    return f"{middle} ({low} to {high})"


def _runs(row: Mapping[str, Any]) -> tuple[str, ...]:
    if not row["steps"]:
        return ("", "", "", "did not take part", "")
    counts = [float("inf") if count is None else count for count in row["steps"]]
    middle = median(counts)
    took = (
        ("–", "–")
        if middle == float("inf")
        else (f"{middle:,.0f}", show(middle * row["seconds_a_step"], "s"))
    )
    reached = f"{sum(count is not None for count in row['steps'])} of {len(counts)}"
    rate = f"{row['rate']:g}" + (" (edge)" if row["at_edge"] else "")
    return (rate, *took, reached, f"{median(row['lowest']):.4g}")


def _section(section: Section) -> str:
    name, rows = section["name"], section["rows"]
    title, _, about = (ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text())) or "").partition("\n")
    head = ("case", "against", "gradxform", "the other", "ratio", "rounds", "target", "met")
    command = f"`python tests/benchmarks/run.py {name}.py`"
    parts = [f"## {title.removesuffix('.')}", about, command, _circumstances(section)]
    for what in dict.fromkeys(row["what"] for row in rows):
        parts += [f"**{what}**", table(head, (_cells(row) for row in rows if row["what"] == what))]
    return "\n\n".join(part.strip() for part in parts if part)


def _cells(row: Row) -> tuple[str, ...]:
    targets = [
        f"{words} {show(row[name], unit)}"
        for name, words, unit in [
            ("at_most", "at most", ""),
            ("at_least", "at least", ""),
            ("limit", "at most", "s"),
        ]
        if row[name] is not None
    ]
    return (
        row["case"],
        row["rival"],
        _spread(row["ours"], row["unit"]),
        _spread(row["theirs"], row["unit"]),
        _spread(row["ratio"]),
        str(row["rounds"]),
        " and ".join(targets),
        {None: "", True: "yes", False: "**no**"}[met(row)],
    )


def show(number: float, unit: str = "") -> str:
    """Three digits, in a unit that fits."""
    if unit == "bytes":
        return f"{number / 1e9:.3g} GB" if number >= 1e9 else f"{number / 1e6:.3g} MB"
    if unit == "s":
        scale, name = next((each for each in ((1, "s"), (1e3, "ms")) if number * each[0] >= 1), (1e6, "µs"))
        return f"{number * scale:.3g} {name}"
    return f"{number:,.0f} {unit}" if unit else f"{number:.3g}"


def _spread(numbers: Sequence[float], unit: str = "") -> str:
    low, middle, high = (show(number, unit) for number in numbers)
    return middle if low == high else f"{middle} ({low} to {high})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """As Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def machine() -> str:
    """Processor, cores, load, system and Python."""
    try:
        described = Path("/proc/cpuinfo").read_text()
        processor = next(
            line.split(":")[1].strip() for line in described.splitlines() if "model name" in line
        )
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    load = f", load {os.getloadavg()[0]:.1f} before the run" if hasattr(os, "getloadavg") else ""
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"{processor}, {os.cpu_count()} cores{load}; {system}"


def versions() -> dict[str, str]:
    """Of gradxform and of what it races with and on."""
    found = {}
    for package in ("gradxform", "jax", "jaxlib", "optax", "numpy", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def measure(arguments: Sequence[str], file: Path | None = None) -> list[Section]:
    """Run races in this process; what came out, which is written to `file` too."""
    # One device, as a program without flags has; the tests ask for eight. Read when jax starts its backend.
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    begun = {"date": f"{datetime.date.today():%Y-%m-%d}", "machine": machine(), "versions": versions()}
    recorder, begin = Recorder(file), perf_counter()
    paths = [str(HERE / name) if (HERE / name).exists() else name for name in arguments]
    everything = [] if any(path != name for path, name in zip(paths, arguments, strict=True)) else [str(HERE)]
    pytest.main([*everything, "-m", "", "-q", *paths], [recorder])
    minutes = round((perf_counter() - begin) / 60)
    return [{**section, **begun, "minutes": minutes} for section in recorder.sections.values()]


def measure_apart(name: str) -> Section:
    """Run the races of a module in a process of its own: memory and a crash are its own too."""
    section: Section = {"name": name, "date": f"{datetime.date.today():%Y-%m-%d}"}
    section |= {"machine": machine(), "versions": versions()}
    begin = perf_counter()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "section.json"
        command = [sys.executable, str(HERE / "run.py"), "--into", str(file), f"{name}.py"]
        status = subprocess.run(command, check=False).returncode
        found = read(file) or {"failed": [f"{name}.py"], "rows": []}
    if status < 0:
        found["failed"].append(f"the rest, by {signal.Signals(-status).name}")
    minutes = round((perf_counter() - begin) / 60)
    return {**section, "minutes": minutes, "failed": found["failed"], "rows": found["rows"]}


def read(path: Path) -> Any:
    """What was measured before, if anything was."""
    return json.loads(path.read_text()) if path.exists() else None


def as_json(results: Mapping[str, Any]) -> str:
    """One row to a line, so that two runs can be told apart."""
    about = json.dumps({name: value for name, value in results.items() if name != "rows"})
    rows = ",\n".join(f"  {json.dumps(row)}" for row in results["rows"])
    return f'{about[:-1]}, "rows": [\n{rows}\n]}}'


def write(sections: Sequence[Section], path: Path) -> None:
    """All sections as one file."""
    path.write_text("[\n" + ",\n".join(map(as_json, sections)) + "\n]\n")


def main(arguments: list[str]) -> int:
    """Measure, or only write the page; the exit status."""
    match arguments:
        case ["--page"]:
            sections = read(RESULTS)
            PAGE.write_text(page(sections, read(CONVERGENCE)))
            return 0
        case ["--into", file, *rest]:
            sections = measure(rest, Path(file))
        case [] | ["--again", *_]:
            chosen = [Path(name).stem for name in arguments[1:]] or SECTIONS
            kept = {section["name"]: section for section in (read(RESULTS) or []) if arguments}
            for name in chosen:
                kept[name] = measure_apart(name)
                sections = [kept[name] for name in SECTIONS if name in kept]
                write(sections, RESULTS)
                PAGE.write_text(page(sections, read(CONVERGENCE)))
            if not arguments:
                subprocess.run([sys.executable, str(HERE / "time_to_target.py")], check=False)
                PAGE.write_text(page(sections, read(CONVERGENCE)))
            sections = [kept[name] for name in chosen]
        case _:
            sections = measure(arguments)
            print(page(sections))
    missed = any(met(row) is False for section in sections for row in section["rows"])
    return int(missed or any(section["failed"] for section in sections))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
