"""GaLore's projection: what it leaves, what it keeps, and when it is renewed."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import gradxform as gx


def draw(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("shorter_side", [False, True])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_of_nothing_it_is_the_best_approximation(shape: tuple[int, int], shorter_side: bool) -> None:
    """With no base optimizer the first update is the gradient's nearest matrix of that rank."""
    tx, grads = gx.scale_by_galore(2, base_optimizer=gx.identity(), shorter_side=shorter_side), draw(*shape)
    u, singular, vh = np.linalg.svd(grads, full_matrices=False)
    nearest = (u[:, :2] * singular[:2]) @ vh[:2]
    assert_allclose(tx.update(grads, tx.init(grads))[0], nearest, atol=1e-5)


def test_it_is_renewed_every_so_often() -> None:
    tx = gx.scale_by_galore(1, 3, base_optimizer=gx.identity())
    params = draw(4, 3)
    state, projectors = tx.init(params), []
    for seed in range(7):
        _, state = jax.jit(tx.update)(draw(4, 3, seed=seed), state)
        projectors.append(np.asarray(state.projector))
    same = [np.array_equal(a, b) for a, b in pairwise(projectors)]
    assert same == [True, True, False, True, True, False]
    leading = np.linalg.svd(draw(4, 3, seed=3))[0][:, :1]
    assert_allclose(abs(projectors[3]), abs(leading), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "shorter_side", "projector", "moment"),
    [
        ((64, 32), False, (64, 8), (8, 32)),
        ((32, 64), False, (64, 8), (32, 8)),
        ((64, 32), True, (32, 8), (64, 8)),
        ((32, 64), True, (32, 8), (8, 64)),
        ((4, 64), False, (64, 4), (4, 4)),
    ],
)
def test_what_it_keeps(shape: Any, shorter_side: bool, projector: Any, moment: Any) -> None:
    params = {"w": jnp.ones(shape, jnp.bfloat16), "b": jnp.ones(3)}
    state: Any = gx.scale_by_galore(8, shorter_side=shorter_side).init(params)
    assert state.projector["w"].shape == projector
    assert state.projector["w"].dtype == jnp.float32
    assert state.projector["b"] is None
    slots = state.base_optimizer_state.slots[0]
    assert slots.mu["w"].shape == slots.nu["w"].shape == moment
    assert slots.mu["b"].shape == (3,)


def test_only_projected_leaves_are_scaled_and_the_others_are_the_bases() -> None:
    params = {"w": draw(3, 3), "b": draw(3), "none": None, "empty": jnp.zeros((0, 3))}
    whole, half = (gx.scale_by_galore(3, scale=scale, base_optimizer=optax.scale(2.0)) for scale in (1, 0.5))
    for tx, factor in ((whole, 2.0), (half, 1.0)):
        updates = tx.update(params, tx.init(params), params)[0]
        assert_allclose(updates["w"], factor * params["w"], rtol=1e-4, atol=1e-5)  # of full rank
        assert_allclose(updates["b"], 2 * params["b"])
        assert updates["none"] is None
        assert updates["empty"].shape == (0, 3)


def test_one_specification_for_all_arrays_of_two_axes_or_more() -> None:
    params = {"w": draw(3, 2, 2), "b": draw(3)}
    axes = gx.GaLoreDimensionNumbers(0, (1, 2))
    tx = gx.scale_by_galore(1, base_optimizer=gx.identity(), weight_dimension_numbers=axes)
    flat, vector = params["w"].reshape(3, 4), params["b"]
    plain = gx.scale_by_galore(1, base_optimizer=gx.identity())
    with pytest.raises(ValueError, match=r"GaLoreDimensionNumbers\(.*does not fit"):
        gx.scale_by_galore(1, weight_dimension_numbers=gx.GaLoreDimensionNumbers(0, 3)).init(params)
    updates = tx.update({"w": params["w"], "b": vector}, tx.init(params))[0]
    assert_allclose(updates["w"].reshape(3, 4), plain.update(flat, plain.init(flat))[0], rtol=1e-6)
    assert_allclose(updates["b"], vector)


def test_a_base_that_needs_parameters_says_so() -> None:
    params = draw(3, 2)
    tx = gx.scale_by_galore(1, base_optimizer=gx.add_decayed_weights(0.1))
    with pytest.raises(ValueError, match="add_decayed_weights needs the parameters"):
        tx.update(params, tx.init(params), params)


def test_bases_are_described_and_their_hyperparameters_found() -> None:
    tx = gx.scale_by_galore(2, base_optimizer=gx.scale_by_adam(b2=gx.tunable(0.9)))
    state = gx.set_hyperparams(tx.init(draw(3, 2)), b2=0.5)
    assert gx.get_hyperparams(state, tx)["b2"] == 0.5
    assert gx.get_hyperparams(state, tx)["b1"] == 0.9
    assert "scale_by_galore(2, 200)" in str(gx.describe(tx))
