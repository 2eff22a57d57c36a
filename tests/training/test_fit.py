import functools
import importlib
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.sparse_gradients import sparse_value_and_grad
from gradxform.training import FitResult, NonFiniteError, StopTraining, batches, fit
from gradxform.training.batches import step_key
from gradxform.training.program import program

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(23, 4)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5, 3.0]) + 0.1 * RANDOM.normal(size=23)).astype(np.float32)
DATA = {"x": X, "y": Y}
START = {"w": jnp.array([0.5, 0.5, 0.5, 0.5]), "b": 0.25}
TX = gx.adam(0.05)
NOISY = gx.chain(gx.add_noise(0.01, 0.5, key=4), gx.adam(gx.linear_schedule(0.1, 0.0, 20)))


def squares(params, batch):
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return jnp.mean(error**2)


def same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def descend(indices_of_steps, rate, w, b):
    """Gradient descent in float64, on the given examples."""
    losses = []
    for indices in indices_of_steps:
        x, y = X[indices].astype(float), Y[indices].astype(float)
        error = x @ w + b - y
        losses.append(np.mean(error**2))
        w, b = w - rate * 2 * x.T @ error / len(y), b - rate * 2 * error.mean()
    return w, b, losses


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"batch_size": 1},
        {"batch_size": 5},
        {"batch_size": 5, "drop_last": True},
        {"batch_size": 5, "replacement": True},
    ],
    ids=["gradient descent", "stochastic", "mini-batch", "no short batch", "replacement"],
)
def test_descent_is_numpys_on_the_same_examples(how):
    key = jax.random.key(3)
    result = fit(squares, START, DATA, gx.sgd(0.02), epochs=4, key=key, **how)
    plan = batches(DATA, **how)
    assert result.step == 4 * plan.steps_per_epoch == len(result.history)
    drawn = [np.asarray(plan.at(key, step)) for step in range(result.step)]
    w, b, losses = descend(drawn, 0.02, np.full(4, 0.5), 0.25)
    np.testing.assert_allclose(result.params["w"], w, rtol=2e-5)
    np.testing.assert_allclose(result.params["b"], b, rtol=2e-5)
    np.testing.assert_allclose(result.history.loss, losses, rtol=2e-5, atol=1e-6)


def test_gradient_descent_on_least_squares_is_its_closed_form():
    gram, rhs = X.T.astype(float) @ X / 23, X.T.astype(float) @ Y / 23
    best = np.linalg.solve(gram, rhs)
    result = fit(
        lambda w, batch: jnp.mean((batch["x"] @ w - batch["y"]) ** 2) / 2,
        jnp.zeros(4),
        DATA,
        gx.sgd(0.3),
        steps=50,
    )
    expected = best - np.linalg.matrix_power(np.eye(4) - 0.3 * gram, 50) @ best
    np.testing.assert_allclose(result.params, expected, rtol=1e-5)


def test_optax_transformations_train_as_in_a_loop_of_their_own():
    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(0.05, weight_decay=0.1))

    @jax.jit
    def step(params, state, batch):
        loss, grads = jax.value_and_grad(squares)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    params, state, losses = START, tx.init(START), []
    plan = batches(DATA, 5)
    for number in range(20):
        indices = np.asarray(plan.at(jax.random.key(0), number))
        params, state, loss = step(params, state, {"x": X[indices], "y": Y[indices]})
        losses.append(loss)
    result = fit(squares, START, DATA, tx, batch_size=5, steps=20)
    np.testing.assert_allclose(result.history.loss, losses, rtol=1e-4)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), result.params, params)


def test_the_same_key_gives_the_same_bits_and_another_does_not():
    runs = [
        fit(squares, START, DATA, TX, batch_size=3, epochs=2, key=key) for key in (1, jax.random.key(1), 2)
    ]
    same(runs[0].params, runs[1].params)
    same(runs[0].history.loss, runs[1].history.loss)
    assert not np.array_equal(runs[0].history.loss, runs[2].history.loss)


def test_steps_per_call_change_nothing():
    long = fit(squares, START, DATA, TX, batch_size=5, steps=33)
    short = fit(squares, START, DATA, TX, batch_size=5, steps=33, steps_per_call=7)
    same(long.params, short.params)
    same(long.history.loss, short.history.loss)


