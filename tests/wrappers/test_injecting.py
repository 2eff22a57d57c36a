"""Hyperparameters injected into a factory, against Optax."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import assert_close, example_grads, example_params

import gradxform as gx

PARAMS = example_params()
GRADS = example_grads(1)[0]


def halving(count: Any) -> Any:
    return 0.1 / (count + 1.0)


CALLS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": halving, "momentum": 0.9},
    "adam": {"learning_rate": 0.1, "b1": lambda count: 0.5 + 0.01 * count, "eps": 1e-4},
    "rmsprop": {"learning_rate": 0.1, "decay": 0.8, "momentum": 0.5},
    "adagrad": {"learning_rate": halving, "initial_accumulator_value": 0.1},
    "adadelta": {"learning_rate": 1.0, "rho": 0.8},
    "clip_by_global_norm": {"max_norm": 0.5},
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("factory_of", [gx, optax])
def test_optax_has_the_same(name: str, factory_of: Any) -> None:
    """Our wrapper around our factories and around Optax's own."""
    ours = gx.inject_hyperparams(getattr(factory_of, name))(**CALLS[name])
    theirs = optax.inject_hyperparams(getattr(optax, name))(**CALLS[name])
    each = example_grads(20)

    def run(tx: Any) -> Any:
        update, state, updates = jax.jit(tx.update), tx.init(PARAMS), []
        for i, grad in enumerate(each):
            if i == 10:
                number = next(n for n, value in CALLS[name].items() if not callable(value))
                state.hyperparams[number] = state.hyperparams[number] * 0.5
            new, state = update(grad, state, PARAMS)
            updates.append(new)
        return updates, state

    (updates, state), (expected, their_state) = run(ours), run(theirs)
    assert_close(updates, expected, rtol=2e-5, atol=1e-6)
    for number in CALLS[name]:
        np.testing.assert_allclose(state.hyperparams[number], their_state.hyperparams[number], rtol=1e-6)
    assert state.count == 20
    assert isinstance(state, gx.InjectHyperparamsState)


def test_setting_compiles_nothing_again_and_shows_in_get_hyperparams() -> None:
    tx = gx.inject_hyperparams(gx.adam)(learning_rate=0.1)
    step = jax.jit(chex.assert_max_traces(tx.update, n=1))
    state = tx.init(PARAMS)
    for rate in (0.1, 0.2, 0.0):
        state = gx.set_hyperparams(state, learning_rate=rate)
        updates, state = step(GRADS, state, PARAMS)
        assert float(gx.get_hyperparams(state)["learning_rate"]) == np.float32(rate)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(updates))


def test_without_jit_the_factory_is_called_once_a_program() -> None:
    calls = []

    def factory(learning_rate: Any) -> Any:
        calls.append(1)
        return gx.sgd(learning_rate)

    tx = gx.inject_hyperparams(factory)(0.5)
    state = tx.init(PARAMS)
    for _ in range(5):
        _, state = tx.update(GRADS, state, PARAMS)
    assert len(calls) == 2  # one for init, one for update


def test_a_scheduled_value_cannot_be_set() -> None:
    tx = gx.inject_hyperparams(gx.sgd)(halving)
    with pytest.raises(ValueError, match="learning_rate follows a schedule"):
        gx.set_hyperparams(tx.init(PARAMS), learning_rate=0.5)


def test_what_is_no_number_stays_with_the_factory() -> None:
    seen: dict[str, Any] = {}

    def factory(rate: Any, flag: Any, word: Any, nothing: Any, function: Any, tuned: Any) -> Any:
        seen.update(locals())
        return gx.chain(gx.trace(tuned), gx.sgd(rate))

    tuned = gx.tunable(0.5)
    given = {"flag": True, "word": "x", "nothing": None, "function": halving, "tuned": tuned}
    tx = gx.inject_hyperparams(factory, static_args="function")(rate=0.1, **given)
    state = tx.init(PARAMS)
    assert {name: seen[name] for name in given} == given
    assert set(state.hyperparams) == {"rate"}


def test_a_schedule_with_a_state_sees_the_extra_arguments() -> None:
    class Halved:
        """Halved whenever the loss is above 1."""

        def init(self) -> Any:
            return jnp.ones(())

        def update(self, state: Any, **extra: Any) -> Any:
            return jnp.where(extra["value"] > 1, state / 2, state)

        def __call__(self, state: Any, **extra: Any) -> Any:
            return state

    tx = gx.inject_hyperparams(gx.sgd)(Halved())
    state, rates = tx.init(PARAMS), []
    for value in (2.0, 0.5, 3.0, 0.0):
        _, state = tx.update(GRADS, state, PARAMS, value=value)
        rates.append(float(state.hyperparams["learning_rate"]))
    assert rates == [1.0, 0.5, 0.5, 0.25]


def test_numbers_are_at_least_float32() -> None:
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    tx = gx.inject_hyperparams(gx.adam)(0.1, b2=0.999)
    state = tx.init(params)
    assert state.hyperparams["b2"].dtype == jnp.float32  # in bfloat16 it would be 1
    updates, new = tx.update(params, state, params)
    assert updates["w"].dtype == jnp.bfloat16
    chex.assert_trees_all_equal_shapes_and_dtypes(state, new)


def test_the_former_name_warns_and_a_wrong_name_is_told() -> None:
    with pytest.warns(DeprecationWarning, match="inject_hyperparams"):
        gx.inject_stateful_hyperparams(gx.sgd)
    with pytest.raises(
        ValueError, match=r"static_args has rate; the factory's arguments are learning_rate, "
    ):
        gx.inject_hyperparams(gx.sgd, static_args=["rate"])
