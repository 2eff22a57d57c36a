"""What can be done to any optimizer: each against its paper in NumPy, or another way to the same."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import CATALOGUE, Entry, assert_close, example_grads, example_params, run

import gradxform as gx
from gradxform.rule import Lift

STEPS = 4


def numbers(seed: int, steps: int = STEPS) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(3, 4)) for _ in range(steps)]


def updates_of(tx: Any, grads: list[np.ndarray], param: np.ndarray | None = None) -> list[np.ndarray]:
    params = {"w": jnp.asarray(np.ones((3, 4)) if param is None else param, jnp.float32)}
    updates, _ = run(tx, params, [{"w": jnp.asarray(grad, jnp.float32)} for grad in grads])
    return [np.asarray(update["w"]) for update in updates]


def adam_directions(grads: list[np.ndarray], b1: float, b2: float) -> list[np.ndarray]:
    m = v = np.zeros_like(grads[0])
    directions = []
    for t, g in enumerate(grads, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        directions.append((m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8))
    return directions


@pytest.mark.parametrize("rescale", [True, False])
def test_cautious_adamw_is_the_papers(rescale: bool) -> None:
    """C-AdamW: the weights decay everywhere, Adam's step is kept where it agrees with the gradient."""
    grads = numbers(0)
    tx = gx.cautious(gx.adamw(0.1, weight_decay=0.01), rescale=rescale)
    for g, u, actual in zip(grads, adam_directions(grads, 0.9, 0.999), updates_of(tx, grads), strict=True):
        agree = (u * g > 0).astype(float)
        assert 0 < agree.mean() <= 1
        step = u * agree / (max(agree.mean(), 1e-3) if rescale else 1)
        np.testing.assert_allclose(actual, -0.1 * (step + 0.01), rtol=2e-5, atol=1e-6)


def test_cautious_compares_with_the_gradient_it_was_given() -> None:
    """Beside other rules, over a total of the whole tree, and around batched matrices."""
    grads = example_grads(STEPS)
    params = example_params()

    def masked_by_hand(inner: Any, before: Any) -> list[Any]:
        directions, _ = run(inner, params, grads)
        entered, _ = run(before, params, grads)

        def mask(u: Any, g: Any) -> Any:
            agree = (np.asarray(u) * np.asarray(g) > 0).astype(np.float32)
            return -0.1 * u * agree / max(agree.mean(), 1e-3)

        return [jax.tree.map(mask, *pair) for pair in zip(directions, entered, strict=True)]

    shift = gx.stateless_with_tree_map(lambda grad, param: grad - 0.5 * param)
    inners = [
        gx.chain(gx.trace(0.9), gx.clip_by_global_norm(0.5)),
        gx.chain(gx.clip_by_global_norm(0.5), gx.trace(0.9)),
        gx.chain(gx.scale_by_adam(), gx.clip_by_global_norm(0.5), gx.trace(0.5)),
    ]
    for inner in inners:
        for before in (gx.centralize(), shift):
            tx = gx.chain(before, gx.cautious(gx.chain(inner, gx.scale(-0.1))))
            expected = masked_by_hand(gx.chain(before, inner), before)
            actual, _ = run(tx, params, grads)
            for pair in zip(actual, expected, strict=True):
                assert_close(*pair, rtol=2e-5)
    tx = gx.masked(
        gx.cautious(gx.chain(gx.scale_by_muon(), gx.scale(-0.1))), {"layers": False, "matrix": True}
    )
    actual, _ = run(tx, params, grads)
    directions, _ = run(gx.masked(gx.scale_by_muon(), {"layers": False, "matrix": True}), params, grads)
    for step, u, g in zip(actual, directions, grads, strict=True):
        agree = (np.asarray(u["matrix"]) * np.asarray(g["matrix"]) > 0).astype(np.float32)
        np.testing.assert_allclose(
            step["matrix"], -0.1 * u["matrix"] * agree / agree.mean(), rtol=2e-5, atol=1e-6
        )