@pytest.mark.parametrize("batch_size", [None, 5])
@pytest.mark.parametrize("split", [0, 3, 5, 7])
def test_going_on_from_a_result_equals_never_having_stopped(batch_size, split):
    train = functools.partial(fit, dropout, data=DATA, tx=NOISY, batch_size=batch_size)
    whole = train(START, steps=12, key=9)
    first = train(START, steps=split, key=9)
    second = train(first, steps=12 - split)
    by_hand = train(first.params, steps=12 - split, state=first.state, start=first.step, key=9)
    for other in (second, by_hand):
        assert other.step == 12
        same(whole.params, other.params)
        same(whole.state, other.state)
    same(whole.history.loss, second.history.loss)
    same(whole.history.hyperparams, second.history.hyperparams)
    assert second.history.steps.tolist() == list(range(12))
    assert np.all(np.diff(second.history.seconds) > 0)
    assert by_hand.history.steps.tolist() == list(range(split, 12))


def dropout(params, batch, key=None):
    kept = jax.random.bernoulli(key, 0.5, batch["x"].shape)
    return squares(params, {"x": batch["x"] * kept * 2, "y": batch["y"]}), {"kept": kept.mean()}


def test_a_loss_with_a_key_gets_another_one_each_step():
    result = fit(dropout, START, DATA, gx.sgd(0.0), steps=20, key=5)
    key = jax.random.key(5)
    expected = [jax.random.bernoulli(step_key(key, step), 0.5, X.shape).mean() for step in range(20)]
    np.testing.assert_allclose(result.history.metrics["kept"], expected)
    assert len(set(result.history.loss.tolist())) == 20
    # A key already filled in is left alone.
    filled = functools.partial(dropout, key=key)
    assert len(set(fit(filled, START, DATA, gx.sgd(0.0), steps=3).history.loss.tolist())) == 1


def test_metrics_hyperparams_and_evaluations_are_remembered():
    def loss(params, batch):
        value = squares(params, batch)
        return value, {"root": jnp.sqrt(value), "examples": len(batch["y"])}

    tx = gx.chain(gx.clip(gx.tunable(10.0)), gx.sgd(lambda count: 0.1 / (1 + count)))
    told = []
    result = fit(
        loss,
        START,
        DATA,
        tx,
        batch_size=6,
        steps=10,
        evaluate=lambda params: {"loss": squares(params, DATA)},
        evaluate_every=4,
        callbacks=[lambda snapshot: told.append(snapshot)],
    )
    history = result.history
    np.testing.assert_allclose(history.metrics["root"] ** 2, history.loss, rtol=1e-5)
    assert history.metrics["examples"].tolist() == [6, 6, 6, 5] * 2 + [6, 6]
    np.testing.assert_allclose(history.hyperparams["learning_rate"], 0.1 / np.arange(1, 11), rtol=1e-6)
    assert set(history.hyperparams) == {"learning_rate", "max_delta"}
    assert history.hyperparams["max_delta"].tolist() == [10.0] * 10
    assert [evaluation.step for evaluation in history.evaluations] == [0, 4, 8, 10]
    assert history.evaluations[0].values == {"loss": float(squares(START, DATA))}
    assert history.evaluations[-1].values == {"loss": float(squares(result.params, DATA))}
    assert [snapshot.step for snapshot in told] == [4, 8, 10]
    assert [snapshot.loss for snapshot in told] == history.loss[[3, 7, 9]].tolist()
    assert told[0].metrics["examples"] == 5
    assert told[1].evaluation == history.evaluations[2].values
    assert told[1].hyperparams["learning_rate"] == pytest.approx(0.1 / 8)
    # Asked for again at the same step, it is not evaluated again.
    more = fit(loss, result, DATA, tx, steps=2, evaluate=lambda params: {"loss": 0.0})
    assert [evaluation.step for evaluation in more.history.evaluations] == [0, 4, 8, 10, 12]
    assert "10 steps" in repr(result)
    assert "root" in repr(history)


def test_the_time_between_evaluations_is_whole_epochs():
    seen = []
    fit(
        squares,
        START,
        DATA,
        TX,
        batch_size=5,
        epochs=45,
        callbacks=[lambda snapshot: seen.append(snapshot.step)],
    )
    assert seen == [100, 200, 225]


