"""Which numbers are computed in which dtype, and what the shared functions return."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import run, x64

import gradxform as gx
from gradxform.arithmetic import Decay


def test_low_precision_moments_do_not_stall() -> None:
    """In bfloat16 0.999 is 1; a moment computed there would never move."""
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    _, state = run(gx.scale_by_adam(), params, [params] * 10)
    np.testing.assert_allclose(state.slots[0].nu["w"], 1 - 0.999**10, rtol=1e-5)


@pytest.mark.parametrize(
    ("grad", "param", "slot", "update"),
    [
        (jnp.bfloat16, jnp.float32, jnp.float32, jnp.float32),
        (jnp.float32, jnp.bfloat16, jnp.float32, jnp.bfloat16),
        (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float16),
        (jnp.float32, jnp.complex64, jnp.complex64, jnp.complex64),
        (jnp.float32, jnp.float64, jnp.float64, jnp.float64),
        (jnp.float64, jnp.float32, jnp.float32, jnp.float32),
        (jnp.complex64, jnp.complex128, jnp.complex128, jnp.complex128),
    ],
)
def test_mixed_dtypes(grad: Any, param: Any, slot: Any, update: Any) -> None:
    with x64():
        params, grads = {"w": jnp.ones(2, param)}, {"w": jnp.full(2, 0.5, grad)}
        updates, state = run(gx.sgd(0.25, momentum=0.5), params, [grads, grads])
        assert updates[1]["w"].dtype == update
        assert state.slots[0].trace["w"].dtype == slot
        np.testing.assert_array_equal(updates[1]["w"], np.full(2, -0.25 * 0.75, update))


def test_float64_is_as_exact_as_numpy() -> None:
    with x64():
        params, grads = (
            {"w": jnp.ones(3, jnp.float64)},
            [{"w": g} for g in np.random.default_rng(0).normal(size=(20, 3))],
        )
        updates, state = run(gx.adam(0.1), params, grads)
        assert state.count.dtype == jnp.int32
    m, v = np.zeros(3), np.zeros(3)
    for t, (grad, update) in enumerate(zip(grads, updates, strict=True), 1):
        m, v = 0.9 * m + 0.1 * grad["w"], 0.999 * v + 0.001 * grad["w"] ** 2
        expected = -0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(update["w"], expected, rtol=1e-12)


def _transcribed(grads: np.ndarray) -> dict[str, np.ndarray]:
    """The last update of several rules, for complex gradients, in complex128."""
    m, v, e, total, e_g, e_u = (np.zeros(grads.shape[1:]) for _ in range(6))
    trace = mean = 0j
    t = len(grads)
    for g in grads:
        square = np.abs(g) ** 2
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * square
        e, mean = 0.9 * e + 0.1 * square, 0.9 * mean + 0.1 * g
        total = total + square
        trace = g + 0.9 * trace
        e_g = 0.9 * e_g + 0.1 * square
        u = np.sqrt(e_u + 1e-6) / np.sqrt(e_g + 1e-6) * g
        e_u = 0.9 * e_u + 0.1 * np.abs(u) ** 2
        norm = np.sqrt(square.sum())
    return {
        "square": square,
        "accumulate_squares": total,
        "ema": mean / (1 - 0.9**t),
        "trace": trace,
        "scale_by_adam": m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8),
        "scale_by_rms": g / np.sqrt(e + 1e-8),
        "scale_by_stddev": g / np.sqrt(e - np.abs(mean) ** 2 + 1e-8),
        "scale_by_rss": g / np.sqrt(total + 1e-7),
        "scale_by_adadelta": u,
        "clip": np.clip(g.real, -0.3, 0.3) + 1j * np.clip(g.imag, -0.3, 0.3),
        "clip_by_global_norm": g * min(1, 1.0 / norm),
    }


def test_complex_numbers() -> None:
    """Squares are squared magnitudes, kept as real numbers."""
    rng = np.random.default_rng(0)
    grads = (rng.normal(size=(5, 4)) + 1j * rng.normal(size=(5, 4))).astype(np.complex64)
    params = {"w": jnp.ones(4, jnp.complex64)}
    rules = {"trace": gx.trace(0.9), "clip": gx.clip(0.3), "clip_by_global_norm": gx.clip_by_global_norm(1.0)}
    rules |= {"ema": gx.ema(0.9)}
    for name, expected in _transcribed(grads.astype(np.complex128)).items():
        tx = rules.get(name) or getattr(gx, name)()
        updates, state = run(tx, params, [{"w": jnp.asarray(g)} for g in grads])
        assert updates[-1]["w"].dtype == jnp.complex64
        np.testing.assert_allclose(updates[-1]["w"], expected, rtol=2e-5, err_msg=name)
        for slots in state.slots:
            for field in getattr(slots, "_fields", ()):
                real = field in ("nu", "sum_of_squares", "e_g", "e_x")
                assert getattr(slots, field)["w"].dtype == (jnp.float32 if real else jnp.complex64), name


def test_a_real_slot_refuses_complex_numbers() -> None:
    params = {"w": jnp.ones(2, jnp.complex64)}
    tx = gx.adam(0.1, mu_dtype=jnp.bfloat16)
    with pytest.raises(
        TypeError, match="scale_by_adam cannot keep complex numbers in a slot of dtype bfloat16"
    ):
        tx.update(params, tx.init(params), params)


def test_safe_functions() -> None:
    x = jnp.asarray([0.0, 4.0])
    np.testing.assert_array_equal(gx.safe_sqrt(x), [0.0, 2.0])
    np.testing.assert_array_equal(jax.vmap(jax.grad(gx.safe_sqrt))(x), [0.0, 0.25])
    np.testing.assert_array_equal(jax.vmap(jax.grad(jax.grad(gx.safe_sqrt)))(x), [0.0, -1 / 32])
    np.testing.assert_array_equal(
        gx.safe_divide(jnp.asarray([0.0, 3.0]), jnp.asarray([0.0, 2.0])), [0.0, 1.5]
    )
    slope = jax.grad(gx.safe_divide, argnums=(0, 1))
    np.testing.assert_array_equal(slope(3.0, 2.0), [0.5, -0.75])
    assert np.isfinite(slope(0.0, 0.0)).all()


def test_abs_squared() -> None:
    z = jnp.asarray([3.0 + 4.0j, 0.0])
    np.testing.assert_array_equal(gx.abs_squared(z), [25.0, 0.0])
    assert gx.abs_squared(z).dtype == jnp.float32
    np.testing.assert_array_equal(gx.abs_squared(jnp.asarray([-3.0])), [9.0])
    assert jax.grad(lambda x: gx.abs_squared(x + 0j))(0.0) == 0.0


def test_debias_keeps_its_digits() -> None:
    """``1 - b**t`` in float32 loses three of them at the first step."""
    for decay in (0.0, 0.9, 0.999, 0.99999):
        for t in (1, 2, 1000):
            exact = 1 / -np.expm1(t * np.log(np.float64(decay))) if decay else 1.0
            constant = gx.debias(jnp.asarray(1.0), decay, jnp.asarray(float(t)))
            np.testing.assert_allclose(constant, exact, rtol=1e-6)
            tuned = gx.debias(jnp.asarray(1.0), jnp.asarray(decay), jnp.asarray(float(t)))
            np.testing.assert_allclose(tuned, 1 / (1 - np.float64(np.float32(decay)) ** t), rtol=1e-2)


@pytest.mark.parametrize("given", [lambda b: b, gx.tunable, lambda b: lambda count: b, jnp.asarray])
def test_a_debiased_decay_is_corrected_in_every_dtype_and_at_every_step(given: Any) -> None:
    def update(grad: Any, slots: Any, param: Any, step: Any) -> Any:
        return gx.debias(grad, step.b, step.t) + gx.debias(grad, step.b, step.t + 1), slots

    with x64():
        rule = gx.Rule("rule", update, hyperparams={"b": gx.debiased(given(0.75))}, counts=True)
        grads = {"wide": jnp.ones(2, jnp.float64), "narrow": jnp.ones((), jnp.float32)}
        updates, _ = run(gx.lift(rule), grads, [grads] * 3)
        for t, step in enumerate(updates, 1):
            expected = 1 / (1 - 0.75**t) + 1 / (1 - 0.75 ** (t + 1))
            np.testing.assert_allclose(step["wide"], [expected] * 2, rtol=1e-12)
            np.testing.assert_allclose(step["narrow"], expected, rtol=1e-6)
            assert (step["wide"].dtype, step["narrow"].dtype) == (jnp.float64, jnp.float32)


@pytest.mark.parametrize("number", [0.75, jnp.asarray(0.75)])
def test_a_decay_is_its_value_in_arithmetic(number: Any) -> None:
    b = Decay(number, 0.25, 1)
    results = [b + 1, 1 + b, b - 1, 1 - b, b * 2, 2 * b, b / 2, 3 / b, b**2, float(b)]
    expected = [1.75, 1.75, -0.25, 0.25, 1.5, 1.5, 0.375, 4, 0.5625, 0.75]
    np.testing.assert_allclose([float(result) for result in results], expected, rtol=1e-6)


def test_what_debias_divides_by_is_computed_once_for_all_leaves() -> None:
    params = [jnp.ones(size) for size in (1, 2, 3)]
    tx = gx.adam(0.1)
    assert str(jax.make_jaxpr(tx.update)(params, tx.init(params))).count("expm1") == 2


def test_ema_of() -> None:
    np.testing.assert_allclose(gx.ema_of(jnp.asarray(2.0), jnp.asarray(6.0), 0.75), 3.0)


def test_slot_like() -> None:
    for dtype, real, expected in [
        (jnp.bfloat16, False, jnp.float32),
        (jnp.float16, True, jnp.float32),
        (jnp.float32, False, jnp.float32),
        (jnp.complex64, False, jnp.complex64),
        (jnp.complex64, True, jnp.float32),
    ]:
        slot = gx.slot_like(jnp.ones((2, 0, 3), dtype), real=real)
        assert (slot.shape, slot.dtype, slot.weak_type) == ((2, 0, 3), expected, False)
    np.testing.assert_array_equal(gx.slot_like(1.0, 0.5), 0.5)
    assert gx.slot_like(jnp.ones(2), dtype=jnp.bfloat16).dtype == jnp.bfloat16
    assert not gx.slot_like(1.0).weak_type
