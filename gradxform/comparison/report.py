"""What comes out of a race: rows, curves, sensitivity to the learning rate, and gradient noise."""

import csv
import html
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Curve", "Noise", "Report", "Row", "Sensitivity", "Table", "number", "plain"]


@dataclass(frozen=True)
class Row:
    """One algorithm's result.

    Attributes:
      algorithm: its name.
      batch: examples a step.
      learning_rate: the rate picked from the grid, or ``None`` if there was no grid.
      score, spread: mean and standard deviation over the seeds of the test
        score after the last epoch.
      final_loss: mean over the seeds of the training loss after the last epoch.
      steps: steps of a run.
      seconds: seconds of one run of `fit` alone, compiled, without evaluating.
      steps_per_second: steps over seconds.
      state_bytes: bytes of the optimizer's state a parameter.
      diverged: how many seeds ended above the loss that they started with, or
        at none at all.
    """

    algorithm: str
    batch: int
    learning_rate: float | None
    score: float
    spread: float
    final_loss: float
    steps: int
    seconds: float
    steps_per_second: float
    state_bytes: float
    diverged: int


@dataclass(frozen=True)
class Curve:
    """How training went, at the start and after every epoch.

    Attributes:
      seconds: seconds of training by then.
      train_loss, validation_loss, test_score: for every seed the values.
    """

    seconds: Sequence[float]
    train_loss: Sequence[Sequence[float]]
    validation_loss: Sequence[Sequence[float]]
    test_score: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Sensitivity:
    """How the learning rate matters: the mean losses after the last epoch, over the grid.

    Attributes:
      learning_rates: the grid.
      start_loss: the training loss before the first step.
      train_loss, validation_loss: the losses at the end.
      diverged: whether a run with that rate ended above its start, or at no number.
      picked: the place in the grid of the lowest validation loss.
    """

    learning_rates: Sequence[float]
    start_loss: float
    train_loss: Sequence[float]
    validation_loss: Sequence[float]
    diverged: Sequence[bool]
    picked: int


@dataclass(frozen=True)
class Noise:
    r"""How noisy the gradient of a batch is, after one epoch of training.

    Attributes:
      batch_sizes: examples in a batch.
      variance: :math:`E\|g_B - g\|^2` around the gradient of the whole
        training split.
      examples: how many there are to draw from, without replacement.
      algorithm: which one had trained the parameters.
    """

    batch_sizes: Sequence[int]
    variance: Sequence[float]
    examples: int
    algorithm: str


