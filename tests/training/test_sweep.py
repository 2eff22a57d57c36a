"""Sweeps, point by point against `fit`, and the learning-rate range test against closed forms."""

import functools
import importlib
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from matplotlib.figure import Figure
from rich.console import Console

import gradxform as gx
from gradxform.training import fit
from gradxform.training.range_test import learning_rate_range_test
from gradxform.training.sweep import sweep

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(23, 4)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5, 3.0]) + 0.1 * RANDOM.normal(size=23)).astype(np.float32)
DATA = {"x": X, "y": Y}
START = {"w": jnp.array([0.5, 0.5, 0.5, 0.5]), "b": 0.25}
RATES = [0.003, 0.01, 0.03, 0.1, 0.3, 1e4, 1e6]
ONE = jax.devices()[:1]
SGD = gx.sgd(gx.tunable(1.0))


def squares(params, batch):
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return jnp.mean(error**2)


def dropout(params, batch, key):
    kept = jax.random.bernoulli(key, 0.8, batch["x"].shape)
    loss = squares(params, {"x": batch["x"] * kept, "y": batch["y"]})
    return loss, {"kept": kept.mean(), "examples": len(batch["y"])}


def draw(key):
    return {"w": jax.random.normal(key, 4), "b": 0.0}


def decaying(peak, decay, b1=0.9):
    return gx.adamw(gx.linear_schedule(peak, 0.1 * peak, 20), b1=b1, weight_decay=decay)


def alone(rate, **how):
    """`fit` with gradient descent at some rate, which all tests share the program of."""
    state = gx.set_hyperparams(SGD.init(START), learning_rate=rate)
    return fit(squares, START, DATA, SGD, state=state, **how)


def close(left, right, **tolerance):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **{"rtol": 1e-4, "atol": 1e-6, **tolerance}),
        left,
        right,
    )


@pytest.fixture(scope="module")
def rough():
    """Rates of which two diverge, from two seeds, on one device."""
    return sweep(
        squares, START, DATA, gx.sgd, {"learning_rate": RATES}, seeds=2, batch_size=5, steps=60, devices=ONE
    )


def test_every_run_is_fits_own():
    train = functools.partial(fit, dropout, data=DATA, batch_size=5, epochs=4)
    evaluate = lambda params: {"root": jnp.sqrt(squares(params, DATA))}  # noqa: E731
    found = sweep(
        dropout,
        draw,
        DATA,
        decaying,
        {"peak": np.array([0.01, 0.1]), "decay": [0.0, 0.1]},
        seeds=[3, 8],
        batch_size=5,
        epochs=4,
        evaluate=evaluate,
        evaluate_every=7,
        keep_params="all",
        devices=ONE,
    )
    assert found.points == tuple({"peak": p, "decay": d} for p in (0.01, 0.1) for d in (0.0, 0.1))
    assert found.loss.shape == (4, 2, 20)
    assert found.evaluated_at.tolist() == [0, 7, 14, 20]
    for i in (0, 3):
        tx = decaying(**found.points[i])
        for j, seed in enumerate(found.seeds):
            start = draw(jax.random.fold_in(jax.random.key(seed), 2))
            single = train(params=start, tx=tx, key=seed, evaluate=evaluate, evaluate_every=7)
            history = found.history(i, j)
            close(history.loss, single.history.loss)
            close(history.metrics, single.history.metrics)
            close(history.hyperparams["learning_rate"], single.history.hyperparams["learning_rate"])
            assert [each.step for each in history.evaluations] == [0, 7, 14, 20]
            for ours, theirs in zip(history.evaluations, single.history.evaluations, strict=True):
                assert ours.values == pytest.approx(theirs.values, rel=1e-4)
            close(found.result(i, j).params, single.params)