def test_cautious_is_one_walk_and_says_what_it_cannot_wrap() -> None:
    tx = gx.cautious(gx.adamw(0.1))
    assert isinstance(tx.init(example_params()), gx.LiftState)
    assert "cautious(floor=0.001)" in str(gx.describe(tx))
    with pytest.raises(TypeError, match="is not made of rules alone"):
        gx.cautious(gx.apply_if_finite(gx.adam(0.1), 3))
    parts = gx.partition({"a": gx.adam(0.1), "b": gx.sgd(0.1)}, {"layers": "a", "matrix": "b"})
    with pytest.raises(TypeError, match="put cautious around each optimizer"):
        gx.cautious(parts)


@pytest.mark.parametrize(
    "factor",
    [
        gx.scale(gx.tunable(-1.0)),
        gx.scale(jnp.asarray(-1.0)),
        gx.scale_by_schedule(lambda count: -1.0),
        gx.scale_by_learning_rate(lambda count: -1.0, flip_sign=False),
        gx.scale_by_learning_rate(-1.0, flip_sign=False),
    ],
)
def test_cautious_refuses_a_sign_that_it_cannot_see(factor: Any) -> None:
    with pytest.raises(ValueError, match=r"cautious: scale.* stands before trace with .* put it last"):
        gx.cautious(gx.chain(factor, gx.trace(0.9)))
    gx.cautious(gx.chain(gx.trace(0.9), factor))


@pytest.mark.parametrize("factor", [gx.scale(-1.0), gx.scale_by_learning_rate(lambda count: 1.0)])
def test_cautious_sees_the_sign_of_numbers_and_learning_rates(factor: Any) -> None:
    tx = gx.cautious(gx.chain(factor, gx.trace(0.9)))
    assert tx.update([2.0], tx.init([0.0]))[0][0] == -2


ONE_RUN = [
    entry
    for entry in CATALOGUE
    if isinstance(tx := entry.make(), Lift) and all(rule.mask is None for rule in tx.rules)
]


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in ONE_RUN if e.descends])
def test_a_cautious_optimizer_still_goes_downhill(entry: Entry) -> None:
    """Wherever it turns the sign: before its momentum, at its end, or by a rule of its own."""
    params, grads = example_params(), example_grads(2)

    def updates_of(tx: Any) -> list[Any]:
        return run(gx.GradientTransformation(tx.init, partial(tx.update, value=2.0)), params, grads)[0]

    moved = [any(np.any(leaf) for leaf in jax.tree.leaves(update)) for update in updates_of(entry.make())]
    assert any(moved)
    for update, grad, moves in zip(updates_of(gx.cautious(entry.make())), grads, moved, strict=True):
        slope = sum(
            float(jnp.vdot(*pair)) for pair in zip(*map(jax.tree.leaves, (update, grad)), strict=True)
        )
        assert slope < 0 or not moves


def test_mars_adamw_is_the_papers() -> None:
    grads = numbers(1)
    gamma, b1, b2 = 0.025, 0.95, 0.99
    tx = gx.mars(gx.adamw(0.1, b1=b1, b2=b2, weight_decay=0.01), gamma=gamma, b1=b1)
    corrected, last = [], grads[0]
    for g in grads:
        c = g + gamma * b1 / (1 - b1) * (g - last)
        corrected.append(c / max(np.linalg.norm(c), 1))
        last = g
    expected = [-0.1 * (u + 0.01) for u in adam_directions(corrected, b1, b2)]
    for actual, wanted in zip(updates_of(tx, grads), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=2e-5, atol=1e-6)
    foreign = gx.mars(optax.sgd(0.1), gamma=gamma, b1=b1)
    for actual, c in zip(updates_of(foreign, grads), corrected, strict=True):
        np.testing.assert_allclose(actual, -0.1 * c, rtol=2e-5, atol=1e-6)


