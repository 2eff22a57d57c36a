from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx


@pytest.mark.parametrize("nesterov", [False, True])
def test_trace(send: Any, grads: Any, assert_trees_close: Any, nesterov: bool) -> None:
    def expected(stack: np.ndarray) -> np.ndarray:
        v, out = np.zeros(stack.shape[1:]), []
        for g in stack.astype(np.float64):
            v = g + 0.7 * v
            out.append(g + 0.7 * v if nesterov else v)
        return np.stack(out)

    ours, theirs = send(gx.trace(0.7, nesterov), optax.trace(0.7, nesterov))
    assert_trees_close(ours, jax.tree.map(expected, grads), atol=1e-6)
    assert_trees_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_without_decay_nothing_is_remembered_and_with_one_everything(
    send: Any, grads: Any, assert_trees_close: Any
) -> None:
    forgetful, faithful = send(gx.trace(0.0), gx.trace(1.0))
    assert_trees_close(forgetful, grads, rtol=0)
    assert_trees_close(faithful, jax.tree.map(lambda g: np.cumsum(g, 0), grads), atol=1e-5)


def test_the_sum_is_kept_in_the_dtype_asked_for() -> None:
    tx = gx.trace(0.5, accumulator_dtype=jnp.bfloat16)
    _, state = tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
    # 1.001 is no bfloat16: the sum is rounded in the state, not in the update.
    updates, state = tx.update(jnp.full(2, 0.501), state)
    assert state.slots[0].trace.dtype == jnp.bfloat16
    np.testing.assert_array_equal(state.slots[0].trace.astype(jnp.float32), 1.0)
    np.testing.assert_allclose(updates, 1.001, rtol=1e-6)


def test_decay_out_of_bounds() -> None:
    with pytest.raises(ValueError, match=r"trace: decay must be in \[0, 1\], got 1.1"):
        gx.trace(1.1)