def stop(snapshot):
    raise StopTraining


@pytest.mark.parametrize("callback", [lambda snapshot: snapshot.step >= 20, stop])
def test_callbacks_end_the_training(callback):
    result = fit(squares, START, DATA, TX, steps=100, evaluate_every=10, callbacks=[callback])
    assert result.stopped
    assert not result.interrupted
    assert result.step == len(result.history) == (10 if callback is stop else 20)
    same(result.params, fit(squares, START, DATA, TX, steps=result.step).params)
    assert "stopped" in repr(result)


@pytest.mark.parametrize("on_nonfinite", ["raise", "continue"])
def test_an_interrupt_returns_what_there_is(on_nonfinite):
    def interrupt(snapshot):
        if snapshot.step == 30:
            raise KeyboardInterrupt

    result = fit(
        squares,
        START,
        DATA,
        TX,
        steps=100,
        evaluate_every=10,
        callbacks=[interrupt],
        on_nonfinite=on_nonfinite,
    )
    assert result.interrupted
    assert result.step == len(result.history) == 30
    same(fit(squares, result, DATA, TX, steps=10).params, fit(squares, START, DATA, TX, steps=40).params)


def test_a_signal_within_a_compiled_call_loses_nothing():
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)

    def press(count):
        if np.asarray(count) == 40:  # in the midst of a call
            os.kill(os.getpid(), signal.SIGINT)
        return np.float32(0.05)

    def rate(count):
        return jax.pure_callback(press, jax.ShapeDtypeStruct((), jnp.float32), count)

    result = fit(squares, START, DATA, gx.sgd(rate), steps=100_000, on_nonfinite="continue")
    assert result.interrupted
    assert 40 < result.step < 100_000
    assert len(result.history) == result.step
    same(result.params, fit(squares, START, DATA, gx.sgd(lambda count: 0.05), steps=result.step).params)
    assert signal.signal(signal.SIGINT, usual) is signal.default_int_handler


def test_a_second_call_compiles_nothing():
    traces = []

    def loss(params, batch):
        traces.append(1)
        return squares(params, batch)

    fit(loss, START, DATA, TX, batch_size=5, steps=30)
    assert traces
    traces.clear()
    result = fit(loss, START, DATA, TX, batch_size=5, epochs=7, key=4)
    fit(loss, result, DATA, TX, batch_size=5, steps=1)
    assert not traces


@pytest.mark.parametrize("on_nonfinite", ["raise", "continue"])
def test_the_users_arrays_survive(on_nonfinite):
    params = {"w": jnp.ones(4), "b": jnp.ones(())}
    state = TX.init(params)
    data = jax.tree.map(jnp.asarray, DATA)
    kept = []
    train = functools.partial(fit, squares, data=data, tx=TX, batch_size=2, on_nonfinite=on_nonfinite)
    result = train(
        params,
        state=state,
        steps=40,
        evaluate_every=10,
        evaluate=lambda p: kept.append(p) or {},
        callbacks=[lambda s: kept.extend([s.params, s.state])],
    )
    train(result, steps=5)
    for tree in (params, state, data, result.params, result.state, kept):
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))
    same(params, {"w": np.ones(4), "b": np.ones(())})


def test_states_that_share_buffers_may_be_donated():
    slow = gx.GradientTransformation(
        lambda params: (params, params),
        lambda grads, state, params: (jax.tree.map(lambda g: -0.1 * g, grads), (state[0], params)),
    )
    result = fit(squares, START, DATA, slow, steps=5, on_nonfinite="continue")
    same(result.state[0], START)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.any(a != b)), result.state[1], result.params))


def explosive(params, batch):
    # The 7th example makes the loss infinite.
    return jnp.mean((params * batch["x"]) ** 2) + jnp.where(jnp.any(batch["i"] == 7), jnp.inf, 0.0)