class Table(ABC):
    """A report as a table: in the terminal, in a notebook, as CSV and as JSON."""

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries, in full precision."""

    @abstractmethod
    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """The head and the rows, as text."""

    @abstractmethod
    def _title(self) -> str:
        """What stands above the table."""

    @abstractmethod
    def _notes(self) -> str:
        """What stands below it."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """All of the report in plain Python values."""

    @abstractmethod
    def figures(self) -> dict[str, Any]:
        """The pictures: matplotlib's figures by name, to show in a notebook or to change."""

    def plot(self, folder: str | Path) -> list[Path]:
        """Draw the pictures into `folder`; returns their files."""
        from gradxform.comparison.plots import save_figures  # matplotlib is an extra

        return save_figures(self.figures(), Path(folder))

    def to_json(self) -> str:
        """All of the report as JSON; what is not a finite number is ``null``."""
        return json.dumps(plain(self.to_dict()), indent=1, allow_nan=False)

    def to_csv(self) -> str:
        """The table as CSV; what is not a finite number is left empty."""
        records = [plain(record) for record in self.records()]
        lines: list[str] = []

        class Lines:
            write = lines.append

        writer = csv.DictWriter(Lines, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return "".join(lines)

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``table.csv``, ``report.json`` and the pictures.

        Args:
          folder: where to; it is made if it does not exist.

        Returns:
          The files.

        Raises:
          OSError: the folder cannot be written.
          ImportError: matplotlib is not installed.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        table, report = folder / "table.csv", folder / "report.json"
        table.write_text(self.to_csv(), encoding="utf-8")
        report.write_text(self.to_json(), encoding="utf-8")
        return [table, report, *self.plot(folder)]

    def rich(self) -> Any:
        """The table for a rich console."""
        from rich import box
        from rich.table import Table as RichTable

        head, rows = self._cells()
        table = RichTable(
            title=self._title(), caption=self._notes(), caption_justify="left", box=box.SIMPLE_HEAD
        )
        for i, name in enumerate(head):
            table.add_column(name, justify="left" if i in self._texts else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        return table

    _texts: tuple[int, ...] = (0,)

    def __str__(self) -> str:
        head, rows = self._cells()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if i in self._texts else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in [head, ["─" * width for width in widths], *rows]
        ]
        return "\n".join([self._title(), "", *lines, "", self._notes()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, rows = self._cells()

        def line(cells: list[str], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        body = line(head, "th") + "".join(line(row, "td") for row in rows)
        notes = html.escape(self._notes()).replace("\n", "<br>")
        return f"<table><caption>{html.escape(self._title())}</caption>{body}</table><p>{notes}</p>"


@dataclass(frozen=True, repr=False)
class Report(Table):
    """What `compare` returns: a table when printed.

    Attributes:
      task: the name of the problem.
      score_name: ``"accuracy"``, or ``"loss"`` where the loss function returns none.
      epochs: passes over the training split.
      seeds: runs of every algorithm.
      rows: a row for each algorithm.
      curves: by algorithm.
      sensitivity: by algorithm, for those with a grid.
      noise: the gradient noise by batch size.
    """

    task: str
    score_name: str
    epochs: int
    seeds: int
    rows: tuple[Row, ...]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    sensitivity: Mapping[str, Sensitivity] = field(default_factory=dict)
    noise: Noise | None = None

    def records(self) -> list[dict[str, Any]]:
        names = {"score": f"test_{self.score_name}", "spread": f"test_{self.score_name}_spread"}
        return [{names.get(name, name): value for name, value in asdict(row).items()} for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rows": self.records()}

    def figures(self) -> dict[str, Any]:
        from gradxform.comparison.plots import report_figures  # matplotlib is an extra

        return report_figures(self)

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        head = ["algorithm", "batch", "learning rate", f"test {self.score_name}", "final loss"]
        return [*head, "steps", "seconds", "steps/s", "state B/param"], [
            [
                row.algorithm,
                f"{row.batch:,}",
                "-" if row.learning_rate is None else f"{row.learning_rate:g}",
                self._result(row),
                number(row.final_loss),
                f"{row.steps:,}",
                f"{row.seconds:.3g}",
                f"{float(f'{row.steps_per_second:.3g}'):,.0f}",
                f"{row.state_bytes:.2f}",
            ]
            for row in self.rows
        ]

    def _result(self, row: Row) -> str:
        if row.diverged == self.seeds:
            return "diverged"
        result = f"{row.score:.4f} ± {row.spread:.4f}"
        return f"{result}, {row.diverged} of {self.seeds} diverged" if row.diverged else result

    def _title(self) -> str:
        return f"{self.task}: {self.epochs} epochs, {self.seeds} seeds"

    def _notes(self) -> str:
        notes = [
            f"test {self.score_name}: mean ± standard deviation over the seeds, after the last epoch.",
            "learning rate: of the grid, the one with the lowest validation loss"
            + ("; for adadelta a factor on the update." if "adadelta" in self.curves else "."),
            "final loss: over the training split, mean over the seeds.",
            "seconds: one run alone, compiled; without evaluating.",
        ]
        return "\n".join(notes)


def number(value: float) -> str:
    """A number in four digits; ``inf`` and ``nan`` as they are."""
    return f"{value:.4g}"


def plain(value: Any) -> Any:
    """What JSON can hold: lists for tuples, and None for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
