from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.tree_util import tree_leaves

import gradxform as gx

FINITE = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)

PAIRS: dict[str, tuple[Any, Any]] = {
    "centralize": (gx.centralize(), optax.centralize()),
    "normalize": (gx.normalize(), optax.contrib.normalize()),
    "by_norm": (gx.normalize_by_update_norm(), optax.normalize_by_update_norm()),
    "by_norm_given": (gx.normalize_by_update_norm(-2.0, 0.5), optax.normalize_by_update_norm(-2.0, 0.5)),
    "zero_nans": (gx.zero_nans(), optax.zero_nans()),
    "nonnegative": (gx.keep_params_nonnegative(), optax.keep_params_nonnegative()),
    "block_norm": (gx.scale_by_param_block_norm(), optax.scale_by_param_block_norm()),
    "block_norm_given": (gx.scale_by_param_block_norm(1.5), optax.scale_by_param_block_norm(1.5)),
    "block_rms": (gx.scale_by_param_block_rms(), optax.scale_by_param_block_rms()),
    "block_rms_given": (gx.scale_by_param_block_rms(0.9), optax.scale_by_param_block_rms(0.9)),
    "trust_ratio": (gx.scale_by_trust_ratio(), optax.scale_by_trust_ratio()),
    "trust_ratio_given": (gx.scale_by_trust_ratio(1.5, 0.7, 0.1), optax.scale_by_trust_ratio(1.5, 0.7, 0.1)),
}


