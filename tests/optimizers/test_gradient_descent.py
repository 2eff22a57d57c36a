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
