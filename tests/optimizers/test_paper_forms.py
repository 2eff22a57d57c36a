"""Where Optax departs from the paper, the keyword that gives the paper's form: written again in NumPy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import x64
from numpy.testing import assert_allclose

import gradxform as gx

STEPS = range(1, 61)
TARGET = np.asarray([1.0, -2.0, 0.5, 3.0])


def gradient(w: np.ndarray, t: int) -> np.ndarray:
    """Of a quadratic, disturbed."""
    return np.asarray([1.0, 3.0, 0.3, 1.5]) * (w - TARGET) + 0.5 * np.cos(t * np.arange(1, 5))


def rprop(w: Any) -> Any:
    """Igel and Hüsken 2000, without weight back-tracking."""
    size, last = np.full(4, 0.05), np.zeros(4)
    for t in STEPS:
        g = gradient(w, t)
        agree = g * last
        size = np.where(
            agree > 0, np.minimum(size * 1.2, 50), np.where(agree < 0, np.maximum(size * 0.5, 1e-6), size)
        )
        g = np.where(agree < 0, 0, g)
        w, last = w - np.sign(g) * size, g
    return w


def yogi(w: Any) -> Any:
    """Zaheer et al. 2018, algorithm 2."""
    m, v = np.zeros(4), np.full(4, 1e-6)
    for t in STEPS:
        g = gradient(w, t)
        m = 0.9 * m + 0.1 * g
        v = v - 0.001 * np.sign(v - g**2) * g**2
        w = w - 0.05 * m / (np.sqrt(v) + 1e-3)
    return w


def amsgrad(w: Any) -> Any:
    """Reddi, Kale and Kumar 2018, algorithm 2."""
    m, v, most = np.zeros(4), np.zeros(4), np.zeros(4)
    for t in STEPS:
        g = gradient(w, t)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        most = np.maximum(most, v)
        w = w - 0.05 * m / (np.sqrt(most) + 1e-8)
    return w


def adamax(w: Any) -> Any:
    """Kingma and Ba 2015, algorithm 2."""
    m, u = np.zeros(4), np.zeros(4)
    for t in STEPS:
        g = gradient(w, t)
        m, u = 0.9 * m + 0.1 * g, np.maximum(0.999 * u, np.abs(g))
        w = w - 0.05 / (1 - 0.9**t) * m / u
    return w


def radam(w: Any) -> Any:
    """Liu et al. 2020, algorithm 2: rectified where the length is above 4."""
    m, v, most = np.zeros(4), np.zeros(4), 2 / (1 - 0.95) - 1
    for t in STEPS:
        g = gradient(w, t)
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        length = most - 2 * t * 0.95**t / (1 - 0.95**t)
        step = m / (1 - 0.9**t)
        if length > 4:
            step = step * np.sqrt((length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length))
            step = step / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        w = w - 0.05 * step
    return w


@pytest.mark.parametrize(
    ("paper", "tx"),
    [
        (rprop, gx.rprop(0.05, one_step_late=False)),
        (
            yogi,
            gx.chain(gx.scale_by_yogi(initial_first_moment=0.0, bias_correction=False), gx.scale(-0.05)),
        ),
        (amsgrad, gx.amsgrad(0.05, bias_correction_mu=False, bias_correction_nu=False)),
        (adamax, gx.adamax(0.05, eps=0.0)),
        (radam, gx.radam(0.05, b2=0.95, threshold=4.0)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_papers_form(paper: Callable[[Any], Any], tx: Any) -> None:
    with x64():
        w = jnp.zeros(4)
        state, update = tx.init(w), jax.jit(tx.update)
        for t in STEPS:
            updates, state = update(jnp.asarray(gradient(np.asarray(w), t)), state)
            w = w + updates
        assert_allclose(w, paper(np.zeros(4)), rtol=1e-9)


@pytest.mark.parametrize("mode", ["hard", "smooth", "refined"])
def test_the_modes_of_lion_as_optax(mode: Any) -> None:
    with x64():
        both = []
        for library in (gx, optax):
            tx = library.scale_by_lion(0.8, 0.95, mode=mode, smooth_beta=2.0)
            w, state, seen = jnp.zeros(4), tx.init(jnp.zeros(4)), []
            for t in STEPS:
                updates, state = tx.update(jnp.asarray(gradient(np.asarray(w), t)), state)
                w = w - 0.05 * updates
                seen.append(w)
            both.append(np.stack(seen))
        assert_allclose(*both, rtol=1e-12)
    assert (np.abs(updates) < 1).any() == (mode != "hard")
    with pytest.raises(ValueError, match="mode must be one of 'hard', 'smooth', 'refined', got 'soft'"):
        gx.scale_by_lion(mode="soft")  # type: ignore[arg-type]


def test_distance_over_gradients_as_optax() -> None:
    """Array by array; Optax's start is that of each array too."""
    with x64():
        both = []
        for library in (gx, optax):
            tx = library.scale_by_distance_over_gradients(1e-2, param_dtype=jnp.float64, global_scale=0.7)
            params = {"a": jnp.asarray([1.0, -1.0, 2.0, 0.3]), "b": jnp.zeros(4)}
            state = tx.init(params)
            for t in STEPS:
                grads = {name: jnp.asarray(gradient(np.asarray(w), t)) for name, w in params.items()}
                updates, state = tx.update(grads, state, params)
                params = {name: w - updates[name] for name, w in params.items()}
            both.append(np.concatenate([params["a"], params["b"]]))
        assert_allclose(*both, rtol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gx.adamw(0.1, b1=1.0), r"b1 must be in \[0, 1\), got 1.0"),
        (lambda: gx.adopt(0.1, eps=0.0), "eps must be above 0, got 0.0"),
        (lambda: gx.lamb(0.1, weight_decay=-1.0), "weight_decay must be at least 0, got -1.0"),
        (lambda: gx.adafactor(0.1, eps=0.0), "epsilon must be above 0, got 0.0"),
        (lambda: gx.sm3(0.1, momentum=2.0), r"b1 must be in \[0, 1\], got 2.0"),
        (lambda: gx.polyak_sgd(variant="spss"), "variant must be 'sps' or 'sps\\+', got 'spss'"),
        (lambda: gx.dog(init_step=("guess", 1.0)), "init_step must be .* got \\('guess', 1.0\\)"),
        (lambda: gx.prodigy(estim_lr0=0.0), "prodigy: estim_lr0 must be above 0, got 0.0"),
        (lambda: gx.mechanize(gx.sgd(1.0), s_init=0.0), "mechanize: s_init must be above 0, got 0.0"),
        (lambda: gx.mechanize(gx.sgd(1.0), num_betas=0), "num_betas must be an integer of at least 1, got 0"),
        (lambda: gx.schedule_free_sgd(b1=0.0), "schedule_free: b1 must not be 0"),
        (lambda: gx.sophia(0.1, update_interval=0), "update_interval must be at least 1"),
    ],
)
def test_bad_hyperparameters_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_needs_numbers_to_start_from_says_so() -> None:
    with pytest.raises(TypeError, match="init_estim_sq_dist must be given"):
        gx.dowg(eps=gx.tunable(1e-4))
    with pytest.raises(TypeError, match="beta3 must be given"):
        gx.prodigy(betas=(0.9, gx.tunable(0.999)))
    with pytest.raises(TypeError, match="warmup_steps needs a number for the learning rate"):
        gx.schedule_free_adamw(gx.tunable(0.1), warmup_steps=10)
    with pytest.raises(TypeError, match="momo needs value: call update"):
        gx.momo().update([1.0], gx.momo().init([1.0]), [1.0])
    with pytest.raises(TypeError, match=r"update\(grads, state, params, obj_fn=loss\)"):
        gx.sophia(0.1).update([1.0], gx.sophia(0.1).init([1.0]), [1.0])
    with pytest.raises(TypeError, match=r"scale_by_rprop compares numbers.*split_real_and_imaginary"):
        gx.rprop(0.1).init([1.0j])