@pytest.mark.parametrize(
    "how", [{}, {"batch_size": 4, "replacement": True}, {"batch_size": 6, "drop_last": True}]
)
def test_batches_are_drawn_as_fit_draws_them(how):
    found = sweep(squares, START, DATA, optax.adam, {"learning_rate": [0.01, 0.1]}, steps=9, **how)
    close(found.loss[1, 0], fit(squares, START, DATA, optax.adam(0.1), steps=9, **how).history.loss)


@pytest.mark.parametrize("devices", [ONE, jax.devices()[:2]])
def test_what_is_done_every_third_step_is_done_in_no_other(devices):
    done = set()

    def jump(rate):
        def update(grads, count, params=None):
            def far():
                jax.debug.callback(lambda count: done.add(int(count)), count)
                return -10 * rate

            scale = jax.lax.cond(count % 3 == 2, far, lambda: -rate)
            return jax.tree.map(lambda grad: scale * grad, grads), count + 1

        return gx.GradientTransformation(lambda params: jnp.int32(0), update)

    grid, how = {"rate": [0.001, 0.01]}, {"batch_size": 5, "steps": 9}
    found = sweep(squares, START, DATA, jump, grid, seeds=2, keep_params="all", devices=devices, **how)
    jax.effects_barrier()
    assert done == {2, 5, 8}
    assert found.result(1, 1).state == 9
    close(found.loss[1, 0], fit(squares, START, DATA, jump(0.01), **how).history.loss)


@pytest.mark.parametrize("of_the_start", [False, True])
def test_runs_may_count_by_themselves(of_the_start):
    def annealed(rate):
        def update(grads, count, params=None):
            updates = jax.tree.map(lambda grad: -rate / (1 + count) * grad, grads)
            step = 1 if of_the_start else jnp.int32(abs(grads["b"]) > 0.1)
            return updates, count + step

        first = (lambda params: jnp.int32(100 * rate)) if of_the_start else lambda params: jnp.int32(0)
        return gx.GradientTransformation(first, update)

    grid = {"rate": [0.01, 0.1]}
    found = sweep(squares, draw, DATA, annealed, grid, seeds=2, steps=9, keep_params="all")
    for i, rate in enumerate(grid["rate"]):
        for seed in found.seeds:
            start = draw(jax.random.fold_in(jax.random.key(seed), 2))
            single = fit(squares, start, DATA, annealed(rate), steps=9, key=seed)
            close(found.loss[i, seed], single.history.loss)
            assert found.result(i, seed).state == single.state


def test_a_best_run_is_gone_on_with():
    grid = [{"learning_rate": 0.1, "momentum": 0.3}, {"learning_rate": 0.01, "momentum": 0.5}]
    found = sweep(squares, START, DATA, gx.sgd, grid, seeds=2, batch_size=5, steps=33, devices=ONE)
    assert found.best == grid[0]
    tx = gx.sgd(**found.best)
    more = fit(squares, found.result(), DATA, tx, batch_size=5, steps=10)
    once = fit(squares, START, DATA, tx, batch_size=5, steps=43, key=found.best_seed)
    close(more.params, once.params)
    close(more.history.loss, once.history.loss)
    close(found.params, found.result().params, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"point 1, seed 0 were not kept.*keep_params='all'"):
        found.result(1)


def test_one_program_does_for_all_points_groups_and_later_sweeps():
    traced, made = [], []

    def loss(params, batch):
        traced.append(1)
        return squares(params, batch)

    def make(learning_rate):
        made.append(isinstance(learning_rate, jax.core.Tracer))
        return gx.sgd(learning_rate)

    def run(rates):
        made.clear()
        grid = {"learning_rate": rates}
        return sweep(loss, START, DATA, make, grid, seeds=2, steps=12, points_at_once=2, devices=ONE)

    run([0.1, 0.01, 0.3])
    # For all five points as many as for the loss and the gradient of a single fit, and one to look ahead.
    once = len(traced)
    fit(loss, START, DATA, gx.sgd(0.1), steps=12)
    assert once <= len(traced) - once + 1
    traced.clear()
    found = run([0.2, 0.02, 1e-3, 0.5])
    assert len(traced) == 1
    assert sum(made) == 1
    assert len(made) == 5
    close(found.loss[3, 1], alone(0.5, steps=12, key=1).history.loss)