def test_nesterov_around_the_heavy_ball_is_nesterovs_method() -> None:
    """Against Optax's momentum with its look-ahead: the same series, written with the gradient's change."""
    grads = numbers(2, 8)
    actual = updates_of(gx.nesterov(gx.sgd(0.1, momentum=0.9), 0.9), grads)
    expected = updates_of(optax.sgd(0.1, momentum=0.9, nesterov=True), grads)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def palm(count: Any) -> Any:
    return 1 - (count + 1.0) ** -0.8


def test_palms_second_moment_is_corrected_exactly() -> None:
    """The weights of the past squares sum to 1 at every step, and no further correction is due."""
    grads = numbers(3, 6)
    tx = gx.decay_schedule(gx.adam(0.1, b1=0.9, eps=0.0), b2=palm)
    m = v = np.zeros_like(grads[0])
    for t, (g, actual) in enumerate(zip(grads, updates_of(tx, grads), strict=True), 1):
        b2 = 1 - t**-0.8
        m, v = 0.9 * m + 0.1 * g, b2 * v + (1 - b2) * g * g
        np.testing.assert_allclose(actual, -0.1 * (m / (1 - 0.9**t)) / np.sqrt(v), rtol=2e-5, atol=1e-6)


def test_a_scheduled_decay_is_debiased_by_the_product() -> None:
    grads = numbers(4, 5)
    decays = [0.5, 0.9, 0.2, 0.7, 0.99]
    tx = gx.decay_schedule(gx.ema(0.9), decay=lambda count: jnp.asarray(decays)[count])
    m, product = np.zeros_like(grads[0]), 1.0
    for g, decay, actual in zip(grads, decays, updates_of(tx, grads), strict=True):
        m, product = decay * m + (1 - decay) * g, product * decay
        np.testing.assert_allclose(actual, m / (1 - product), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda b1: gx.adam(0.1, b1=b1, nesterov=True),
        lambda b1: gx.chain(gx.clip_by_global_norm(1.0), gx.adamax(0.1, b1=b1)),
        lambda b1: gx.chain(optax.scale(1.0), gx.radam(0.1, b1=b1)),
        lambda b1: gx.named_chain(("adan", gx.adabelief(0.1, b1=b1))),
        lambda b1: gx.lamb(0.1, b1=b1),
    ],
)
def test_a_constant_schedule_changes_nothing(make: Any) -> None:
    grads = numbers(5)
    tx = gx.decay_schedule(make(0.5), b1=lambda count: 0.8)
    np.testing.assert_allclose(updates_of(tx, grads), updates_of(make(0.8), grads), rtol=1e-4, atol=1e-6)


def decays_of(tx: Any) -> dict[str, float]:
    """The decays that are numbers, by name."""
    found: dict[str, set[Any]] = {}
    for rule in tx.rules:
        for name in {"b1", "b2", "b3", "decay", "rho", "beta3"} & rule.hyperparams.keys():
            found.setdefault(name, set()).add(rule.hyperparams[name])
    # Where two rules differ under one name, one schedule cannot be both; 1 is a sum, and no average.
    single = {name: next(iter(values)) for name, values in found.items() if len(values) == 1}
    return {name: value for name, value in single.items() if isinstance(value, float) and value < 1}


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in ONE_RUN if decays_of(e.make())])
def test_the_decay_it_has_as_a_schedule_changes_nothing(entry: Entry) -> None:
    """Whatever a rule does with its decays, a schedule that stays is the number itself."""
    tx, params, grads = entry.make(), example_params(), example_grads(3)
    decays = decays_of(tx)
    scheduled = gx.decay_schedule(tx, **{name: lambda count, v=value: v for name, value in decays.items()})
    told = [gx.GradientTransformation(t.init, partial(t.update, value=2.0)) for t in (scheduled, tx)]
    for pair in zip(*(run(each, params, grads)[0] for each in told), strict=True):
        assert_close(*pair, rtol=2e-3, atol=1e-5)  # the number's own correction has more digits


