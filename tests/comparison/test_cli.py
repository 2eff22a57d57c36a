"""The command, end to end."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from gradxform.comparison import cli, report
from gradxform.comparison.cli import main
from gradxform.comparison.contestants import CONTESTANTS
from gradxform.comparison.tasks import TASKS

PNG = b"\x89PNG\r\n\x1a\n"


def record(row):
    return {name: "" if value is None else str(value) for name, value in row.items()}


@pytest.fixture(scope="module")
def convex(tmp_path_factory):
    """Folder and printed text of a small race on a convex task, one of whose rates diverges."""
    folder = tmp_path_factory.mktemp("race") / "made" / "on the way"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(map(str, words))))
        code = main(
            [
                *["compare", "--task", "breast-cancer", "--optimizers", "adam, mini-batch", "--epochs", "2"],
                *["--seeds", "3", "--learning-rates", "0.001,0.1,1e30", "--out", str(folder), "--json"],
            ]
        )
    assert code == 0
    return folder, "\n".join(lines)


def test_files_parse_and_agree(convex):
    folder, printed = convex
    data = json.loads((folder / "report.json").read_text())
    assert json.loads(printed) == data
    assert [row["algorithm"] for row in data["rows"]] == ["adam", "mini-batch"]
    with open(folder / "table.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [record(row) for row in data["rows"]]
    assert sorted(path.name for path in folder.glob("*.png")) == [
        "gradient-noise.png",
        "learning-rates.png",
        "loss.png",
    ]
    for picture in folder.glob("*.png"):
        assert picture.read_bytes().startswith(PNG)
        assert 5_000 < picture.stat().st_size < 200_000


def test_rows_agree_with_curves(convex):
    data = json.loads((convex[0] / "report.json").read_text())
    for row in data["rows"]:
        curve = data["curves"][row["algorithm"]]
        scores, losses = np.array(curve["test_score"]), np.array(curve["train_loss"])
        assert scores.shape == losses.shape == (3, 3)
        assert row["test_accuracy"] == pytest.approx(scores[:, -1].mean())
        assert row["test_accuracy_spread"] == pytest.approx(scores[:, -1].std(ddof=1))
        assert row["final_loss"] == pytest.approx(losses[:, -1].mean())
        # the parameters start at zero: the loss of an even guess
        np.testing.assert_allclose(losses[:, 0], np.log(2), rtol=1e-6)
        # the seeds draw other batches, so they end elsewhere
        assert len(set(losses[:, -1])) == 3
        assert row["steps"] == 2 * (341 // 32)
        assert row["steps_per_second"] == pytest.approx(row["steps"] / row["seconds"])
        assert curve["seconds"] == pytest.approx([0, row["seconds"] / 2, row["seconds"]])
    adam, mini_batch = data["rows"]
    assert adam["state_bytes"] == pytest.approx((2 * 31 * 4 + 4) / 31)  # two moments and a count
    assert mini_batch["state_bytes"] == 0
    assert all(row["test_accuracy"] > 0.9 for row in data["rows"])


def test_learning_rate_is_the_argmin_of_the_grid_and_divergence_is_marked(convex):
    data = json.loads((convex[0] / "report.json").read_text())
    for row in data["rows"]:
        grid = data["sensitivity"][row["algorithm"]]
        losses = [np.inf if loss is None else loss for loss in grid["validation_loss"]]
        assert grid["learning_rates"] == [0.001, 0.1, 1e30]
        assert row["learning_rate"] == grid["learning_rates"][int(np.argmin(losses))] == 0.1
        assert grid["diverged"] == [False, False, True]


def test_a_diverged_run_is_a_row(tmp_path, capsys):
    options = ["--optimizers", "sgd", "--learning-rates", "1e30", "--epochs", "1", "--seeds", "2"]
    assert main(["compare", "--task", "breast-cancer", *options, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("sgd"))
    assert "diverged" in row
    assert "table.csv" in printed
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["rows"][0]["diverged"] == 2
    assert data["sensitivity"]["sgd"]["diverged"] == [True]
    assert data["noise"] is None


def test_surface_by_the_module_in_a_process_of_its_own(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "gradxform", "compare", "--task", "surface", "--json"]
    options = ["--epochs", "20", "--seeds", "1", "--optimizers", "adam", "--learning-rates", "0.1,1e9"]
    done = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert [row["surface"] for row in data["rows"]] == [
        "bowl",
        "valley",
        "rosenbrock",
        "beale",
        "himmelblau",
        "saddle",
        "rastrigin",
    ]
    assert data["steps"] == 20
    folder = tmp_path / "gradxform-compare"
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "surfaces.png", "table.csv"]
    assert (folder / "surfaces.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--optimizers", "adam,adamm"], ["adamm", *CONTESTANTS]),
        (["--optimizers", ""], ["unknown optimizer ''"]),
        (["--task", "mnist"], ["mnist", *TASKS, "surface"]),
        (["--epochs", "0"], ["--epochs", "at least 1", "'0'"]),
        (["--epochs", "many"], ["--epochs", "'many'"]),
        (["--seeds", "-3"], ["--seeds", "-3"]),
        (["--seeds", "1.5"], ["--seeds", "'1.5'"]),
        (["--learning-rates", "0.1,x"], ["--learning-rates", "'x'"]),
        (["--learning-rates", "0.1,,1"], ["--learning-rates", "''"]),
        (["--learning-rates", "-1,0.1"], ["--learning-rates"]),
        (["--learning-rates", "nan"], ["'nan'"]),
        (["--learning-rates", "inf"], ["'inf'"]),
        (["--surprise"], ["--surprise"]),
    ],
)
def test_bad_input_is_one_line(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    for words in said:
        assert words in captured.err
    assert not list(tmp_path.iterdir())


def trains(*_, **__):
    raise AssertionError("it went on to train")


def test_an_output_folder_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_run", trains)
    (tmp_path / "file").write_text("in the way")
    assert main(["compare", "--out", str(tmp_path / "file")]) == 2
    assert main(["compare", "--out", str(tmp_path / "file" / "below")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "cannot write to" in first
    assert "below" in second


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_run", trains)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["compare", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "scikit-learn and rich" in error
    assert "pip install 'gradxform[compare]'" in error
    assert not (tmp_path / "out").exists()


def test_interrupted(tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert main(["compare", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith("gradxform compare: interrupted\n")


def test_version_and_help(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("gradxform 0.")
    assert main([]) == 0
    assert "compare" in capsys.readouterr().out
    assert main(["compare", "--help"]) == 0
    assert "--learning-rates" in capsys.readouterr().out


def test_what_is_no_number_is_null_and_empty():
    row = report.Row("a", 1, None, float("nan"), 0.5, float("inf"), 3, 1.0, 3.0, 0.0, 1)
    made = report.Report("task", "loss", 1, 2, (row,))
    assert json.loads(made.to_json())["rows"][0]["test_loss"] is None
    (kept,) = csv.DictReader(made.to_csv().splitlines())
    assert kept["final_loss"] == kept["learning_rate"] == ""
    assert "1 of 2 diverged" in str(made) == repr(made)
    assert made._repr_html_().count("<tr>") == 2
