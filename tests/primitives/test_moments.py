from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import gradxform as gx

Stack = np.ndarray
"""One leaf's gradients, or updates, over all steps."""


def weighted(stack: Stack, decay: float, start: float = 0.0) -> Stack:
    """The moving averages as sums, written out: b^t s + (1 - b) sum_i b^(t - i) x_i."""
    steps = np.arange(1, len(stack) + 1)
    weights = np.tril((1 - decay) * decay ** np.maximum(steps[:, None] - steps, 0))
    powers = (decay**steps).reshape(-1, *[1] * (stack.ndim - 1))
    return np.tensordot(weights, stack, 1) + start * powers


def unbiased(stack: Stack, decay: float) -> Stack:
    steps = np.arange(1, len(stack) + 1).reshape(-1, *[1] * (stack.ndim - 1))
    return stack / (1 - decay**steps)


def rms(
    g: Stack,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
    centered: bool = False,
) -> Stack:
    correct = unbiased if bias_correction else lambda stack, decay: stack
    variance = correct(weighted(g**2, decay, initial_scale), decay)
    if centered:
        variance = np.maximum(variance - correct(weighted(g, decay), decay) ** 2, 0)
    return g / (np.sqrt(variance + eps) if eps_in_sqrt else np.sqrt(variance) + eps)


def stddev(g: Stack, **arguments: Any) -> Stack:
    return rms(g, centered=True, **arguments)


def adam(
    g: Stack,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    nesterov: bool = False,
) -> Stack:
    m_hat = unbiased(weighted(g, b1), b1)
    if nesterov:
        next_step = unbiased(np.concatenate([g[:1], weighted(g, b1)]), b1)[1:]
        m_hat = b1 * next_step + (1 - b1) * unbiased(g, b1)
    return m_hat / (np.sqrt(unbiased(weighted(g**2, b2), b2) + eps_root) + eps)


def adadelta(g: Stack, rho: float = 0.9, eps: float = 1e-6) -> Stack:
    below, past, updates = weighted(g**2, rho), np.zeros(g.shape[1:]), []
    for now, mean_square in zip(g, below, strict=True):
        updates.append(np.sqrt((past + eps) / (mean_square + eps)) * now)
        past = rho * past + (1 - rho) * updates[-1] ** 2
    return np.stack(updates)


