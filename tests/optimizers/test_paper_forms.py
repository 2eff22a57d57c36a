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
        (lambda: gx.radam(0.1, threshold=3.0), "scale_by_radam: threshold must be at least 4, got 3.0"),
        (lambda: gx.lamb(0.1, weight_decay=-1.0), "weight_decay must be at least 0, got -1.0"),
        (lambda: gx.adafactor(0.1, eps=0.0), "epsilon must be above 0, got 0.0"),
        (lambda: gx.sm3(0.1, momentum=2.0), r"b1 must be in \[0, 1\], got 2.0"),
        (lambda: gx.polyak_sgd(variant="spss"), "variant must be 'sps' or 'sps\\+', got 'spss'"),
        (lambda: gx.dog(init_step=("guess", 1.0)), "init_step must be .* got \\('guess', 1.0\\)"),
        (lambda: gx.dog(init_step=("distance", -1.0)), "scale_by_dog: init_step must be at least 0"),
        (lambda: gx.dowg(init_estim_sq_dist=-1.0), "init_estim_sq_dist must be above 0, got -1.0"),
        (lambda: gx.cocob(eps=-1.0), "scale_by_cocob: eps must be at least 0, got -1.0"),
        (lambda: gx.rprop(-0.1), "scale_by_rprop: learning_rate must be above 0, got -0.1"),
        (lambda: gx.accumulate_squares(-0.1), "squares: initial_accumulator_value must be at least 0"),
        (lambda: gx.adagrad(0.1, -0.1), "scale_by_rss: initial_accumulator_value must be at least 0"),
        (lambda: gx.rmsprop(0.1, initial_scale=-0.1), "scale_by_rms: initial_scale must be at least 0"),
        (lambda: gx.scale_by_stddev(initial_scale=-0.1), "scale_by_stddev: initial_scale must be at least 0"),
        (lambda: gx.scale_by_yogi(initial_accumulator_value=-1.0), "initial_accumulator_value must be at"),
        (lambda: gx.prodigy(estim_lr0=np.float32(-1.0)), "prodigy: estim_lr0 must be above 0, got -1.0"),
        (lambda: gx.prodigy(estim_lr0=0.0), "prodigy: estim_lr0 must be above 0, got 0.0"),
        (lambda: gx.mechanize(gx.sgd(1.0), s_init=0.0), "mechanize: s_init must be above 0, got 0.0"),
        (lambda: gx.mechanize(gx.sgd(1.0), num_betas=0), "num_betas must be an integer of at least 1, got 0"),
        (lambda: gx.schedule_free_sgd(b1=0.0), "schedule_free: b1 must be above 0 and at most 1, got 0.0"),
        (lambda: gx.schedule_free_sgd(b1=gx.tunable(0.0)), "schedule_free: b1 must be above 0"),
        (
            lambda: gx.sophia(0.1, update_interval=0),
            "update_interval must be an integer of at least 1, got 0",
        ),
        (lambda: gx.sophia(0.1, b2=1.5), r"scale_by_sophia: b2 must be in \[0, 1\], got 1.5"),
        (
            lambda: gx.sophia(0.1, verbose=True),
            "print_win_rate_every_n_steps must be an integer of at least 1",
        ),
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
    with pytest.raises(
        TypeError, match="schedule_free_adamw: warmup_steps needs a number for the learning rate"
    ):
        gx.schedule_free_adamw(gx.tunable(0.1), warmup_steps=10)
    with pytest.raises(TypeError, match="momo needs value: call update"):
        gx.momo().update([1.0], gx.momo().init([1.0]), [1.0])
    with pytest.raises(TypeError, match=r"update\(grads, state, params, obj_fn=loss\)"):
        gx.sophia(0.1).update([1.0], gx.sophia(0.1).init([1.0]), [1.0])
    with pytest.raises(TypeError, match=r"scale_by_rprop compares numbers.*split_real_and_imaginary"):
        gx.rprop(0.1).init([1.0j])


@pytest.mark.parametrize("one", [gx.tunable(1.0), np.float32(1.0), jnp.asarray(1.0), lambda count: 1.0])
def test_a_decay_of_one_is_a_sum_however_it_is_given(one: Any) -> None:
    grads = np.asarray([[2.0, -1.0], [0.5, 3.0]], np.float32)
    both = []
    for b2 in (1.0, one):
        tx = gx.scale_by_sm3(b2=b2)
        _, state = tx.update(grads, tx.init(grads))
        both.append(tx.update(-grads, state)[0])
    assert np.abs(both[0]).min() > 1e-3
    assert_allclose(both[1], both[0], rtol=1e-6)


def test_numpy_scalars_are_numbers_to_start_from() -> None:
    grads, params = [np.float32(2.0)], [np.float32(1.0)]
    for make in (
        lambda number: gx.scale_by_dowg(number(0.25)),
        lambda number: gx.scale_by_dowg(eps=number(0.25)),
        lambda number: gx.prodigy(betas=(0.9, number(0.75)), estim_lr0=number(0.5)),
    ):
        ours, theirs = (
            tx.update(grads, tx.init(params), params)[0] for tx in (make(np.float32), make(float))
        )
        assert_allclose(ours, theirs, rtol=1e-6)


