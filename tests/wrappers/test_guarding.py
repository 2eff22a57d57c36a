"""Steps that are taken only while a condition holds, against Optax."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import assert_close

import gradxform as gx

PARAMS = {"w": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}


def grads(steps: int, broken: tuple[int, ...] = ()) -> list[Any]:
    rng = np.random.default_rng(0)
    each = [jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), PARAMS) for _ in range(steps)]
    for i in broken:
        each[i]["w"][0, i % 3] = np.nan if i % 2 else np.inf
    return each


def steps(tx: Any, each: list[Any], **extra: Any) -> tuple[list[Any], list[Any]]:
    update = jax.jit(tx.update)
    state, updates, states = tx.init(PARAMS), [], []
    for grad in each:
        new, state = update(grad, state, PARAMS, **extra)
        updates.append(new)
        states.append(state)
    return updates, states


def test_apply_if_finite_as_in_optax() -> None:
    broken = (1, 4, 5, 6, 9)
    each = grads(12, broken)
    ours, our_states = steps(gx.apply_if_finite(gx.adam(0.1), 2), each)
    theirs, their_states = steps(optax.apply_if_finite(optax.adam(0.1), 2), each)
    # The third in a row is let through, and spoils Adam's moments from there on.
    for ours_at, theirs_at in zip(ours, theirs, strict=True):
        assert_close(ours_at, theirs_at)
    for i, (a, b) in enumerate(zip(our_states, their_states, strict=True)):
        assert (a.notfinite_count, a.last_finite, a.total_notfinite) == (
            b.notfinite_count, b.last_finite, b.total_notfinite)  # fmt: skip
        assert a.last_finite == (i not in broken)


def test_a_skipped_step_leaves_no_trace() -> None:
    tx = gx.apply_if_finite(gx.chain(gx.trace(0.9), gx.sgd(lambda count: 0.1 / (count + 1))), 100)
    all_steps, broken = grads(9, (2, 3, 7)), (2, 3, 7)
    updates, states = steps(tx, all_steps)
    kept, kept_states = steps(tx, [grad for i, grad in enumerate(all_steps) if i not in broken])
    assert_close([update for i, update in enumerate(updates) if i not in broken], kept)
    assert_close(states[-1].inner_state, kept_states[-1].inner_state)
    for i in broken:
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(updates[i]))


@pytest.mark.parametrize("name", ["conditionally_transform", "conditionally_mask"])
@pytest.mark.parametrize("forward", [False, True])
def test_conditions_as_in_optax(name: str, forward: bool) -> None:
    if forward:
        condition = lambda step, value, **_: (step % 3 != 1) & (value > 0)  # noqa: E731
    else:
        condition = lambda step: step % 3 != 1  # noqa: E731
    each = grads(10)
    extra = {"value": jnp.asarray(1.0)} if forward else {}
    results = [
        steps(getattr(library, name)(library.adam(0.1), condition, forward), each, **extra)
        for library in (gx, optax)
    ]
    (ours, our_states), (theirs, their_states) = results
    assert_close(ours, theirs)
    assert our_states[-1].step == their_states[-1].step == 10
    moments = our_states[-1].inner_state.slots[0].mu
    assert_close(moments, optax.tree.get(their_states[-1].inner_state, "mu"))


def test_the_decision_to_skip() -> None:
    (fine,), (infinite,) = grads(1), grads(1, (0,))
    for tree in (fine, infinite):
        for ours, theirs in (
            (gx.skip_not_finite, optax.skip_not_finite),
            *(
                (partial(gx.skip_large_updates, max_squared_norm=bound),
                 partial(optax.skip_large_updates, max_squared_norm=bound))
                for bound in (1.0, 1e6)
            ),
        ):  # fmt: skip
            assert_close(jax.jit(ours)(tree, 0, None), theirs(tree, 0, None))


def test_updates_and_state_keep_their_dtypes_around_parts_that_do_not() -> None:
    """A transformation of another library that turns bfloat16 into float32 does not break the loop."""

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        wide = jax.tree.map(lambda g, s: g.astype(jnp.float32) + s, grads, state)
        return wide, wide

    inner = optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    for tx in (
        gx.apply_if_finite(inner, 1),
        gx.conditionally_mask(inner, lambda step: step > 0),
        gx.conditionally_transform(inner, lambda step: step > 0),
        gx.MultiSteps(inner, 2),
    ):
        state = tx.init(params)
        updates, _ = jax.lax.scan(
            lambda state, _, tx=tx: tx.update(params, state, params)[::-1], state, None, length=3
        )[::-1]
        assert updates["w"].dtype == jnp.bfloat16


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match=r"apply_if_finite: max_consecutive_errors must be .* got 1\.0"):
        gx.apply_if_finite(gx.adam(0.1), 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_consecutive_errors must be an integer of at least 0, got -1"):
        gx.apply_if_finite(gx.adam(0.1), -1)


@pytest.mark.parametrize(
    ("who", "make"),
    [
        ("apply_if_finite", lambda inner: gx.apply_if_finite(inner, 1)),
        ("conditionally_transform", lambda inner: gx.conditionally_transform(inner, lambda step: True)),
        ("conditionally_mask", lambda inner: gx.conditionally_mask(inner, lambda step: True)),
    ],
)
def test_trees_that_do_not_fit_are_told_by_the_wrapper(who: str, make: Any) -> None:
    tx = make(gx.sgd(0.1))
    state = tx.init({"w": 1.0})
    with pytest.raises(ValueError, match=rf"{who}: params and grads .*: grads\['w'\] has no counterpart"):
        tx.update({"w": 1.0}, state, {"v": 1.0})
