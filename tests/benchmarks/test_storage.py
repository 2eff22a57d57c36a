"""State in few bytes

Adam with its state stored in few bytes against Adam with a state in float32: the bytes of the state, and the
time of a compiled step. What the stored ones do to training, `storage_training.py` measures. And Adam with
its first moment in bfloat16, which Optax has too.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.races import both, start, step_of, stepper

import gradxform as gx
from gradxform.storage.store import store
from gradxform.trees import tree_bytes


def _adam(codec: str) -> Callable[[], Any]:
    return lambda: gx.adam(1e-3) if codec == "float32" else store(gx.adam(1e-3), codec)


@pytest.mark.benchmark
@pytest.mark.parametrize("tree_name", ["GPT-2 small"], indirect=True)
def test_bytes_of_adam(abstract: Any, record: Any, tree_name: str) -> None:
    plain, stored = (jax.eval_shape(_adam(codec)().init, abstract) for codec in ("float32", "int8"))
    sizes = tree_bytes(stored), tree_bytes(plain)
    record("bytes of the state", f"int8, {tree_name}", "float32", *sizes, unit="bytes", at_most=1 / 3.8)


@pytest.mark.benchmark
@pytest.mark.parametrize("codec", ["int8", "int8-linear", "float8", "int4", "bfloat16", "bfloat16+8"])
def test_compiled_step_of_a_matrix(race: Any, codec: str) -> None:
    """4.2 million numbers, of which one step takes longer than to call it."""
    rng = np.random.default_rng(0)
    params, grads = (jnp.asarray(rng.standard_normal((2048, 2048), np.float32)) for _ in range(2))

    contestants = {}
    for each in (codec, "float32"):
        tx = _adam(each)()
        step = jax.jit(step_of(tx), donate_argnums=(0, 1))
        contestants[each] = stepper(step, start(tx, params), grads, 10)
    race("compiled step", f"{codec}, 4.2 million numbers (× 10)", contestants, rounds=21, at_most=3.0)


@pytest.mark.benchmark
@pytest.mark.parametrize("tree_name", ["GPT-2 small"], indirect=True)
def test_compiled_step_of_a_model(race: Any, stepping: Any, tree_name: str) -> None:
    contestants = {codec: stepping(_adam(codec), 1) for codec in ("int8", "float32")}
    race("compiled step", f"int8, {tree_name}", contestants, rounds=9, at_most=3.0)


@pytest.mark.benchmark
@pytest.mark.parametrize("tree_name", ["GPT-2 small"], indirect=True)
def test_first_moment_in_bfloat16(race: Any, stepping: Any, tree_name: str) -> None:
    def make(library: Any) -> Any:
        return library.adam(1e-3, mu_dtype=jnp.bfloat16)

    contestants = {who: stepping(build, 1) for who, build in both(make).items()}
    race("compiled step", f"first moment in bfloat16, {tree_name}", contestants, rounds=9, at_most=1.05)