def test_cocob_without_eps_leaves_an_untouched_coordinate() -> None:
    tx, params = gx.cocob(alpha=2.0, eps=0.0), jnp.asarray([1.0, 1.0])
    updates, state = tx.update(jnp.asarray([0.0, 4.0]), tx.init(params), params)
    assert_allclose(updates, [0.0, -0.5])
    assert jnp.isfinite(jax.jacobian(lambda g: tx.update(g, tx.init(params), params)[0])(jnp.zeros(2))).all()
    updates, _ = tx.update(jnp.asarray([4.0, 0.0]), state, params + updates)
    assert_allclose(updates[0], -0.5)


def test_adafactor_counts_no_step_below_its_offset() -> None:
    """Up to there it remembers nothing; then it is a run that starts there."""
    grads = [jnp.asarray([2.0, -1.0]) * scale for scale in (3.0, 1.0, 0.5, 2.0)]
    late, fresh = gx.scale_by_factored_rms(step_offset=2), gx.scale_by_factored_rms()
    state, own = late.init(grads[0]), fresh.init(grads[0])
    for t, grad in enumerate(grads):
        update, state = late.update(grad, state)
        if t < 2:
            assert_allclose(update, [1.0, -1.0], rtol=1e-6)
        else:
            expected, own = fresh.update(grad, own)
            assert_allclose(update, expected, rtol=1e-6)


@pytest.mark.parametrize("interval", [True, 2.5])
def test_sophia_takes_whole_intervals_only(interval: Any) -> None:
    with pytest.raises(TypeError, match=f"update_interval must be an integer of at least 1, got {interval}"):
        gx.sophia(0.1, update_interval=interval)


def test_sophia_prints_with_the_threshold_in_force(capfd: Any) -> None:
    tx = gx.scale_by_sophia(
        eps=1.0, clip_threshold=gx.tunable(1.0), verbose=True, print_win_rate_every_n_steps=1
    )
    params = jnp.asarray([1.0, 1.0])
    for threshold, free in ((1.0, 0.5), (1e-4, 0.0)):
        state = gx.set_hyperparams(tx.init(params), clip_threshold=threshold)
        tx.update(jnp.asarray([3.0, 1e-3]), state, params, obj_fn=lambda w: jnp.sum(w**2))
        jax.effects_barrier()
        assert f"Sophia: {free} of the numbers are not clipped" in capfd.readouterr().out


@pytest.mark.parametrize("b1", [gx.tunable(0.9), np.float32(0.9), jnp.asarray(0.9), lambda count: 0.9])
def test_schedule_free_starts_at_the_parameters(b1: Any) -> None:
    tx, params = gx.schedule_free_sgd(0.5, b1=b1), [jnp.asarray([4.0, -2.0])]
    assert_allclose(gx.schedule_free_eval_params(tx.init(params), params)[0], params[0])
    updates, state = tx.update([jnp.ones(2)], tx.init(params), params)
    moved = gx.apply_updates(params, updates)
    assert_allclose(gx.schedule_free_eval_params(state, moved)[0], [3.5, -2.5], rtol=1e-6)


def test_averages_are_found_in_a_stored_state() -> None:
    params = [jnp.linspace(-1.0, 1.0, 64)]
    for tx, slot, read in (
        (gx.schedule_free_sgd(0.5), "z", gx.schedule_free_eval_params),
        (gx.chain(gx.sgd(0.5), gx.average_params()), "average", gx.evaluation_params),
    ):
        stored = gx.store(tx, "bfloat16", slots=slot, min_size=1)
        (plain, own), (few, ours) = (
            each.update([jnp.ones(64)], each.init(params), params) for each in (tx, stored)
        )
        expected = read(own, gx.apply_updates(params, plain))
        assert_allclose(read(ours, gx.apply_updates(params, few))[0], expected[0], atol=0.02)
        assert not np.array_equal(read(ours, gx.apply_updates(params, few))[0], expected[0])


def test_one_tunable_of_soap_is_one() -> None:
    """Left out, the matrices' decay is the other one, also when that is set."""
    grads = [jnp.asarray([[1.0, 2.0], [3.0, -1.0]]), jnp.asarray([[0.0, 1.0], [-2.0, 1.0]])]
    tunable, constant = gx.scale_by_soap(b2=gx.tunable(0.5)), gx.scale_by_soap(b2=0.75)
    ours, theirs = tunable.init(grads[0]), constant.init(grads[0])
    assert set(gx.get_hyperparams(ours)) == {"b2"}
    ours = gx.set_hyperparams(ours, b2=0.75)
    for grad in grads:
        _, ours = tunable.update(grad, ours)
        _, theirs = constant.update(grad, theirs)
    for left, right in zip(ours.slots[0].moments, theirs.slots[0].moments, strict=True):
        assert_allclose(left, right, rtol=1e-6)
