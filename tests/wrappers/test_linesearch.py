"""Line searches, against Optax and against the conditions that they search for."""

from collections.abc import Callable
from typing import Any

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import x64

import gradxform as gx
from gradxform.optimizers.quasi_newton import lbfgs
from gradxform.wrappers import linesearch
from gradxform.wrappers.linesearch import (
    scale_by_backtracking_linesearch,
    scale_by_zoom_linesearch,
    value_and_grad_from_state,
)


def valley(x: Any) -> Any:
    return jnp.sum(10 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def descend(tx: Any, steps: int, loss: Any = valley, start: Any = (-1.2, 1.0, 0.5)) -> Any:
    """The points, and the states of the search."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        value, grad = value_and_grad_from_state(loss)(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return (params + updates, state), (params + updates, state[-1])

    start = jnp.asarray(start)
    return jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), None, length=steps)[1])()


CASES: dict[str, Callable[[Any], Any]] = {
    "zoom": lambda made: made.scale_by_zoom_linesearch(20),
    "one": lambda made: made.scale_by_zoom_linesearch(20, initial_guess_strategy="one"),
    "capped": lambda made: made.scale_by_zoom_linesearch(15, max_learning_rate=0.02, curv_rtol=0.1),
    "tolerant": lambda made: made.scale_by_zoom_linesearch(20, tol=0.1, increase_factor=3.0),
    "wolfe": lambda made: made.scale_by_zoom_linesearch(20, curv_rtol=0.2, approx_dec_rtol=None),
    "short_of_steps": lambda made: made.scale_by_zoom_linesearch(3, curv_rtol=0.01),
    "coarse": lambda made: made.scale_by_zoom_linesearch(20, curv_rtol=1e-4, stepsize_precision=0.05),
    "backtracking": lambda made: made.scale_by_backtracking_linesearch(30),
    "stored": lambda made: made.scale_by_backtracking_linesearch(30, 0.1, 0.5, 2.0, 10.0, store_grad=True),
    "from_the_longest": lambda made: made.scale_by_backtracking_linesearch(
        30, increase_factor=float("inf"), atol=1e-3, rtol=1e-3
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_optax_finds_the_same(case: str) -> None:
    with x64():
        points, states = descend(gx.chain(gx.sgd(1.0), CASES[case](linesearch)), 100)
        theirs = optax.chain(optax.sgd(1.0), CASES[case](optax))
        expected, their_states = descend(theirs, 100)
        np.testing.assert_allclose(points, expected, rtol=1e-8)
        # Where a search meets infinite losses alone, Optax keeps a length of 0; of ours the last one stays.
        found = np.asarray(their_states.learning_rate) > 0
        rates = np.asarray(their_states.learning_rate)[np.maximum.accumulate(found * np.arange(100))]
        np.testing.assert_allclose(states.learning_rate, rates, rtol=1e-6)
        assert found.all() or case == "short_of_steps"
        np.testing.assert_allclose(states.value, their_states.value, rtol=1e-8)
        assert states.info._fields == their_states.info._fields
        np.testing.assert_array_equal(
            states.info.num_linesearch_steps, their_states.info.num_linesearch_steps
        )
        assert (states.grad is None) == (their_states.grad is None)


def test_zoom_finds_strong_wolfe_points() -> None:
    c1, c2 = 1e-3, 0.1
    tx = scale_by_zoom_linesearch(30, slope_rtol=c1, curv_rtol=c2, approx_dec_rtol=None)
    rng = np.random.default_rng(0)
    starts = jnp.asarray(rng.normal(size=(20, 3)), jnp.float32)

    def search(w: Any) -> Any:
        value, grad = jax.value_and_grad(valley)(w)
        direction = -grad
        update, state = tx.update(direction, tx.init(w), w, value=value, grad=grad, value_fn=valley)
        after, grad_after = jax.value_and_grad(valley)(w + update)
        slope, slope_after = grad @ direction, grad_after @ direction
        return state, after - value - c1 * state.learning_rate * slope, abs(slope_after / slope), after

    state, rise, ratio, after = jax.jit(jax.vmap(search))(starts)
    assert (rise <= 1e-5).all()
    assert (ratio <= c2 + 1e-4).all()
    np.testing.assert_allclose(state.value, after, rtol=1e-4)
    assert not state.info.decrease_error.any()


def test_backtracking_shortens_until_armijo_holds() -> None:
    """For w² and d = -g from 1, the condition with c = ½ is α ≤ ½."""
    tx = scale_by_backtracking_linesearch(10, slope_rtol=0.5, decrease_factor=0.7, store_grad=True)
    update, state = tx.update(-2.0, tx.init(1.0), 1.0, value=1.0, grad=2.0, value_fn=lambda w: w**2)
    np.testing.assert_allclose(state.learning_rate, 0.7**2, rtol=1e-6)
    np.testing.assert_allclose(update, -2 * 0.7**2, rtol=1e-6)
    np.testing.assert_allclose(state.grad, 2 * (1 - 2 * 0.7**2), rtol=1e-5)
    assert state.info.num_linesearch_steps == 3


@pytest.mark.parametrize("increase_factor", [2.0, float("inf")])
@pytest.mark.parametrize("make", [scale_by_backtracking_linesearch, scale_by_zoom_linesearch])
def test_no_step_where_the_loss_is_no_number(make: Any, increase_factor: float) -> None:
    """And the next search starts as if this one had not been; Optax's start from 0 ever after."""
    tx = make(5, increase_factor=increase_factor, verbose=True)
    bad, good = (lambda w: w * jnp.nan), (lambda w: 2 * w**2)
    update, state = tx.update(-1.0, tx.init(1.0), 1.0, value=1.0, grad=1.0, value_fn=bad)
    assert update == 0
    assert state.learning_rate == 1
    after_none = tx.update(-4.0, state, 1.0, value=2.0, grad=4.0, value_fn=good)
    jax.tree.map(
        np.testing.assert_array_equal,
        after_none,
        tx.update(-4.0, tx.init(1.0), 1.0, value=2.0, grad=4.0, value_fn=good),
    )
    assert -2 < after_none[0] < 0
    update, state = tx.update(-1.0, after_none[1], 1.0, value=1.0, grad=1.0, value_fn=bad)
    assert update == 0
    assert state.learning_rate == after_none[1].learning_rate


@pytest.mark.parametrize("make", [scale_by_backtracking_linesearch, scale_by_zoom_linesearch])
def test_state_keeps_its_types(make: Any) -> None:
    params = {"w": jnp.full(2, 3.0, jnp.bfloat16), "frozen": jnp.ones(3), "none": None}
    arguments = {"store_grad": True} if make is scale_by_backtracking_linesearch else {}
    tx = cloudpickle.loads(cloudpickle.dumps(make(10, **arguments)))

    def loss(params: Any, scale: float) -> Any:
        return scale * jnp.sum(jnp.square(params["w"].astype(jnp.float32)))

    def kinds(state: Any) -> Any:
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), state)

    state = tx.init(jax.eval_shape(lambda: params))
    before = kinds(state)
    value, grad = value_and_grad_from_state(loss)(params, state=state, scale=0.5)
    assert value == 9
    direction = {"w": -grad["w"], "frozen": None, "none": None}
    updates, state = tx.update(direction, state, params, value=value, grad=grad, value_fn=loss, scale=0.5)
    assert kinds(state) == before
    assert updates["w"].dtype == jnp.bfloat16
    assert updates["frozen"] is updates["none"] is None
    params = gx.apply_updates(params, updates)
    stored = value_and_grad_from_state(loss)(params, state=state, scale=0.5)
    again = jax.value_and_grad(loss)(params, scale=0.5)
    jax.tree.map(np.testing.assert_array_equal, stored, again)


