"""Averages of the parameters, against averages that NumPy takes of the whole trajectory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import assert_close, example_grads, example_params

import gradxform as gx

PARAMS = example_params()
STEPS = 30


def trajectory(tx: Any, params: Any = PARAMS) -> tuple[list[Any], list[Any]]:
    """The parameters, and the averages, after every step."""

    def step(carry: Any, grad: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grad, state, params)
        params = gx.apply_updates(params, updates)
        return (params, state), (params, gx.evaluation_params(state, params))

    grads = jax.tree.map(lambda *leaves: jnp.stack(leaves), *example_grads(STEPS))
    _, both = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), grads))()
    taken, averages = ([jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(STEPS)] for tree in both)
    return taken, averages


def mean(trees: list[Any], weights: Any = None) -> Any:
    return jax.tree.map(
        lambda *leaves: np.average(np.stack(leaves).astype(float), 0, weights).astype(np.float32), *trees
    )


@pytest.mark.parametrize(("start", "every"), [(0, 1), (7, 1), (4, 5)])
def test_every_average_counts_alike(start: int, every: int) -> None:
    taken, averages = trajectory(gx.chain(gx.sgd(0.1), gx.average_params(start=start, every=every)))
    for i in range(STEPS):
        due = [taken[j] for j in range(start + every - 1, i + 1, every)]
        # Before the first average is due it is the parameters of the start of averaging.
        latest = taken[i] if i < start else taken[start - 1] if start else PARAMS
        expected = mean(due) if due else latest
        assert_close(averages[i], expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_exponential_weights_without_bias(decay: float) -> None:
    taken, averages = trajectory(gx.chain(gx.adam(0.1), gx.average_params(decay)))
    for i in (0, 1, 5, STEPS - 1):
        weights = decay ** np.arange(i, -1, -1.0)
        assert_close(averages[i], mean(taken[: i + 1], weights), rtol=2e-5, atol=1e-5)


def test_the_average_is_closer_to_the_minimum_than_the_noisy_end() -> None:
    """What Polyak averaging is for: noise averages out."""
    params = {"w": jnp.zeros(50)}
    tx = gx.chain(gx.sgd(0.5), gx.average_params(start=50))

    def step(carry: Any, key: Any) -> Any:
        params, state = carry
        grad = {"w": params["w"] - 1 + jax.random.normal(key, (50,))}
        updates, state = tx.update(grad, state, params)
        return (gx.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(0), 550)
    (end, state), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    error = float(jnp.mean((end["w"] - 1) ** 2))
    averaged = float(jnp.mean((gx.evaluation_params(state, end)["w"] - 1) ** 2))
    assert averaged < error / 50


def test_bfloat16_is_averaged_in_float32_and_masked_leaves_stay() -> None:
    params = {"w": jnp.ones(2, jnp.bfloat16), "b": jnp.zeros(1)}
    tx = gx.masked(gx.average_params(0.999), {"w": True, "b": False})
    state = tx.init(params)
    assert state.slots[0].average["w"].dtype == jnp.float32
    evaluated = gx.evaluation_params(state, params)
    assert evaluated["w"].dtype == jnp.bfloat16
    assert evaluated["b"] is params["b"]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="the state holds no averages of the parameters"):
        gx.evaluation_params(gx.sgd(0.1).init(PARAMS), PARAMS)
    both = gx.chain(gx.average_params(), gx.average_params(0.9))
    with pytest.raises(ValueError, match="the state holds 2 averages"):
        gx.evaluation_params(both.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="every must be an integer of at least 1, got 0"):
        gx.average_params(every=0)
    with pytest.raises(TypeError, match=r"average_params: start must be an integer of at least 0, got 1\.5"):
        gx.average_params(start=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1\.0"):
        gx.average_params(1.0)
    with pytest.raises(ValueError, match="average_params needs the parameters"):
        gx.average_params().update(PARAMS, gx.average_params().init(PARAMS))
