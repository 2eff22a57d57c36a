"""The race on problems of one's own, the runner below it, and the noise of the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.comparison import Contestant, compare
from gradxform.comparison.contestants import half_decades
from gradxform.comparison.runner import Arena, Trainer, gradient_noise
from gradxform.comparison.tasks import Task

ROWS, COLUMNS = 600, 3
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, COLUMNS)).astype(np.float32)
Y = (X @ np.array([1.0, -2.0, 0.5]) + 0.3 * RANDOM.normal(size=ROWS)).astype(np.float32)
DATA = {"x": X, "y": Y}


def loss_fn(w, batch):
    return ((batch["x"] @ w - batch["y"]) ** 2).mean()


def loss_of(w, x, y):
    return ((x @ w - y) ** 2).mean()


@pytest.fixture(scope="module")
def report():
    return compare(
        loss_fn,
        jnp.zeros(COLUMNS),
        {"x": X[:400], "y": Y[:400]},
        {"whole": gx.sgd(0.1), "ours": gx.adam, "theirs": optax.adam},
        batch_size={"whole": None, "ours": 50, "theirs": 50},
        learning_rates=[0.001, 0.1],
        validation={"x": X[400:500], "y": Y[400:500]},
        test={"x": X[500:], "y": Y[500:]},
        epochs=4,
        seeds=2,
        name="least squares",
    )


def test_gradient_descent_against_numpy(report):
    w = np.zeros(COLUMNS)
    train, validation, test = [], [], []
    for _ in range(5):
        train.append(loss_of(w, X[:400], Y[:400]))
        validation.append(loss_of(w, X[400:500], Y[400:500]))
        test.append(loss_of(w, X[500:], Y[500:]))
        w = w - 0.1 * 2 * X[:400].T @ (X[:400] @ w - Y[:400]) / 400
    curve = report.curves["whole"]
    for measured, expected in (
        (curve.train_loss, train),
        (curve.validation_loss, validation),
        (curve.test_score, test),
    ):
        # nothing is drawn: both seeds are the same
        np.testing.assert_allclose(measured, [expected, expected], rtol=1e-5)
    row = report.rows[0]
    assert (row.batch, row.steps, row.learning_rate, row.spread) == (400, 4, None, 0)
    assert row.score == pytest.approx(test[-1], rel=1e-5)


def test_factories_of_any_library(report):
    assert report.score_name == "loss"
    assert set(report.sensitivity) == {"ours", "theirs"}
    ours, theirs = report.rows[1:]
    assert ours.steps == theirs.steps == 4 * 8
    assert ours.learning_rate == theirs.learning_rate == 0.1
    np.testing.assert_allclose(
        report.curves["ours"].train_loss, report.curves["theirs"].train_loss, rtol=1e-4
    )
    assert "least squares" in str(report)
    assert "test loss" in str(report)


def test_noise_against_the_gradients_of_the_examples():
    w = np.array([0.5, 0.5, 0.5], np.float32)
    task = Task("noise", lambda key: jnp.asarray(w), loss_fn, DATA, DATA, DATA)
    sizes, variance = gradient_noise(task, jnp.asarray(w), jax.random.key(0), least_draws=400)
    each = 2 * (X @ w - Y)[:, None] * X
    of_one = ((each - each.mean(0)) ** 2).sum(1).mean()
    assert sizes == [1, 4, 16, 64, 256]
    assert variance[0] == pytest.approx(of_one, rel=1e-4)
    # the mean of B of N drawn without replacement
    expected = [of_one / size * (ROWS - size) / (ROWS - 1) for size in sizes]
    np.testing.assert_allclose(variance, expected, rtol=0.2)


def test_the_grid_and_single_runs_train_alike():
    task = Task("alike", lambda key: jax.random.normal(key, (COLUMNS,)), loss_fn, DATA, DATA, DATA)
    trainer = Trainer(Arena(task), Contestant("sgd", gx.sgd, 64, (0.01, 0.02, 1e9)))
    keys, told = jax.random.split(jax.random.key(1), 2), []
    grid = trainer.grid(keys, 2)
    curves = trainer.curves(0.02, keys, 2, lambda: told.append(1))
    assert curves.train_loss.shape == (2, 3)
    assert len(told) == 2
    for name in ("train_loss", "validation_loss", "test_score"):
        np.testing.assert_allclose(grid.evaluations[name][1], getattr(curves, name)[:, [0, 2]], rtol=1e-5)
    assert len(set(curves.train_loss[:, 0])) == 2
    assert grid.best == {"learning_rate": 0.02}
    assert 0 < trainer.seconds(0.02, keys[0], 2) < 10


def test_splits_are_taken_and_parameters_drawn_where_they_are_not_given():
    def with_accuracy(w, batch):
        return loss_fn(w, batch), {"accuracy": (jnp.abs(batch["x"] @ w - batch["y"]) < 1).mean()}

    drawn = compare(
        with_accuracy,
        lambda key: jax.random.normal(key, (COLUMNS,)),
        DATA,
        {"sgd": gx.sgd(0.1)},
        batch_size=100,
        epochs=10,
        seeds=2,
    )
    assert drawn.score_name == "accuracy"
    assert drawn.rows[0].steps == 10 * 3  # batches of 100 in the three fifths of 600
    first, second = (losses[0] for losses in drawn.curves["sgd"].train_loss)
    assert first != second
    assert 0.9 < drawn.rows[0].score <= 1
    assert drawn.noise.examples == 360


def test_half_decades():
    assert half_decades(3e-3, 1.0) == (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"transformations": {}}, ValueError, "no transformations"),
        ({"transformations": {"a": 3}}, TypeError, "'a' must be"),
        ({"epochs": 0}, ValueError, "epochs must be an integer of at least 1, got 0"),
        ({"seeds": 1.5}, ValueError, "seeds .* got 1.5"),
        ({"learning_rates": []}, ValueError, "learning_rates of 'adam'"),
        ({"learning_rates": [0.1, -1]}, ValueError, "positive"),
        ({"learning_rates": {"sgd": [0.1]}}, ValueError, "nothing for 'adam'; it has sgd"),
        ({"batch_size": 700}, ValueError, "batch_size must be between 1 and"),
        ({"data": {"x": X[:4], "y": Y[:4]}}, ValueError, "4 examples are too few"),
    ],
)
def test_bad_arguments(changed, error, said):
    arguments = {"data": DATA, "transformations": {"adam": gx.adam}, **changed}
    with pytest.raises(error, match=said):
        compare(loss_fn, jnp.zeros(COLUMNS), **arguments)
