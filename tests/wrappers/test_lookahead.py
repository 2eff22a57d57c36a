"""Lookahead against Optax, and against its own equation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import x64

import gradxform as gx


def run(library: Any, steps: int = 20, **arguments: Any) -> list[Any]:
    tx = library.lookahead(library.adam(0.1), 3, 0.4, **arguments)
    start = {"w": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(0.5)}
    params = library.LookaheadParams.init_synced(start)
    state, visited = tx.init(params), []

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        grads = jax.grad(lambda fast: jnp.sum(fast["w"] ** 4) + (fast["b"] - 2) ** 2)(params.fast)
        updates, state = tx.update(grads, state, params)
        return library.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
        visited.append((params.fast, params.slow))
    return visited


@pytest.mark.parametrize("reset_state", [False, True])
def test_as_optax(reset_state: bool) -> None:
    with x64():
        both = (run(library, reset_state=reset_state) for library in (gx, optax))
        for ours, theirs in zip(*both, strict=True):
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), ours, theirs)


def test_the_slow_copy_goes_a_part_of_the_way() -> None:
    visited = run(gx, 3)
    (fast, slow), (_, before) = visited[2], visited[1]
    ahead = run(gx, 2)[1][0]
    assert before["b"] == 0.5
    for name in ("w", "b"):
        np.testing.assert_array_equal(fast[name], slow[name])
        # Between the start and where the fast copy was heading.
        assert np.all(np.abs(slow[name] - before[name]) < np.abs(ahead[name] - before[name]))


def test_what_it_does_not_take() -> None:
    with pytest.raises(TypeError, match=r"lookahead: sync_period must be an integer .* got 2\.5"):
        gx.lookahead(gx.sgd(0.1), 2.5, 0.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sync_period must be an integer of at least 1, got 0"):
        gx.lookahead(gx.sgd(0.1), 0, 0.5)
    tx = gx.lookahead(gx.sgd(0.1), 1, 0.5)
    with pytest.raises(TypeError, match=r"two copies of the parameters, got float.*init_synced"):
        tx.update(1.0, tx.init(1.0), 1.0)
