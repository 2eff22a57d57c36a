"""Schedules against Optax, closed forms and their own laws."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import x64

import gradxform as gx
from gradxform import schedules

COUNTS = np.arange(60)

# Steps such as 41 and 47, whose reciprocals times themselves are not 1 in float32, are where ends are missed.
CYCLE = {"init_value": 0.1, "peak_value": 1.0, "warmup_steps": 4, "decay_steps": 13}
SHORTER = {"init_value": 0.0, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": 9, "end_value": 0.01}
OPTAX_CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("constant_schedule", (0.3,), {}),
    ("linear_schedule", (1.0, 0.1, 41), {}),
    ("linear_schedule", (0.0, 0.7, 10), {"transition_begin": 7}),
    ("polynomial_schedule", (1.0, 0.1, 2, 41), {}),
    ("polynomial_schedule", (0.2, 3.0, 0.5, 20, 5), {}),
    ("exponential_decay", (0.3, 7, 0.9), {}),
    ("exponential_decay", (0.3, 7, 0.5, 5, True, 0.02), {}),
    ("exponential_decay", (0.3, 10, 2.0), {"end_value": 1.1}),
    ("exponential_decay", (0.3, 10, 1.0), {"end_value": 0.2}),
    ("cosine_decay_schedule", (0.5, 41), {}),
    ("cosine_decay_schedule", (0.5, 30, 0.1, 1.5), {}),
    ("cosine_onecycle_schedule", (50, 0.4), {}),
    ("cosine_onecycle_schedule", (47, 0.4, 0.5, 10.0, 100.0), {}),
    ("cosine_onecycle_schedule", (3, 0.4), {}),
    ("linear_onecycle_schedule", (50, 0.4), {}),
    ("linear_onecycle_schedule", (47, 0.4, 0.2, 0.6, 10.0, 100.0), {}),
    ("sgdr_schedule", ([CYCLE, SHORTER, CYCLE],), {}),
    ("piecewise_constant_schedule", (0.3, {41: 0.5, 10: 0.1, 20: 3.0}), {}),
    ("piecewise_constant_schedule", (0.3,), {}),
    ("piecewise_interpolate_schedule", ("linear", 0.3, {41: 0.5, 10: 0.1, 20: 3.0}), {}),
    ("piecewise_interpolate_schedule", ("cosine", 0.3, {0: 2.0, 41: 0.0}), {}),
    ("piecewise_interpolate_schedule", ("cosine", 0.3), {}),
    ("warmup_constant_schedule", (0.1, 0.9, 41), {}),
    ("warmup_cosine_decay_schedule", (0.1, 0.9, 11, 52), {}),
    ("warmup_cosine_decay_schedule", (0.1, 0.9, 0, 30, 0.05, 2.0), {}),
    ("warmup_exponential_decay_schedule", (0.1, 0.9, 10, 7, 0.8), {}),
    ("warmup_exponential_decay_schedule", (0.1, 0.9, 10, 7, 0.5, 3, True, 0.2), {}),
]
OWN: list[gx.Schedule] = [
    schedules.warmup_stable_decay_schedule(0.1, 0.9, 10, 20, 17, 0.05),
    schedules.warmup_stable_decay_schedule(0.1, 0.9, 10, 0, 41, decay_type="sqrt"),
    schedules.inverse_sqrt_schedule(0.1, 0.9, 12),
    schedules.linear_to_zero_schedule(0.9, 53, warmup_steps=12),
    schedules.cyclic_schedule(0.1, 0.9, 5, 12, 0.5),
    schedules.linear_schedule(0.1, 0.9, 20).then(schedules.cosine_decay_schedule(0.9, 30), at=10) * 3,
    schedules.join_schedules([lambda count: 0.1 / (count + 1), lambda count: 0.5], [23]),
]
# The last call of each maker, which is the one with most arguments.
CASES = [*{name: getattr(schedules, name)(*args, **kw) for name, args, kw in OPTAX_CALLS}.values(), *OWN]
each_case = pytest.mark.parametrize("schedule", CASES, ids=str)


def names_and_defaults(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [(each.name, each.default) for each in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(
    ("name", "args", "kwargs"), OPTAX_CALLS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(OPTAX_CALLS)]
)
def test_optax_has_the_same(name: str, args: Any, kwargs: Any) -> None:
    ours, theirs = getattr(schedules, name), getattr(optax, name)
    assert names_and_defaults(ours) == names_and_defaults(theirs)
    with x64():  # in float32 theirs cancels towards the end of a cosine, and divides integers there
        expected = np.asarray(jax.vmap(theirs(*args, **kwargs))(COUNTS.astype(float)))
        exact = ours(*args, **kwargs)(COUNTS)
        assert exact.dtype == np.float64
        np.testing.assert_allclose(exact, expected, rtol=1e-9, atol=1e-17)
    np.testing.assert_allclose(ours(*args, **kwargs)(COUNTS), expected, rtol=1e-6, atol=1e-17)


def test_join_is_that_of_optax() -> None:
    parts = [(0.0, 1.0, 10), (1.0, 0.5, 41), (0.2, 0.0, 5)]
    ours = schedules.join_schedules([schedules.linear_schedule(*part) for part in parts], [9, 40])
    theirs = optax.join_schedules([optax.linear_schedule(*part) for part in parts], [9, 40])
    np.testing.assert_allclose(ours(COUNTS), jax.vmap(theirs)(COUNTS), rtol=1e-6)
    assert names_and_defaults(schedules.join_schedules) == names_and_defaults(optax.join_schedules)


def test_every_schedule_of_optax_is_here() -> None:
    makers = re.compile(r"[a-z]\w*_(schedules?|decay)")
    theirs = set(filter(makers.fullmatch, dir(optax.schedules)))
    assert len(theirs) >= 14
    assert theirs <= set(schedules.__all__)


def test_any_kind_of_count() -> None:
    schedule = gx.linear_schedule(0.1, 0.9, 41).then(lambda count: 0.1 / (count + 1), at=23)
    expected = np.asarray(schedule(COUNTS))
    np.testing.assert_array_equal(schedule(COUNTS.reshape(6, 10)), expected.reshape(6, 10))
    np.testing.assert_array_equal(schedule(COUNTS.tolist()), expected)
    np.testing.assert_array_equal(schedule(COUNTS.astype(np.uint8)), expected)
    for dtype in (jnp.uint32, jnp.int8, jnp.bfloat16):
        np.testing.assert_array_equal(schedule(jnp.asarray(COUNTS, dtype)), expected)
    for count in (31, np.int64(31), np.asarray(31, np.uint8), np.float32(31), jnp.asarray(31)):
        value = schedule(count)
        assert (value.shape, value.dtype, value.weak_type) == ((), np.float32, False)
        np.testing.assert_allclose(value, expected[31], rtol=5e-7)
    between = schedule(np.asarray([0.25, 1.5]))
    np.testing.assert_allclose(between, 0.1 + 0.8 * np.asarray([0.25, 1.5]) / 41, rtol=1e-6)
    np.testing.assert_array_equal(schedule(jnp.asarray([-1.5, -1.0])), expected[[0, 0]])
    # A count stays at the largest int32, and so does one beyond it.
    for beyond in (2**70, np.uint64(2**63), np.int64(2**40), jnp.asarray(2**31 + 7, jnp.uint32)):
        assert schedule(beyond) == schedule(2**31 - 1)
    with x64():
        assert schedule(jnp.asarray(2**40, jnp.int64)) == schedule(2**31 - 1)
        assert schedule(np.float32(31)).dtype == schedule(jnp.asarray(31, jnp.int32)).dtype == np.float64


@each_case
def test_jit_vmap_scan_and_counts_out_of_range(schedule: gx.Schedule) -> None:
    @jax.jit
    def compiled(counts: Any) -> Any:
        ends = jnp.asarray([-(2**31), -1, 0, 2**31 - 1], jnp.int32)
        carried = jax.lax.scan(lambda count, _: (count + 1, schedule(count)), counts[0], length=len(COUNTS))
        return schedule(counts), jax.vmap(schedule)(counts), carried[1], schedule(ends)

    *values, ends = compiled(jnp.asarray(COUNTS, jnp.int32))
    expected = np.asarray(schedule(COUNTS))
    for value in values:
        assert (value.shape, value.dtype) == (COUNTS.shape, np.float32)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_array_equal(ends[:3], expected[[0, 0, 0]])
    assert jnp.isfinite(ends[3])


EXACT: list[tuple[gx.Schedule, dict[int, float]]] = [
    (schedules.constant_schedule(0.1), {0: 0.1, 7: 0.1}),
    (schedules.linear_schedule(0.1, 0.7, 41, 3), {0: 0.1, 3: 0.1, 44: 0.7, 45: 0.7}),
    (schedules.polynomial_schedule(0.1, 0.7, 2.5, 47), {0: 0.1, 47: 0.7, 48: 0.7}),
    (schedules.exponential_decay(0.7, 41, 0.5), {0: 0.7, 41: 0.35, 82: 0.175}),
    (schedules.exponential_decay(0.7, 41, 0.5, staircase=True), {40: 0.7, 41: 0.35, 81: 0.35, 82: 0.175}),
    (schedules.cosine_decay_schedule(0.7, 41), {0: 0.7, 41: 0.0, 42: 0.0}),
    (schedules.cosine_decay_schedule(0.7, 41, 0.1), {0: 0.7, 41: 0.07, 42: 0.07}),
    (schedules.cosine_onecycle_schedule(82, 0.7, 0.5, 7.0, 10.0), {0: 0.1, 41: 0.7, 82: 0.01}),
    (schedules.linear_onecycle_schedule(100, 0.7, 0.41, 0.82, 7.0), {0: 0.1, 41: 0.7, 82: 0.1, 100: 1e-5}),
    (
        schedules.sgdr_schedule([CYCLE, SHORTER]),
        {0: 0.1, 4: 1.0, 13: 0.5, 22: 0.01, 23: 0.01},
    ),
    (schedules.piecewise_constant_schedule(0.4, {41: 0.5, 47: 0.5}), {40: 0.4, 41: 0.2, 46: 0.2, 47: 0.1}),
    (schedules.piecewise_interpolate_schedule("cosine", 0.4, {41: 0.5, 82: 0.5}), {0: 0.4, 41: 0.2, 82: 0.1}),
    (schedules.warmup_constant_schedule(0.1, 0.7, 41), {0: 0.1, 41: 0.7, 42: 0.7}),
    (schedules.warmup_constant_schedule(0.1, 0.7, 0), {0: 0.7, 1: 0.7}),
    (schedules.warmup_cosine_decay_schedule(0.1, 0.7, 41, 88, 0.03, 2.0), {0: 0.1, 41: 0.7, 88: 0.03}),
    (schedules.warmup_exponential_decay_schedule(0.1, 0.7, 41, 47, 0.5), {0: 0.1, 41: 0.7, 88: 0.35}),
    *(
        (
            schedules.warmup_stable_decay_schedule(0.1, 0.7, 41, 47, 55, 0.03, decay_type),
            {0: 0.1, 41: 0.7, 60: 0.7, 88: 0.7, 143: 0.03, 144: 0.03},
        )
        for decay_type in ("linear", "cosine", "sqrt")
    ),
    (schedules.inverse_sqrt_schedule(0.1, 0.7, 41), {0: 0.1, 41: 0.7, 164: 0.35}),
    (schedules.inverse_sqrt_schedule(0.1, 0.7, 0, timescale=41), {0: 0.7, 123: 0.35}),
    (schedules.linear_to_zero_schedule(0.7, 88, 41), {0: 0.0, 41: 0.7, 88: 0.0, 89: 0.0}),
    (schedules.linear_to_zero_schedule(0.7, 41), {0: 0.7, 41: 0.0}),
    (schedules.cyclic_schedule(0.1, 0.7, 41, 47), {0: 0.1, 41: 0.7, 88: 0.1, 129: 0.7, 176: 0.1}),
    (schedules.linear_schedule(0.1, 0.2, 41).then(gx.constant_schedule(0.3), 41), {0: 0.1, 41: 0.3}),
]


@pytest.mark.parametrize(("schedule", "values"), EXACT, ids=[str(schedule) for schedule, _ in EXACT])
def test_given_values_are_met_exactly(schedule: gx.Schedule, values: dict[int, float]) -> None:
    counts = jnp.asarray(list(values), jnp.int32)
    expected = np.asarray(list(values.values()), np.float32)
    np.testing.assert_array_equal(schedule(counts), expected)
    np.testing.assert_array_equal(jax.jit(schedule)(counts), expected)
    for count, value in zip(values, expected, strict=True):
        assert schedule(count) == value


def test_ends_are_exact_for_every_number_of_steps() -> None:
    ends = jax.jit(
        lambda steps: jax.vmap(lambda count: gx.linear_schedule(0.1, 0.7, steps)(count))(
            jnp.stack([0, steps])
        )
    )
    for steps in (1, 2, 3, 2**24 + 1, 2**31 - 1):
        np.testing.assert_array_equal(ends(steps), np.asarray([0.1, 0.7], np.float32))


def test_closed_forms() -> None:
    t = COUNTS.astype(float)

    def same(schedule: gx.Schedule, expected: np.ndarray) -> None:
        with x64():
            np.testing.assert_allclose(schedule(COUNTS), expected, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(schedule(COUNTS), expected, rtol=1e-6, atol=1e-7)

    up = 0.1 + 0.8 * t / 10
    same(
        schedules.inverse_sqrt_schedule(0.1, 0.9, 10),
        np.where(t < 10, up, 0.9 * np.sqrt(10 / np.maximum(t, 1))),
    )
    same(
        schedules.inverse_sqrt_schedule(0.1, 0.9, 10, timescale=50.0),
        np.where(t < 10, up, 0.9 / np.sqrt(1 + np.maximum(t - 10, 0) / 50)),
    )
    done = np.clip((t - 30) / 20, 0, 1)
    for decay_type, left in {
        "linear": 1 - done,
        "cosine": (1 + np.cos(np.pi * done)) / 2,
        "sqrt": 1 - np.sqrt(done),
    }.items():
        same(
            schedules.warmup_stable_decay_schedule(0.1, 0.9, 10, 20, 20, 0.05, decay_type),
            np.where(t < 10, up, 0.05 + 0.85 * left),
        )
    same(
        schedules.linear_to_zero_schedule(0.9, 50, 10),
        np.where(t < 10, 0.09 * t, np.maximum(0.9 * (50 - t) / 40, 0)),
    )
    triangle = np.interp(t % 9, [0, 3, 9], [0, 1, 0])
    same(schedules.cyclic_schedule(0.1, 0.9, 3, 6, 0.8), 0.1 + 0.8 * triangle * 0.8 ** (t // 9))
    same(schedules.cyclic_schedule(0.1, 0.9, 4), 0.1 + 0.8 * (1 - np.abs(t % 8 / 4 - 1)))


def test_small_values_keep_their_digits() -> None:
    """One step before the end of a million, where one plus a cosine has none left."""
    value = float(gx.cosine_decay_schedule(1.0, 10**6)(10**6 - 1))
    assert value == pytest.approx(np.sin(np.pi / 2 * 1e-6) ** 2, rel=1e-6)


def test_numbers_may_be_traced() -> None:
    def value(init: Any, end: Any, steps: Any, warmup: Any, exponent: Any) -> Any:
        schedule = schedules.warmup_cosine_decay_schedule(init, 0.9, warmup, steps, end, exponent)
        return schedule(COUNTS)

    for arguments in ((0.1, 0.0, 41, 7, 1.0), (0.1, 0.2, 30, 0, 2.0)):
        np.testing.assert_allclose(jax.jit(value)(*arguments), value(*arguments), rtol=1e-6)
    rates = jnp.asarray([0.1, 0.5])
    sweep = jax.vmap(lambda rate: gx.linear_schedule(rate, 0.0, 10)(5))(rates)
    np.testing.assert_array_equal(sweep, rates / 2)


@pytest.mark.parametrize("count", [-1, 0, 1, 9, 10, 11])
def test_derivatives_are_finite(count: int) -> None:
    def total(numbers: Any) -> Any:
        a, b, exponent = numbers
        return (
            schedules.polynomial_schedule(a, b, exponent, 10)(count)
            + schedules.warmup_cosine_decay_schedule(a, b, 0, 10, a, exponent)(count)
            + schedules.warmup_stable_decay_schedule(a, b, 1, 0, 9, decay_type="sqrt")(count)
        )

    gradient = jax.grad(total)(jnp.asarray([0.1, 0.7, 1.5]))
    assert np.isfinite(gradient).all()
    numbers, tiny = np.asarray([0.1, 0.7, 1.5]), 1e-6
    with x64():
        numeric = [
            (total(jnp.asarray(numbers + tiny * e)) - total(jnp.asarray(numbers - tiny * e))) / (2 * tiny)
            for e in np.eye(3)
        ]
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-6)


def test_then_and_times_obey_their_laws() -> None:
    a = gx.linear_schedule(0.1, 0.9, 20)
    b = gx.cosine_decay_schedule(0.9, 30)
    c = schedules.inverse_sqrt_schedule(0.0, 0.5, 3)

    def same(one: gx.Schedule, other: gx.Schedule) -> None:
        np.testing.assert_array_equal(one(COUNTS), other(COUNTS))

    same(a.then(b, at=7).then(c, at=20), a.then(b.then(c, at=13), at=7))
    same(a.then(b, at=7).then(c, at=20), schedules.join_schedules([a, b, c], [7, 20]))
    same(a.then(b, at=7) * 0.5, (a * 0.5).then(b * 0.5, at=7))
    same(a.then(b, at=0), b)
    same(a.then(a * 0.5, at=7) * 2, (a * 2).then(a, at=7))
    same(a * 0.5 * 2, a)
    for number in (0.3, 3, np.float64(0.3), np.int64(3), jnp.asarray(0.3)):
        assert isinstance(number * a, schedules.Curve)
        same(number * a, a * number)
        np.testing.assert_array_equal((a * number)(COUNTS), a(COUNTS) * jnp.float32(number))
    same(a * b, b * a)
    np.testing.assert_array_equal((a * b)(COUNTS), a(COUNTS) * b(COUNTS))
    np.testing.assert_array_equal(a.then(b, at=7)(COUNTS)[:7], a(COUNTS[:7]))
    np.testing.assert_array_equal(a.then(b, at=7)(COUNTS)[7:], b(COUNTS[:-7]))
    plain = schedules.Curve(lambda count: 1.0 / (count + 1)).then(lambda count: 7, at=2)
    np.testing.assert_array_equal(plain([0, 1, 2, 3]), [1.0, 0.5, 7.0, 7.0])


def halving(count: Any) -> Any:
    return 0.5**count


def test_it_reads_as_it_was_written() -> None:
    a = gx.cosine_decay_schedule(0.1, 1000, alpha=0.5)
    assert repr(a) == "cosine_decay_schedule(0.1, 1000, alpha=0.5)"
    assert repr(a * 2) == f"{a} * 2"
    assert repr((a * 2).then(halving, at=3) * 0.5) == f"({a} * 2).then(halving, at=3) * 0.5"
    assert repr(schedules.join_schedules((a, halving), [3])) == f"join_schedules(({a}, halving), [3])"
    assert repr(schedules.Curve(halving)) == "halving"
    assert f"scale_by_learning_rate({a})" in str(gx.describe(gx.sgd(a)))
    assert "scale_by_learning_rate(halving)" in str(gx.describe(gx.sgd(halving)))
    assert eval(repr(a), vars(schedules))(10) == a(10)


def test_an_optimizer_follows_it_as_optax_does() -> None:
    arguments = (0.0, 0.5, 3, 15)

    def final(tx: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            updates, state = tx.update(params, state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.asarray([1.0, -2.0])
        return jax.lax.scan(step, (params, tx.init(params)), length=20)[0]

    params, state = final(gx.sgd(schedules.warmup_cosine_decay_schedule(*arguments)))
    expected, _ = final(optax.sgd(optax.warmup_cosine_decay_schedule(*arguments)))
    np.testing.assert_allclose(params, expected, rtol=1e-5)
    assert gx.get_hyperparams(state)["learning_rate"] == 0.0
    # Ours in theirs.
    crossed, _ = final(optax.sgd(schedules.warmup_cosine_decay_schedule(*arguments)))
    np.testing.assert_allclose(crossed, expected, rtol=1e-5)


nan = float("nan")
REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: gx.linear_schedule(1.0, 0.0, 0), "linear_schedule: transition_steps must be at least 1 .*got 0"),
    (lambda: gx.linear_schedule(1.0, 0.0, nan), "linear_schedule: transition_steps must be .*got nan"),
    (
        lambda: gx.linear_schedule(1.0, 0.0, 2**31),
        "linear_schedule: transition_steps .*below 2.*got 2147483648",
    ),
    (lambda: gx.linear_schedule(1.0, nan, 5), "linear_schedule: end_value must be a finite number, got nan"),
    (lambda: gx.linear_schedule(jnp.asarray(nan), 0.0, 5), "linear_schedule: init_value must be a finite"),
    (
        lambda: gx.linear_schedule(1.0, 0.0, 5, -1),
        "linear_schedule: transition_begin must be at least 0.*got -1",
    ),
    (lambda: gx.constant_schedule(float("inf")), "constant_schedule: value must be a finite number, got inf"),
    (lambda: schedules.polynomial_schedule(1.0, 0.0, 0, 5), "polynomial_schedule: power .*above 0, got 0"),
    (lambda: schedules.exponential_decay(1.0, 0, 0.5), "exponential_decay: transition_steps .*got 0"),
    (lambda: schedules.exponential_decay(1.0, 5, 0.0), "exponential_decay: decay_rate .*above 0, got 0.0"),
    (
        lambda: schedules.exponential_decay(1.0, 5, 0.5, end_value=nan),
        "exponential_decay: end_value .*got nan",
    ),
    (lambda: gx.cosine_decay_schedule(1.0, decay_steps=0), "cosine_decay_schedule: decay_steps .*got 0"),
    (lambda: gx.cosine_decay_schedule(1.0, 5, exponent=-1), "cosine_decay_schedule: exponent .*got -1"),
    (
        lambda: schedules.cosine_onecycle_schedule(0, 1.0),
        "cosine_onecycle_schedule: transition_steps .*got 0",
    ),
    (
        lambda: schedules.cosine_onecycle_schedule(9, 1.0, 1.0),
        "pct_start must be strictly between 0 and 1, got 1.0",
    ),
    (
        lambda: schedules.cosine_onecycle_schedule(9, 1.0, 0.0),
        "pct_start must be strictly between 0 and 1, got 0.0",
    ),
    (lambda: schedules.cosine_onecycle_schedule(9, 1.0, div_factor=0), "div_factor .*above 0, got 0"),
    (
        lambda: schedules.linear_onecycle_schedule(9, 1.0, nan),
        "linear_onecycle_schedule: pct_start .*got nan",
    ),
    (
        lambda: schedules.linear_onecycle_schedule(9, 1.0, 0.5, 0.4),
        "pct_final .*above pct_start=0.5, got 0.4",
    ),
    (lambda: schedules.sgdr_schedule([]), "sgdr_schedule: cosine_kwargs must hold at least one cycle"),
    (
        lambda: schedules.sgdr_schedule([CYCLE, CYCLE | {"warmup_steps": -1}]),
        r"sgdr_schedule: cosine_kwargs\[1\]: warmup_cosine_decay_schedule: warmup_steps .*got -1",
    ),
    (lambda: schedules.piecewise_constant_schedule(1.0, {5: -0.1}), r"boundaries_and_scales\[5\] .*got -0.1"),
    (
        lambda: schedules.piecewise_constant_schedule(1.0, {-5: 0.1}),
        "a boundary in boundaries_and_scales .*got -5",
    ),
    (
        lambda: schedules.piecewise_interpolate_schedule("cubic", 1.0, {5: 0.1}),
        "interpolate_type must be one of 'linear', 'cosine', 'sqrt', got 'cubic'",
    ),
    (
        lambda: schedules.warmup_constant_schedule(0.0, 1.0, -1),
        "warmup_constant_schedule: warmup_steps .*got -1",
    ),
    (
        lambda: schedules.warmup_cosine_decay_schedule(0.0, 1.0, 10, 10),
        "warmup_cosine_decay_schedule: decay_steps .*above warmup_steps=10, got 10",
    ),
    (
        lambda: schedules.warmup_exponential_decay_schedule(0.0, nan, 1, 1, 0.5),
        "warmup_exponential_decay_schedule: peak_value must be a finite number, got nan",
    ),
    (
        lambda: schedules.warmup_stable_decay_schedule(0.0, 1.0, 1, -1, 5),
        "warmup_stable_decay_schedule: stable_steps must be at least 0.*got -1",
    ),
    (
        lambda: schedules.warmup_stable_decay_schedule(0.0, 1.0, 1, 1, 5, decay_type="root"),
        "warmup_stable_decay_schedule: decay_type must be one of .*got 'root'",
    ),
    (
        lambda: schedules.inverse_sqrt_schedule(0.0, 1.0, 0),
        "inverse_sqrt_schedule: with warmup_steps=0 timescale",
    ),
    (
        lambda: schedules.inverse_sqrt_schedule(0.0, 1.0, 3, 0.0),
        "timescale must be a finite .*above 0, got 0.0",
    ),
    (lambda: schedules.linear_to_zero_schedule(1.0, 5, 5), "linear_to_zero_schedule: total_steps .*got 5"),
    (
        lambda: schedules.cyclic_schedule(0.0, 1.0, 5, 0),
        "cyclic_schedule: down_steps must be at least 1.*got 0",
    ),
    (lambda: schedules.join_schedules([], []), "join_schedules: schedules must hold at least one"),
    (lambda: schedules.join_schedules([halving] * 3, [5]), "3 schedules have 2 boundaries between them, got"),
    (lambda: schedules.join_schedules([halving] * 3, [5, 5]), r"boundaries must increase, got \[5, 5\]"),
    (lambda: schedules.join_schedules([halving] * 2, [-5]), r"join_schedules: boundaries\[0\] .*got -5"),
    (lambda: gx.constant_schedule(1.0).then(halving, at=-1), r"constant_schedule\(1\).then: at .*got -1"),
    (lambda: gx.constant_schedule(1.0) * nan, r"constant_schedule\(1\): the factor must be .*got nan"),
    (lambda: schedules.plot_schedule(halving, 0), "plot_schedule: steps must be at least 1.*got 0"),
]
REFUSED_TYPES: list[tuple[Callable[[], Any], str]] = [
    (lambda: gx.linear_schedule("1", 0.0, 5), "linear_schedule: init_value must be a number, got '1'"),
    (lambda: gx.linear_schedule(1.0, None, 5), "linear_schedule: end_value must be a number, got None"),
    (
        lambda: gx.linear_schedule(1.0, 0.0, True),
        "linear_schedule: transition_steps must be a number, got True",
    ),
    (lambda: gx.linear_schedule(1.0), "linear_schedule: missing a required argument"),
    (lambda: gx.linear_schedule(1.0, 0.0, 5, steps=3), "linear_schedule: got an unexpected keyword"),
    (
        lambda: schedules.sgdr_schedule([{}]),
        r"sgdr_schedule: cosine_kwargs\[0\]: warmup_cosine_decay_schedule: miss",
    ),
    (lambda: schedules.join_schedules([0.1], []), r"schedules\[0\] must be a schedule .*got 0.1"),
    (lambda: gx.constant_schedule(1.0).then(0.1, at=1), "then: other must be a schedule .*got 0.1"),
    (lambda: gx.constant_schedule(1.0) * "2", "unsupported operand|can't multiply"),
    (lambda: schedules.Curve(0.1), "Curve: function must map a count to a value, got 0.1"),
    (lambda: schedules.plot_schedule(0.1, 5), "plot_schedule: schedule must be a schedule .*got 0.1"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_bad_values_are_refused_when_built(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("call", "message"), REFUSED_TYPES, ids=[message for _, message in REFUSED_TYPES])
def test_bad_types_are_refused_when_built(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_plots() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    schedule = gx.cosine_decay_schedule(0.5, 20)
    ax = schedules.plot_schedule(schedule, 30)
    assert schedules.plot_schedule(lambda count: 0.25, 30, ax) is ax
    one, other = ax.get_lines()
    np.testing.assert_array_equal(one.get_xdata(), np.arange(31))
    np.testing.assert_array_equal(one.get_ydata(), schedule(np.arange(31)))
    np.testing.assert_array_equal(other.get_ydata(), np.full(31, 0.25))
    assert one.get_label() == "cosine_decay_schedule(0.5, 20)"
    pyplot.close(ax.figure)
    long = schedules.plot_schedule(schedule, 10**7).get_lines()[0].get_xdata()
    assert len(long) < 20_000
    assert (long[0], long[-1]) == (0, 10**7)
    pyplot.close("all")


def test_importing_them_loads_no_plotting() -> None:
    code = "import sys, gradxform.schedules; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
