"""What a step of a training chain costs: to trace, to run without jit, and compiled."""

from collections.abc import Callable
from typing import Any

import jax
import pytest

Chains = tuple[Callable[[], Any], Callable[[], Any]]


@pytest.mark.benchmark(group="trace")
def test_first_trace(race: Any, chains: Chains, tracing: Any, tree_name: str) -> None:
    race(f"first trace, {tree_name}", *map(tracing, chains), rounds=15, at_most=0.35)


@pytest.mark.benchmark(group="un-jitted update")
def test_update_without_jit(race: Any, chains: Chains, draw: Callable[[int], Any], tree_name: str) -> None:
    params, grads = draw(0), draw(1)

    def updating(build: Callable[[], Any]) -> Callable[[], Any]:
        tx = build()
        state = tx.init(params)
        return lambda: lambda: jax.block_until_ready(tx.update(grads, state, params))

    rounds = 50 if tree_name == "200 leaves" else 9
    race(f"un-jitted update, {tree_name}", *map(updating, chains), rounds=rounds, at_most=0.3)


@pytest.mark.benchmark(group="compiled step")
def test_compiled_step(race: Any, chains: Chains, stepping: Any, tree_name: str) -> None:
    steps = 50 if tree_name == "200 leaves" else 1
    name = f"compiled step, {tree_name}" + (f" (× {steps})" if steps > 1 else "")
    race(name, *(stepping(build, steps) for build in chains), rounds=31, at_most=1.03)


def test_the_lowered_program_is_no_larger(
    chains: Chains, lowered_size: Any, tree_name: str, record_property: Any
) -> None:
    ours, theirs = (lowered_size(build()) for build in chains)
    record_property("size", {"name": f"StableHLO text, {tree_name}", "ours": ours, "theirs": theirs})
    assert ours <= theirs
