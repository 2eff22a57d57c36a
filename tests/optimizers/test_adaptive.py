"""Each adaptive optimizer against its paper's equation, written again in NumPy float64, and against Optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_dtypes import bfloat16
from numpy.testing import assert_allclose

import gradxform as gx

Gradient = Callable[[np.ndarray, int], np.ndarray]
TIMES = range(1, 201)


def adagrad(
    w: Any, gradient: Gradient, a: float, initial_accumulator_value: float = 0.0, eps: float = 1e-7
) -> np.ndarray:
    """Duchi, Hazan and Singer 2011."""
    total = initial_accumulator_value
    for t in TIMES:
        g = gradient(w, t)
        total = total + g**2
        w = w - a * g / np.sqrt(total + eps)
    return w


def rmsprop(
    w: Any,
    gradient: Gradient,
    a: float,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: float | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> np.ndarray:
    """Tieleman and Hinton 2012; centred as in Graves 2013."""
    mean, mean_square, ball = 0.0, initial_scale, 0.0
    for t in TIMES:
        g = gradient(w, t)
        mean = decay * mean + (1 - decay) * g
        mean_square = decay * mean_square + (1 - decay) * g**2
        unbiased = 1 - decay**t if bias_correction else 1.0
        variance = mean_square / unbiased - ((mean / unbiased) ** 2 if centered else 0.0)
        step = a * g / (np.sqrt(variance + eps) if eps_in_sqrt else np.sqrt(variance) + eps)
        if momentum is not None:
            ball = momentum * ball + step
            step = step + momentum * ball if nesterov else ball
        w = w - step
    return w


def adadelta(
    w: Any, gradient: Gradient, a: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0
) -> np.ndarray:
    """Zeiler 2012, algorithm 1."""
    mean_square_gradient = mean_square_update = 0.0
    for t in TIMES:
        g = gradient(w, t) + weight_decay * w
        mean_square_gradient = rho * mean_square_gradient + (1 - rho) * g**2
        update = np.sqrt(mean_square_update + eps) / np.sqrt(mean_square_gradient + eps) * g
        mean_square_update = rho * mean_square_update + (1 - rho) * update**2
        w = w - a * update
    return w


def adam(
    w: Any,
    gradient: Gradient,
    a: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    nesterov: bool = False,
    mu_dtype: Any = np.float64,
) -> np.ndarray:
    """Kingma and Ba 2015, algorithm 1; with Nesterov's look-ahead as in Dozat 2016."""
    kept = v = np.zeros_like(w)
    for t in TIMES:
        g = gradient(w, t)
        m = b1 * kept + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat = m / (1 - b1**t)
        if nesterov:
            m_hat = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        v_hat = v / (1 - b2**t)
        w = w - a * m_hat / (np.sqrt(v_hat + eps_root) + eps)
        kept = m.astype(mu_dtype).astype(np.float64)
    return w


