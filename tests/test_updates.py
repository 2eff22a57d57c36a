"""Copies that follow the parameters, and the small numerical functions: as in Optax, safe at zero."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import assert_close

import gradxform as gx

NEW = {"w": jnp.asarray([1.0, 2.0]), "b": jnp.asarray(3.0), "n": None}
OLD = {"w": jnp.asarray([0.5, -2.0]), "b": jnp.asarray(0.0), "n": None}


def test_copies_as_in_optax() -> None:
    for size in (0.0, 0.3, 1.0, jnp.float32(0.01)):
        assert_close(gx.incremental_update(NEW, OLD, size), optax.incremental_update(NEW, OLD, size))
    for steps in range(5):
        ours, theirs = (
            jax.jit(module.periodic_update, static_argnums=3)(NEW, OLD, jnp.int32(steps), 2)
            for module in (gx, optax)
        )
        assert_close(ours, theirs)


def test_a_copy_in_low_precision_is_rounded_once() -> None:
    new, old = jnp.asarray([1.0], jnp.bfloat16), jnp.asarray([0.996], jnp.bfloat16)
    moved = gx.incremental_update(new, old, 0.5)
    assert moved.dtype == jnp.bfloat16
    assert moved == jnp.bfloat16((float(new[0]) + float(old[0])) / 2)
    assert gx.incremental_update(jnp.ones(1), jnp.zeros(1, jnp.float16), 0.5).dtype == jnp.float16


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gx.incremental_update(NEW, OLD, 1.5), ValueError, r"step_size must be in \[0, 1\], got 1.5"),
        (
            lambda: gx.incremental_update({"a": 1}, {"a": 1.0}, 0.5),
            TypeError,
            r"new_tensors\['a'\] has dtype int",
        ),
        (
            lambda: gx.incremental_update(NEW, {"w": NEW["w"]}, 0.5),
            ValueError,
            r"\['b'\] has no counterpart in old",
        ),
        (
            lambda: gx.incremental_update(jnp.ones(2), jnp.ones(()), 0.5),
            ValueError,
            r"the new leaf has shape \(2,\), the old one \(\)",
        ),
        (lambda: gx.periodic_update(NEW, OLD, 3, 0), ValueError, "update_period must be at least 1, got 0"),
        (
            lambda: gx.periodic_update({"a": jnp.ones(2) * 1j}, {"a": jnp.ones(2)}, 3, 1),
            TypeError,
            "the new leaf is complex, the old one has dtype float32",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_counts_stay_at_the_largest_number() -> None:
    for count in (
        jnp.int32(2**31 - 1),
        jnp.uint8(255),
        jnp.int8(3),
        jnp.float32(3.4028235e38),
        jnp.float32(1),
    ):
        ours, theirs = gx.safe_increment(count), optax.safe_increment(count)
        assert ours.dtype == theirs.dtype
        assert ours == theirs
    with pytest.raises(TypeError, match="got dtype complex64"):
        gx.safe_increment(1j)


@pytest.mark.parametrize("order", [None, 1, 2, jnp.inf, "fro", "nuc"])
@pytest.mark.parametrize("keepdims", [False, True])
def test_norms_away_from_zero(order: Any, keepdims: bool) -> None:
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    axis = None if order is None else (0, 1)

    def total(norm: Any, x: jax.Array, bound: float) -> Any:
        return norm(x, bound, order, axis, keepdims).sum()

    for point, bound in ((x, 1e-3), (x, 100.0), (0 * x, 1e-3)):
        value, gradient = jax.value_and_grad(lambda x, bound=bound: total(gx.safe_norm, x, bound))(point)
        expected, slope = jax.value_and_grad(lambda x, bound=bound: total(optax.safe_norm, x, bound))(point)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-7)
    assert np.isnan(gx.safe_norm(jnp.asarray([jnp.nan, 1.0]), 1.0))


def test_root_mean_squares_away_from_zero() -> None:
    for point in ([3.0, -4.0], [0.0, 0.0], [1e-5, 0.0]):
        x = jnp.asarray(point)
        ours, theirs = (jax.value_and_grad(m.safe_root_mean_squares)(x, 1e-3) for m in (gx, optax))
        assert_close(ours, theirs)
    assert gx.safe_root_mean_squares(jnp.zeros(0), 0.5) == 0.5
    assert gx.safe_root_mean_squares(jnp.full(4096, 0.1, jnp.bfloat16), 0.0) == jnp.bfloat16(0.1)
    assert np.isnan(gx.safe_root_mean_squares(jnp.asarray([jnp.nan]), 1.0))


def test_scaled_gradients() -> None:
    def loss(scale_gradient: Any, x: Any) -> Any:
        y = scale_gradient(x, -0.3)
        return jnp.sum(y["a"] ** 2) + y["b"]

    x = {"a": jnp.asarray([1.0, 2.0]), "b": jnp.asarray(2.0)}
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda x, m=m: loss(m.scale_gradient, x)))(x) for m in (gx, optax)
    )
    assert_close(ours, theirs)
    value, tangent = jax.jvp(lambda x: gx.scale_gradient(x, 0.5), (3.0,), (1.0,))
    assert (value, tangent) == (3.0, 0.5)
    mixed = jax.grad(lambda a: gx.scale_gradient({"a": a, "n": jnp.int32(2)}, 2.0)["a"])(1.0)
    assert mixed == 2.0
