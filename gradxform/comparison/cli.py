"""The ``gradxform`` command."""

import argparse
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import gradxform
from gradxform.comparison.contestants import CONTESTANTS, Contestant
from gradxform.comparison.html import write_html
from gradxform.comparison.race import Progress, race
from gradxform.comparison.report import Table
from gradxform.comparison.surfaces import race_surfaces
from gradxform.comparison.tasks import TASKS

SURFACE_STEPS = 2000

_EXTRA = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "rich": "rich", "plotly": "plotly"}

__all__ = ["main"]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _known(what: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise argparse.ArgumentTypeError(f"unknown {what} {value!r}; known are {', '.join(known)}")
    return value


def _task(value: str) -> str:
    return _known("task", value, [*TASKS, "surface"])


def _optimizers(value: str) -> list[str]:
    names = [_known("optimizer", name.strip(), list(CONTESTANTS)) for name in value.split(",")]
    return list(dict.fromkeys(names))


def _count(value: str) -> int:
    if not value.strip().isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {value!r}")
    return int(value)


def _rates(value: str) -> tuple[float, ...]:
    def rate(word: str) -> float:
        try:
            number = float(word)
        except ValueError:
            number = -1.0
        if not 0 < number < float("inf"):
            raise argparse.ArgumentTypeError(f"must be positive numbers with commas between, got {word!r}")
        return number

    return tuple(sorted({rate(word.strip()) for word in value.split(",")}))


def _parser() -> _Parser:
    parser = _Parser(prog="gradxform", description=gradxform.__doc__)
    parser.add_argument("--version", action="version", version=f"gradxform {gradxform.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    compare = commands.add_parser(
        "compare",
        help="let optimizers race on real data, and report",
        description="Let optimizers race on real data. Each has its learning rate picked from a grid on a "
        "validation split, then trains from several seeds; a table, its data and pictures come out.",
    )
    add = compare.add_argument
    add("--task", type=_task, default="digits", help=f"{', '.join(TASKS)} or surface (default: digits)")
    add(
        "--optimizers",
        type=_optimizers,
        default=list(CONTESTANTS),
        metavar="A,B",
        help=f"which of {', '.join(CONTESTANTS)} (default: all)",
    )
    add(
        "--epochs",
        type=_count,
        metavar="N",
        help=f"passes over the training data; on surfaces steps (default: the task's own; {SURFACE_STEPS})",
    )
    add("--seeds", type=_count, default=5, metavar="N", help="runs of each optimizer (default: 5)")
    add(
        "--learning-rates",
        type=_rates,
        metavar="X,Y",
        help="the grid, for all optimizers (default: one each)",
    )
    add(
        "--out",
        type=Path,
        default=Path("gradxform-compare"),
        metavar="DIR",
        help="default: gradxform-compare",
    )
    add(
        "--html",
        type=Path,
        nargs="?",
        const=True,
        metavar="FILE",
        help="write one interactive page as well (default: report.html in DIR)",
    )
    add("--json", action="store_true", help="print the report as JSON in the table's place")
    return parser


def _make_writable(folder: Path) -> None:
    """Make the folder, and raise OSError now rather than after the race if nothing can be written there."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def _progress_bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    # On the error stream, so that the table or the JSON can be piped on.
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<32}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task("compiling", total=1.0)
        yield lambda what, fraction: bar.update(shown, description=what, completed=fraction)


def _contestants(options: argparse.Namespace) -> list[Contestant]:
    chosen = [CONTESTANTS[name] for name in options.optimizers]
    if options.learning_rates is None:
        return chosen
    rates = options.learning_rates
    return [replace(each, learning_rates=rates, surface_rates=rates) for each in chosen]


def _run(options: argparse.Namespace, progress: Progress) -> Table:
    contestants = _contestants(options)
    if options.task == "surface":
        return race_surfaces(
            contestants, steps=options.epochs or SURFACE_STEPS, seeds=options.seeds, progress=progress
        )
    task = TASKS[options.task]()
    return race(
        task, contestants, epochs=options.epochs or task.epochs, seeds=options.seeds, progress=progress
    )


def _compare(options: argparse.Namespace, fail: Callable[[int, str], int]) -> int:
    missing = [package for module, package in _EXTRA.items() if importlib.util.find_spec(module) is None]
    if missing:
        return fail(1, f"{' and '.join(missing)} not installed: pip install 'gradxform[compare]'")
    page: Path | None = options.out / "report.html" if options.html is True else options.html
    for folder in (options.out, *([page.parent] if page else [])):
        try:
            _make_writable(folder)
        except OSError as error:
            return fail(2, f"cannot write to {folder}: {error.strerror or error}")
    if page and page.is_dir():
        return fail(2, f"cannot write to {page}: it is a folder")
    with _progress_bar() as progress:
        report = _run(options, progress)
        progress("drawing", 1.0)
        files = report.save(options.out)
        if page:
            write_html(report, page, contestants=_contestants(options), progress=progress)
    if options.json:
        print(report.to_json())
    else:
        from rich.console import Console

        console = Console()
        # What does not fit into a narrow terminal is wrapped by it; what is piped is not.
        console.print(
            report.rich() if console.is_terminal else str(report), soft_wrap=not console.is_terminal
        )
        console.print(
            f"written: {', '.join(file.name for file in files)} in {options.out}{os.sep}", soft_wrap=True
        )
        if page:
            console.print(f"written: {page}, to open in a browser", soft_wrap=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The ``gradxform`` command.

    Args:
      arguments: what stands after the command's name; by default those that
        the program was started with.

    Returns:
      The exit code: 0 if all went well, 1 if something is not installed, 2 for
      bad input, 130 if interrupted.

    Example:
      >>> from gradxform.comparison.cli import main
      >>> main(["--version"])
      gradxform 0.1.0
      0
    """

    def fail(code: int, message: str) -> int:
        print(f"gradxform compare: {message}", file=sys.stderr)
        return code

    parser = _parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return _compare(options, fail)
    except KeyboardInterrupt:
        return fail(130, "interrupted")