Case = tuple[Any, Any, Any, tuple[float, ...], dict[str, Any]]
RMSPROP = (gx.rmsprop, optax.rmsprop, rmsprop, (0.01,))
ADAM = (gx.adam, optax.adam, adam, (0.02,))
CASES: dict[str, Case] = {
    "adagrad": (gx.adagrad, optax.adagrad, adagrad, (0.2,), {"initial_accumulator_value": 0.0}),
    "adagrad head start": (
        gx.adagrad,
        optax.adagrad,
        adagrad,
        (0.2,),
        {"initial_accumulator_value": 0.5, "eps": 1e-3},
    ),
    "rmsprop": (*RMSPROP, {}),
    "rmsprop eps outside": (*RMSPROP, {"eps_in_sqrt": False, "eps": 1e-2}),
    "rmsprop head start": (*RMSPROP, {"decay": 0.99, "initial_scale": 1.0}),
    "rmsprop centered": (*RMSPROP, {"centered": True, "eps": 1e-4}),
    "rmsprop centered, corrected, eps outside": (
        *RMSPROP,
        # From 0, the corrected variance of the first gradient would be 0: nothing but rounding.
        {"centered": True, "bias_correction": True, "eps_in_sqrt": False, "initial_scale": 1e3},
    ),
    "rmsprop momentum": (*RMSPROP, {"momentum": 0.9}),
    "rmsprop nesterov": (*RMSPROP, {"momentum": 0.9, "nesterov": True}),
    "rmsprop corrected": (*RMSPROP, {"bias_correction": True}),
    "adadelta": (gx.adadelta, optax.adadelta, adadelta, (1.0,), {}),
    "adadelta penalized": (
        gx.adadelta,
        optax.adadelta,
        adadelta,
        (0.5,),
        {"rho": 0.95, "eps": 1e-3, "weight_decay": 0.1},
    ),
    "adam": (*ADAM, {}),
    "adam other decays": (*ADAM, {"b1": 0.7, "b2": 0.95, "eps": 1e-2}),
    "adam eps_root": (*ADAM, {"eps_root": 1e-2}),
    "adam nesterov": (*ADAM, {"nesterov": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_200_steps_float32(problem: Any, case: str) -> None:
    ours, theirs, paper, rate, arguments = CASES[case]
    got, optaxs = problem.descend(ours(*rate, **arguments), theirs(*rate, **arguments))
    assert_allclose(got, paper(problem.start, problem.gradient, *rate, **arguments), rtol=1e-5)
    assert_allclose(got, optaxs, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_200_steps_float64(problem: Any, case: str, x64: None) -> None:
    ours, _, paper, rate, arguments = CASES[case]
    (got,) = problem.descend(ours(*rate, **arguments), dtype=jnp.float64)
    assert got.dtype == np.float64
    assert_allclose(got, paper(problem.start, problem.gradient, *rate, **arguments), rtol=1e-12)


def test_adam_keeps_its_first_moment_in_the_dtype_asked_for() -> None:
    # With b1 = 1/2 and gradients of three bits, m is exact before it is rounded: there is one right answer.
    gradients = np.random.default_rng(0).integers(1, 8, (200, 5)).astype(np.float32)
    arguments = {"b1": 0.5, "b2": 0.75, "mu_dtype": jnp.bfloat16}
    ours, theirs = gx.adam(0.01, **arguments), optax.adam(0.01, **arguments)

    @jax.jit
    def descend(gradients: Any) -> Any:
        def step(carry: Any, gradient: Any) -> Any:
            (w, state), (w_optax, state_optax) = carry
            updates, state = ours.update(gradient, state)
            updates_optax, state_optax = theirs.update(gradient, state_optax)
            return ((w + updates, state), (w_optax + updates_optax, state_optax)), None

        start = jnp.ones(5)
        return jax.lax.scan(step, ((start, ours.init(start)), (start, theirs.init(start))), gradients)[0]

    (w, state), (w_optax, _) = descend(gradients)
    assert state.slots[0].mu.dtype == jnp.bfloat16
    assert state.slots[0].nu.dtype == w.dtype == jnp.float32

    def gradient(w: np.ndarray, t: int) -> np.ndarray:
        return gradients[t - 1].astype(np.float64)

    assert_allclose(w, adam(np.ones(5), gradient, 0.01, b1=0.5, b2=0.75, mu_dtype=bfloat16), rtol=1e-5)
    assert_allclose(w, w_optax, rtol=1e-5)


def test_adadelta_descends_without_a_rate(problem: Any) -> None:
    def loss(end: np.ndarray) -> float:
        return float(problem.loss(jnp.asarray(end, jnp.float32), problem.centres.mean(0)))

    without, with_one = problem.descend(gx.adadelta(), gx.adadelta(1.0))
    assert loss(without) < 0.9 * loss(problem.start)
    assert np.array_equal(without, with_one)


def test_steps_on_a_constant_gradient(updates_on_constant_gradient: Any) -> None:
    t = np.arange(1, 51)
    expected = {
        gx.adagrad(0.1, eps=0.0): 1 / np.sqrt(t),
        gx.rmsprop(0.1, decay=0.9, eps=0.0): 1 / np.sqrt(1 - 0.9**t),
        gx.rmsprop(0.1, eps=0.0, bias_correction=True): np.ones(50),
        gx.adam(0.1, eps=0.0): np.ones(50),
        # m after t steps stands ahead of the gradient, corrected as if of the next step.
        gx.adam(0.1, b1=0.5, eps=0.0, nesterov=True): 0.5 * (1 - 0.5**t) / (1 - 0.5 ** (t + 1))
        + 0.5 / (1 - 0.5**t),
    }
    for tx, steps in expected.items():
        assert_allclose(updates_on_constant_gradient(tx, 50), -0.1 * steps, rtol=1e-5, err_msg=repr(tx))


def test_the_size_of_the_gradient_does_not_matter_without_eps() -> None:
    # A power of two scales exactly, so the steps are equal to the bit.
    gradients = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    txs = [gx.adagrad(0.1, eps=0.0), gx.rmsprop(0.1, eps=0.0), gx.adam(0.1, eps=0.0)]

    @jax.jit
    def walk(gradients: Any) -> Any:
        states = tuple(tx.init(jnp.zeros(6)) for tx in txs)

        def step(states: Any, gradient: Any) -> Any:
            pairs = [tx.update(gradient, state) for tx, state in zip(txs, states, strict=True)]
            return tuple(state for _, state in pairs), [updates for updates, _ in pairs]

        return jax.lax.scan(step, states, gradients)[1]

    for small, large in zip(walk(gradients), walk(gradients * 1024), strict=True):
        assert np.all(np.isfinite(small))
        assert np.array_equal(small, large)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gx.adam(0.1, b1=1.0), r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: gx.adam(0.1, b2=-0.5), r"b2 must be in \[0, 1\), got -0.5"),
        (lambda: gx.adam(0.1, eps_root=-1.0), "eps_root must be at least 0, got -1.0"),
        (lambda: gx.adagrad(0.1, eps=-1e-8), "eps must be at least 0, got -1e-08"),
        (lambda: gx.rmsprop(0.1, decay=1.5), r"decay must be in \[0, 1\], got 1.5"),
        (lambda: gx.rmsprop(0.1, decay=1.0, bias_correction=True), r"decay must be in \[0, 1\), got 1.0"),
        (lambda: gx.adadelta(rho=2.0), r"rho must be in \[0, 1\], got 2.0"),
        (lambda: gx.adadelta(weight_decay=-0.1), "weight_decay must be at least 0, got -0.1"),
    ],
)
def test_hyperparameters_out_of_bounds(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
