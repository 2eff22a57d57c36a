"""Gradients added up over several steps, against Optax and against the mean itself."""

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


def grads(steps: int, dtype: Any = np.float32) -> list[Any]:
    rng = np.random.default_rng(0)
    return [
        jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), dtype), PARAMS) for _ in range(steps)
    ]


def steps(tx: Any, each: list[Any], params: Any = PARAMS) -> tuple[list[Any], Any]:
    update, state, updates = jax.jit(tx.update), tx.init(params), []
    for grad in each:
        new, state = update(grad, state, params)
        updates.append(new)
    return updates, state


@pytest.mark.parametrize("use_grad_mean", [True, False])
@pytest.mark.parametrize("every", [1, 3, lambda step: step + 1])
def test_optax_has_the_same(every: Any, use_grad_mean: bool) -> None:
    each = grads(30)
    ours, our_state = steps(gx.MultiSteps(gx.adam(0.1), every, use_grad_mean), each)
    theirs, their_state = steps(optax.MultiSteps(optax.adam(0.1), every, use_grad_mean), each)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-6)  # theirs sums up in another order
    assert our_state.mini_step == their_state.mini_step
    assert our_state.gradient_step == their_state.gradient_step


def test_a_step_is_that_of_the_mean_gradient() -> None:
    each = grads(12)
    tx = gx.MultiSteps(gx.adam(0.1), 4)
    updates, state = steps(tx, each)
    means = [jax.tree.map(lambda *g: np.mean(g, 0), *each[i : i + 4]) for i in range(0, 12, 4)]
    expected, inner = steps(gx.adam(0.1), means)
    assert_close(updates[3::4], expected)
    assert_close(state.inner_opt_state, inner)
    assert all(
        (np.asarray(u) == 0).all() for i in range(12) if i % 4 != 3 for u in jax.tree.leaves(updates[i])
    )
    assert bool(tx.has_updated(state))


def test_one_accumulator() -> None:
    params = {"w": np.ones((64, 64), np.float32)}
    plain = sum(leaf.nbytes for leaf in jax.tree.leaves(gx.adam(0.1).init(params)))
    wrapped = sum(leaf.nbytes for leaf in jax.tree.leaves(gx.MultiSteps(gx.adam(0.1), 4).init(params)))
    assert wrapped == plain + 64 * 64 * 4 + 8
    # The compiled step needs no second one either: what it works in besides its arguments is small.
    tx = gx.MultiSteps(gx.sgd(0.1), 4)
    state = tx.init(params)
    compiled = jax.jit(tx.update, donate_argnums=(0, 1)).lower(params, state, params).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 64 * 4


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (gx.skip_not_finite, optax.skip_not_finite),
        (partial(gx.skip_large_updates, max_squared_norm=9.0),
         partial(optax.skip_large_updates, max_squared_norm=9.0)),
    ],
)  # fmt: skip
def test_skipped_mini_steps_as_in_optax(ours: Any, theirs: Any) -> None:
    each = grads(20)
    each[5]["b"] = each[5]["b"].at[1].set(jnp.nan)
    each[6]["w"] = each[6]["w"] * 100
    if "norm" not in str(ours):
        each[6] = each[7]
    got, state = steps(gx.MultiSteps(gx.adam(0.1), 3, should_skip_update_fn=ours), each)
    expected, their_state = steps(optax.MultiSteps(optax.adam(0.1), 3, should_skip_update_fn=theirs), each)
    assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert state.gradient_step == their_state.gradient_step
    assert_close(state.skip_state, their_state.skip_state, rtol=1e-5)


@pytest.mark.parametrize(
    "inner",
    [
        lambda: gx.adam(0.1),
        lambda: gx.adafactor(0.1, min_dim_size_to_factor=2),
        lambda: gx.schedule_free_sgd(0.1),
        lambda: optax.adafactor(0.1, min_dim_size_to_factor=2),
        lambda: optax.contrib.schedule_free_sgd(0.1),
    ],
)
@pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16])
def test_half_precision_gradients_keep_every_dtype(inner: Any, half: Any) -> None:
    """optax #377, #1038."""
    params = jax.tree.map(lambda p: jnp.asarray(p, half), PARAMS)
    tx = gx.MultiSteps(inner(), 2)
    state = tx.init(params)
    types = jax.tree.map(lambda leaf: leaf.dtype, state)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.acc_grads)} == {jnp.dtype("float32")}

    def step(carry: Any, grad: Any) -> Any:
        params, state = carry
        updates, state = tx.update(grad, state, params)
        return (gx.apply_updates(params, updates), state), updates

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads(4, half))
    (params, state), updates = jax.lax.scan(step, (params, state), stacked)
    assert jax.tree.map(lambda leaf: leaf.dtype, state) == types
    assert {leaf.dtype for leaf in jax.tree.leaves((params, updates))} == {jnp.dtype(half)}


def test_bfloat16_gradients_are_added_up_in_float32() -> None:
    params = {"w": jnp.zeros(1, jnp.bfloat16)}
    tx = gx.MultiSteps(gx.sgd(1.0), 512, use_grad_mean=False)
    one = {"w": jnp.ones(1, jnp.bfloat16)}
    _, updates = jax.lax.scan(
        lambda state, _: tx.update(one, state, params)[::-1], tx.init(params), None, length=512
    )
    assert (updates["w"][:-1] == 0).all()
    assert updates["w"][-1].item() == -512.0  # in bfloat16 the sum stops at 256


def test_missing_gradients_stay_missing() -> None:
    tx = gx.MultiSteps(gx.sgd(1.0), 2)
    state = tx.init(PARAMS)
    for _ in range(2):
        updates, state = tx.update({"w": PARAMS["w"], "b": None}, state, PARAMS)
    assert updates["b"] is None
    np.testing.assert_array_equal(updates["w"], -PARAMS["w"])


def test_in_a_chain_and_by_its_old_name() -> None:
    tx = gx.MultiSteps(gx.sgd(gx.tunable(1.0)), 1)
    assert tx.gradient_transformation() is tx
    assert tx.inner_opt is tx.inner
    both = gx.chain(gx.clip(0.5), tx)
    updates, state = both.update(PARAMS, both.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["w"], -0.5 * PARAMS["w"])
    assert gx.get_hyperparams(state)["learning_rate"] == 1.0
    assert "MultiSteps(1) around" in str(gx.describe(both))


@pytest.mark.parametrize("k", [1, 3])
def test_apply_every_as_in_optax(k: int) -> None:
    each = grads(10)
    ours, _ = steps(gx.chain(gx.adam(0.1), gx.apply_every(k)), each)
    theirs, _ = steps(optax.chain(optax.adam(0.1), optax.apply_every(k)), each)
    assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: gx.MultiSteps(gx.sgd(1.0), 0), ValueError, "every_k_schedule must be an integer of at le"),
        (lambda: gx.MultiSteps(gx.sgd(1.0), "2"), TypeError, "MultiSteps: every_k_schedule .* got '2'"),
        (lambda: gx.MultiSteps(gx.sgd(1.0), True), TypeError, "every_k_schedule must be .* got True"),
        (lambda: gx.apply_every(0), ValueError, "apply_every: k must be an integer of at least 1, got 0"),
        (lambda: gx.apply_every(1.5), TypeError, r"got 1\.5"),
    ],
)
def test_bad_arguments(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_decision_that_is_no_boolean() -> None:
    tx = gx.MultiSteps(gx.sgd(1.0), 2, should_skip_update_fn=lambda *_: (jnp.zeros(2), ()))
    with pytest.raises(TypeError, match=r"boolean scalar first, got float32 of shape \(2,\)"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