def test_value_and_grad_are_found_anywhere() -> None:
    """The function is made to tell: what it computes is not what is stored."""
    told = value_and_grad_from_state(lambda w: 5.0 * w)
    for tx in (
        gx.named_chain(("part", lbfgs())),
        gx.chain(gx.clip(1.0), optax.lbfgs()),
        optax.chain(optax.identity(), optax.lbfgs()),
    ):
        state = tx.init(jnp.ones(()))
        assert [x.item() for x in told(jnp.ones(()), state=state)] == [5, 5]
        _, state = tx.update(
            jnp.asarray(2.0), state, jnp.ones(()), value=1.0, grad=jnp.asarray(2.0), value_fn=lambda w: w**2
        )
        value, grad = told(jnp.ones(()), state=state)
        assert value < 1
        assert abs(grad) < 2
    without = scale_by_backtracking_linesearch(3).init(1.0)
    assert [x.item() for x in told(1.0, state=without)] == [5, 5]
    assert [x.item() for x in told(1.0, state=gx.sgd(0.1).init(1.0))] == [5, 5]
    with pytest.raises(KeyError, match="2 values with a gradient"):
        told(1.0, state=(without, without))


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (scale_by_backtracking_linesearch, {"max_backtracking_steps": -1}, "at least 0, got -1"),
        (scale_by_backtracking_linesearch, {"decrease_factor": 1.0}, r"strictly between 0 and 1, got 1\.0"),
        (scale_by_backtracking_linesearch, {"increase_factor": 0.5}, r"at least 1, got 0\.5"),
        (scale_by_backtracking_linesearch, {"atol": -1.0}, r"atol must be at least 0, got -1\.0"),
        (scale_by_zoom_linesearch, {"max_linesearch_steps": 0}, "at least 1, got 0"),
        (scale_by_zoom_linesearch, {"max_learning_rate": 0.0}, r"above 0, got 0\.0"),
        (scale_by_zoom_linesearch, {"increase_factor": 1.0}, r"above 1, got 1\.0"),
        (scale_by_zoom_linesearch, {"initial_guess_strategy": "two"}, "must be 'one' or 'keep', got 'two'"),
    ],
)
def test_bad_arguments(make: Any, arguments: dict[str, Any], words: str) -> None:
    first = "max_linesearch_steps" if make is scale_by_zoom_linesearch else "max_backtracking_steps"
    with pytest.raises(
        ValueError, match=f"{make.__name__}: {next(iter(arguments))} must be .*{words}|{words}"
    ):
        make(**{first: 5, **arguments})


