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


@pytest.mark.parametrize("threshold", [0.25, 0.9, 50.0])
def test_clip_by_block_rms(send: Any, grads: Any, assert_trees_close: Any, threshold: float) -> None:
    ours, theirs = send(gx.clip_by_block_rms(threshold), optax.clip_by_block_rms(threshold))
    assert_trees_close(ours, theirs, rtol=1e-6)
    for got, stack in zip(jax.tree.leaves(ours), jax.tree.leaves(grads), strict=True):
        rows = stack.reshape(len(stack), -1).astype(np.float64)
        rms = np.sqrt(np.mean(rows**2, 1, keepdims=True))
        np.testing.assert_allclose(got.reshape(rows.shape), rows * np.minimum(1, threshold / rms), rtol=1e-5)


UNITS: list[tuple[tuple[int, ...], Any, Any]] = [
    # a shape, the axis given, and the axes that a unit extends over
    ((), None, ()),
    ((5,), None, (0,)),
    ((1, 5, 1), None, (0, 1, 2)),
    ((3, 2), None, (0,)),
    ((3, 2, 2), None, (0,)),
    ((2, 2, 3, 2), None, (0, 1, 2)),
    ((2, 1, 2, 3, 2), None, (0, 1, 2, 3)),
    ((3, 2), 1, (1,)),
    ((2, 1, 2, 1, 2, 3), (-1, 0), (0, 5)),
]


@pytest.mark.parametrize(("shape", "axis", "axes"), UNITS)
def test_units(shape: Any, axis: Any, axes: Any) -> None:
    rng = np.random.default_rng(3)
    steps = 3
    param = rng.normal(size=shape).astype(np.float32)
    stack = (rng.normal(size=(steps, *shape)) * 10.0 ** rng.uniform(-2, 1, (steps, *shape))).astype(
        np.float32
    )
    norm, bounded, theirs = jax.jit(
        lambda p, gs: (
            gx.unitwise_norm(p, axis),
            *(
                jax.vmap(lambda g, tx=tx: tx.update(g, tx.init(p), p)[0])(gs)
                for tx in (gx.adaptive_grad_clip(0.7, 0.5, axis), optax.adaptive_grad_clip(0.7, 0.5, axis))
            ),
        )
    )(param, stack)

    def norms(x: np.ndarray) -> np.ndarray:
        squares = np.sum(x.astype(np.float64) ** 2, axis=axes, keepdims=True)
        return np.broadcast_to(np.sqrt(squares), x.shape)

    np.testing.assert_allclose(norm, norms(param), rtol=1e-6)
    np.testing.assert_allclose(bounded, theirs, rtol=1e-6)
    most = 0.7 * np.maximum(norms(param), 0.5)
    for got, grad in zip(bounded, stack, strict=True):
        before = norms(grad)
        np.testing.assert_allclose(got, grad * np.minimum(1, most / before), rtol=1e-5)
        np.testing.assert_allclose(norms(np.asarray(got)), np.minimum(before, most), rtol=1e-5)


