"""Sharpness-aware minimization against Optax, and its two modes against each other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import x64

import gradxform as gx


def loss(params: Any) -> Any:
    return jnp.sum(params["w"] ** 4) + jnp.cos(3 * params["b"]) + params["b"] ** 2


def run(library: Any, steps: int, **arguments: Any) -> Any:
    ascent = library.chain(library.contrib.normalize(), library.sgd(0.05))
    tx = library.contrib.sam(library.adam(0.1), ascent, **arguments)
    params = {"w": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(0.5)}
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(
            jax.grad(loss)(params), state, params, grad_fn=lambda params, _: jax.grad(loss)(params)
        )
        return library.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"sync_period": 3, "reset_state": False},
        {"opaque_mode": True},
        {"opaque_mode": True, "sync_period": 3},
    ],
)
def test_as_optax(arguments: dict[str, Any]) -> None:
    with x64():
        for steps in (1, 12, 13):
            ours, theirs = (run(library, steps, **arguments) for library in (gx, optax))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), ours, theirs)


def test_both_modes_are_one_method() -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), run(gx, 20), run(gx, 10, opaque_mode=True)
    )


def test_it_leaves_a_sharp_minimum_for_a_flat_one() -> None:
    """Two valleys: the nearer one is narrower than the adversary's reach."""

    def valley(w: Any) -> Any:
        return jnp.minimum(50 * (w - 0.1) ** 2, 0.2 * (w + 1) ** 2 + 0.05)

    def end(tx: Any, calls: int) -> float:
        w, state = jnp.asarray(0.12), None
        state = tx.init(w)
        step = jax.jit(lambda w, state: tx.update(jax.grad(valley)(w), state, w))
        for _ in range(calls):
            updates, state = step(w, state)
            w = w + updates
        return float(w)

    plain = end(gx.sgd(0.01), 600)
    aware = end(gx.sam(gx.sgd(0.01), gx.chain(gx.normalize(), gx.sgd(0.2))), 1200)
    assert abs(plain - 0.1) < 1e-3
    assert aware < 0  # beyond the edge of the narrow valley


def test_what_it_does_not_take() -> None:
    with pytest.raises(TypeError, match="sam: sync_period must be an integer of at least 1, got True"):
        gx.sam(gx.sgd(0.1), gx.sgd(0.1), True)
    with pytest.raises(ValueError, match="sam: sync_period must be an integer of at least 1, got 0"):
        gx.sam(gx.sgd(0.1), gx.sgd(0.1), 0)
    tx = gx.sam(gx.sgd(0.1), gx.sgd(0.1), opaque_mode=True)
    with pytest.raises(ValueError, match="opaque mode needs grad_fn"):
        tx.update(1.0, tx.init(1.0), 1.0)
    with pytest.raises(ValueError, match="sam needs the parameters"):
        tx.update(1.0, tx.init(1.0))


def test_without_an_adversary_it_is_the_optimizer() -> None:
    """One gradient for each step leaves none for going uphill; Optax takes every second step back."""
    tx, w = gx.sam(gx.sgd(1.0), gx.sgd(1.0), sync_period=1), 10.0
    state = tx.init(w)
    for expected in (9.0, 8.0, 7.0):
        updates, state = tx.update(1.0, state, w)
        w = w + updates.item()
        assert w == expected


def test_a_missing_gradient_stays_missing() -> None:
    tx = gx.sam(gx.sgd(0.5), gx.sgd(1.0))
    params = {"w": jnp.ones(2), "b": jnp.ones(3)}
    state = tx.init(params)
    for expected in (3.0, 0.0):  # uphill by the gradient; then back, and downhill by half of it
        updates, state = tx.update({"w": jnp.full(2, 2.0), "b": None}, state, params)
        assert updates["b"] is None
        params = gx.apply_updates(params, updates)
        np.testing.assert_array_equal(params["w"], [expected, expected])
    np.testing.assert_array_equal(params["b"], jnp.ones(3))
    with pytest.raises(ValueError, match=r"sam: params and grads .*grads\['w'\] has no counterpart"):
        tx.update({"w": 1.0}, state, {"v": 1.0})
