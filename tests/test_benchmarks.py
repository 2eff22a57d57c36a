"""What the benchmarks make of their measurements; the races themselves are not run here."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import run
import time_to_target
from benchmarks import models, races

import gradxform as gx

ROW = {
    "what": "step",
    "case": "Adam",
    "rival": "Optax",
    "unit": "s",
    "ours": [0.9, 1.0, 1.1],
    "theirs": [1.9, 2.0, 2.1],
    "ratio": [0.4, 0.5, 0.6],
    "rounds": 9,
    "at_most": 1.0,
    "at_least": None,
    "limit": None,
}


@pytest.mark.parametrize(
    ("tree", "leaves", "numbers"),
    [
        ("200 leaves", 200, 416_000),
        ("2,000 leaves", 2000, 4_160_000),
        ("ResNet-50", 161, 25_557_032),  # as in torchvision
        ("GPT-2 small", 148, 124_439_808),  # as published
    ],
)
def test_the_shapes_are_those_of_the_models(tree: str, leaves: int, numbers: int) -> None:
    found = jax.tree.leaves(models.abstract(models.TREES[tree]))
    assert (len(found), sum(leaf.size for leaf in found)) == (leaves, numbers)


def test_contestants_take_turns_in_beginning() -> None:
    order: list[str] = []

    def contestant(name: str) -> races.Contestant:
        return lambda: lambda: order.append(name)

    laps = races.interleave(map(contestant, "abc"), 3, "step", warm_up=True)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert [len(each["step"]) for each in laps] == [3, 3, 3]


def test_a_clock_of_its_own_counts_and_laps_stay_apart() -> None:
    numbers = iter([0.5, 0.25])
    clocked, lapping = races.interleave(
        [lambda: lambda: next(numbers), lambda: lambda: {"trace": 1.0, "compile": 2.0}],
        2,
        "step",
        warm_up=False,
    )
    assert clocked["step"].tolist() == [0.5, 0.25]
    assert lapping["trace"].tolist() == [1.0, 1.0]
    assert lapping["compile"].tolist() == [2.0, 2.0]


def test_recorder_keeps_rows_by_section_and_names_what_failed(tmp_path: Path) -> None:
    recorder = run.Recorder(tmp_path / "section.json")
    report = {"when": "call", "user_properties": [("row", {"case": "Adam"}), ("other", 1)]}
    passed = SimpleNamespace(nodeid="benchmarks/test_sparse.py::test_a", passed=True, failed=False, **report)
    failed = SimpleNamespace(nodeid="benchmarks/test_sparse.py::test_b", passed=False, failed=True, **report)
    recorder.pytest_runtest_logreport(passed)
    recorder.pytest_runtest_logreport(failed)
    section = {"name": "test_sparse", "failed": ["test_sparse.py::test_b"], "rows": [{"case": "Adam"}]}
    assert recorder.sections == {"test_sparse": section}
    assert run.read(tmp_path / "section.json") == section


@pytest.mark.parametrize(
    ("change", "met"),
    [
        ({}, True),
        ({"at_most": 0.4}, False),
        ({"at_least": 0.6}, False),
        ({"at_most": None, "at_least": 0.5}, True),
        ({"limit": 0.5}, False),
        ({"limit": 1.5}, True),
        ({"at_most": None}, None),
    ],
)
def test_a_target_is_met_by_the_median(change: dict, met: bool | None) -> None:
    assert run.met({**ROW, **change}) is met


@pytest.mark.parametrize(
    ("change", "behind"),
    [
        ({}, False),
        ({"ratio": [1.1, 1.2, 1.3]}, True),
        ({"ratio": [1.0, 1.2, 1.3]}, False),
        ({"ratio": [1.1, 1.2, 1.3], "rival": "float32"}, False),
        ({"ratio": [1.1, 1.2, 1.3], "rival": "PyTorch, fused"}, True),
    ],
)
def test_a_peer_is_ahead_beyond_the_spread(change: dict, behind: bool) -> None:
    assert run.behind({**ROW, **change}) is behind


@pytest.mark.parametrize(
    ("number", "unit", "shown"),
    [
        (12.345, "s", "12.3 s"),
        (0.0123, "s", "12.3 ms"),
        (0.0000123, "s", "12.3 µs"),
        (2.5e9, "bytes", "2.5 GB"),
        (2.5e6, "bytes", "2.5 MB"),
        (12345, "characters", "12,345 characters"),
        (0.12345, "", "0.123"),
    ],
)
def test_show(number: float, unit: str, shown: str) -> None:
    assert run.show(number, unit) == shown


def _section(name: str, *rows: dict, failed: tuple[str, ...] = ()) -> dict:
    about = {"date": "2030-01-01", "machine": "a machine", "versions": {"jax": "1"}, "minutes": 3}
    return {"name": name, **about, "failed": list(failed), "rows": list(rows)}


def test_the_page_has_a_section_for_each_module_and_one_for_where_others_are_ahead() -> None:
    slower = {**ROW, "case": "momentum", "ratio": [1.2, 1.3, 1.4]}
    page = run.page([_section("test_sparse", ROW, slower), _section("test_wrappers", ROW)])
    assert page.count("`python tests/benchmarks/run.py test_sparse.py`") == 1
    assert page.count("`python tests/benchmarks/run.py test_wrappers.py`") == 1
    behind = page[page.index("## Where another is ahead") : page.index("## Row-sparse")]
    assert "| step | momentum | Optax | 1.3 (1.2 to 1.4) |" in behind
    assert "| step | Adam |" not in behind
    assert "| Adam | Optax | 1 s (900 ms to 1.1 s) | 2 s (1.9 s to 2.1 s) | 0.5 (0.4 to 0.6) | 9 |" in page
    assert "| step | Optax | 3 | 0.5 | 0.5 | 1.3 | 1 | 1 |" in page


def test_what_failed_stands_on_the_page() -> None:
    assert "test_sparse.py::test_b" in run.page([_section("test_sparse", failed=("test_sparse.py::test_b",))])


def test_results_survive_the_file(tmp_path: Path) -> None:
    sections = [_section("test_sparse", ROW, {**ROW, "case": "another"}), _section("test_passes", ROW)]
    run.write(sections, tmp_path / "results.json")
    assert run.read(tmp_path / "results.json") == sections


def test_every_module_with_races_is_a_section() -> None:
    assert {path.stem for path in run.HERE.glob("test_*.py")} == set(run.SECTIONS)


def test_a_section_measured_again_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path / "benchmarks.json")
    monkeypatch.setattr(run, "PAGE", tmp_path / "benchmarks.md")
    run.write([_section("test_sparse", ROW), _section("test_sweep", ROW)], run.RESULTS)
    again = _section("test_sparse", {**ROW, "at_most": 0.4})
    monkeypatch.setattr(run, "measure_apart", {"test_sparse": again}.__getitem__)
    assert run.main(["--again", "test_sparse.py"]) == 1  # a target is missed
    assert run.read(run.RESULTS) == [again, _section("test_sweep", ROW)]
    assert run.PAGE.read_text() == run.page(run.read(run.RESULTS), run.read(run.CONVERGENCE))


def test_what_was_measured_before_a_process_died_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(command: list[str], check: bool) -> SimpleNamespace:
        rows = {"name": "test_sparse", "failed": [], "rows": [ROW]}
        Path(command[command.index("--into") + 1]).write_text(json.dumps(rows))
        return SimpleNamespace(returncode=-11)

    monkeypatch.setattr(run.subprocess, "run", die)
    section = run.measure_apart("test_sparse")
    assert section["rows"] == [ROW]
    assert section["failed"] == ["the rest, by SIGSEGV"]


def test_page_and_json_agree() -> None:
    assert run.PAGE.read_text() == run.page(run.read(run.RESULTS), run.read(run.CONVERGENCE))


@pytest.mark.parametrize(
    ("losses", "target", "steps"),
    [([3.0, 2.0, 1.0], 2.0, 10), ([3.0, 2.0, 1.0], 0.5, np.inf), ([3.0, np.nan, 1.0, 2.0], 1.5, 20)],
)
def test_first_reached(losses: list[float], target: float, steps: float) -> None:
    assert time_to_target.first_reached(losses, [0, 10, 20, 30], target) == steps


def test_the_goal_is_nearly_the_lowest_of_the_first_half() -> None:
    losses = np.full((3, time_to_target.EVALUATIONS + 1), 5.0)
    losses[:, 10], losses[:, -10] = [1.0, 2.0, 3.0], 0.0
    assert time_to_target.goal(losses) == pytest.approx(5 - 0.98 * 3)


def test_the_rate_that_is_soonest_at_the_target_is_picked() -> None:
    steps = [0, 10, 20]
    late, soon, never = [[5.0, 3.0, 0.1]], [[5.0, 1.0, 2.0]], [[5.0, 4.0, 3.0]]
    assert time_to_target.pick(np.array([late, soon, never]), steps, 1.0) == 1
    assert time_to_target.pick(np.array([never, late, soon]), steps, 0.01) == 1  # the lowest


def _run(task: str, optimizer: str, steps: list, seconds: float) -> dict:
    return {"task": task, "optimizer": optimizer, "steps": steps, "seconds_a_step": seconds}


def test_ranking_by_the_median_ratio() -> None:
    runs = [
        _run("a", "fast", [100] * 5, 1.0),
        _run("a", "slow", [50] * 5, 4.0),
        _run("a", "never", [None] * 5, 1.0),
        _run("b", "fast", [10] * 5, 1.0),
        _run("b", "slow", [20] * 5, 2.0),
        _run("b", "never", [], 1.0),
    ]
    fast, slow, never = time_to_target.ranking(runs)
    # Equal seeds leave nothing to draw.
    assert fast == {"optimizer": "fast", "seconds": [1.0] * 3, "steps": [1.5] * 3}  # (2 + 1) / 2
    assert slow == {"optimizer": "slow", "seconds": [3.0] * 3, "steps": [1.5] * 3}  # (2 + 4) / 2, (1 + 2) / 2
    assert never == {"optimizer": "never", "seconds": [None] * 3, "steps": [None] * 3}


def test_the_ranking_stands_on_the_page() -> None:
    about = {"at_edge": True, "rate": 0.1, "lowest": [0.5] * 3}
    runs = [{**_run("a", "fast", [10] * 3, 0.5), **about}, {**_run("a", "late", [None] * 3, 1.0), **about}]
    results = _section("", *runs) | {"ranking": time_to_target.ranking(runs)}
    results["tasks"] = {"a": {"target": 0.25, "steps": 100, "batch": 8}}
    page = run.page([_section("test_sparse", ROW)], json.loads(run.as_json(results)))
    assert "| 1 | fast | 1 (1 to 1) | 1 (1 to 1) |\n| 2 | late | ∞ (∞ to ∞) | ∞ (∞ to ∞) |" in page
    assert "| fast | 0.1 (edge) | 10 | 5 s | 3 of 3 | 0.5 |" in page
    assert "| late | 0.1 (edge) | – | – | 0 of 3 | 0.5 |" in page


def test_ranking_intervals_come_from_the_seeds() -> None:
    spread = _run("a", "spread", [10, 20, 30, 40, 50], 1.0)
    best, other = time_to_target.ranking([_run("a", "best", [10] * 5, 1.0), spread])
    assert best["seconds"] == [1.0] * 3
    # The median of five draws is below the third with probability 0.32, below the second with 0.06.
    assert other["seconds"] == [1.0, 3.0, 5.0]


def test_a_target_that_few_seeds_reach_is_far_away() -> None:
    few = _run("a", "few", [10, 10, None, None, None], 1.0)
    best, other = time_to_target.ranking([_run("a", "best", [20] * 5, 1.0), few])
    assert best["optimizer"] == "best"
    assert other["seconds"] == [1.0, None, None]


def test_every_contestant_has_five_rates_and_steps_to_take() -> None:
    for contestant in time_to_target.CONTESTANTS.values():
        assert len(contestant.rates) == 5
        assert contestant.rate == contestant.rates[2]
        tx = contestant.make(learning_rate=contestant.rate)  # as sweep calls it
        rows = gx.RowSparse(jnp.asarray([1]), jnp.ones((1, 3)), (2, 3))  # as on text
        tx.update({"w": rows}, tx.init(start := {"w": jnp.zeros((2, 3))}), start)
    problem = time_to_target.PROBLEMS["digits"]
    assert time_to_target.budget(problem, time_to_target.CONTESTANTS["sgd, one example"]) == (1, 32_000)
    assert time_to_target.budget(problem, time_to_target.CONTESTANTS["gradient descent"]) == (None, 250)
    assert time_to_target.budget(problem, time_to_target.CONTESTANTS["adam"]) == (32, 1000)
