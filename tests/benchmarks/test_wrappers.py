"""Wrappers

What a wrapper costs around AdamW on 200 leaves: the first trace of the update, and 40 compiled steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import pytest
from benchmarks.races import both

pytestmark = pytest.mark.parametrize("tree_name", ["200 leaves"], indirect=True)


def _adamw(library: Any) -> Any:
    return library.chain(
        library.scale_by_adam(), library.add_decayed_weights(1e-2), library.scale_by_learning_rate(1e-3)
    )


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda param: param.ndim > 1, params)


def _labels(params: Any) -> Any:
    """Four labels, dealt out layer by layer."""
    return {layer: int(layer.removeprefix("layer")) % 4 for layer in params}


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "masked": lambda library: library.masked(_adamw(library), _matrices),
    "partition, 4 labels": lambda library: library.partition(
        {label: _adamw(library) for label in range(4)}, _labels
    ),
    "MultiSteps": lambda library: library.MultiSteps(_adamw(library), 4),
    "apply_if_finite": lambda library: library.apply_if_finite(_adamw(library), 3),
}

each = pytest.mark.parametrize("wrapper", WRAPPERS)


@pytest.mark.benchmark
@each
def test_first_trace_of_a_wrapper(race: Any, tracing: Any, wrapper: str) -> None:
    contestants = {who: tracing(build) for who, build in both(WRAPPERS[wrapper]).items()}
    race("first trace", wrapper, contestants, rounds=9, at_most=0.5)


@pytest.mark.benchmark
@each
def test_compiled_step_of_a_wrapper(race: Any, stepping: Any, wrapper: str) -> None:
    contestants = {who: stepping(build, 40) for who, build in both(WRAPPERS[wrapper]).items()}
    race("compiled step", f"{wrapper} (× 40)", contestants, rounds=25, at_most=1.05)