def test_what_diverges_ends_alone_and_is_never_the_best(rough):
    ended = np.argmax(~np.isfinite(rough.loss), -1)
    assert rough.diverged.tolist() == [[False, False]] * 5 + [[True, True]] * 2
    np.testing.assert_array_equal(rough.diverged_at, np.where(rough.diverged, ended, -1))
    assert np.all(rough.diverged_at[5] > rough.diverged_at[6])
    for i in range(5):
        close(rough.loss[i, 1], alone(RATES[i], batch_size=5, steps=60, key=1).history.loss, rtol=1e-3)
    with pytest.raises(gx.NonFiniteError) as caught:
        alone(1e6, batch_size=5, steps=60, key=1)
    assert rough.diverged_at[6, 1] == caught.value.step
    assert np.isnan(rough.final[5:]).all()
    close(rough.final[:5], rough.loss[:5, :, -6:].mean(-1))
    assert rough.best_index == (
        np.argmin(rough.final[:5].mean(1)),
        np.argmin(rough.final[rough.best_index[0]]),
    )
    assert rough.best == {"learning_rate": RATES[rough.best_index[0]]}


def test_where_all_diverge_there_is_no_best():
    found = sweep(
        squares, START, DATA, gx.sgd, {"learning_rate": [1e6, 1e8]}, steps=60, points_at_once=1, devices=ONE
    )
    assert found.best_index is None
    with pytest.raises(ValueError, match="there is no best point"):
        _ = found.best
    assert "all diverged" in repr(found)
    assert str(found).count("diverged at step") == 2
    found.plot(ax=Figure().subplots())


def test_a_last_update_that_is_not_a_number_is_divergence():
    """The loss |w - 1| by a square root has no gradient at w = 1, two halves from 2."""

    def loss(w, batch):
        return jnp.sqrt(jnp.sum((w - 1) ** 2)) + 0 * batch.sum()

    def halve(by):
        return gx.chain(gx.sign_sgd(1.0), gx.scale(by))

    grid = {"by": [0.5, 0.1]}
    found = sweep(loss, jnp.array(2.0), np.zeros(1), halve, grid, steps=3)
    assert np.isfinite(found.loss).all()
    assert found.diverged_at.tolist() == [[3], [-1]]
    assert found.best == {"by": 0.1}


def test_groups_change_nothing(rough):
    screen = io.StringIO()
    run = functools.partial(
        sweep,
        squares,
        START,
        DATA,
        gx.sgd,
        {"learning_rate": RATES},
        seeds=2,
        batch_size=5,
        steps=60,
        devices=ONE,
    )
    for how, groups in (
        ({"points_at_once": 3}, 3),
        ({"memory": 1, "keep_params": "all"}, 7),
        ({"memory": 10**9}, 1),
    ):
        found = run(**how, progress=Console(file=screen, force_terminal=True, width=120))
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).strip().splitlines()[-1]
        assert f"step {60 * groups}/{60 * groups}" in shown
        close(found.loss[:5], rough.loss[:5])
        np.testing.assert_array_equal(found.diverged_at, rough.diverged_at)
        assert found.best_index == rough.best_index
        close(found.params, rough.params)


