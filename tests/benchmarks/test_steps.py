"""What a step of a training chain costs: to trace, to run without jit, and compiled."""

from collections.abc import Callable
from typing import Any

import jax
import pytest

Chains = tuple[Callable[[], Any], Callable[[], Any]]


def _step(tx: Any) -> Callable[..., Any]:
    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return jax.tree.map(lambda p, u: p + u, params, updates), state

    return step


@pytest.mark.benchmark(group="trace")
def test_first_trace(race: Any, chains: Chains, abstract: Any, tree_name: str) -> None:
    def tracing(build: Callable[[], Any]) -> Callable[[], Any]:
        def prepare() -> Callable[[], Any]:
            tx = build()
            state = jax.eval_shape(tx.init, abstract)
            # A program traces a step once, with nothing cached yet.
            jax.clear_caches()
            return lambda: jax.jit(tx.update).trace(abstract, state, abstract)

        return prepare

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
def test_compiled_step(race: Any, chains: Chains, draw: Callable[[int], Any], tree_name: str) -> None:
    grads = draw(1)
    steps = 50 if tree_name == "200 leaves" else 1

    def stepping(build: Callable[[], Any]) -> Callable[[], Any]:
        tx = build()
        params = draw(0)
        carry = (params, tx.init(params))
        # Parameters and state are given away, as a training loop does.
        step = jax.jit(_step(tx), donate_argnums=(0, 1))

        def run() -> None:
            nonlocal carry
            for _ in range(steps):
                carry = step(*carry, grads)
            jax.block_until_ready(carry)

        return lambda: run

    name = f"compiled step, {tree_name}" + (f" (× {steps})" if steps > 1 else "")
    race(name, *map(stepping, chains), rounds=31, at_most=1.03)


def test_the_lowered_program_is_no_larger(
    chains: Chains, abstract: Any, tree_name: str, record_property: Any
) -> None:
    def size(tx: Any) -> int:
        state = jax.eval_shape(tx.init, abstract)
        return len(jax.jit(_step(tx)).lower(abstract, state, abstract).as_text())

    ours, theirs = (size(build()) for build in chains)
    record_property("size", {"name": f"StableHLO text, {tree_name}", "ours": ours, "theirs": theirs})
    assert ours <= theirs
