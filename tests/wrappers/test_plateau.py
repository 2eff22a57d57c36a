"""Smaller steps when a value stops improving, against Optax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import assert_close, example_grads, example_params

import gradxform as gx

PARAMS = example_params()

CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "patient": {"factor": 0.5, "patience": 3, "rtol": 1e-2},
    "cooldown": {"factor": 0.5, "patience": 2, "cooldown": 3, "atol": 0.01},
    "mean": {"factor": 0.3, "patience": 2, "accumulation_size": 3},
    "floor": {"factor": 0.1, "patience": 1, "min_scale": 0.05},
}


@pytest.mark.parametrize("case", CASES)
def test_optax_has_the_same(case: str) -> None:
    ours = gx.chain(gx.sgd(0.1), gx.reduce_on_plateau(**CASES[case]))
    theirs = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(**CASES[case]))
    rng = np.random.default_rng(0)
    values = np.maximum(1 / np.arange(1, 41), 0.1) + 0.02 * rng.normal(size=40)
    (grad,) = example_grads(1)

    def run(tx: Any) -> Any:
        def step(state: Any, value: Any) -> Any:
            updates, state = tx.update(grad, state, PARAMS, value=value)
            return state, (updates, state[-1])

        return jax.jit(lambda: jax.lax.scan(step, tx.init(PARAMS), jnp.asarray(values, jnp.float32))[1])()

    (updates, states), (expected, their_states) = run(ours), run(theirs)
    assert_close(updates, expected)
    for field in states._fields:
        np.testing.assert_allclose(getattr(states, field), getattr(their_states, field), rtol=1e-5)
    assert len(np.unique(states.scale)) > 1


def test_bfloat16_and_missing_gradients() -> None:
    params = {"w": jnp.ones(2, jnp.bfloat16), "b": None}
    tx = gx.reduce_on_plateau()
    state = tx.init(params)
    assert state.scale.dtype == jnp.float32
    updates, _ = tx.update(params, state, params, value=jnp.asarray(1.0, jnp.bfloat16))
    assert updates["w"].dtype == jnp.bfloat16
    assert updates["b"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"factor": 1.0}, r"factor must be strictly between 0 and 1, got 1\.0"),
        ({"rtol": -0.1}, r"rtol must be in \[0, 1\), got -0\.1"),
        ({"rtol": 1.0}, r"rtol must be in \[0, 1\), got 1\.0"),
        ({"min_scale": -0.5}, r"min_scale must be in \[0, 1\], got -0\.5"),
        ({"patience": 0}, "reduce_on_plateau: patience must be an integer of at least 1, got 0"),
        ({"cooldown": -1}, "cooldown must be an integer of at least 0, got -1"),
        ({"accumulation_size": 0}, "accumulation_size must be an integer of at least 1, got 0"),
        ({"atol": -1.0}, r"atol must be at least 0, got -1\.0"),
        ({"rtol": 0.0}, "atol must be above 0 where rtol is 0"),
    ],
)
def test_bad_arguments(arguments: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gx.reduce_on_plateau(**arguments)


def test_a_value_that_is_no_scalar() -> None:
    tx = gx.reduce_on_plateau()
    with pytest.raises(ValueError, match=r"value must be a scalar, it has shape \(2,\)"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=jnp.ones(2))


@pytest.mark.parametrize("name", ["patience", "cooldown", "accumulation_size"])
def test_numbers_of_values_are_integers(name: str) -> None:
    with pytest.raises(TypeError, match=rf"reduce_on_plateau: {name} must be an integer .* got 2\.5"):
        gx.reduce_on_plateau(**{name: 2.5})  # type: ignore[arg-type]


def test_arguments_may_be_traced() -> None:
    """As `inject_hyperparams` gives them."""
    tx = gx.inject_hyperparams(gx.reduce_on_plateau)(factor=0.5, patience=1)
    state = tx.init([0.0])
    for value in (3.0, 3.0):
        updates, state = tx.update([1.0], state, value=value)
    assert updates[0] == 0.5


def test_only_the_values_of_rows_are_scaled() -> None:
    tx = gx.reduce_on_plateau(factor=0.5, patience=1)
    params = {"table": jnp.zeros((4, 2))}
    grad = {"table": gx.RowSparse(jnp.asarray([3]), jnp.full((1, 2), 2.0), (4, 2))}
    state = tx.init(params)
    for value in (3.0, 3.0):
        updates, state = tx.update(grad, state, params, value=value)
    np.testing.assert_array_equal(updates["table"].to_dense(), np.eye(4)[:, [3, 3]])
