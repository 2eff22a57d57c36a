from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

PARAMS = {"w": jnp.zeros((3, 2)), "layers": [jnp.zeros(4), jnp.zeros(())]}


def _examples(steps: int, count: int = 5) -> Any:
    rng = np.random.default_rng(4)
    return jax.tree.map(lambda p: rng.normal(size=(steps, count, *p.shape)).astype(np.float32) * 0.5, PARAMS)


def _send(tx: Any, grads: Any, params: Any = None) -> tuple[Any, Any]:
    def step(state: Any, grad: Any) -> Any:
        updates, state = tx.update(grad, state, params)
        return state, updates

    state, updates = jax.jit(lambda state: jax.lax.scan(step, state, grads))(tx.init(PARAMS))
    return updates, state


def test_equal_to_optax_noise_included() -> None:
    grads = _examples(10)
    ours, state = _send(gx.differentially_private_aggregate(1.5, 0.7, jax.random.key(3)), grads, PARAMS)
    theirs, their_state = _send(
        optax.contrib.differentially_private_aggregate(1.5, 0.7, jax.random.key(3)), grads
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)
    assert isinstance(state, gx.DifferentiallyPrivateAggregateState)
    assert state.rng_key == their_state.rng_key


def test_without_noise_it_is_the_mean_of_what_is_shortened() -> None:
    grads = _examples(3)
    updates, _ = _send(gx.differentially_private_aggregate(1.5, 0.0, 0), grads)
    flat = np.concatenate([np.float64(g).reshape(3, 5, -1) for g in jax.tree.leaves(grads)], axis=2)
    norms = np.linalg.norm(flat, axis=2, keepdims=True)
    assert (norms > 1.5).any()
    assert (norms < 1.5).any()
    expected = np.mean(flat * np.minimum(1, 1.5 / norms), axis=1)
    got = np.concatenate([g.reshape(3, -1) for g in jax.tree.leaves(updates)], axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_the_noise_has_the_size_that_privacy_asks_for() -> None:
    n, examples, deviation = 20_000, 4, 2.0 * 0.5
    shapes = {"a": jnp.float32, "b": jnp.float32, "z": jnp.complex64}
    grads = {name: jnp.zeros((2, examples, n), dtype) for name, dtype in shapes.items()}
    updates, _ = _send(gx.differentially_private_aggregate(2.0, 0.5, 11), grads)
    noise = [updates["a"], updates["b"], updates["z"].real, updates["z"].imag]
    rows = np.concatenate(noise).astype(np.float64) * examples
    # Five standard errors; and all parts, leaves and steps draw other numbers.
    np.testing.assert_allclose(rows.mean(1), 0, atol=5 * deviation / np.sqrt(n))
    np.testing.assert_allclose(rows.std(1), deviation, rtol=5 / np.sqrt(2 * n))
    correlations = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
    assert np.all(np.abs(correlations) < 5 / np.sqrt(n))


def test_kinds_of_keys() -> None:
    grads = jax.tree.map(lambda g: g[0], _examples(1))

    def first(**key: Any) -> Any:
        tx = gx.differentially_private_aggregate(1.0, 1.0, **key)
        return tx.update(grads, tx.init(PARAMS))[0]

    seven = first(key=7)
    for same in (
        {"key": np.int64(7)},
        {"seed": 7},
        {"key": jax.random.key(7)},
        {"key": jax.random.PRNGKey(7)},
    ):
        jax.tree.map(np.testing.assert_array_equal, first(**same), seven)
    assert (first(key=8)["w"] != seven["w"]).all()


def test_the_state_can_be_given_away() -> None:
    key = jax.random.PRNGKey(7)
    tx = gx.differentially_private_aggregate(1.0, 1.0, key)
    grads = jax.tree.map(lambda g: g[0], _examples(1))
    step = jax.jit(tx.update, donate_argnums=1)
    first, _ = step(grads, tx.init(PARAMS))
    again, _ = step(grads, tx.init(PARAMS))
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_dtypes_and_missing_leaves() -> None:
    tx = gx.differentially_private_aggregate(1e3, 0.0, 0)
    # 257 ones: bfloat16 cannot count so far, nor hold the mean's numerator.
    ones = {"half": jnp.ones((257, 2), jnp.bfloat16), "wide": jnp.ones((257, 2)), "none": None}
    for params in (None, {"half": jnp.ones(2, jnp.bfloat16), "wide": jnp.ones(2), "none": None}):
        updates, _ = tx.update(ones, tx.init(params), params)
        assert (updates["half"].dtype, updates["wide"].dtype) == (jnp.bfloat16, jnp.float32)
        np.testing.assert_array_equal(updates["half"].astype(np.float32), np.ones(2))
        np.testing.assert_allclose(updates["wide"], np.ones(2), rtol=1e-6)
        assert updates["none"] is None
    zeros, _ = tx.update([jnp.zeros((3, 2))], tx.init([jnp.zeros(2)]))
    np.testing.assert_array_equal(zeros[0], np.zeros(2))
    assert tx.update({}, tx.init({}))[0] == {}


def test_gradients_that_are_not_of_examples() -> None:
    tx = gx.differentially_private_aggregate(1.0, 1.0, 0)
    params = {"b": jnp.ones(3), "w": jnp.ones((3, 2))}
    state = tx.init(params)
    per_example = jax.tree.map(lambda p: jnp.ones((5, *p.shape)), params)
    wrong: list[tuple[Any, Any, type[Exception], str]] = [
        (params, params, ValueError, r"grads\['b'\] has shape \(3,\), its parameter \(3,\).*vmap"),
        ({**per_example, "w": jnp.ones(())}, None, ValueError, r"grads\['w'\] has shape \(\).*vmap"),
        ({**per_example, "w": jnp.ones((4, 3, 2))}, None, ValueError, r"\['w'\] has shape \(4.*\['b'\].*\(5"),
        (jax.tree.map(lambda g: g[:0], per_example), params, ValueError, r"grads\['b'\] is of no examples"),
        ({"b": jnp.ones((5, 3))}, params, ValueError, r"params\['w'\] has no counterpart in grads"),
        (per_example, {**params, "w": None}, ValueError, r"grads\['w'\].* its parameter NoneType"),
        ({**per_example, "w": jnp.ones((5, 3, 2), int)}, params, TypeError, r"grads\['w'\] has dtype int32"),
        (
            {**per_example, "w": per_example["w"] * 1j},
            params,
            TypeError,
            r"grads\['w'\] is complex.*float32.*real part",
        ),
    ]
    for grads, given, error, message in wrong:
        with pytest.raises(error, match=f"differentially_private_aggregate: .*{message}"):
            tx.update(grads, state, given)


def test_arguments_that_make_no_sense() -> None:
    make, name = gx.differentially_private_aggregate, "differentially_private_aggregate"
    for value in (0.0, -1.0, np.inf):
        with pytest.raises(
            ValueError, match=rf"{name}: l2_norm_clip must be above 0 and finite, got {value}"
        ):
            make(value, 1.0, 0)
    with pytest.raises(ValueError, match=rf"{name}: noise_multiplier must be at least 0, got -0\.5"):
        make(1.0, -0.5, 0)
    with pytest.raises(TypeError, match=rf"{name}: noise_multiplier must be a number or an array, got <func"):
        make(1.0, lambda count: 1.0, 0)
    for keys in ({}, {"key": 0, "seed": 0}):
        with pytest.raises(ValueError, match=f"{name} needs one random key"):
            make(1.0, 1.0, **keys)
    for key in (True, 1.5):
        with pytest.raises(TypeError, match=rf"{name}: key must be jax.random.key\(0\).*got {key}"):
            make(1.0, 1.0, key)