@pytest.fixture(scope="module")
def updates(send: Any) -> dict[str, tuple[Any, Any]]:
    """Of each pair, our updates and Optax's, over all steps."""
    sent = send(*(tx for pair in PAIRS.values() for tx in pair))
    return dict(zip(PAIRS, zip(sent[::2], sent[1::2], strict=True), strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_equal_to_optax(updates: Any, assert_trees_close: Any, name: str) -> None:
    ours, theirs = updates[name]
    assert_trees_close(ours, theirs, rtol=1e-5, atol=1e-7 if name == "centralize" else 0.0)


def _flat(stack: Any) -> np.ndarray:
    """All numbers of a step in a row, in float64."""
    return np.concatenate([np.float64(x).reshape(len(x), -1) for x in tree_leaves(stack)], axis=1)


def test_closed_forms(updates: Any, grads: Any, params: Any) -> None:
    ours = {name: pair[0] for name, pair in updates.items()}
    kernel = np.float64(grads["kernel"])
    np.testing.assert_allclose(
        ours["centralize"]["kernel"], kernel - kernel.mean(axis=2, keepdims=True), atol=1e-6
    )
    np.testing.assert_array_equal(ours["centralize"]["layers"][0], grads["layers"][0])

    flat = _flat(grads)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(_flat(ours["normalize"]), flat / norms, rtol=1e-5)
    np.testing.assert_allclose(_flat(ours["by_norm_given"]), -2 * flat / (norms + 0.5), rtol=1e-5)
    np.testing.assert_array_equal(_flat(ours["zero_nans"]), flat)

    for got, stack, param in zip(*map(tree_leaves, (ours["nonnegative"], grads, params)), strict=True):
        np.testing.assert_array_equal(got, np.maximum(stack, -param))
    for name in ("block_norm_given", "block_rms_given", "trust_ratio_given"):
        for got, stack, param in zip(*map(tree_leaves, (ours[name], grads, params)), strict=True):
            rows = np.float64(stack).reshape(len(stack), -1)
            size = np.linalg.norm(np.float64(param))
            if name == "block_norm_given":
                factor: Any = max(size, 1.5)
            elif name == "block_rms_given":
                factor = max(size / np.sqrt(param.size), 0.9)
            else:
                own = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1.5)
                factor = 0.7 * max(size, 1.5) / (own + 0.1)
            np.testing.assert_allclose(got.reshape(rows.shape), rows * factor, rtol=1e-5)


def test_centralize_many_axes() -> None:
    grad = np.random.default_rng(0).normal(size=(2, 3, 1, 4)).astype(np.float32)
    tx = gx.centralize()
    (update, _) = tx.update(grad, tx.init(grad))
    np.testing.assert_allclose(update, grad - grad.mean((1, 2, 3), keepdims=True), atol=1e-6)
    np.testing.assert_allclose(np.sum(update, (1, 2, 3)), 0, atol=1e-5)


def test_a_norm_of_complex_numbers() -> None:
    grad = np.asarray([3 - 4j, 12j], np.complex64)
    param = np.asarray([0, 26], np.complex64)
    for tx, expected in (
        (gx.normalize(), grad / 13),
        (gx.normalize_by_update_norm(2.0, 13.0), grad / 13),
        (gx.scale_by_param_block_norm(), grad * 26),
        (gx.scale_by_trust_ratio(), grad * 2),
        (gx.clip_by_block_rms(13 / np.sqrt(8)), grad / 2),
    ):
        update, _ = tx.update(grad, tx.init(param), param)
        np.testing.assert_allclose(update, expected, rtol=1e-6)


def test_found_nan_says_where() -> None:
    nan = np.nan
    params = {"a": jnp.zeros(2), "b": jnp.zeros(()), "c": jnp.zeros(1, jnp.complex64), "none": None}
    steps = [
        {"a": [1.0, nan], "b": 2.0, "c": [1.0]},
        {"a": [1.0, 2.0], "b": nan, "c": [complex(nan, 3)]},
        {"a": [np.inf, -np.inf], "b": 0.0, "c": [2j]},
    ]
    ours, theirs = gx.chain(gx.scale(2.0), gx.zero_nans()), optax.zero_nans()
    state, their_state = ours.init(params), theirs.init(params)
    assert tree_leaves(state.slots[1].found_nan) == [False] * 3
    update = jax.jit(lambda grads, state: ours.update(grads, state, params))
    for step in steps:
        grads = {name: jnp.asarray(step[name], params[name].dtype) for name in step} | {"none": None}
        updates, state = update(grads, state)
        expected, their_state = theirs.update(jax.tree.map(lambda g: 2 * g, grads), their_state)
        jax.tree.map(np.testing.assert_array_equal, updates, expected)
        found = state.slots[1].found_nan
        assert isinstance(state.slots[1], gx.ZeroNansState)
        assert found == their_state.found_nan
        assert found == {**{name: bool(np.isnan(step[name]).any()) for name in step}, "none": None}


@settings(deadline=None, max_examples=200)
@given(arrays(np.float32, (8,), elements=FINITE), arrays(np.float32, (8,), elements=FINITE))
def test_parameters_stay_nonnegative(param: Any, grad: Any) -> None:
    new, small = _nonnegative(abs(param), grad)
    assert np.all(np.asarray(new) >= 0)
    assert np.all(np.asarray(small) >= 0)
    free = abs(param) + grad >= 0
    np.testing.assert_array_equal(new[free], (abs(param) + grad)[free])
    # Those that start below 0 are brought to it.
    assert np.all(np.asarray(_nonnegative(-abs(param), np.minimum(grad, 0))[0]) == 0)


@jax.jit
def _nonnegative(param: Any, grad: Any) -> tuple[Any, Any]:
    """The new parameters, in float32 and in bfloat16, whose update is rounded once more."""
    tx = gx.keep_params_nonnegative()
    low = param.astype(jnp.bfloat16)
    return (
        gx.apply_updates(param, tx.update(grad, tx.init(param), param)[0]),
        gx.apply_updates(low, tx.update(grad, tx.init(low), low)[0]),
    )


def test_complex_parameters_have_no_sign() -> None:
    params = {"w": jnp.ones(2), "z": jnp.ones(2, jnp.complex64)}
    with pytest.raises(TypeError, match=r"keep_params_nonnegative: complex.*masked") as info:
        gx.keep_params_nonnegative().init(params)
    assert "params['z']" in "".join(info.value.__notes__)


MAKERS = [
    gx.centralize,
    gx.normalize,
    lambda: gx.normalize_by_update_norm(eps=0.0),
    gx.zero_nans,
    gx.keep_params_nonnegative,
    lambda: gx.scale_by_param_block_norm(0.0),
    lambda: gx.scale_by_param_block_rms(0.0),
    gx.scale_by_trust_ratio,
    lambda: gx.clip_by_block_rms(1.0),
    lambda: gx.adaptive_grad_clip(0.1, eps=0.0),
]


def test_zero_is_no_trouble() -> None:
    """Zero gradients, zero parameters, and both: zero updates, and finite slopes."""
    zero, ones = jnp.zeros((2, 2)), jnp.ones((2, 2))

    def totals(grad: Any, param: Any) -> Any:
        updates = [tx.update(grad, tx.init(param), param)[0] for tx in (make() for make in MAKERS)]
        return jnp.stack([jnp.sum(update) for update in updates])

    slopes = jax.jit(jax.jacrev(totals, argnums=(0, 1)))
    for grad, param in ((zero, zero), (zero, ones), (ones, zero)):
        values = totals(grad, param)
        assert np.isfinite(values).all()
        assert all(np.isfinite(slope).all() for slope in slopes(grad, param))
        if grad is zero:
            np.testing.assert_array_equal(values, np.zeros(len(MAKERS)))


def test_a_trust_ratio_of_nothing_is_one() -> None:
    tx, ones = gx.scale_by_trust_ratio(trust_coefficient=5.0), jnp.ones(2)
    for param, factor in ((jnp.zeros(2), 1.0), (ones, 5.0)):
        update, _ = tx.update(ones, tx.init(param), param)
        np.testing.assert_allclose(update, factor * np.ones(2), rtol=1e-6)


def test_stateless(send: Any, grads: Any, params: Any, assert_trees_close: Any) -> None:
    def of_trees(grads: Any, params: Any) -> Any:
        return jax.tree.map(lambda g, p: jnp.sin(g) + p, grads, params)

    def of_arrays(grad: Any, param: Any) -> Any:
        return jnp.sin(grad) + param

    ours, mapped, theirs, mapped_theirs = send(
        gx.stateless(of_trees),
        gx.stateless_with_tree_map(of_arrays),
        optax.stateless(of_trees),
        optax.stateless_with_tree_map(of_arrays),
    )
    expected = jax.tree.map(lambda g, p: np.sin(np.float64(g)) + p, grads, params)
    for got in (ours, mapped, theirs, mapped_theirs):
        assert_trees_close(got, expected, rtol=1e-5, atol=1e-6)


def test_stateless_without_parameters() -> None:
    seen: list[Any] = []

    def f(grad: Any, param: Any) -> Any:
        seen.append(param)
        return jax.tree.map(lambda g: 2 * g, grad)

    grads = {"w": jnp.ones(2), "none": None}
    for tx in (gx.stateless(f), gx.stateless_with_tree_map(f)):
        updates, state = tx.update(grads, tx.init(grads))
        np.testing.assert_array_equal(updates["w"], [2.0, 2.0])
        assert updates["none"] is None
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(grads))
    assert seen == [None, None]