@pytest.mark.parametrize("spread", [None, Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("a", "b"))])
def test_devices_change_nothing(rough, spread):
    stamp = gx.GradientTransformation(
        lambda params: jnp.int32(-1), lambda grads, state, params: (grads, jax.lax.axis_index("points"))
    )
    found = sweep(
        squares,
        START,
        DATA,
        lambda learning_rate: gx.chain(gx.sgd(learning_rate), stamp),
        {"learning_rate": RATES},
        seeds=2,
        batch_size=5,
        steps=60,
        devices=spread,
        keep_params="all",
    )
    where = [int(found.result(i).state[1]) for i in range(7)]
    assert where == ([0, 1, 2, 3, 4, 5, 6] if spread is None else [0, 0, 1, 1, 2, 2, 3])
    close(found.loss[:5], rough.loss[:5])
    np.testing.assert_array_equal(found.diverged_at, rough.diverged_at)
    assert found.best_index == rough.best_index
    close(found.params, rough.params)
    # They are at home on one device, and mix with what is there.
    assert np.isfinite(jax.jit(squares)(found.params, jax.tree.map(jnp.asarray, DATA)))


def test_the_best_by_what_evaluate_or_the_loss_says():
    def loss(params, batch):
        value = squares(params, batch)
        return value, {"hits": (value < 1).mean(), "accuracy": -value}

    def run(**how):
        return sweep(loss, START, DATA, gx.sgd, {"learning_rate": [0.2, 1e-4]}, steps=10, devices=ONE, **how)

    assert run().best == run(by="accuracy").best == {"learning_rate": 0.2}
    assert run(by="accuracy", mode="min").best == {"learning_rate": 1e-4}
    assert run(by="hits", mode="max").final_name == "hits, mean of the last 1 steps"
    with pytest.raises(ValueError, match="least 'hits' the best, or the greatest"):
        run(by="hits")
    with pytest.raises(ValueError, match="no 'los' to choose the best by; there is loss, accuracy, hits"):
        run(by="los")
    # What evaluate says goes first.
    found = run(evaluate=lambda params: {"loss": jnp.sum(params["w"] ** 2)})
    assert found.final_name == "loss at the end"
    assert found.evaluations["loss"].shape == (2, 1, 2)
    close(found.final, found.evaluations["loss"][..., -1])
    assert found.best == {"learning_rate": 1e-4}


def test_seeds_are_what_fit_takes_as_its_key():
    run = functools.partial(
        sweep, squares, START, DATA, gx.sgd, {"learning_rate": [0.1]}, batch_size=5, steps=4
    )
    keys = jax.random.split(jax.random.key(5), 2)
    loss = run(seeds=keys).loss
    close(loss[0, 1], alone(0.1, batch_size=5, steps=4, key=keys[1]).history.loss)
    close(run(seeds=[7, 1]).loss[0, 1], run(seeds=2).loss[0, 1], rtol=0, atol=0)
    assert run(seeds=[7, 1]).seeds == (7, 1)


def test_a_loss_that_cannot_be_hashed():
    class Loss:
        __hash__ = None

        def __call__(self, params, batch):
            return squares(params, batch)

    found, same = (
        sweep(f, START, DATA, gx.sgd, {"learning_rate": [0.1]}, steps=3) for f in (Loss(), squares)
    )
    close(found.loss, same.loss, rtol=0, atol=0)


def test_the_table_has_every_point_and_says_where_the_grid_ends(rough):
    lines = str(rough).splitlines()
    assert lines[2].split("  ")[0] == "learning_rate"
    assert "loss, mean of the last 6 steps" in lines[2]
    assert [line.split()[0] for line in lines[4:11]] == [
        "0.003",
        "0.01",
        "0.03",
        "0.1",
        "0.3",
        "10000",
        "1e+06",
    ]
    assert [("← best" in line, "diverged at step" in line) for line in lines[4:11]].count((True, False)) == 1
    assert "there may be better ones beyond" not in str(rough)
    edge = sweep(
        squares,
        START,
        DATA,
        gx.sgd,
        {"learning_rate": np.linspace(0.001, 0.01, 24)},
        seeds=2,
        batch_size=5,
        steps=60,
        devices=ONE,
    )
    assert "The best has the greatest learning_rate of the grid" in str(edge)
    assert "and 4 more, which are worse" in str(edge)
    assert "2 seeds, 60 steps, best learning_rate=0.01" in repr(edge)