ROWS = {"x": np.linspace(1, 2, 20).astype(np.float32), "i": np.arange(20)}


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "donated"])
def test_a_loss_that_is_not_finite_stops_before_its_update(keep, monkeypatch):
    if not keep:
        monkeypatch.setattr(importlib.import_module("gradxform.training.fit"), "_KEEP_BELOW", 0)
    train = functools.partial(fit, explosive, 1.0, ROWS, gx.sgd(0.01, momentum=0.5), batch_size=3)
    plan = batches(ROWS, 3)
    key = jax.random.key(0)
    culprit = next(step for step in range(7) if 7 in plan.at(key, step))
    with pytest.raises(
        NonFiniteError, match=rf"the loss of step {culprit} is inf; .*examples \[.*7.*\]"
    ) as caught:
        train(epochs=3)
    error = caught.value
    assert error.step == error.result.step == len(error.result.history) == culprit
    assert error.loss == np.inf
    assert error.batch.tolist() == plan.at(key, culprit).tolist()
    before = train(steps=culprit)
    same(error.result.params, before.params)
    same(error.result.state, before.state)
    same(error.result.history.loss, before.history.loss)
    onward = train(epochs=3, on_nonfinite="continue")
    assert onward.step == 21
    assert np.isinf(onward.history.loss[culprit])
    assert np.isfinite(onward.params)


@pytest.mark.parametrize("steps", [3, 100])
def test_a_gradient_that_is_not_finite_is_named_with_its_own_step(steps):
    """The loss |w - 1| by a square root has no gradient at w = 1, which step 2 starts from."""

    def loss(w, batch):
        return jnp.sqrt(jnp.sum((w - 1) ** 2)) + 0 * batch.sum()

    halve = gx.GradientTransformation(
        lambda params: jnp.int32(0), lambda g, count, params: (-0.5 * jnp.sign(g), count + 1)
    )
    with pytest.raises(
        NonFiniteError, match=r"the update of step 2 made .* not numbers \(its loss was 0\)"
    ) as caught:
        fit(loss, jnp.array(2.0), np.zeros(1), halve, steps=steps)
    assert caught.value.step == caught.value.result.step == 2
    assert caught.value.result.params == 1.0
    assert caught.value.result.state == 2


def test_streams_learn_from_every_batch_in_order():
    key = jax.random.key(2)
    plan = batches(DATA, 4)
    in_memory = fit(squares, START, DATA, TX, batch_size=4, epochs=3, key=key)
    drawn = [np.asarray(plan.at(key, step)) for step in range(in_memory.step)]
    stream = ({"x": X[indices], "y": Y[indices]} for indices in drawn)
    result = fit(squares, START, stream, TX)
    assert result.step == in_memory.step == 18
    np.testing.assert_allclose(result.history.loss, in_memory.history.loss, rtol=1e-5, atol=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), result.params, in_memory.params)

    # In two runs over one iterator, and of JAX's arrays.
    stream = iter([jax.tree.map(jnp.asarray, {"x": X[indices], "y": Y[indices]}) for indices in drawn])
    first = fit(squares, START, stream, TX, steps=7)
    assert first.step == 7
    same(fit(squares, first, stream, TX, steps_per_call=1).params, result.params)


def test_streams_evaluate_stop_and_name_batches():
    def endless():
        number = 0
        while True:
            yield np.full(3, np.nan if number == 50 else 1.0), number
            number += 1

    def loss(w, batch):
        return jnp.mean((w * batch[0] - 2) ** 2)

    stream = endless()
    result = fit(
        loss,
        0.0,
        stream,
        gx.sgd(0.1),
        evaluate_every=8,
        evaluate=lambda w: {"w": w},
        callbacks=[lambda snapshot: snapshot.step == 24],
    )
    assert result.stopped
    assert [evaluation.step for evaluation in result.history.evaluations] == [0, 8, 16, 24]
    assert next(stream)[1] == 24  # no batch was drawn in vain
    with pytest.raises(NonFiniteError, match="the loss of step 49 is nan") as caught:
        fit(loss, result, stream, gx.sgd(0.1))
    assert caught.value.batch[1] == 50


def test_an_interrupted_stream_keeps_what_it_drew():
    def source():
        yield from [np.ones(2)] * 5
        raise KeyboardInterrupt

    result = fit(lambda w, batch: jnp.sum((w - batch) ** 2), 0.0, source(), gx.sgd(0.1))
    assert result.interrupted
    assert result.step == 5