OUTSIDE = {"eps_in_sqrt": False, "eps": 0.01}
HEAD_START = {"initial_scale": 0.5, "decay": 0.95}
CORRECTED = {"bias_correction": True}
# From 0, the corrected variance of the first gradient is 0: nothing but rounding.
CORRECTED_CENTERED = {"bias_correction": True, "initial_scale": 1.0}
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], Callable[..., Stack], dict[str, Any]]] = {
    "ema": (gx.ema, optax.ema, lambda g, decay: unbiased(weighted(g, decay), decay), {"decay": 0.8}),
    "ema biased": (
        gx.ema,
        optax.ema,
        lambda g, decay, debias: weighted(g, decay),
        {"decay": 0.8, "debias": False},
    ),
    "rss": (
        gx.scale_by_rss,
        optax.scale_by_rss,
        lambda g, initial_accumulator_value, eps: (
            g / np.sqrt(initial_accumulator_value + np.cumsum(g**2, 0) + eps)
        ),
        {"initial_accumulator_value": 0.1, "eps": 1e-3},
    ),
    "rms": (gx.scale_by_rms, optax.scale_by_rms, rms, {}),
    "rms outside": (gx.scale_by_rms, optax.scale_by_rms, rms, OUTSIDE),
    "rms head start": (gx.scale_by_rms, optax.scale_by_rms, rms, HEAD_START),
    "rms corrected": (gx.scale_by_rms, optax.scale_by_rms, rms, CORRECTED),
    "stddev": (gx.scale_by_stddev, optax.scale_by_stddev, stddev, {}),
    "stddev outside": (gx.scale_by_stddev, optax.scale_by_stddev, stddev, OUTSIDE),
    "stddev head start": (gx.scale_by_stddev, optax.scale_by_stddev, stddev, HEAD_START),
    "stddev corrected": (gx.scale_by_stddev, optax.scale_by_stddev, stddev, CORRECTED_CENTERED),
    "adadelta": (gx.scale_by_adadelta, optax.scale_by_adadelta, adadelta, {}),
    "adadelta other": (gx.scale_by_adadelta, optax.scale_by_adadelta, adadelta, {"rho": 0.5, "eps": 0.01}),
    "adam": (gx.scale_by_adam, optax.scale_by_adam, adam, {"b2": 0.99}),
    "adam eps": (gx.scale_by_adam, optax.scale_by_adam, adam, {"b1": 0.5, "eps": 0.1, "eps_root": 0.1}),
    "adam nesterov": (gx.scale_by_adam, optax.scale_by_adam, adam, {"b2": 0.99, "nesterov": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_against_sums_and_optax(send: Any, grads: Any, assert_trees_close: Any, case: str) -> None:
    ours, theirs, numpys, arguments = CASES[case]
    got, optaxs = send(ours(**arguments), theirs(**arguments))
    expected = jax.tree.map(lambda g: numpys(g.astype(np.float64), **arguments), grads)
    assert_trees_close(got, expected, atol=1e-6)
    assert_trees_close(got, optaxs, atol=1e-6)


def test_accumulate_squares(send: Any, grads: Any, assert_trees_close: Any) -> None:
    from_zero, from_two = send(gx.accumulate_squares(), gx.accumulate_squares(2.0))
    sums = jax.tree.map(lambda g: np.cumsum(g.astype(np.float64) ** 2, 0), grads)
    assert_trees_close(from_zero, sums)
    assert_trees_close(from_two, jax.tree.map(lambda total: total + 2, sums))


def test_memory_starts_where_asked_and_in_the_dtype_asked_for() -> None:
    params = jnp.zeros(3, jnp.bfloat16)
    for tx, names, values in [
        (gx.accumulate_squares(2.0), ["sum_of_squares"], [2]),
        (gx.scale_by_rss(0.5), ["sum_of_squares"], [0.5]),
        (gx.ema(0.9), ["ema"], [0]),
        (gx.scale_by_rms(initial_scale=3.0), ["nu"], [3]),
        (gx.scale_by_stddev(initial_scale=3.0), ["mu", "nu"], [0, 3]),
        (gx.scale_by_adadelta(), ["e_g", "e_x"], [0, 0]),
        (gx.scale_by_adam(), ["mu", "nu"], [0, 0]),
    ]:
        slots = tx.init(params).slots[0]
        assert list(slots._fields) == names
        assert [slot.dtype for slot in slots] == [jnp.float32] * len(names)
        np.testing.assert_array_equal(np.stack(slots)[:, 0], values)
    assert gx.ema(0.9, accumulator_dtype=jnp.bfloat16).init(jnp.zeros(3)).slots[0].ema.dtype == jnp.bfloat16
    assert gx.scale_by_adam(mu_dtype=jnp.bfloat16).init(jnp.zeros(3)).slots[0].mu.dtype == jnp.bfloat16


RULES = [
    gx.scale_by_rss(eps=0.0),
    gx.scale_by_rms(eps=0.0),
    gx.scale_by_stddev(eps=0.0),
    gx.scale_by_adadelta(),
    gx.scale_by_adam(eps=0.0),
]


@jax.jit
def _walk(stack: Any) -> list[Any]:
    def step(states: Any, grad: Any) -> Any:
        pairs = [tx.update(grad, state) for tx, state in zip(RULES, states, strict=True)]
        return [state for _, state in pairs], [updates for updates, _ in pairs]

    return jax.lax.scan(step, [tx.init(stack[0]) for tx in RULES], stack)[1]


# Nothing whose square falls below float32, nor rounds to the same number as its neighbour's.
EXACT = st.integers(-1000, 1000).map(lambda n: n / 64)


@settings(deadline=None, max_examples=100)
@given(arrays(np.float32, (6, 4), elements=EXACT), st.integers(-20, 20))
def test_properties_of_every_adaptive_rule(stack: Stack, exponent: int) -> None:
    updates = _walk(stack)
    rss, rms, stddev, adadelta, adam = map(np.asarray, updates)
    for update in updates:
        assert np.all(np.isfinite(update))
        # A coordinate never touched is never moved.
        assert np.all(np.asarray(update)[np.cumsum(np.abs(stack), 0) == 0] == 0)
    for update in (rss, rms, stddev, adadelta):
        assert np.all(update * stack >= 0)
    assert np.all(np.abs(rss) <= 1 + 1e-6)
    assert np.all(np.abs(rms) <= np.sqrt(10) * (1 + 1e-6))
    # Without eps the size of the gradients cannot matter; a power of two changes no bit.
    scaled = _walk(stack * np.float32(2.0**exponent))
    for before, after in zip([rss, rms, adam], [scaled[0], scaled[1], scaled[4]], strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gx.ema(1.0), r"ema: decay must be in \[0, 1\), got 1.0"),
        (lambda: gx.scale_by_rss(eps=-1.0), "scale_by_rss: eps must be at least 0, got -1.0"),
        (lambda: gx.scale_by_rms(decay=1.5), r"scale_by_rms: decay must be in \[0, 1\], got 1.5"),
        (lambda: gx.scale_by_rms(1.0, bias_correction=True), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: gx.scale_by_stddev(eps=-1.0), "scale_by_stddev: eps must be at least 0, got -1.0"),
        (lambda: gx.scale_by_adadelta(rho=-1.0), r"scale_by_adadelta: rho must be in \[0, 1\], got -1.0"),
        (lambda: gx.scale_by_adam(b2=1.0), r"scale_by_adam: b2 must be in \[0, 1\), got 1.0"),
    ],
)
def test_hyperparameters_out_of_bounds(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