def test_a_curve_of_one_hyperparameter(rough):
    ax = rough.plot(ax=Figure().subplots())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning_rate", "loss, mean of the last 6 steps")
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    line, crosses, ring = ax.get_lines()
    np.testing.assert_allclose(line.get_xydata(), np.stack([RATES[:5], rough.final[:5].mean(1)], 1))
    assert crosses.get_xdata().tolist() == RATES[5:]
    assert ring.get_xdata() == [rough.best["learning_rate"]]
    assert len(ax.collections) == 1


def test_a_map_of_two_hyperparameters_and_the_best_over_a_third():
    grid = {"learning_rate": [0.01, 0.1, 1e6], "momentum": [0.0, 0.5], "nothing": [1.0]}
    make = lambda learning_rate, momentum, nothing: gx.sgd(learning_rate, momentum)  # noqa: E731
    found = sweep(squares, START, DATA, make, grid, steps=40, devices=ONE)
    ax = found.plot(ax=Figure().subplots())
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning_rate", "momentum")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0.01", "0.1", "1e+06"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["0", "0.5"]
    mesh, bar = ax.collections[0], ax.figure.axes[1]
    assert bar.get_ylabel() == "loss, mean of the last 4 steps"
    np.testing.assert_allclose(
        np.ma.filled(mesh.get_array().reshape(2, 3), np.nan), found.final.reshape(3, 2).T
    )
    assert len(ax.get_lines()) == 3  # two crosses and a ring
    best = found.plot("learning_rate", ax=Figure().subplots())
    np.testing.assert_allclose(best.get_lines()[0].get_ydata(), found.final.reshape(3, 2)[:2].min(1))
    with pytest.raises(ValueError, match="has no 'rate'; it has learning_rate, momentum, nothing"):
        found.plot("rate")
    with pytest.raises(ValueError, match="one or two hyperparameters can be drawn, not"):
        found.plot("learning_rate", "momentum", "nothing")