def test_complex_parameters_go_downhill():
    target = jnp.array([1 + 2j, -3j])
    result = fit(
        lambda w, batch: jnp.sum(jnp.abs(w - batch[0]) ** 2),
        jnp.zeros(2, complex),
        target[None],
        gx.sgd(0.1),
        steps=99,
    )
    np.testing.assert_allclose(result.params, target, atol=1e-5)


def test_trees_with_none_and_low_precision_keep_their_types():
    params = {"w": jnp.zeros(4, jnp.bfloat16), "frozen": None, "b": 0.0}
    result = fit(lambda p, d: squares({"w": p["w"], "b": p["b"]}, d), params, DATA, TX, steps=3)
    assert result.params["frozen"] is None
    assert result.params["w"].dtype == jnp.bfloat16
    assert result.params["b"].dtype == jnp.float32


def test_a_loss_that_cannot_be_hashed():
    class Loss:
        __hash__ = None

        def __call__(self, params, batch):
            return squares(params, batch)

    same(fit(Loss(), START, DATA, TX, steps=3).params, fit(squares, START, DATA, TX, steps=3).params)
    assert program(squares, TX, None, 4, "off") is program(squares, TX, None, 4, "off")


WORDS = {"words": RANDOM.integers(0, 30, (23, 3)), "y": Y}


def of_words(params, batch):
    error = params["table"][batch["words"]].sum(1) @ params["w"] - batch["y"]
    return jnp.mean(error**2), {"largest": jnp.abs(error).max()}


@pytest.mark.parametrize("on_nonfinite", ["raise", "continue"])
@pytest.mark.parametrize("tx", [gx.sgd(0.05), gx.adagrad(0.2)], ids=["sgd", "adagrad"])
def test_row_sparse_gradients_train_as_dense_ones_do(tx, on_nonfinite):
    start = {"table": jnp.asarray(RANDOM.normal(size=(40, 2)), jnp.float32), "w": jnp.asarray([0.5, -1.0])}
    how = {"batch_size": 5, "epochs": 6, "on_nonfinite": on_nonfinite}
    dense = fit(of_words, start, WORDS, tx, **how)
    sparse = fit(of_words, start, WORDS, tx, **how, value_and_grad=sparse_value_and_grad)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, sparse.params, dense.params)
    jax.tree.map(close, sparse.state, dense.state)
    close(sparse.history.loss, dense.history.loss)
    close(sparse.history.metrics["largest"], dense.history.metrics["largest"])
    assert np.abs(np.asarray(sparse.params["table"] - start["table"])[:30]).max() > 0.1
    np.testing.assert_array_equal(sparse.params["table"][30:], start["table"][30:])


def test_what_takes_the_gradients_is_part_of_the_program():
    start = {"table": jnp.ones((40, 2)), "w": jnp.ones(2)}
    calls = []

    def counted(fun, has_aux):
        calls.append(has_aux)
        return sparse_value_and_grad(fun, has_aux=has_aux, tables={"table": True, "w": False})

    ways = [counted, functools.partial(sparse_value_and_grad, tables={"table": True, "w": False})]
    for way in [*ways, *ways]:
        fit(of_words, start, WORDS, TX, steps=2, value_and_grad=way)
    assert calls == [True]
    again = [program(of_words, TX, None, 4, "off", way) for way in [*ways, *ways, jax.value_and_grad]]
    assert again[:2] == again[2:4]
    assert len(set(again)) == 3
    with pytest.raises(TypeError, match=r"value_and_grad must be a function like jax.value_and_grad, got 3"):
        fit(of_words, start, WORDS, TX, steps=2, value_and_grad=3)
    everything = functools.partial(sparse_value_and_grad, tables=True)
    with pytest.raises(TypeError, match=r"params\['w'\] is used by dot_general"):
        fit(of_words, start, WORDS, TX, steps=2, value_and_grad=everything)


