"""Loss scaling: small gradients survive float16, overflow costs a step and no more."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx


def test_gradients_too_small_for_float16_arrive() -> None:
    """The gradient 1e-8 is below float16's smallest number, 6e-8."""
    params = {"w": jnp.zeros(3, jnp.float16)}
    small = jnp.float16(1e-4)

    def loss(params: Any) -> Any:
        return jnp.sum((params["w"] * small) * small)

    assert not np.asarray(jax.grad(loss)(params)["w"]).any()
    tx = gx.static_loss_scale(gx.chain(gx.sgd(1.0), gx.master_copy()), scale=2.0**15)
    state = tx.init(params)
    grads = jax.grad(lambda p: gx.scale_loss(loss(p), state))(params)
    _, state = tx.update(grads, state, params)
    master = state.inner_state.slots[-1].master["w"]
    np.testing.assert_allclose(master, -(float(small) ** 2), rtol=2e-3)


def test_the_scale_rises_falls_and_stays_above_its_minimum() -> None:
    tx = gx.dynamic_loss_scale(gx.adam(0.1), initial_scale=8.0, factor=2.0, period=3, minimum_scale=2.0)
    params = [jnp.ones(2)]
    finite, broken = [jnp.ones(2)], [jnp.asarray([1.0, np.inf])]
    update = jax.jit(tx.update)
    state, scales = tx.init(params), []
    for grads in [finite] * 7 + [broken] * 4 + [finite] * 2 + [broken] + [finite] * 3:
        before = state.inner_state
        updates, state = update(grads, state, params)
        scales.append(float(gx.get_hyperparams(state)["loss_scale"]))
        if grads is broken:
            assert not np.asarray(updates[0]).any()
            jax.tree.map(np.testing.assert_array_equal, state.inner_state, before)
    assert scales == [8, 8, 16, 16, 16, 32, 32, 16, 8, 4, 2, 2, 2, 2, 2, 2, 4]
    assert int(state.skipped_steps) == 5


def test_the_inner_transformation_sees_the_true_gradient() -> None:
    params = {"w": jnp.asarray([1.0, -2.0])}
    grads = {"w": jnp.asarray([0.5, 0.25])}
    expected, _ = gx.adamw(0.1).update(grads, gx.adamw(0.1).init(params), params)
    tx = gx.dynamic_loss_scale(gx.adamw(0.1), initial_scale=1024.0)
    scaled = jax.tree.map(lambda g: 1024 * g, grads)
    updates, _ = tx.update(scaled, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-6)
    table = {"w": gx.RowSparse(jnp.asarray([1]), jnp.asarray([256.0]), (2,))}
    updates, _ = tx.update(table, tx.init(params), params)
    np.testing.assert_allclose(updates["w"].to_dense()[0], 0.0)


def test_a_step_of_ones_own_and_states_without_a_scale() -> None:
    assert gx.scale_loss(3.0, gx.adam(0.1).init([1.0])) == 3.0
    state = gx.chain(gx.dynamic_loss_scale(gx.adam(0.1), 4.0), gx.snapshot("u", lambda u: u)).init([1.0])
    assert gx.scale_loss(jnp.float16(3.0), state) == 12.0
    assert gx.scale_loss(jnp.float16(3.0), gx.set_hyperparams(state, loss_scale=2.0**17)).dtype == jnp.float32
    twice = gx.static_loss_scale(gx.dynamic_loss_scale(gx.adam(0.1))).init([1.0])
    nested = [twice, gx.static_loss_scale(gx.sgd(0.1)).init([1.0])]
    with pytest.raises(ValueError, match="2 parts of the state ask for a scale"):
        gx.scale_loss(1.0, nested)


def test_bad_arguments_are_named() -> None:
    for arguments in ({"initial_scale": 0}, {"factor": 1.0}, {"period": 0}, {"minimum_scale": 0.0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            gx.dynamic_loss_scale(gx.sgd(0.1), **arguments)
    with pytest.raises(ValueError, match="scale must be above 0, got -1"):
        gx.static_loss_scale(gx.sgd(0.1), scale=-1)
