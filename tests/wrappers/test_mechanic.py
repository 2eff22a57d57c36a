"""What `mechanize` does with trees that have holes; beside Optax it is in tests/optimizers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx


def test_a_missing_gradient_counts_for_nothing() -> None:
    """The other parameters go where they would without it, and it stays where it is."""

    def train(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
        tx = gx.mechanize(gx.sgd(1.0), s_init=1e-2)
        state = tx.init(params)
        for _ in range(4):
            grads = {"w": 2 * params["w"]} | dict.fromkeys(params.keys() - {"w"})
            updates, state = tx.update(grads, state, params)
            assert updates.keys() == grads.keys()
            params = gx.apply_updates(params, updates)
        return params

    weights = jnp.asarray([1.0, -2.0])
    alone, beside = train({"w": weights}), train({"w": weights, "b": jnp.full(3, 5.0)})
    np.testing.assert_array_equal(beside["w"], alone["w"])
    np.testing.assert_array_equal(beside["b"], jnp.full(3, 5.0))
    assert (abs(alone["w"]) < abs(weights)).all()


def test_what_it_does_not_take() -> None:
    with pytest.raises(TypeError, match="mechanize: num_betas must be an integer of at least 1, got 2"):
        gx.mechanize(gx.sgd(1.0), num_betas=2.0)  # type: ignore[arg-type]
    tx = gx.mechanize(gx.sgd(1.0))
    with pytest.raises(ValueError, match=r"grads\['w'\] has no counterpart in params"):
        tx.update({"w": 1.0}, tx.init({"w": 1.0}), {"v": 1.0})