@pytest.mark.parametrize("make", [scale_by_backtracking_linesearch, scale_by_zoom_linesearch])
def test_steps_that_are_no_integer(make: Any) -> None:
    with pytest.raises(TypeError, match=rf"{make.__name__}: max_.*_steps must be an integer .* got 2\.5"):
        make(2.5)
    jax.eval_shape(lambda steps: make(steps).init(1.0), 3)


@pytest.mark.parametrize("make", [scale_by_backtracking_linesearch, scale_by_zoom_linesearch])
def test_errors_say_how_to_call_update(make: Any) -> None:
    tx = make(5)
    state, given = tx.init(1.0), {"value": 1.0, "grad": 2.0, "value_fn": lambda w: w**2}
    call = r"call update\(grads, state, params, value=\.\.\., grad=\.\.\., value_fn=\.\.\.\)"
    with pytest.raises(ValueError, match=f"{make.__name__} needs the parameters: {call}"):
        tx.update(-2.0, state, **given)
    for name in given:
        with pytest.raises(TypeError, match=f"{make.__name__} needs {name}: {call}"):
            tx.update(-2.0, state, 1.0, **{**given, name: None})
    with pytest.raises(TypeError, match="value_fn takes no argument batch"):
        tx.update(-2.0, state, 1.0, **given, batch=1)
    with pytest.raises(ValueError, match="value must be a scalar"):
        tx.update(-2.0, state, 1.0, **{**given, "value": jnp.ones(2)})
