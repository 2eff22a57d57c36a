from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import gradxform as gx

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
}


def sgd(w: Any, gradient: Any, a: float, momentum: float = 0.0, nesterov: bool = False) -> np.ndarray:
    """Robbins and Monro; Polyak's heavy ball; Nesterov's look-ahead."""
    v = 0.0
    for t in range(1, 201):
        g = gradient(w, t)
        v = momentum * v + g
        w = w - a * (g + momentum * v if nesterov else v)
    return w


@pytest.mark.parametrize("setting", SETTINGS)
def test_200_steps_float32(problem: Any, setting: str) -> None:
    arguments = SETTINGS[setting]
    ours, theirs = problem.descend(gx.sgd(0.002, **arguments), optax.sgd(0.002, **arguments))
    assert_allclose(ours, sgd(problem.start, problem.gradient, 0.002, **arguments), rtol=1e-5)
    assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
def test_200_steps_float64(problem: Any, setting: str, x64: None) -> None:
    arguments = SETTINGS[setting]
    (ours,) = problem.descend(gx.sgd(0.002, **arguments), dtype=jnp.float64)
    assert ours.dtype == np.float64
    assert_allclose(ours, sgd(problem.start, problem.gradient, 0.002, **arguments), rtol=1e-12)


@pytest.mark.parametrize("momentum", [None, 0.5])
def test_a_quadratic_has_a_closed_form(momentum: float | None, x64: None) -> None:
    # w_t = (1 - a h)^t w_0 along each eigenvector; with momentum, a power of the companion matrix.
    eigenvalues, start, a, steps = np.array([0.5, 1.0, 3.0]), np.array([1.0, -2.0, 3.0]), 0.1, 40
    tx = gx.sgd(a, momentum=momentum)

    def step(carry: Any, _: None) -> Any:
        w, state = carry
        updates, state = tx.update(eigenvalues * w, state)
        return (gx.apply_updates(w, updates), state), None

    begin = (jnp.asarray(start), tx.init(start))
    w = np.asarray(jax.jit(lambda carry: jax.lax.scan(step, carry, None, steps)[0][0])(begin))
    if momentum is None:
        expected = (1 - a * eigenvalues) ** steps * start
    else:
        companions = [np.array([[1 + momentum - a * h, -momentum], [1, 0]]) for h in eigenvalues]
        powers = [np.linalg.matrix_power(companion, steps) for companion in companions]
        expected = [(power @ [w0, w0])[0] for power, w0 in zip(powers, start, strict=True)]
    assert_allclose(w, expected, rtol=1e-12)


def test_momentum_on_a_constant_gradient_is_a_geometric_series(updates_on_constant_gradient: Any) -> None:
    updates = updates_on_constant_gradient(gx.sgd(0.1, momentum=0.9), 50)
    assert_allclose(updates, -0.1 * 3 * (1 - 0.9 ** np.arange(1, 51)) / (1 - 0.9), rtol=1e-5)


def test_the_sum_is_kept_in_the_dtype_asked_for() -> None:
    tx = gx.sgd(0.5, momentum=0.5, accumulator_dtype=jnp.bfloat16)
    state = tx.init(jnp.zeros(2))
    for expected in (-0.5, -0.75, -0.875):
        updates, state = tx.update(jnp.ones(2), state)
        assert updates.dtype == jnp.float32
        assert_allclose(updates, expected, rtol=0)
    assert [leaf.dtype for leaf in jax.tree.leaves(state.slots)] == [jnp.bfloat16]


@pytest.mark.parametrize("momentum", [-0.1, 1.5])
def test_momentum_out_of_bounds(momentum: float) -> None:
    with pytest.raises(ValueError, match=rf"trace: decay must be in \[0, 1\], got {momentum}"):
        gx.sgd(0.1, momentum=momentum)


@pytest.mark.parametrize("setting", SETTINGS)
def test_dpsgd_200_steps(setting: str) -> None:
    """With the noise that Optax draws from the same key, and without any as NumPy has it."""
    arguments, rate, bound = SETTINGS[setting], 0.02, 1.5
    targets = np.random.default_rng(8).normal(size=(200, 6, 3)).astype(np.float32)
    start = {"w": np.asarray([1.0, -2.0], np.float32), "b": np.float32(3.0)}

    def loss(params: Any, target: Any) -> Any:
        return jnp.sum((params["w"] - target[:2]) ** 2) + (params["b"] - target[2]) ** 2

    def step(carry: Any, batch: Any) -> Any:
        new = []
        for tx, (params, state) in zip(txs, carry, strict=True):
            grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batch)
            updates, state = tx.update(grads, state, params)
            new.append((gx.apply_updates(params, updates), state))
        return new, None

    aggregate = optax.contrib.differentially_private_aggregate(bound, 0.4, jax.random.key(3))
    txs = [
        gx.dpsgd(rate, bound, 0.0, 3, **arguments),
        gx.dpsgd(rate, bound, 0.4, 3, **arguments),
        optax.chain(aggregate, optax.sgd(rate, **arguments)),
    ]
    begin = [(params, tx.init(params)) for tx in txs for params in [jax.tree.map(jnp.asarray, start)]]
    ends, _ = jax.jit(lambda carry: jax.lax.scan(step, carry, targets))(begin)
    quiet, ours, theirs = [np.append(end["w"], end["b"]) for end, _ in ends]

    def gradient(w: Any, t: int) -> Any:
        grads = 2 * (w - targets[t - 1].astype(np.float64))
        norms = np.linalg.norm(grads, axis=1, keepdims=True)
        return np.mean(grads * np.minimum(1, bound / norms), axis=0)

    assert_allclose(
        quiet, sgd(np.asarray([1.0, -2.0, 3.0]), gradient, rate, **arguments), rtol=1e-5, atol=1e-6
    )
    assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert np.linalg.norm(ours - quiet) > 1e-3


def test_dpsgd_takes_a_schedule_and_refuses_bounds_that_make_no_sense() -> None:
    tx = gx.dpsgd(lambda count: 1.0 / (count + 1), 10.0, 0.0, seed=jax.random.key(0))
    grads, state = jnp.asarray([1.0, 3.0]), tx.init(0.0)
    for rate in (1.0, 0.5):
        updates, state = tx.update(grads, state, 0.0)
        assert_allclose(updates, -2 * rate, rtol=1e-6)
        assert float(gx.get_hyperparams(state)["learning_rate"]) == rate
    with pytest.raises(ValueError, match="l2_norm_clip must be above 0"):
        gx.dpsgd(0.1, 0.0, 1.0, 0)
    with pytest.raises(ValueError, match=r"trace: decay must be in \[0, 1\], got 1\.5"):
        gx.dpsgd(0.1, 1.0, 1.0, 0, momentum=1.5)
