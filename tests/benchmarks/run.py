"""Run every race, print the table and write it to docs/benchmarks.md: ``python tests/benchmarks/run.py``.

Arguments go on to pytest (``-k trace``, say); then nothing is written, as the table would have holes. The
exit status is 1 if a target was missed.
"""

import datetime
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "benchmarks.md"

INTRODUCTION = """\
# Benchmarks

`python tests/benchmarks/run.py` writes this page; it takes a few minutes and wants a machine that does
nothing else. Each line is a race: both libraries take turns in one process, round by round, with garbage
collection off. The ratio is the median of the rounds' own ratios; in brackets stand its quartiles.

The chain of the races is the same in both libraries: `chain(clip_by_global_norm(1.0), scale_by_adam(),
add_decayed_weights(0.01), scale_by_learning_rate(cosine_decay_schedule(1e-3, 10_000)))`. The trees are 100
dense layers of 64 units (200 leaves, 416,000 numbers) and the shapes of GPT-2 small (148 leaves, 124 million
numbers), all in float32.

- *First trace*: `jax.jit(tx.update).trace(...)` of a newly built chain with JAX's caches emptied
  (`jax.clear_caches()`) before every round, for both. It is what a program pays when it starts. Tracing the
  same chain again would be faster, for both libraries, and is not what is reported.
- *Un-jitted update*: `tx.update(grads, state, params)` outside `jax.jit`, after a first call.
- *Compiled step*: update and its addition to the parameters under `jax.jit`, parameters and state donated.
- *StableHLO text*: the length of the lowered step before any optimization.
- *Import*: the time that `import gradxform` and `import optax` take in a fresh process that has imported jax.
- *Steps of one digit*: `gx.fit` with `batch_size=1` on scikit-learn's digits, a network of 64, 64 and 10
  units and plain stochastic gradient descent, compiled before the race, against a loop in Python that slices
  the arrays, takes a step and keeps the loss without waiting for it. Its ratio is the other's time over ours.
"""


class Results:
    """A pytest plugin that keeps what the tests recorded."""

    def __init__(self) -> None:
        self.races: list[dict[str, Any]] = []
        self.sizes: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.races += [value for name, value in report.user_properties if name == "race"]
            self.sizes += [value for name, value in report.user_properties if name == "size"]

    def rows(self) -> list[tuple[str, ...]]:
        """The table's cells, without its head."""
        races = [
            (
                race["name"],
                race["rival"],
                _seconds(race["ours"]),
                _seconds(race["theirs"]),
                f"{race['ratio']:.3g} ({race['low']:.3g} to {race['high']:.3g})",
                str(race["rounds"]),
                race["target"],
                _yes(race["met"]),
            )
            for race in self.races
        ]
        sizes = [
            (
                size["name"],
                "Optax",
                f"{size['ours']:,} characters",
                f"{size['theirs']:,} characters",
                f"{size['ours'] / size['theirs']:.3g}",
                "1",
                "at most 1",
                _yes(size["ours"] <= size["theirs"]),
            )
            for size in self.sizes
        ]
        return races + sizes


HEAD = ("what", "against", "gradxform", "the other", "ratio (quartiles)", "rounds", "target", "met")


def _yes(met: bool) -> str:
    return "yes" if met else "**no**"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    lines = [HEAD, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _processor() -> str:
    try:
        described = Path("/proc/cpuinfo").read_text()
        return next(line.split(":")[1].strip() for line in described.splitlines() if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _circumstances() -> str:
    versions = []
    for package in ("gradxform", "jax", "jaxlib", "optax", "numpy", "torch"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    load = f", load {os.getloadavg()[0]:.1f} before the run" if hasattr(os, "getloadavg") else ""
    return (
        f"{datetime.date.today():%Y-%m-%d}; {_processor()}, {os.cpu_count()} cores{load}; "
        f"{platform.system()}, Python {platform.python_version()}; {', '.join(versions)}."
    )


def main(arguments: list[str]) -> int:
    """Run the races; the exit status."""
    # One device, as a program without flags has; the tests ask for eight. Read when jax starts its backend.
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=1"
    results, circumstances = Results(), _circumstances()
    status = pytest.main([str(HERE), "-m", "", "-q", "--benchmark-columns=median,iqr", *arguments], [results])
    rows = results.rows()
    print(circumstances, _table(rows), sep="\n\n", flush=True)
    if status != 0:
        return int(status)
    if not arguments:
        PAGE.write_text(f"{INTRODUCTION}\n## Last results\n\n{circumstances}\n\n{_table(rows)}\n")
    return int(any(row[-1] != "yes" for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