def test_unitwise_functions_alone() -> None:
    grad = np.asarray([[3 + 4j, 0.5], [0, 0]], np.complex64)
    norms = gx.unitwise_norm(grad)
    np.testing.assert_array_equal(norms, np.asarray([[5, 0.5], [5, 0.5]], np.float32))
    assert gx.unitwise_norm(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
    assert gx.unitwise_norm(np.asarray([3, 4])).tolist() == [5.0, 5.0]
    clipped = gx.unitwise_clip(norms, jnp.ones((2, 2)), grad)
    np.testing.assert_allclose(clipped, grad * [[0.2, 1.0], [0.2, 1.0]], rtol=1e-6)
    # Nothing to divide by, and nothing allowed.
    zero = jnp.zeros(2)
    np.testing.assert_array_equal(gx.unitwise_clip(zero, zero, zero), np.zeros(2))


def test_what_is_no_unit() -> None:
    params = {"layers": [jnp.ones((2,) * 6)]}
    with pytest.raises(ValueError, match=r"adaptive_grad_clip.*\(2, 2, 2, 2, 2, 2\).*axis=") as info:
        gx.adaptive_grad_clip(0.1).init(params)
    assert "params['layers'][0]" in "".join(info.value.__notes__)
    with pytest.raises(ValueError, match=r"unitwise_norm.*\(2, 2, 2, 2, 2, 2\).*axis="):
        gx.unitwise_norm(params["layers"][0])
    with pytest.raises(ValueError, match=r"unitwise_clip: max_norm has shape \(\), grad has \(3,\)"):
        gx.unitwise_clip(jnp.ones(3), 1.0, jnp.ones(3))


def _examples(dtype: Any = np.float32) -> dict[str, Any]:
    """Six examples, of which the third has no gradient."""
    rng = np.random.default_rng(5)
    scales = np.asarray([0.1, 1, 0, 10, 3, 0.5])
    draw = lambda *shape: (rng.normal(size=(6, *shape)).T * scales).T.astype(dtype)  # noqa: E731
    return {"w": draw(3, 2), "b": [draw(), draw(4)]}


@pytest.mark.parametrize("bound", [0.0, 1.5, np.inf])
def test_per_example_global_norm_clip(assert_trees_close: Any, bound: float) -> None:
    grads = _examples()
    total, shortened = gx.per_example_global_norm_clip({**grads, "none": None}, bound)
    assert total.pop("none") is None
    leaves, treedef = jax.tree.flatten(grads)
    theirs, count = optax.per_example_global_norm_clip(leaves, bound)
    assert_trees_close(total, treedef.unflatten(theirs), rtol=1e-5, atol=1e-6)
    norms = np.sqrt(sum(np.sum(x.reshape(6, -1).astype(np.float64) ** 2, 1) for x in leaves))
    assert shortened == count == np.sum(norms > bound)
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(norms > bound, bound / norms, 1)
    expected = [np.tensordot(factors, x.astype(np.float64), axes=1) for x in leaves]
    assert_trees_close(jax.tree.leaves(total), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("uniform", [True, False])
def test_per_example_layer_norm_clip(assert_trees_close: Any, uniform: bool) -> None:
    grads = _examples()
    total, shortened = gx.per_example_layer_norm_clip({**grads, "none": None}, 1.5, uniform)
    assert total.pop("none") is None
    assert shortened.pop("none") is None
    theirs = optax.per_example_layer_norm_clip(grads, 1.5, uniform)
    assert_trees_close((total, shortened), theirs, rtol=1e-5, atol=1e-6)
    bounds = np.sqrt([1 / 3] * 3 if uniform else [1 / 11, 4 / 11, 6 / 11]) * 1.5
    for got, count, stack, bound in zip(
        *map(jax.tree.leaves, (total, shortened, grads)), bounds, strict=True
    ):
        norms = np.linalg.norm(stack.reshape(6, -1), axis=1)
        factors = np.minimum(1, bound / np.maximum(norms, 1e-9))
        np.testing.assert_allclose(got, np.tensordot(factors, stack, axes=1), rtol=1e-5, atol=1e-6)
        assert count == np.sum(norms > bound)


def test_per_example_clips_by_dtype() -> None:
    for dtype, expected in (
        (jnp.bfloat16, jnp.bfloat16),
        (np.complex64, np.complex64),
        (np.int32, np.float32),
    ):
        # 300 examples of norm 1: bfloat16 could not count that far.
        grads = [jnp.ones((300, 1), dtype)]
        for total, shortened in (
            gx.per_example_global_norm_clip(grads, 0.5),
            (lambda pair: (pair[0], pair[1][0]))(gx.per_example_layer_norm_clip(grads, 0.5)),
        ):
            assert total[0].dtype == expected
            np.testing.assert_array_equal(total[0].astype(np.complex64), [150])
            assert shortened == 300
    # Squares that bfloat16 would lose: the norm is 256.6, not 256.
    grad = np.asarray([[256, 17]])
    total, _ = gx.per_example_global_norm_clip(jnp.asarray(grad, jnp.bfloat16), 128.0)
    np.testing.assert_array_equal(total, jnp.asarray(grad[0] * 128 / np.hypot(256, 17), jnp.bfloat16))


@settings(deadline=None, max_examples=100)
@given(arrays(np.float32, (3, 4), elements=FINITE), BOUND)
def test_no_example_weighs_more_than_the_bound(grads: Any, bound: float) -> None:
    for i in range(3):
        without = grads.copy()
        without[i] = 0
        totals = [gx.per_example_global_norm_clip([g], np.float32(bound))[0][0] for g in (grads, without)]
        moved = np.linalg.norm(np.subtract(*map(np.float64, totals)))
        assert moved <= bound * (1 + 1e-5)


def test_examples_that_do_not_fit() -> None:
    for clip in (gx.per_example_global_norm_clip, gx.per_example_layer_norm_clip):
        name = clip.__name__
        with pytest.raises(ValueError, match=rf"{name}: grads\['b'\] has shape \(\); the first axis.*vmap"):
            clip({"w": jnp.ones((2, 3)), "b": jnp.ones(())}, 1.0)
        with pytest.raises(ValueError, match=rf"{name}: grads\[1\] has shape \(3,\), grads\[0\] has \(2,\)"):
            clip([jnp.ones(2), jnp.ones(3)], 1.0)
        for wrong in (-1.0, np.nan):
            with pytest.raises(ValueError, match=rf"l2_norm_clip must be at least 0, got {wrong}"):
                clip([jnp.ones(2)], wrong)
        with pytest.raises(TypeError, match=rf"{name}: .*l2_norm_clip must be a number or an array, got tun"):
            clip([jnp.ones(2)], gx.tunable(1.0))
        assert clip([], 1.0)[0] == []


def test_bounds_that_make_no_sense() -> None:
    for threshold in (0.0, -1.0):
        with pytest.raises(
            ValueError, match=f"clip_by_block_rms: threshold must be above 0, got {threshold}"
        ):
            gx.clip_by_block_rms(threshold)
    with pytest.raises(ValueError, match=r"adaptive_grad_clip: clipping must be at least 0, got -1\.0"):
        gx.adaptive_grad_clip(-1.0)
    with pytest.raises(ValueError, match=r"adaptive_grad_clip: eps must be at least 0, got -1\.0"):
        gx.adaptive_grad_clip(1.0, -1.0)
    with pytest.raises(ValueError, match=r"clip: max_delta must be at least 0, got -1\.0"):
        gx.clip(-1.0)
    for max_norm in (0.0, -1.0):
        message = f"clip_by_global_norm: max_norm must be above 0, got {max_norm}"
        with pytest.raises(ValueError, match=message):
            gx.clip_by_global_norm(max_norm)
