from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

LARGE = {"a": jnp.zeros(20_000), "b": jnp.zeros(20_000)}


def _noise(tx: Any, steps: int) -> np.ndarray:
    """The noise, indexed by step, leaf and element."""

    def step(state: Any, _: None) -> Any:
        updates, state = tx.update(LARGE, state)
        return state, jnp.stack(jax.tree.leaves(updates))

    run = jax.jit(lambda state: jax.lax.scan(step, state, None, steps)[1])
    return np.asarray(run(tx.init(LARGE)), np.float64)


UNIT = gx.add_noise(1.0, 0.0, key=0)


@jax.jit
def _first_unit_noise(state: Any) -> Any:
    """The key lives in the state, so that one program serves every key."""
    return jnp.stack(jax.tree.leaves(UNIT.update(LARGE, state)[0]))


def test_the_noise_is_gaussian_and_fades() -> None:
    eta, gamma, n = 0.5, 0.55, 40_000
    noise = _noise(gx.add_noise(eta, gamma, key=0), 20).reshape(20, n)
    variance = eta / np.arange(1, 21) ** gamma
    # Five standard errors of the mean, the variance, and the share within one standard deviation.
    assert np.all(np.abs(noise.mean(1)) < 5 * np.sqrt(variance / n))
    np.testing.assert_allclose(noise.var(1), variance, rtol=5 * np.sqrt(2 / n))
    within = (np.abs(noise) < np.sqrt(variance)[:, None]).mean(1)
    np.testing.assert_allclose(within, 0.682689, atol=5 * np.sqrt(0.6827 * 0.3173 / n))
    theirs = _noise(optax.add_noise(eta, gamma, 0), 20).reshape(20, n)
    np.testing.assert_allclose(noise.var(1), theirs.var(1), rtol=10 * np.sqrt(2 / n))


def test_leaves_and_steps_draw_different_noise() -> None:
    noise = _noise(gx.add_noise(1.0, 0.0, key=0), 3).reshape(6, -1)
    correlations = np.corrcoef(noise)[np.triu_indices(6, 1)]
    assert np.all(np.abs(correlations) < 5 / np.sqrt(noise.shape[1]))


def test_two_noises_of_a_chain_need_not_agree() -> None:
    both = gx.chain(gx.add_noise(1.0, 0.0, key=0), gx.add_noise(1.0, 0.0, key=1))
    np.testing.assert_allclose(_noise(both, 1).var(), 2.0, rtol=0.05)


def test_the_key_decides() -> None:
    def first(**key: Any) -> np.ndarray:
        return np.asarray(_first_unit_noise(gx.add_noise(1.0, 0.0, **key).init(LARGE)))

    seven = first(key=7)
    for same in ({"key": 7}, {"seed": 7}, {"key": jax.random.PRNGKey(7)}, {"key": jax.random.key(7)}):
        assert np.array_equal(seven, first(**same))
    assert np.mean(seven == first(key=8)) < 0.01


def test_the_key_can_be_set() -> None:
    state = gx.set_hyperparams(UNIT.init(LARGE), key=jax.random.PRNGKey(7))
    assert np.array_equal(gx.get_hyperparams(state)["key"], jax.random.PRNGKey(7))
    expected = _first_unit_noise(gx.add_noise(1.0, 0.0, key=7).init(LARGE))
    assert np.array_equal(_first_unit_noise(state), expected)


def test_a_population_of_keys_draws_a_population_of_noises() -> None:
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    states = jax.vmap(lambda key: gx.set_hyperparams(UNIT.init(LARGE), key=key))(keys)
    together = jax.vmap(_first_unit_noise)(states)
    alone = [_first_unit_noise(gx.add_noise(1.0, 0.0, key=key).init(LARGE)) for key in keys]
    assert np.array_equal(together, alone)
    assert not np.array_equal(alone[0], alone[1])


def test_the_gradient_is_there_under_the_noise(send: Any, grads: Any) -> None:
    noisy, noise = send(
        gx.add_noise(0.01, 0.55, key=3), gx.chain(gx.scale(0.0), gx.add_noise(0.01, 0.55, key=3))
    )
    for got, grad, added in zip(*map(jax.tree.leaves, (noisy, grads, noise)), strict=True):
        np.testing.assert_allclose(got, grad + added, rtol=1e-6, atol=1e-7)
        assert np.all(added != 0)


def test_arguments_that_make_no_sense() -> None:
    for keys in ({}, {"key": 1, "seed": 2}):
        with pytest.raises(ValueError, match="add_noise needs a random key, as key or as seed"):
            gx.add_noise(0.1, 0.55, **keys)
    for key in (True, 1.5, "seed"):
        with pytest.raises(TypeError, match=r"add_noise: key must be jax.random.key\(0\), or an integer"):
            gx.add_noise(0.1, 0.55, key=key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"eta must be at least 0, got -0\.1"):
        gx.add_noise(-0.1, 0.55, key=0)
    with pytest.raises(ValueError, match=r"gamma must be at least 0, got -1\.0"):
        gx.add_noise(0.1, -1.0, key=0)


def test_a_numpy_integer_is_a_key_too() -> None:
    ours, theirs = (gx.add_noise(0.1, 0.55, key=key).init([1.0]) for key in (np.int64(3), 3))
    assert np.array_equal(ours.tunables["key"], theirs.tunables["key"])
