"""The seven algorithms written from primitives equal the ready-made ones to the bit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx


class Past(NamedTuple):
    gradients: Any
    updates: Any


def adadelta_by_hand(rho: float, eps: float) -> gx.GradientTransformation:
    """Zeiler's equation as a rule of one's own: its denominator feeds on its own result."""

    def init(param: Any) -> Past:
        return Past(gx.slot_like(param), gx.slot_like(param))

    def update(g: Any, past: Past, w: Any, step: gx.Step) -> Any:
        gradients = gx.ema_of(past.gradients, g * g, step.rho)
        u = gx.safe_divide(gx.safe_sqrt(past.updates + step.eps), gx.safe_sqrt(gradients + step.eps)) * g
        return u, Past(gradients, gx.ema_of(past.updates, u * u, step.rho))

    return gx.lift(gx.Rule("adadelta", update, init, hyperparams={"rho": rho, "eps": eps}))


def down(rate: Any) -> gx.GradientTransformation:
    return gx.scale_by_learning_rate(rate)


def schedule(count: Any) -> Any:
    return 0.1 / (1 + count)


PAIRS = {
    # Whole data set, one example or a batch: one rule.
    "gradient descent": (down(0.1), gx.sgd(0.1)),
    "gradient descent, scaled": (gx.scale(-0.1), gx.sgd(0.1)),
    "heavy ball": (gx.chain(gx.trace(0.9), down(schedule)), gx.sgd(schedule, momentum=0.9)),
    "nesterov": (gx.chain(gx.trace(0.9, nesterov=True), down(0.1)), gx.sgd(0.1, 0.9, nesterov=True)),
    "adagrad": (
        gx.chain(
            gx.ratio(gx.identity(), gx.chain(gx.accumulate_squares(), gx.root(eps_root=1e-7))), down(0.1)
        ),
        gx.adagrad(0.1),
    ),
    "adagrad head start": (
        gx.chain(
            gx.ratio(gx.identity(), gx.chain(gx.accumulate_squares(0.1), gx.root(eps_root=1e-3))), down(0.1)
        ),
        gx.adagrad(0.1, initial_accumulator_value=0.1, eps=1e-3),
    ),
    "rmsprop": (
        gx.chain(
            gx.ratio(gx.identity(), gx.chain(gx.square(), gx.ema(0.9, debias=False), gx.root(eps_root=1e-8))),
            down(0.1),
        ),
        gx.rmsprop(0.1),
    ),
    "rmsprop, eps outside, corrected, momentum": (
        gx.chain(
            gx.ratio(gx.identity(), gx.chain(gx.square(), gx.ema(0.95), gx.root(eps=1e-3))),
            down(0.1),
            gx.trace(0.9),
        ),
        gx.rmsprop(0.1, decay=0.95, eps=1e-3, eps_in_sqrt=False, bias_correction=True, momentum=0.9),
    ),
    "adadelta": (gx.chain(gx.scale_by_adadelta(0.9, 1e-6), down(1.0)), gx.adadelta()),
    "adadelta by hand": (gx.chain(adadelta_by_hand(0.9, 1e-6), down(1.0)), gx.adadelta()),
    "adam": (
        gx.chain(gx.ratio(gx.ema(0.9), gx.chain(gx.square(), gx.ema(0.999), gx.root(1e-8))), down(0.1)),
        gx.adam(0.1),
    ),
    "adam, eps_root, tunable": (
        gx.chain(
            gx.ratio(
                gx.ema(gx.tunable(0.8)), gx.chain(gx.square(), gx.ema(0.99), gx.root(1e-3, eps_root=1e-2))
            ),
            down(schedule),
        ),
        gx.adam(schedule, b1=gx.tunable(0.8), b2=0.99, eps=1e-3, eps_root=1e-2),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_compositions_are_equal_to_the_bit(send: Any, params: Any, grads: Any, name: str) -> None:
    composed, ready = PAIRS[name]
    ours, theirs = send(composed, ready)
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, theirs))
    assert all(np.any(np.asarray(leaf) != 0) for leaf in jax.tree.leaves(ours))

    def eager(tx: Any) -> list[Any]:
        state, updates = tx.init(params), []
        for grad in (jax.tree.map(lambda g, t=t: g[t], grads) for t in range(5)):
            update, state = tx.update(grad, state, params)
            updates.append(update)
        return updates

    assert jax.tree.all(jax.tree.map(np.array_equal, eager(composed), eager(ready)))


def test_square_and_root(send: Any, grads: Any, assert_trees_close: Any) -> None:
    squares, roots = send(gx.square(), gx.chain(gx.square(), gx.root(eps=0.5, eps_root=0.25)))
    assert_trees_close(squares, jax.tree.map(np.square, grads), rtol=0)
    expected = jax.tree.map(lambda g: np.sqrt(g.astype(np.float64) ** 2 + 0.25) + 0.5, grads)
    assert_trees_close(roots, expected, rtol=1e-6)


def test_a_square_is_real_for_complex_gradients() -> None:
    tx = gx.ratio(gx.identity(), gx.chain(gx.square(), gx.root()))
    grad = jnp.asarray([3 + 4j, -2j], jnp.complex64)
    direction, _ = tx.update(grad, tx.init(grad))
    np.testing.assert_allclose(direction, [0.6 + 0.8j, -1j], rtol=1e-6)


def test_nothing_over_nothing_is_nothing() -> None:
    tx = gx.ratio(gx.identity(), gx.chain(gx.accumulate_squares(), gx.root()))
    updates, _ = tx.update(jnp.asarray([0.0, 2.0]), tx.init(jnp.zeros(2)))
    np.testing.assert_array_equal(updates, [0.0, 1.0])


def test_a_ratio_shows_and_sets_the_hyperparameters_of_both_sides() -> None:
    tx = gx.ratio(gx.ema(gx.tunable(0.9)), gx.chain(gx.square(), gx.ema(gx.tunable(0.99)), gx.root()))
    state = tx.init(jnp.zeros(2))
    values = gx.get_hyperparams(state)
    np.testing.assert_allclose(sorted(map(float, values.values())), [0.9, 0.99], rtol=1e-6)
    above = min(values, key=lambda name: float(values[name]))
    after = gx.get_hyperparams(gx.set_hyperparams(state, **{above: 0.5}))
    assert float(after[above]) == 0.5
    assert sum(float(value) for value in after.values()) == pytest.approx(1.49)


def test_a_ratio_may_need_the_parameters_and_may_hold_a_ratio() -> None:
    # g + w over |g + w| is the sign of an L2-penalized gradient.
    penalized = gx.add_decayed_weights(1.0)
    sign = gx.ratio(penalized, gx.chain(penalized, gx.square(), gx.root()))
    w, g = jnp.asarray([1.0, -3.0]), jnp.asarray([0.5, 1.0])
    np.testing.assert_allclose(sign.update(g, sign.init(w), w)[0], [1.0, -1.0], rtol=1e-6)
    nested = gx.ratio(sign, gx.scale(2.0))
    np.testing.assert_allclose(nested.update(g, nested.init(w), w)[0], [1.0, -0.5], rtol=1e-6)
    with pytest.raises(ValueError, match="ratio needs the parameters"):
        sign.update(g, sign.init(w))


def test_what_a_ratio_is_not_made_of() -> None:
    for part, message in [
        (optax.scale(1.0), "ratio: the numerator must be a rule or a chain of rules"),
        (
            gx.clip_by_global_norm(1.0),
            "ratio: clip_by_global_norm in the numerator needs more than one array",
        ),
        (gx.add_noise(1.0, 0.5, key=0), "ratio: add_noise in the numerator needs more than one array"),
        (gx.add_decayed_weights(0.1, mask=True), "ratio: add_decayed_weights in the numerator needs more"),
    ]:
        with pytest.raises(TypeError, match=message):
            gx.ratio(part, gx.square())
    with pytest.raises(ValueError, match=r"root: eps must be at least 0, got -1\.0"):
        gx.root(-1.0)
