"""Hyperparameters: constants, schedules and tunables; how they are read, set and refused."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import run

import gradxform as gx


def test_a_tunable_is_read_and_set_without_compiling_again() -> None:
    @chex.assert_max_traces(n=1)
    def update(grad: Any, slots: Any, param: Any, step: Any) -> Any:
        return -step.rate * grad, slots

    tx = gx.lift(gx.Rule("descend", update, hyperparams={"rate": gx.tunable(0.5)}, counts=True))
    step = jax.jit(chex.assert_max_traces(tx.update, n=1))
    params = {"w": jnp.asarray([1.0, 2.0])}
    state = tx.init(params)
    assert gx.get_hyperparams(state) == {"rate": 0.5}
    for rate in (0.5, 0.25, 2, np.float64(0.125), jnp.asarray(3.0)):
        state = gx.set_hyperparams(state, rate=rate)
        assert gx.get_hyperparams(state)["rate"] == float(rate)
        updates, state = step(params, state)
        np.testing.assert_array_equal(updates["w"], [-float(rate), -2 * float(rate)])
        eager, _ = tx.update(params, state)
        np.testing.assert_array_equal(eager["w"], updates["w"])
    assert state.count == 5


def test_setting_leaves_the_old_state_alone_and_keeps_the_dtype() -> None:
    state = gx.sgd(gx.tunable(0.5)).init([1.0])
    new = gx.set_hyperparams(state, learning_rate=np.float64(0.25))
    assert gx.get_hyperparams(state) == {"learning_rate": 0.5}
    assert new.tunables["learning_rate"].dtype == jnp.float32
    assert not new.tunables["learning_rate"].weak_type
    whole = gx.sgd(gx.tunable(1)).init([1.0])
    assert gx.get_hyperparams(gx.set_hyperparams(whole, learning_rate=0.5)) == {"learning_rate": 0.5}


def test_setting_inside_a_program() -> None:
    tx = gx.sgd(gx.tunable(0.5))

    @jax.jit
    def step(rate: Any, state: Any) -> Any:
        return tx.update([jnp.asarray(2.0)], gx.set_hyperparams(state, learning_rate=rate))[0][0]

    assert step(0.25, tx.init([1.0])) == -0.5


def test_what_cannot_be_set() -> None:
    tx = gx.chain(gx.trace(gx.tunable(0.9)), gx.scale_by_learning_rate(lambda count: 0.1))
    state = tx.init([1.0])
    with pytest.raises(KeyError, match=r"no hyperparameter 'momentum'.*it has decay, learning_rate.*tunable"):
        gx.set_hyperparams(state, momentum=0.5)
    with pytest.raises(KeyError, match=r"no hyperparameter 'b1'.*it has none"):
        gx.set_hyperparams(gx.adam(0.1).init([1.0]), b1=0.5)
    with pytest.raises(ValueError, match=r"learning_rate follows a schedule.*tunable"):
        gx.set_hyperparams(state, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"decay has shape \(\), got \(2,\)"):
        gx.set_hyperparams(state, decay=jnp.ones(2))


def test_names_that_two_rules_share() -> None:
    tx = gx.chain(gx.scale(gx.tunable(2.0)), gx.trace(gx.tunable(0.0)), gx.scale(gx.tunable(3.0)))
    assert gx.get_hyperparams(tx.init([1.0])) == {
        "scale_0.step_size": 2.0,
        "decay": 0.0,
        "scale_2.step_size": 3.0,
    }
    tx = gx.chain(gx.ema(gx.tunable(0.0)), gx.trace(gx.tunable(0.5)), gx.scale_by_rms(eps=gx.tunable(1.0)))
    state = tx.init([1.0])
    # Of the three that have a decay, the third's is a constant.
    assert gx.get_hyperparams(state) == {"ema.decay": 0.0, "trace.decay": 0.5, "eps": 1.0}
    assert gx.get_hyperparams(state, tx)["scale_by_rms.decay"] == 0.9
    state = gx.set_hyperparams(state, **{"trace.decay": 0.25, "eps": 0.0})
    assert gx.get_hyperparams(state) == {"ema.decay": 0.0, "trace.decay": 0.25, "eps": 0.0}


def test_names_that_two_parts_of_a_chain_share() -> None:
    foreign = optax.scale(1.0)
    tx = gx.chain(
        gx.scale(gx.tunable(2.0)), foreign, gx.scale(gx.tunable(3.0)), foreign, gx.clip(gx.tunable(9.0))
    )
    state = tx.init([1.0])
    assert gx.get_hyperparams(state) == {"[0].step_size": 2.0, "[2].step_size": 3.0, "max_delta": 9.0}
    state = gx.set_hyperparams(state, **{"[2].step_size": 5.0, "max_delta": 100.0})
    assert tx.update([1.0], state)[0][0] == 10.0

    tx = gx.named_chain(("first", gx.scale(gx.tunable(2.0))), ("second", gx.scale(gx.tunable(3.0))))
    names = gx.get_hyperparams(tx.init([1.0]))
    assert names == {"['first'].step_size": 2.0, "['second'].step_size": 3.0}


def test_constants_are_read_from_the_transformation() -> None:
    tx = gx.adam(gx.tunable(0.1), eps=jnp.asarray(1e-3))
    found = gx.get_hyperparams(tx.init([1.0]), tx)
    assert {name: round(float(value), 6) for name, value in found.items()} == {
        "learning_rate": 0.1, "b1": 0.9, "b2": 0.999, "eps": 0.001, "eps_root": 0.0,
    }  # fmt: skip
    # No constant hides another, nor a tunable.
    tx = gx.chain(gx.scale(2.0), optax.scale(1.0), gx.scale(3.0))
    assert gx.get_hyperparams(tx.init([1.0]), tx) == {"[0].step_size": 2.0, "[2].step_size": 3.0}
    tx = gx.chain(gx.scale(2.0), optax.scale(1.0), gx.scale(gx.tunable(3.0)))
    assert gx.get_hyperparams(tx.init([1.0]), tx) == {"step_size": 3.0, "[0].step_size": 2.0}
    named = gx.named_chain(("a", gx.scale(2.0)), ("b", gx.scale(3.0)))
    assert gx.get_hyperparams(named.init([1.0]), named) == {"['a'].step_size": 2.0, "['b'].step_size": 3.0}


def test_scheduled_values_are_those_of_the_last_update() -> None:
    tx = gx.chain(optax.scale(1.0), gx.sgd(lambda count: 2.0 ** -(count + 1)))
    state = tx.init([1.0])
    shown, used = [float(gx.get_hyperparams(state)["learning_rate"])], []
    for _ in range(3):
        updates, state = tx.update([1.0], state)
        used.append(-float(updates[0]))
        shown.append(float(gx.get_hyperparams(state)["learning_rate"]))
    assert used == [0.5, 0.25, 0.125]
    assert shown == [0.5, *used]


def test_schedules_of_every_kind_of_result() -> None:
    for schedule in (
        lambda count: 2,
        lambda count: 2.0,
        lambda count: np.float64(2.0),
        lambda count: jnp.asarray(2, jnp.int32),
        lambda count: jnp.asarray(2, jnp.bfloat16),
        optax.constant_schedule(2.0),
    ):
        tx = gx.sgd(schedule)
        updates, state = run(tx, [jnp.ones(2)], [[jnp.ones(2)]] * 2)
        np.testing.assert_array_equal(updates[1][0], [-2.0, -2.0])
        assert updates[1][0].dtype == jnp.float32
        before = tx.init([jnp.ones(2)])
        assert before.scheduled["learning_rate"].dtype == state.scheduled["learning_rate"].dtype


def test_a_hyperparameter_may_be_an_array() -> None:
    params = {"w": jnp.ones((2, 3))}
    rates = jnp.asarray([1.0, 2.0, 3.0])
    for rate in (rates, np.asarray(rates), gx.tunable(rates), lambda count: rates):
        tx = gx.sgd(rate)
        updates, _ = tx.update(params, tx.init(params))
        np.testing.assert_array_equal(updates["w"], np.tile([-1.0, -2.0, -3.0], (2, 1)))
    tx = gx.sgd(jnp.ones((4, 2, 3)))
    with pytest.raises(ValueError, match=r"scale_by_learning_rate turned .* does a hyperparameter not fit"):
        tx.update(params, tx.init(params))


def test_tracers_are_hyperparameters_too() -> None:
    def final(rate: Any) -> Any:
        tx = gx.sgd(rate)
        return tx.update([jnp.asarray(3.0)], tx.init([1.0]))[0][0]

    assert jax.grad(final)(0.5) == -3.0
    np.testing.assert_array_equal(jax.jit(jax.vmap(final))(jnp.asarray([1.0, 2.0])), [-3.0, -6.0])


def test_a_population_under_vmap_equals_separate_runs() -> None:
    tx = gx.adam(gx.tunable(0.1), b1=gx.tunable(0.9))
    start = {"w": jnp.asarray([1.0, -2.0, 3.0])}
    rates, decays = jnp.asarray([0.1, 0.01, 1.0]), jnp.asarray([0.9, 0.5, 0.0])

    def train(state: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            updates, state = tx.update(jax.grad(lambda p: jnp.sum(p["w"] ** 4))(params), state, params)
            return (gx.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (start, state), length=10)[0][0]

    def set_both(rate: Any, decay: Any) -> Any:
        return gx.set_hyperparams(tx.init(start), learning_rate=rate, b1=decay)

    population = jax.jit(jax.vmap(train))(jax.vmap(set_both)(rates, decays))
    for i in range(3):
        alone = gx.adam(float(rates[i]), b1=float(decays[i]))
        params, state = start, alone.init(start)
        for _ in range(10):
            updates, state = alone.update(jax.tree.map(lambda w: 4 * w**3, params), state, params)
            params = gx.apply_updates(params, updates)
        np.testing.assert_allclose(population["w"][i], params["w"], rtol=2e-5)


def test_optax_injected_hyperparameters() -> None:
    injected = optax.inject_hyperparams(optax.adam)(learning_rate=0.1, b1=optax.linear_schedule(0.9, 0.0, 10))
    tx = gx.chain(gx.clip(gx.tunable(1.0)), injected)
    params = [jnp.asarray(5.0)]
    state = tx.init(params)
    found = gx.get_hyperparams(state)
    assert {"max_delta", "learning_rate", "b1"} <= found.keys()
    np.testing.assert_allclose(found["learning_rate"], 0.1, rtol=1e-6)
    state = gx.set_hyperparams(state, learning_rate=0.5, max_delta=2.0)
    updates, state = tx.update(params, state, params)
    np.testing.assert_allclose(updates[0], -0.5, rtol=1e-5)
    assert gx.get_hyperparams(state)["max_delta"] == 2.0


def test_random_keys() -> None:
    params = [jnp.zeros(1000), jnp.zeros(1000)]
    for key, other in (
        (7, jax.random.PRNGKey(8)),
        (jax.random.PRNGKey(7), jax.random.PRNGKey(8)),
        (jax.random.key(7), jax.random.key(8)),
    ):
        tx = gx.add_noise(0.25, 0.0, key)
        updates, _ = run(tx, params, [params, params])
        draws = np.stack([*updates[0], *updates[1]])
        np.testing.assert_allclose(draws.std(axis=1), 0.5, rtol=0.1)
        correlations = np.corrcoef(draws) - np.eye(4)
        assert np.abs(correlations).max() < 0.2
        again, _ = run(tx, params, [params])
        np.testing.assert_array_equal(again[0][0], draws[0])
        reset = gx.set_hyperparams(tx.init(params), key=other)
        assert np.abs(np.corrcoef(tx.update(params, reset)[0][0], draws[0])[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: gx.sgd(float("nan")),
            "scale_by_learning_rate: learning_rate must be a finite number, got nan",
        ),
        (
            lambda: gx.sgd(float("inf")),
            "scale_by_learning_rate: learning_rate must be a finite number, got inf",
        ),
        (lambda: gx.sgd(gx.tunable(float("nan"))), "learning_rate must be a finite number, got nan"),
        (lambda: gx.sgd(0.1, momentum=1.5), r"trace: decay must be in \[0, 1\], got 1.5"),
        (lambda: gx.adam(0.1, b1=1.0), r"scale_by_adam: b1 must be in \[0, 1\), got 1.0"),
        (lambda: gx.adam(0.1, b2=gx.tunable(-0.1)), r"scale_by_adam: b2 must be in \[0, 1\), got -0.1"),
        (lambda: gx.adam(0.1, eps=np.float32(-1)), "scale_by_adam: eps must be at least 0, got -1.0"),
        (lambda: gx.adam(0.1, eps=1j), "scale_by_adam: eps must be at least 0, got 1j"),
        (lambda: gx.adam(0.1, eps_root=float("nan")), "scale_by_adam: eps_root must be at least 0, got nan"),
        (lambda: gx.adagrad(0.1, eps=-1e-9), "scale_by_rss: eps must be at least 0"),
        (lambda: gx.rmsprop(0.1, decay=2), r"scale_by_rms: decay must be in \[0, 1\], got 2"),
        (lambda: gx.adadelta(rho=-1), r"scale_by_adadelta: rho must be in \[0, 1\], got -1"),
        (lambda: gx.clip(-1.0), "clip: max_delta must be at least 0, got -1.0"),
        (lambda: gx.clip_by_global_norm(0.0), "clip_by_global_norm: max_norm must be above 0, got 0.0"),
        (lambda: gx.add_decayed_weights(-0.1), "add_decayed_weights: weight_decay must be at least 0"),
        (lambda: gx.add_noise(-1.0, 0.5, 0), "add_noise: eta must be at least 0"),
        (lambda: gx.add_noise(1.0, 0.5), "add_noise needs a random key"),
        *[
            (
                lambda name=name: gx.lift(gx.Rule("mine", lambda *a: a, hyperparams={name: 1.0})),
                f"mine: .*{name!r}",
            )
            for name in ("count", "t", "total", "leaf")
        ],
    ],
)
def test_values_out_of_bounds(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "value", ["0.1", None, True, [0.1], gx.tunable("0.1"), gx.tunable(lambda count: 0.1)]
)
def test_values_of_no_known_kind(value: Any) -> None:
    with pytest.raises(
        TypeError, match=r"scale_by_learning_rate: learning_rate must be a number, an array, a sch"
    ):
        gx.sgd(value)


def test_the_state_has_its_own_copy_of_what_the_user_gave() -> None:
    """A state may be donated; the next one is made of the same transformation."""
    params = {"w": jnp.ones(2)}
    for tx in (gx.add_noise(0.1, 0.5, key=jax.random.key(0)), gx.sgd(gx.tunable(jnp.asarray(0.1)))):
        step = jax.jit(tx.update, donate_argnums=1)
        first, second = (step(params, tx.init(params))[0]["w"] for _ in range(2))
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("tx", "names"),
    [
        (gx.dynamic_loss_scale(gx.sgd(gx.tunable(0.5))), {"loss_scale", "learning_rate"}),
        (
            gx.chain(
                gx.static_loss_scale(gx.static_loss_scale(gx.sgd(gx.tunable(0.5)), 1.0), 1.0),
                optax.identity(),
            ),
            {"[0].loss_scale", "[0].inner_state.loss_scale", "learning_rate"},
        ),
        (gx.inject_hyperparams(gx.sgd, "momentum")(gx.tunable(0.5), 0.0), {"learning_rate"}),
    ],
)
def test_hyperparameters_within_a_state_that_has_its_own(tx: Any, names: set[str]) -> None:
    state = tx.init([0.0])
    assert gx.get_hyperparams(state).keys() == names
    state = gx.set_hyperparams(state, learning_rate=0.25)
    assert gx.get_hyperparams(state)["learning_rate"] == 0.25
    scale = gx.get_hyperparams(state).get("loss_scale", 1.0)
    assert tx.update([1.0 * scale], state)[0][0] == -0.25


def test_a_scheduled_rate_within_a_scaled_loss_is_read() -> None:
    tx = gx.dynamic_loss_scale(gx.sgd(lambda count: 0.5 ** (count + 1)))
    state = tx.init([0.0])
    for _ in range(2):
        _, state = tx.update([1.0], state)
    assert gx.get_hyperparams(state)["learning_rate"] == 0.25
    with pytest.raises(ValueError, match="learning_rate follows a schedule"):
        gx.set_hyperparams(state, learning_rate=0.5)
    assert gx.get_hyperparams(gx.set_hyperparams(state, loss_scale=2.0))["loss_scale"] == 2.0


def test_slots_are_not_walked_through() -> None:
    class Unwalked:
        """A leaf in the slots that says when it is looked at."""

        @property
        def tunables(self) -> Any:
            raise AssertionError("looked at a slot")

    state = gx.dynamic_loss_scale(gx.adam(gx.tunable(0.5))).init({"w": jnp.zeros(2)})
    state = state._replace(inner_state=state.inner_state._replace(slots=(Unwalked(),)))
    state = gx.set_hyperparams(state, learning_rate=0.25)
    assert gx.get_hyperparams(state)["learning_rate"] == 0.25
