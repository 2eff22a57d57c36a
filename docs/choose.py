"""Writes `choose.md`, on which every claim is a measured row of `gradxform compare`.

`python docs/choose.py FOLDER` takes ``FOLDER/TASK/report.json`` of the four tasks, as
``gradxform compare --task TASK --out FOLDER/TASK`` leaves them, keeps what the page needs in `docs/measured/`
and writes the page; without a folder it writes the page anew. A claim that the numbers do not bear out is
refused, here and by the tests.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
MEASURED = DOCS / "measured"
PAGE = DOCS / "choose.md"
TASKS = ("digits", "breast-cancer", "text", "surface")
SEVEN = ("gradient-descent", "sgd", "mini-batch", "adagrad", "rmsprop", "adadelta", "adam")

Reports = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Claim:
    """Common advice, what was measured of it, and whether the numbers bear that out.

    Attributes:
      advice: what one hears.
      measured: what the rows say, with their numbers.
      verdict: ``"holds"``, ``"in part"`` or ``"contradicted"``.
      true: whether the numbers say so.
    """

    advice: str
    measured: str
    verdict: str
    true: bool


def load(folder: Path = MEASURED) -> Reports:
    """The reports that the page is written from."""
    return {task: json.loads((folder / f"{task}.json").read_text(encoding="utf-8")) for task in TASKS}


def keep(folder: Path) -> None:
    """Take from the command's reports what the page needs, in nine digits."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: short(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [short(inner) for inner in value]
        return float(f"{value:.9g}") if isinstance(value, float) else value

    MEASURED.mkdir(exist_ok=True)
    for task in TASKS:
        report = json.loads((folder / task / "report.json").read_text(encoding="utf-8"))
        kept = {name: report[name] for name in ("task", "epochs", "steps", "seeds", "rows") if name in report}
        if "sensitivity" in report:
            kept["sensitivity"] = {
                name: {key: grid[key] for key in ("learning_rates", "validation_loss", "picked")}
                for name, grid in report["sensitivity"].items()
            }
        (MEASURED / f"{task}.json").write_text(json.dumps(short(kept), indent=1) + "\n", encoding="utf-8")


def row(reports: Reports, task: str, algorithm: str) -> dict[str, Any]:
    """An algorithm's row of a task with data."""
    return next(row for row in reports[task]["rows"] if row["algorithm"] == algorithm)


def on(reports: Reports, surface: str, algorithm: str) -> dict[str, Any]:
    """An algorithm's row of a surface."""
    rows = reports["surface"]["rows"]
    return next(row for row in rows if (row["surface"], row["algorithm"]) == (surface, algorithm))


def tolerance(reports: Reports, task: str, algorithm: str) -> float:
    """The ratio of the largest to the smallest rate whose validation loss is within a quarter of the best."""
    grid = reports[task]["sensitivity"][algorithm]
    losses = [float("inf") if loss is None else loss for loss in grid["validation_loss"]]
    good = [
        rate for rate, loss in zip(grid["learning_rates"], losses, strict=True) if loss <= 1.25 * min(losses)
    ]
    return max(good) / min(good)


def at_rate(reports: Reports, task: str, algorithm: str, rate: float) -> float:
    """The validation loss with one rate of the grid."""
    grid = reports[task]["sensitivity"][algorithm]
    return float(grid["validation_loss"][grid["learning_rates"].index(rate)])


def best(reports: Reports, task: str, algorithm: str) -> float:
    """The validation loss with the rate that was picked."""
    grid = reports[task]["sensitivity"][algorithm]
    return float(grid["validation_loss"][grid["picked"]])


