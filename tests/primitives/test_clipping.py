from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import gradxform as gx

FINITE = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
VECTORS = st.tuples(arrays(np.float32, (5,), elements=FINITE), arrays(np.float32, (2, 3), elements=FINITE))
BOUND = st.floats(0.0078125, 1e4, width=32)

# The bound is tunable, so that one program serves every example.
CLIP, CLIP_NORM = gx.clip(gx.tunable(1.0)), gx.clip_by_global_norm(gx.tunable(1.0))


@jax.jit
def _bounded(grads: Any, bound: Any) -> tuple[Any, Any]:
    elements = gx.set_hyperparams(CLIP.init(grads), max_delta=bound)
    norms = gx.set_hyperparams(CLIP_NORM.init(grads), max_norm=bound)
    return CLIP.update(grads, elements)[0], CLIP_NORM.update(grads, norms)[0]


def _norm(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in tree)))


@settings(deadline=None, max_examples=200)
@given(VECTORS, BOUND)
def test_clip_bounds_every_element_and_leaves_the_rest(grads: Any, bound: float) -> None:
    clipped, _ = _bounded(grads, bound)
    for got, grad in zip(clipped, grads, strict=True):
        assert np.array_equal(got, np.clip(grad, -np.float32(bound), np.float32(bound)))


@settings(deadline=None, max_examples=200)
@given(VECTORS, BOUND)
def test_clip_by_global_norm_shortens_and_keeps_the_direction(grads: Any, bound: float) -> None:
    _, clipped = _bounded(grads, bound)
    before, after = _norm(grads), _norm(clipped)
    assert after <= bound * (1 + 1e-5)
    if before < bound * (1 - 1e-5):
        assert all(np.array_equal(got, grad) for got, grad in zip(clipped, grads, strict=True))
    else:
        assert after == pytest.approx(bound, rel=1e-5)
        assume(before > 0)
        for got, grad in zip(clipped, grads, strict=True):
            np.testing.assert_allclose(got, grad * (bound / before), rtol=1e-5, atol=1e-30)


def test_clip_equals_optax(send: Any, grads: Any, assert_trees_close: Any) -> None:
    ours, theirs, all_zero = send(gx.clip(0.5), optax.clip(0.5), gx.clip(0.0))
    assert_trees_close(ours, theirs, rtol=0)
    assert_trees_close(ours, jax.tree.map(lambda g: np.clip(g, -0.5, 0.5), grads), rtol=0)
    assert_trees_close(all_zero, jax.tree.map(np.zeros_like, grads), rtol=0)


@pytest.mark.parametrize("max_norm", [0.5, 3.0, 100.0])
def test_clip_by_global_norm_equals_optax(
    send: Any, grads: Any, assert_trees_close: Any, max_norm: float
) -> None:
    ours, theirs = send(gx.clip_by_global_norm(max_norm), optax.clip_by_global_norm(max_norm))
    assert_trees_close(ours, theirs, rtol=1e-6)
    squares = [np.sum(np.square(g.reshape(len(g), -1)), 1) for g in jax.tree.leaves(grads)]
    factors = np.minimum(1, max_norm / np.sqrt(np.sum(squares, 0)))
    for got, stack in zip(jax.tree.leaves(ours), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(got, stack * factors.reshape(-1, *[1] * (stack.ndim - 1)), rtol=1e-5)


def test_the_norm_is_that_of_what_reaches_it() -> None:
    # Here the norm is taken after the factor 10, and the factor 2 comes after the clip.
    tx = gx.chain(gx.scale(10.0), gx.clip_by_global_norm(1.0), gx.scale(2.0))
    grads = {"a": jnp.asarray([0.3]), "b": jnp.asarray([0.4])}
    updates, _ = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [1.2, 1.6], rtol=1e-6)


def test_complex_gradients() -> None:
    grad = np.asarray([3 - 4j, 0.5 + 0.25j], np.complex64)
    elements, whole = gx.clip(1.0), gx.clip_by_global_norm(1.0)
    bounded, _ = elements.update(grad, elements.init(grad))
    np.testing.assert_array_equal(bounded, np.asarray([1 - 1j, 0.5 + 0.25j], np.complex64))
    shortened, _ = whole.update(grad, whole.init(grad))
    np.testing.assert_allclose(shortened, grad / np.linalg.norm(grad), rtol=1e-6)


def test_a_zero_gradient_stays_zero() -> None:
    tx = gx.clip_by_global_norm(1.0)
    assert np.array_equal(tx.update(jnp.zeros(3), tx.init(jnp.zeros(3)))[0], np.zeros(3))


def test_bounds_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"clip: max_delta must be at least 0, got -1\.0"):
        gx.clip(-1.0)
    for max_norm in (0.0, -1.0):
        message = f"clip_by_global_norm: max_norm must be above 0, got {max_norm}"
        with pytest.raises(ValueError, match=message):
            gx.clip_by_global_norm(max_norm)
