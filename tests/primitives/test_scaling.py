from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx


def test_scale_multiplies(send: Any, grads: Any, assert_trees_close: Any) -> None:
    factor = jnp.asarray([2.0, 3.0, 4.0])
    ours, theirs, negative = send(gx.scale(0.3), optax.scale(0.3), gx.scale(-2))
    assert_trees_close(ours, jax.tree.map(lambda g: np.float32(0.3) * g, grads), rtol=1e-7)
    assert_trees_close(ours, theirs, rtol=1e-7)
    assert_trees_close(negative, jax.tree.map(lambda g: -2 * g, grads), rtol=0)
    broadcast = gx.scale(factor)
    assert_trees_close(broadcast.update(jnp.ones((2, 3)), broadcast.init(jnp.ones((2, 3))))[0], [factor] * 2)


def test_scale_by_learning_rate_turns_downhill(send: Any, grads: Any, assert_trees_close: Any) -> None:
    down, up, theirs = send(
        gx.scale_by_learning_rate(0.25),
        gx.scale_by_learning_rate(0.25, flip_sign=False),
        optax.scale_by_learning_rate(0.25),
    )
    assert_trees_close(down, jax.tree.map(lambda g: -0.25 * g, grads), rtol=0)
    assert_trees_close(up, jax.tree.map(lambda g: 0.25 * g, grads), rtol=0)
    assert_trees_close(down, theirs, rtol=0)


def test_the_learning_rate_may_be_anything_that_a_hyperparameter_may_be(
    send: Any, grads: Any, assert_trees_close: Any
) -> None:
    rates = [0.25, jnp.asarray(0.25), gx.tunable(0.25), gx.constant_schedule(0.25)]
    for updates in send(*map(gx.scale_by_learning_rate, rates)):
        assert_trees_close(updates, jax.tree.map(lambda g: -0.25 * g, grads), rtol=0)


def test_scale_by_schedule_counts_from_zero(send: Any, grads: Any, assert_trees_close: Any) -> None:
    def schedule(count: Any) -> Any:
        return 1 / (2 + count)

    ours, theirs = send(gx.scale_by_schedule(schedule), optax.scale_by_schedule(schedule))

    def expected(stack: np.ndarray) -> np.ndarray:
        factors = 1 / (2 + np.arange(len(stack)))
        return stack * factors.reshape(-1, *[1] * (stack.ndim - 1))

    assert_trees_close(ours, jax.tree.map(expected, grads), rtol=1e-6)
    assert_trees_close(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("factor", ["0.1", None, True])
def test_a_factor_that_is_no_number(factor: Any) -> None:
    with pytest.raises(TypeError, match="scale: step_size must be a number, an array, a schedule"):
        gx.scale(factor)
