"""Factorizations: NumPy's results, derivatives, and that a CPU with few threads comes to an end."""

import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradxform.primitives.factorizations import (
    eigenvalues,
    eigenvectors,
    orthogonal_factor,
    singular_vectors,
    solve_transposed,
)

RANDOM = np.random.default_rng(0)
BATCH = RANDOM.normal(size=(2, 3, 5, 5)).astype(np.float32)
GRAM = BATCH @ BATCH.swapaxes(-1, -2) + np.eye(5, dtype=np.float32)

SWEEP = """
import jax, jax.numpy as jnp
import gradxform as gx

params = {str(size): jnp.ones((size, size + 1)) for size in range(60, 64)}
tx = gx.chain(%s)
draw = lambda i: {k: jax.random.normal(jax.random.key(i), (6, *p.shape)) for k, p in params.items()}
state = jax.vmap(lambda _: tx.init(params))(jnp.arange(6))
step = jax.jit(jax.vmap(tx.update, in_axes=(0, 0, None)))
for i in range(10):
    updates, state = step(draw(i), state, params)
    jax.block_until_ready(updates)
"""


@pytest.mark.parametrize("rule", ["scale_by_soap(precondition_frequency=1)", "scale_by_kron()"])
def test_many_at_once_do_not_wait_for_each_other_for_ever(rule: str) -> None:
    # XLA's pool has as many threads as there are cores, or as NPROC says; jax.vmap makes the batches.
    few = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"NPROC": "2"}
    subprocess.run([sys.executable, "-c", SWEEP % f"gx.{rule}"], env=few, check=True, timeout=120)


def test_batches_come_out_as_numpy_has_them() -> None:
    values, vectors = eigenvectors(GRAM)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(GRAM), rtol=1e-4)
    np.testing.assert_allclose(eigenvalues(GRAM), values, rtol=1e-4)
    np.testing.assert_allclose((vectors * values[..., None, :]) @ vectors.mT, GRAM, rtol=1e-3, atol=1e-4)
    q = orthogonal_factor(BATCH)
    np.testing.assert_allclose(abs(q), abs(np.linalg.qr(BATCH)[0]), atol=1e-4)
    u, vh = singular_vectors(BATCH[..., :3])
    expected = np.linalg.svd(BATCH[..., :3], full_matrices=False)
    np.testing.assert_allclose(abs(u), abs(expected[0]), atol=1e-4)
    np.testing.assert_allclose(abs(vh), abs(expected[2]), atol=1e-4)
    upper = np.triu(GRAM)
    solution = solve_transposed(upper, BATCH)
    np.testing.assert_allclose(upper.swapaxes(-1, -2) @ solution, BATCH, atol=1e-4)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, lambda f: jax.vmap(jax.vmap(f))])
def test_derivatives_go_through(wrap: Any) -> None:
    def sum_of_logs(gram: jax.Array) -> jax.Array:
        return jnp.log(wrap(eigenvalues)(gram)).sum()

    # The derivative of log det A is the inverse of A.
    np.testing.assert_allclose(jax.grad(sum_of_logs)(GRAM), np.linalg.inv(GRAM), rtol=1e-2, atol=1e-4)

    def solved(x: jax.Array) -> jax.Array:
        return wrap(solve_transposed)(np.triu(GRAM), x).sum()

    expected = np.linalg.inv(np.triu(GRAM)) @ np.ones((5, 5), np.float32)
    np.testing.assert_allclose(jax.grad(solved)(BATCH), expected, rtol=1e-3, atol=1e-5)
