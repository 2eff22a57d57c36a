"""Measurements of the updates between two parts of a chain, against Optax."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from catalogue import assert_close, example_grads, example_params

import gradxform as gx

PARAMS = example_params()


def norm(updates: Any) -> Any:
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(updates)))


def build(library: Any) -> Any:
    return library.chain(
        library.trace(0.9),
        library.snapshot("before", norm),
        library.monitor(
            {
                "norm": norm,
                "clipped": library.measure_with_ema(lambda updates: norm(updates) > 4.5, 0.9),
                "mean": library.measure_with_ema(norm, 0.5, debias=False),
            }
        ),
        library.clip_by_global_norm(4.5),
    )


def test_optax_has_the_same() -> None:
    ours, theirs = build(gx), build(optax)
    state, their_state = ours.init(PARAMS), theirs.init(PARAMS)
    update = jax.jit(ours.update)
    for grad in example_grads(20):
        before = state
        updates, state = update(grad, state, PARAMS)
        expected, their_state = theirs.update(grad, their_state, PARAMS)
        chex.assert_trees_all_equal_shapes_and_dtypes(before, state)
        assert_close(updates, expected)
        for name in ("before", "norm", "clipped", "mean"):
            found = {**state[1].measurement, **state[2].measurements}[name]
            np.testing.assert_allclose(found, optax.tree.get(their_state, name), rtol=1e-5)


def test_the_measurement_is_of_what_passes() -> None:
    tx = gx.chain(gx.scale(3.0), gx.snapshot("seen", lambda updates: updates), gx.scale(2.0))
    (grad,) = example_grads(1)
    updates, state = tx.update(grad, tx.init(PARAMS))
    assert_close(state[1].measurement["seen"], jax.tree.map(lambda g: 3 * g, grad))
    assert_close(updates, jax.tree.map(lambda g: 6 * g, grad))


def test_a_transformation_may_measure_with_extra_arguments() -> None:
    loss = gx.GradientTransformation(
        lambda params: (), lambda updates, state, params=None, value=0.0: (jnp.asarray(value), state)
    )
    tx = gx.monitor({"loss": loss})
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=2.0, other=1)
    assert state.measurements["loss"] == 2.0


def test_measurements_keep_their_dtypes() -> None:
    """Gradients may be wider than the parameters that the first measurement was taken of."""
    tx = gx.chain(
        gx.snapshot("first", lambda updates: updates["w"][0]),
        gx.monitor({"second": lambda updates: updates["w"][1], "mean": gx.measure_with_ema(norm, 0.5)}),
    )
    state = tx.init({"w": jnp.zeros(2, jnp.bfloat16)})
    steps = jnp.ones((3, 2))
    updates, last = jax.lax.scan(lambda state, w: tx.update({"w": w}, state)[::-1], state, steps)[::-1]
    chex.assert_trees_all_equal_shapes_and_dtypes(state, last)
    assert (last[0].measurement["first"], last[1].measurements["second"]) == (1, 1)
    assert updates["w"].dtype == jnp.float32


def test_a_missing_gradient_is_missing_in_the_measurement() -> None:
    tx = gx.snapshot("seen", lambda updates: updates)
    _, state = tx.update({"w": 1.0, "b": None}, tx.init({"w": 0.0, "b": 0.0}))
    assert state.measurement["seen"] == {"w": 1.0, "b": None}