def test_one_array_at_a_time_says_which_leaf_failed() -> None:
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    tx = gx.stateless_with_tree_map(lambda grad, param: grad.reshape(2))
    with pytest.raises(TypeError, match="reshape") as info:
        tx.update(params, tx.init(params))
    assert "params['b']" in "".join(info.value.__notes__)
    tx = gx.stateless_with_tree_map(lambda grad, param: grad[:1])
    with pytest.raises(ValueError, match=r"stateless_with_tree_map turned .* \(2,\) into .* \(1,\)"):
        tx.update(params, tx.init(params))


def test_arguments_that_make_no_sense() -> None:
    for make, name in (
        (gx.scale_by_param_block_norm, "min_scale"),
        (gx.scale_by_param_block_rms, "min_scale"),
        (gx.scale_by_trust_ratio, "min_norm"),
        (gx.scale_by_trust_ratio, "trust_coefficient"),
        (gx.scale_by_trust_ratio, "eps"),
        (gx.normalize_by_update_norm, "eps"),
    ):
        with pytest.raises(ValueError, match=rf"{make.__name__}: {name} must be at least 0, got -1\.0"):
            make(**{name: -1.0})
    for make in (gx.stateless, gx.stateless_with_tree_map):
        with pytest.raises(TypeError, match=rf"{make.__name__} takes a function .*, got 3"):
            make(3)
    for tx in (gx.keep_params_nonnegative(), gx.scale_by_trust_ratio(), gx.adaptive_grad_clip(1.0)):
        with pytest.raises(ValueError, match=rf"{tx.rules[0].name} needs the parameters"):
            tx.update([1.0], tx.init([1.0]))


@pytest.mark.parametrize("minus_one", [-1.0, np.float32(-1.0)])
def test_a_negative_norm_is_known_to_turn_round(minus_one: Any) -> None:
    """Cautious compares with the gradient's opposite then, as it does where `scale` turns it round."""
    plain = gx.chain(gx.trace(0.9), gx.normalize_by_update_norm(), gx.scale(-1.0))
    both = []
    for inner in (plain, gx.chain(gx.trace(0.9), gx.normalize_by_update_norm(minus_one))):
        tx = gx.cautious(inner)
        params = {"w": np.asarray([1.0, 1.0], np.float32)}
        _, state = tx.update({"w": np.asarray([1.0, 2.0], np.float32)}, tx.init(params), params)
        both.append(tx.update({"w": np.asarray([1.0, -0.5], np.float32)}, state, params)[0]["w"])
    assert both[0][0] < 0
    assert both[0][1] == 0
    np.testing.assert_allclose(both[1], both[0], rtol=1e-6)