def test_the_memory_of_a_run_is_about_what_the_compiler_says():
    module = importlib.import_module("gradxform.training.sweep")
    program = importlib.import_module("gradxform.training.sweep_program")
    params = {"in": jnp.zeros((64, 256)), "out": jnp.zeros((256, 10))}
    data = np.zeros((512, 64), np.float32)

    def loss(params, batch):
        return jnp.mean(jax.nn.relu(batch @ params["in"]) @ params["out"])

    keys = jax.random.split(jax.random.key(0), 1)
    held = module._Held(jnp.asarray(data), keys, jax.tree.map(lambda leaf: leaf[None], params))
    train = program.Train(loss, program.Start(gx.adam), gx.batches(data, 128), jax.value_and_grad)
    estimate = module._look_ahead(train, None, {"learning_rate": 0.1}, held).bytes

    def taken(points):
        rates = {"learning_rate": np.ones(points, np.float32)}
        start = program.compiled(program.starting(train), None)
        carry = module.Carry(*jax.eval_shape(start, rates, held.starts))
        run = program.compiled(program.Training(train), None)
        drawn = module.Rows(held.data, train.plan, 9, many=True).draw(9, 0, keys)
        compiled = run.lower(rates, carry, drawn.data, keys, np.int32(0), np.int32(9)).compile()
        analysis = compiled.memory_analysis()
        return analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes

    each = (taken(6) - taken(2)) / 4
    assert 0.7 * estimate < each < 1.3 * estimate


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"grid": {}}, ValueError, "the grid is empty"),
        ({"grid": []}, ValueError, "the grid is empty"),
        ({"grid": [{}]}, ValueError, "the grid is empty"),
        ({"grid": {"learning_rate": []}}, ValueError, "no values for 'learning_rate'"),
        (
            {"grid": {"learning_rate": 0.1}},
            TypeError,
            "'learning_rate' must be a sequence of numbers, got 0.1",
        ),
        ({"grid": {"learning_rate": "0.1"}}, TypeError, "'learning_rate' must be a sequence"),
        ({"grid": 0.1}, TypeError, "a dictionary from name to values, or a list"),
        ({"grid": {"learning_rate": [0.1, "a"]}}, TypeError, "'learning_rate' has 'a'; .* real numbers"),
        ({"grid": {"nesterov": [True, False]}}, TypeError, "'nesterov' has True"),
        ({"grid": {"learning_rate": [len]}}, TypeError, "'learning_rate' has <built-in function len>"),
        ({"grid": {"learning_rate": [[0.1, 0.2]]}}, TypeError, r"'learning_rate' has \[0.1, 0.2\]"),
        ({"grid": {"learning_rate": [1j]}}, TypeError, "'learning_rate' has 1j"),
        ({"grid": {"lerning_rate": [0.1]}}, ValueError, "lerning_rate, do not go with sgd.*learning_rate"),
        ({"grid": {"momentum": [0.1]}}, ValueError, "missing a required argument: 'learning_rate'"),
        (
            {"grid": [{"learning_rate": 0.1}, {"learning_rate": 0.1, "momentum": 0.5}]},
            ValueError,
            "same names; point 0 has learning_rate, point 1 has learning_rate, momentum",
        ),
        ({"make_tx": lambda learning_rate: 3}, TypeError, "must return a transformation .* got int"),
        ({"make_tx": gx.sgd(0.1)}, TypeError, "make_tx must be a function"),
        (
            {"make_tx": lambda learning_rate: gx.sgd(learning_rate if learning_rate > 0.05 else 0.0)},
            TypeError,
            "decides by the value of learning_rate, which is traced",
        ),
        ({"loss_fn": 3}, TypeError, "loss_fn must be a function"),
        ({"value_and_grad": 3}, TypeError, "value_and_grad must be a function"),
        ({"params": {"w": [np.arange(3)]}}, TypeError, r"params\['w'\]\[0\] has dtype int"),
        ({"params": lambda key: {"w": jnp.arange(3)}}, TypeError, r"params\['w'\] has dtype int"),
        ({"data": iter([1])}, TypeError, "data must be a tree of arrays"),
        ({"steps": None}, ValueError, "epochs=... or steps=..., one of them"),
        ({"epochs": 1}, ValueError, "one of them; got 1 and 3"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"points_at_once": 0}, ValueError, "points_at_once must be at least 1"),
        ({"seeds": 0}, ValueError, "seeds must be at least 1, got 0"),
        ({"seeds": []}, ValueError, "there are no seeds"),
        ({"seeds": [0.5]}, TypeError, "a seed must be an integer or a random key, got 0.5"),
        ({"seeds": jax.random.key(0)}, TypeError, "a number of seeds or a sequence"),
        ({"keep_params": "none"}, ValueError, "'best' or 'all'"),
        ({"mode": "least"}, ValueError, "'min' or 'max'"),
        ({"devices": []}, ValueError, "devices is empty"),
        ({"evaluate": lambda params: {"b": float(params["b"])}}, TypeError, "evaluate is traced"),
        ({"evaluate": lambda params: params["b"]}, TypeError, "evaluate must return a dictionary"),
        (
            {"evaluate": lambda params: params},
            TypeError,
            r"evaluate's 'w' must be a scalar, it has shape \(4,\)",
        ),
    ],
)
def test_arguments_that_do_not_go(changed, error, message):
    usual = {"loss_fn": squares, "params": START, "data": DATA, "make_tx": gx.sgd}
    arguments = {**usual, "grid": {"learning_rate": [0.1, 0.01]}, "steps": 3, **changed}
    with pytest.raises(error, match=message):
        sweep(**arguments)


