"""Adam with its state in few bytes against Adam in float32: the bytes, and the time of a compiled step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from gradxform.storage.store import store
from gradxform.trees import tree_bytes


def _adam(codec: str | None) -> Callable[[], Any]:
    return lambda: gx.adam(1e-3) if codec is None else store(gx.adam(1e-3), codec)


@pytest.mark.parametrize("tree_name", ["GPT-2 small"], indirect=True)
def test_bytes_of_adam(abstract: Any, record_property: Callable[[str, object], None]) -> None:
    plain, stored = (jax.eval_shape(_adam(codec)().init, abstract) for codec in (None, "int8"))
    assert tree_bytes(stored) / tree_bytes(abstract) * 4 <= 2.1
    assert tree_bytes(plain) / tree_bytes(stored) >= 3.8


@pytest.mark.benchmark(group="compiled step of a stored Adam")
@pytest.mark.parametrize("codec", ["int8", "int8-linear", "float8", "int4", "bfloat16", "bfloat16+8"])
def test_compiled_step_of_a_matrix(race: Any, codec: str) -> None:
    """4.2 million numbers, of which one step takes longer than to call it."""
    rng = np.random.default_rng(0)
    params, grads = (jnp.asarray(rng.standard_normal((2048, 2048), np.float32)) for _ in range(2))

    def stepping(build: Callable[[], Any]) -> Callable[[], Any]:
        tx = build()

        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return gx.apply_updates(params, updates), state

        carry, compiled = (
            jax.tree.map(jnp.copy, (params, tx.init(params))),
            jax.jit(step, donate_argnums=(0, 1)),
        )

        def run() -> None:
            nonlocal carry
            for _ in range(10):
                carry = compiled(*carry, grads)
            jax.block_until_ready(carry)

        return lambda: run

    name = f"compiled step, Adam stored as {codec}, 4.2 million numbers (× 10)"
    contestants = [stepping(_adam(each)) for each in (codec, None)]
    race(name, *contestants, rounds=21, at_most=3.0, rival="float32")


@pytest.mark.benchmark(group="compiled step of a stored Adam")
@pytest.mark.parametrize("tree_name", ["GPT-2 small"], indirect=True)
def test_compiled_step_of_a_model(race: Any, stepping: Any, tree_name: str) -> None:
    contestants = [stepping(_adam(codec), 1) for codec in ("int8", None)]
    race(
        f"compiled step, Adam stored as int8, {tree_name}",
        *contestants,
        rounds=9,
        at_most=3.0,
        rival="float32",
    )
