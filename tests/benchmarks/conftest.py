"""What the races share: they time, and `run.py` makes the page of what they record."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from benchmarks import models
from benchmarks.races import Contestant, Run, interleave, quartiles, start, step_of, stepper
from sklearn.datasets import load_digits


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--rounds", type=int, help="at most so many rounds of each race, for a trial")


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Callable[..., dict[str, Any]]:
    """Add a row to the page: numbers of ours and theirs, one a round, and what is made of them."""

    def record(
        what: str,
        case: str,
        rival: str,
        ours: Any,
        theirs: Any,
        *,
        unit: str = "s",
        at_most: float | None = None,
        at_least: float | None = None,
        limit: float | None = None,
    ) -> dict[str, Any]:
        ours, theirs = np.atleast_1d(ours), np.atleast_1d(theirs)
        row = {
            "what": what,
            "case": case,
            "rival": rival,
            "unit": unit,
            "ours": quartiles(ours),
            "theirs": quartiles(theirs),
            "ratio": quartiles(ours / theirs),
            "rounds": len(ours),
            "at_most": at_most,
            "at_least": at_least,
            "limit": limit,
        }
        record_property("row", row)
        return row

    return record


@pytest.fixture
def race(request: Any, record: Callable[..., dict[str, Any]]) -> Callable[..., list[dict[str, Any]]]:
    """Time contestants in turns, the first of which is ours, and record a row for each rival and lap.

    The ratio is the median of the rounds' own ratios. The targets, one for each lap, are set for the first
    rival.
    """

    def race(
        what: str,
        case: str,
        contestants: Mapping[str, Contestant],
        *,
        rounds: int,
        at_most: float | Mapping[str, float] | None = None,
        limit: float | None = None,
        unit: str = "s",
        warm_up: bool = True,
    ) -> list[dict[str, Any]]:
        rounds = min(rounds, request.config.getoption("--rounds", None) or rounds)
        targets = at_most if isinstance(at_most, Mapping) else {what: at_most}
        ours, *rivals = interleave(contestants.values(), rounds, what, warm_up)
        rows = []
        for rival, theirs in zip(list(contestants)[1:], rivals, strict=True):
            first = theirs is rivals[0]
            rows += [
                record(
                    lap,
                    case,
                    rival,
                    ours[lap],
                    theirs[lap],
                    unit=unit,
                    at_most=targets.get(lap) if first else None,
                    limit=limit if first else None,
                )
                for lap in ours
            ]
        return rows

    return race


@pytest.fixture(params=models.TREES)
def tree_name(request: Any) -> str:
    return str(request.param)


@pytest.fixture
def abstract(tree_name: str) -> Any:
    return models.abstract(models.TREES[tree_name])


@pytest.fixture
def draw(tree_name: str) -> Callable[[int], Any]:
    return partial(models.draw, models.TREES[tree_name])


@pytest.fixture
def tracing(abstract: Any) -> Callable[[Callable[[], Any]], Contestant]:
    """A first trace of the update, with nothing cached yet, as a program does it once."""

    def tracing(build: Callable[[], Any]) -> Contestant:
        def prepare() -> Run:
            tx = build()
            state = jax.eval_shape(tx.init, abstract)
            jax.clear_caches()
            return lambda: jax.jit(tx.update).trace(abstract, state, abstract)

        return prepare

    return tracing


@pytest.fixture
def stepping(draw: Callable[[int], Any]) -> Callable[[Callable[[], Any], int], Contestant]:
    def stepping(build: Callable[[], Any], steps: int) -> Contestant:
        tx = build()
        return stepper(jax.jit(step_of(tx), donate_argnums=(0, 1)), start(tx, draw(0)), draw(1), steps)

    return stepping


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels.astype(np.int32)


@pytest.fixture(scope="module")
def params() -> dict[str, np.ndarray]:
    """A network of 64, 64 and 10 units."""
    rng = np.random.default_rng(0)
    return {
        "hidden": (rng.normal(size=(64, 64)) / 8).astype(np.float32),
        "hidden_bias": np.zeros(64, np.float32),
        "out": (rng.normal(size=(64, 10)) / 8).astype(np.float32),
        "out_bias": np.zeros(10, np.float32),
    }