def claims(reports: Reports) -> list[Claim]:
    """Common advice against the rows."""

    def score(task: str, algorithm: str) -> float:
        return float(row(reports, task, algorithm)["test_accuracy"])

    def spread(task: str, algorithm: str) -> float:
        return float(row(reports, task, algorithm)["test_accuracy_spread"])

    def told(task: str, algorithm: str) -> str:
        return f"{score(task, algorithm):.4f} ± {spread(task, algorithm):.4f}"

    def lead(task: str, other: str, algorithm: str) -> float:
        """How far one is ahead of another, in both spreads together."""
        both = spread(task, other) + spread(task, algorithm)
        return (score(task, other) - score(task, algorithm)) / both if both else 0.0

    with_data = TASKS[:3]
    rival, where = max(
        ((name, task) for name in SEVEN for task in with_data), key=lambda of: lead(of[1], of[0], "adam")
    )
    ratio = row(reports, "digits", "sgd")["seconds"] / row(reports, "digits", "mini-batch")["seconds"]
    steps = {name: row(reports, "digits", name)["steps"] for name in SEVEN}
    valley = {name: on(reports, "valley", name)["steps"] for name in SEVEN}
    reached = {name: on(reports, "saddle", name)["reached"] for name in SEVEN}
    seeds = reports["surface"]["seeds"]
    escaped = [name for name in SEVEN if on(reports, "rastrigin", name)["reached"]]
    tolerances = {name: [tolerance(reports, task, name) for task in with_data] for name in SEVEN}
    text_loss = {name: row(reports, "text", name)["final_loss"] for name in SEVEN}
    ended = {name: on(reports, "valley", name)["final_value"] for name in SEVEN}

    def times(name: str) -> str:
        return ", ".join(f"{ratio:.0f}" for ratio in tolerances[name])

    return [
        Claim(
            "Start with Adam.",
            "On none of the three data sets is another ahead of `adam` by more than both spreads together: "
            + ", ".join(f"{task} {told(task, 'adam')}" for task in with_data)
            + f". The nearest to it is `{rival}` on {where}: {told(where, rival)}.",
            "holds",
            lead(where, rival, "adam") < 1,
        ),
        Claim(
            "Adaptive methods generalize worse than SGD.",
            f"digits: `mini-batch` {told('digits', 'mini-batch')}, `adam` {told('digits', 'adam')}: no "
            f"difference. text: `adam` {told('text', 'adam')} is ahead of `mini-batch` "
            f"{told('text', 'mini-batch')}.",
            "contradicted",
            abs(score("digits", "adam") - score("digits", "mini-batch")) < spread("digits", "adam")
            and score("text", "adam") - score("text", "mini-batch")
            > spread("text", "adam") + spread("text", "mini-batch"),
        ),
        Claim(
            "AdaGrad for sparse features.",
            f"text: `adagrad` {told('text', 'adagrad')} is ahead of `mini-batch` "
            f"{told('text', 'mini-batch')}; but `adam`, whose moments here change for the words of a "
            f"batch only, is as good: "
            f"{told('text', 'adam')}.",
            "in part",
            score("text", "adagrad") - score("text", "mini-batch")
            > spread("text", "adagrad") + spread("text", "mini-batch")
            and score("text", "adam") >= score("text", "adagrad") - spread("text", "adagrad"),
        ),
        Claim(
            "RMSprop and Adam are nearly the same.",
            f"digits: {told('digits', 'rmsprop')} and {told('digits', 'adam')}. text: `rmsprop` "
            f"{told('text', 'rmsprop')} is the last of all seven, `adam` {told('text', 'adam')} the first.",
            "contradicted",
            score("text", "rmsprop") == min(score("text", name) for name in SEVEN)
            and score("text", "adam") == max(score("text", name) for name in SEVEN),
        ),
        Claim(
            "The lower the training loss, the better.",
            f"text: `rmsprop` ends at a loss of {text_loss['rmsprop']:.3g}, `adagrad` at "
            f"{text_loss['adagrad']:.3g}; on the test split they have {told('text', 'rmsprop')} and "
            f"{told('text', 'adagrad')}.",
            "contradicted",
            text_loss["rmsprop"] < text_loss["adagrad"]
            and score("text", "rmsprop") + spread("text", "rmsprop")
            < score("text", "adagrad") - spread("text", "adagrad"),
        ),
        Claim(
            "Mini-batches rather than single examples.",
            f"digits: `sgd` {told('digits', 'sgd')} in {steps['sgd']:,} steps, `mini-batch` "
            f"{told('digits', 'mini-batch')} in {steps['mini-batch']:,}: as good in about "
            f"1/{ratio:.0f} of the time.",
            "holds",
            ratio > 3
            and score("digits", "sgd") - score("digits", "mini-batch") < spread("digits", "mini-batch"),
        ),
        Claim(
            "The exact gradient of the whole data set is the best one.",
            f"digits: in the same {reports['digits']['epochs']} epochs `gradient-descent` takes "
            f"{steps['gradient-descent']} steps and comes to {told('digits', 'gradient-descent')}, "
            f"`mini-batch` takes {steps['mini-batch']:,} and comes to {told('digits', 'mini-batch')}.",
            "contradicted",
            score("digits", "mini-batch") - score("digits", "gradient-descent")
            > spread("digits", "mini-batch") + spread("digits", "gradient-descent"),
        ),
        Claim(
            "For a small convex problem anything will do.",
            "breast-cancer: from "
            f"{min(score('breast-cancer', name) for name in SEVEN):.4f} to "
            f"{max(score('breast-cancer', name) for name in SEVEN):.4f}, one of 114 test cases apart.",
            "holds",
            max(score("breast-cancer", name) for name in SEVEN)
            - min(score("breast-cancer", name) for name in SEVEN)
            < 1.5 / 114,
        ),
        Claim(
            "Gradient descent is stuck at saddles; noise leads away from them.",
            f"surface, saddle: `gradient-descent` reaches a minimum in {reached['gradient-descent']} of "
            f"{seeds} runs, `sgd` in {reached['sgd']}, `mini-batch` in {reached['mini-batch']}.",
            "holds",
            reached["gradient-descent"] == 0 and reached["sgd"] == reached["mini-batch"] == seeds,
        ),
        Claim(
            "Noise, or an adaptive rate, leads out of poor minima.",
            f"surface, rastrigin: of all seven only `{escaped[0]}` reaches the lowest minimum, in "
            f"{on(reports, 'rastrigin', escaped[0])['reached']} of {seeds} runs, with a rate of "
            f"{on(reports, 'rastrigin', escaped[0])['learning_rate']:g}; all others end in a local one.",
            "in part",
            escaped == ["adagrad"]
            and all(
                on(reports, "rastrigin", name)["ended"] == "local minimum"
                for name in SEVEN
                if name != "adagrad"
            ),
        ),
        Claim(
            "Adaptive methods are fast where curvatures differ.",
            f"surface, valley (curvatures 1 and 100): `gradient-descent` needs "
            f"{valley['gradient-descent']:.0f} steps, `adam` {valley['adam']:.0f}, "
            f"`rmsprop` {valley['rmsprop']:.0f}, `adagrad` {valley['adagrad']:.0f}. They arrive "
            f"sooner, but do not stay as near: `gradient-descent` ends "
            f"{ended['gradient-descent']:.1g} above the minimum, `rmsprop` {ended['rmsprop']:.2g}.",
            "in part",
            max(valley[name] for name in ("adam", "rmsprop", "adagrad")) < valley["gradient-descent"] / 3
            and ended["gradient-descent"] < 1e-6 < 0.1 < ended["rmsprop"],
        ),
        Claim(
            "Adam forgives a wrong learning rate, SGD does not.",
            f"The largest rate whose validation loss is within a quarter of the best is so many times the "
            f"smallest, on {', '.join(with_data)}: `adam` {times('adam')}; `sgd` {times('sgd')}; "
            f"`mini-batch` {times('mini-batch')}; `adadelta` {times('adadelta')}.",
            "in part",
            any(theirs > 2 * ours for theirs, ours in zip(tolerances["adam"], tolerances["sgd"], strict=True))
            and any(
                theirs < ours / 2 for theirs, ours in zip(tolerances["adam"], tolerances["sgd"], strict=True)
            ),
        ),
        Claim(
            "Adam's 0.001 is a good rate everywhere.",
            "Validation loss with 0.001 and with the rate that was picked: "
            + "; ".join(
                f"{task} {at_rate(reports, task, 'adam', 0.001):.3f} and {best(reports, task, 'adam'):.3f} "
                f"({row(reports, task, 'adam')['learning_rate']:g})"
                for task in with_data
            )
            + ".",
            "contradicted",
            all(row(reports, task, "adam")["learning_rate"] != 0.001 for task in with_data)
            and at_rate(reports, "text", "adam", 0.001) > 2 * best(reports, "text", "adam"),
        ),
        Claim(
            "AdaDelta needs no learning rate.",
            "Validation loss with a factor of 1, as in the paper, and with the one that was picked: "
            + "; ".join(
                f"{task} {at_rate(reports, task, 'adadelta', 1.0):.3f} and "
                f"{best(reports, task, 'adadelta'):.3f} "
                f"({row(reports, task, 'adadelta')['learning_rate']:g})"
                for task in with_data
            )
            + ".",
            "in part",
            row(reports, "breast-cancer", "adadelta")["learning_rate"] == 1.0
            and at_rate(reports, "text", "adadelta", 1.0) > 1.4 * best(reports, "text", "adadelta"),
        ),
    ]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _of_data(reports: Reports, task: str) -> str:
    report = reports[task]
    head = [
        "algorithm",
        "batch",
        "rate",
        "test accuracy",
        "training loss",
        "steps",
        "bytes of state a parameter",
    ]
    return _table(
        head,
        [
            [
                f"`{row['algorithm']}`",
                f"{row['batch']:,}",
                f"{row['learning_rate']:g}",
                f"{row['test_accuracy']:.4f} ± {row['test_accuracy_spread']:.4f}",
                f"{row['final_loss']:.3g}",
                f"{row['steps']:,}",
                f"{row['state_bytes']:.0f}",
            ]
            for row in report["rows"]
        ],
    )