def test_no_steps_return_what_came_in():
    result = fit(squares, START, DATA, TX, steps=0)
    assert isinstance(result, FitResult)
    assert (result.step, len(result.history), repr(result.history)) == (0, 0, "History(0 steps)")
    same(result.params, START)
    same(fit(squares, result, DATA, TX, steps=2).params, fit(squares, START, DATA, TX, epochs=2).params)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda p, b: b["x"] @ p["w"], r"scalar, it has shape \(23,\)"),
        (lambda p, b: jnp.argmax(p["w"]), "dtype int32"),
        (lambda p, b: jnp.sum(p["w"]) * 1j, "dtype complex64"),
        (lambda p, b: None, "returned NoneType"),
        (lambda p, b: {"loss": 1.0}, "returned dict"),
        (lambda p, b: (jnp.sum(p["w"]), 1.0, 2.0), r"returned \(an array"),
        (
            lambda p, b: (jnp.sum(p["w"]), p["w"]),
            r"returned \(an array of shape \(\), an array of shape \(4,\)\)",
        ),
        (lambda p, b: (jnp.sum(p["w"]), {"all": p["w"]}), r"the metric 'all' must be a scalar"),
    ],
)
def test_what_is_no_loss_is_said_before_training(loss, message):
    called = []
    with pytest.raises(TypeError, match=message):
        fit(loss, START, DATA, TX, steps=3, callbacks=[called.append])
    assert not called


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "epochs=... or steps"),
        ({"epochs": 1, "steps": 1}, ValueError, "not both"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"epochs": True}, TypeError, "epochs must be an integer"),
        ({"steps": 1, "evaluate_every": 0}, ValueError, "evaluate_every must be at least 1"),
        ({"steps": 1, "batch_size": 24}, ValueError, "batch_size"),
        ({"steps": 2**31}, ValueError, "counted up to"),
        ({"steps": 1, "on_nonfinite": "stop"}, ValueError, "'raise' or 'continue'"),
        ({"steps": 1, "tx": 0.1}, TypeError, "tx must be a transformation"),
        ({"steps": 1, "loss_fn": 3}, TypeError, "loss_fn must be a function"),
        ({"steps": 1, "params": {"w": [np.arange(3)]}}, TypeError, r"params\['w'\]\[0\] has dtype int"),
        ({"steps": 1, "evaluate": lambda params: 1.0}, TypeError, "evaluate must return a dictionary"),
        ({"data": iter([]), "steps": 1}, ValueError, "no batches"),
        ({"data": iter([]), "epochs": 2}, ValueError, "only once"),
        ({"data": iter([]), "batch_size": 2}, ValueError, "makes its own batches"),
    ],
)
def test_arguments_that_do_not_go(arguments, error, message):
    with pytest.raises(error, match=message):
        fit(**{"loss_fn": squares, "params": START, "data": DATA, "tx": TX, **arguments})


def test_a_result_brings_its_own_state():
    result = fit(squares, START, DATA, TX, steps=1)
    with pytest.raises(ValueError, match="its own state, start and key"):
        fit(squares, result, DATA, TX, steps=1, key=3)


def test_the_loss_is_scaled_as_the_state_asks() -> None:
    """A gradient below float16's smallest number arrives; the recorded loss is the true one."""
    small = jnp.float16(1e-4)

    def loss(params, batch):
        factor = batch[0, 0]
        return jnp.sum((params["w"] * factor) * factor).astype(jnp.float32) + 3.0

    params = {"w": jnp.zeros(2, jnp.float16)}
    tx = gx.dynamic_loss_scale(gx.chain(gx.sgd(1.0), gx.master_copy()), 2.0**15)
    result = gx.fit(loss, params, jnp.full((4, 1), small), tx, steps=3)
    master = result.state.inner_state.slots[-1].master["w"]
    np.testing.assert_allclose(master, -3 * float(small) ** 2, rtol=5e-3)
    np.testing.assert_allclose(result.history.loss, 3.0)
    np.testing.assert_array_equal(result.history.hyperparams["loss_scale"], 2.0**15)


def test_a_scheduled_rate_within_a_scaled_loss_is_recorded() -> None:
    tx = gx.dynamic_loss_scale(gx.sgd(lambda count: 0.5 ** (count + 1)), 2.0)
    loss = lambda params, batch: jnp.sum(params["w"] * batch)  # noqa: E731
    result = gx.fit(loss, {"w": jnp.zeros(1)}, jnp.ones((4, 1)), tx, steps=3)
    np.testing.assert_allclose(result.history.hyperparams["learning_rate"], [0.5, 0.25, 0.125])