def test_a_value_out_of_its_bounds_is_told_with_its_point():
    grid = {"learning_rate": [0.1], "b1": [0.9, 1.5]}
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got 1.5") as caught:
        sweep(squares, START, DATA, gx.adam, grid, steps=3)
    assert caught.value.__notes__ == ["sweep: at point 1 of the grid, {'learning_rate': 0.1, 'b1': 1.5}"]


def half_square(curvature):
    return lambda w, batch: curvature * w**2 / 2 + 0 * batch.sum()


@pytest.mark.parametrize("curvature", [0.5, 4.0, 30.0])
def test_the_range_test_finds_where_descent_on_a_quadratic_diverges(curvature):
    """At the rate α the error is multiplied by 1 - αL: it shrinks below α = 2/L and grows above."""
    test = learning_rate_range_test(
        half_square(curvature), 1.0, np.zeros(1), gx.sgd, start=1e-3, end=100.0, steps=60
    )
    rates = 1e-3 * 1e5 ** (np.arange(60) / 59)
    seen = len(test.loss)
    np.testing.assert_allclose(test.learning_rates, rates[:seen], rtol=1e-4)
    errors = np.cumprod([1.0, *(1 - rates[:-1] * curvature)])[:seen]
    np.testing.assert_allclose(test.loss, curvature * errors**2 / 2, rtol=1e-2, atol=1e-30)
    bound, step = 2 / curvature, 1e5 ** (1 / 59)
    assert bound / step < rates[test.loss.argmin()] < bound * step
    # Smoothed over a twentieth of the rates on either side.
    assert bound / step**4 < test.lowest < bound * step**4
    assert test.diverged > bound
    fell = np.diff(curvature * errors**2 / 2) / np.diff(np.log(rates[:seen]))
    fastest = rates[np.argmin(fell[: test.loss.argmin()])]
    assert fastest / step**4 < test.suggestion < fastest * step**4
    assert test.suggestion < bound


def test_the_range_test_stops_where_the_loss_is_no_number():
    test = learning_rate_range_test(half_square(2.0), 1.0, np.zeros(1), gx.sgd, start=1e-2, end=1e6)
    assert len(test.learning_rates) == len(test.loss) == len(test.smoothed) < 200
    assert np.isfinite(test.loss).all()
    assert "suggestion" in repr(test)
    ax = test.plot(Figure().subplots())
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_xscale()) == ("learning rate", "loss", "log")
    labels = [line.get_label() for line in ax.get_lines()]
    assert labels[:2] == ["loss", "smoothed"]
    assert labels[2] == f"suggestion: {test.suggestion:.3g}"


def test_a_range_without_an_answer_suggests_none():
    flat = learning_rate_range_test(half_square(1.0), 0.0, np.zeros(1), gx.sgd, steps=20)
    assert flat.suggestion is None
    worse = learning_rate_range_test(
        half_square(1.0), 1.0, np.zeros(1), gx.sgd, start=3.0, end=30.0, steps=20
    )
    assert worse.suggestion is None
    assert worse.lowest == worse.diverged == 3.0
    slow = learning_rate_range_test(half_square(1.0), 1.0, np.zeros(1), gx.sgd, start=1e-5, end=0.1, steps=20)
    assert slow.diverged is None
    assert "diverged none" in repr(slow)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"start": 0.0}, "positive and rising, got 0.0 and 10.0"),
        ({"start": 2.0, "end": 1.0}, "got 2.0 and 1.0"),
        ({"steps": 3}, "at least 10, got 3"),
        ({"params": np.inf}, "not finite before the first step"),
    ],
)
def test_ranges_that_do_not_go(changed, message):
    arguments = {
        "loss_fn": half_square(1.0),
        "params": 1.0,
        "data": np.zeros(1),
        "make_tx": gx.sgd,
        **changed,
    }
    with pytest.raises(ValueError, match=message):
        learning_rate_range_test(**arguments)