def _of_surfaces(reports: Reports) -> str:
    rows = reports["surface"]["rows"]
    names = list(dict.fromkeys(row["surface"] for row in rows))

    def cell(algorithm: str, surface: str) -> str:
        found = on(reports, surface, algorithm)
        if not found["reached"]:
            return str(found["ended"])
        some = "" if found["reached"] == reports["surface"]["seeds"] else f" ({found['reached']} runs)"
        return f"{found['steps']:,.0f}{some}"

    return _table(
        ["algorithm", *names], [[f"`{name}`", *(cell(name, surface) for surface in names)] for name in SEVEN]
    )


def page(reports: Reports) -> str:
    """The page.

    Raises:
      ValueError: the rows do not bear out a claim.
    """
    made = claims(reports)
    for claim in made:
        if not claim.true:
            raise ValueError(f"the rows no longer say: {claim.advice} {claim.verdict}: {claim.measured}")

    def told(task: str, algorithm: str) -> str:
        found = row(reports, task, algorithm)
        return f"{found['test_accuracy']:.4f}"

    return (
        (MEASURED / "choose.md.in")
        .read_text(encoding="utf-8")
        .format(
            seeds=reports["digits"]["seeds"],
            surface_seeds=reports["surface"]["seeds"],
            adagrad_text=told("text", "adagrad"),
            adam_text=told("text", "adam"),
            mini_text=told("text", "mini-batch"),
            mini_digits=told("digits", "mini-batch"),
            adam_digits=told("digits", "adam"),
            gd_cancer=told("breast-cancer", "gradient-descent"),
            gd_steps=row(reports, "breast-cancer", "gradient-descent")["steps"],
            sgd_digits=told("digits", "sgd"),
            adadelta_loss=100
            * max(
                at_rate(reports, task, "adadelta", 1.0) / best(reports, task, "adadelta") - 1
                for task in ("digits", "breast-cancer")
            ),
            valley_adam=on(reports, "valley", "adam")["steps"],
            valley_gd=on(reports, "valley", "gradient-descent")["steps"],
            advice=_table(
                ["advice", "verdict", "measured"],
                [[claim.advice, f"**{claim.verdict}**", claim.measured] for claim in made],
            ),
            digits_epochs=reports["digits"]["epochs"],
            digits=_of_data(reports, "digits"),
            cancer_epochs=reports["breast-cancer"]["epochs"],
            cancer=_of_data(reports, "breast-cancer"),
            text_epochs=reports["text"]["epochs"],
            text=_of_data(reports, "text"),
            surface=_of_surfaces(reports),
        )
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]))
    PAGE.write_text(page(load()), encoding="utf-8")