def test_a_tunable_decay_is_set_and_a_wrong_name_is_told() -> None:
    tx = gx.decay_schedule(gx.adam(0.1), b2=gx.tunable(0.99))
    params = example_params()
    state = gx.set_hyperparams(tx.init(params), b2=0.5)
    assert gx.get_hyperparams(state)["b2"] == 0.5
    with pytest.raises(ValueError, match="no rule has a hyperparameter 'b3'"):
        gx.decay_schedule(gx.adam(0.1), b3=palm)
    with pytest.raises(TypeError, match=r"b2 must be a schedule \(count -> value\) or tunable"):
        gx.decay_schedule(gx.adam(0.1), b2=0.9)


def test_what_a_rule_keeps_of_the_whole_tree_is_debiased_by_the_product_too() -> None:
    """Of a rule that corrects the bias in all its three places."""

    def bias(step: Any) -> Any:
        return gx.debias(jnp.ones_like(step.t), step.b1, step.t)

    rule = gx.Rule(
        "three",
        lambda grad, slots, param, step: (step.shared * grad + bias(step) + step.total, slots),
        hyperparams={"b1": gx.fraction(0.9)},
        total=lambda grad, slots, param, step: bias(step),
        shared=0.0,
        advance=lambda total, step: step.last + bias(step),
        counts=True,
    )
    decays = [0.5, 0.9, 0.2]
    grads = numbers(6, 3)
    tx = gx.decay_schedule(gx.lift(rule), b1=lambda count: jnp.asarray(decays)[count])
    kept = 0.0
    for g, product, actual in zip(grads, np.cumprod(decays), updates_of(tx, grads), strict=True):
        kept += 1 / (1 - product)
        np.testing.assert_allclose(actual, kept * g + 2 / (1 - product), rtol=2e-5)


def test_a_replaced_decay_keeps_its_bounds() -> None:
    for tx in (gx.adam(0.1), gx.masked(gx.adam(0.1), True), gx.decay_schedule(gx.adam(0.1), b2=palm)):
        with pytest.raises(ValueError, match=r"scale_by_adam: b2 must be in \[0, 1\), got 1\.5"):
            gx.decay_schedule(tx, b2=gx.tunable(1.5))
    with pytest.raises(ValueError, match=r"prodigy: b2 must be in \[0, 1\), got -0\.5"):
        gx.decay_schedule(gx.prodigy(), b2=gx.tunable(-0.5))


def test_decoupled_weight_decay_around_adam_is_adamw() -> None:
    grads, params = example_grads(STEPS), example_params()
    mask = gx.leaves_of_rank(2)
    ours, _ = run(gx.decoupled_weight_decay(gx.adam(0.1), 0.05, mask), params, grads)
    theirs, _ = run(
        optax.adamw(0.1, weight_decay=0.05, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)),
        params,
        grads,
    )
    for pair in zip(ours, theirs, strict=True):
        assert_close(*pair)
    with pytest.raises(TypeError, match="has no learning rate to decay the weights at"):
        gx.decoupled_weight_decay(gx.scale_by_adam(), 0.1)
    with pytest.raises(TypeError, match="has its learning rate before trace, and none at its end to decay"):
        gx.decoupled_weight_decay(gx.rmsprop(0.1, momentum=0.9), 0.1)


def test_masks_by_name_and_rank() -> None:
    params = {
        "dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "norm": {"scale": jnp.ones(3)},
        "x": None,
    }
    assert gx.leaves_named("['dense']*", "*scale*")(params) == {
        "dense": {"kernel": True, "bias": True}, "norm": {"scale": True}, "x": False,
    }  # fmt: skip
    assert gx.leaves_of_rank(2)(params) == {
        "dense": {"kernel": True, "bias": False}, "norm": {"scale": False}, "x": False,
    }  # fmt: skip
