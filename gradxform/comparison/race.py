"""The race: pick each algorithm's learning rate, train it from several seeds, time it, report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.comparison.contestants import Contestant, half_decades
from gradxform.comparison.report import Curve, Noise, Report, Row, Sensitivity
from gradxform.comparison.runner import Arena, Evaluation, Trainer, gradient_noise, score_name
from gradxform.comparison.tasks import LossFunction, Task
from gradxform.training.batches import batches, take
from gradxform.training.sweep_result import Sweep
from gradxform.transformation import GradientTransformation, Params
from gradxform.trees import PyTree, tree_bytes

PICK_RUNS = 3
"""How many runs the validation loss of a learning rate is the mean of."""

Progress = Callable[[str, float], None]
"""Told what is going on, and the fraction that is done."""

__all__ = ["Progress", "compare", "race"]


def _silent(what: str, fraction: float) -> None:
    pass


def race(
    task: Task,
    contestants: Sequence[Contestant],
    *,
    epochs: int,
    seeds: int,
    progress: Progress = _silent,
) -> Report:
    """Let algorithms race on a task.

    Each one's grid of learning rates is a `sweep`, each rate from a few keys;
    the one with the lowest mean validation loss at the end is trained from
    every seed.

    Args:
      task: what to train on.
      contestants: the algorithms.
      epochs: passes over the training split.
      seeds: runs of every algorithm.
      progress: told what is going on.

    Returns:
      The `Report`.
    """
    arena = Arena(task)
    # The grid is picked with keys of its own, so that no seed of the report has had a say in it.
    noise_key, *_ = every = jax.random.split(jax.random.key(0), 1 + PICK_RUNS + seeds)
    pick_keys, keys = every[1 : 1 + PICK_RUNS], every[1 + PICK_RUNS :]
    rows, curves, sensitivity = [], {}, {}
    trainers = [Trainer(arena, contestant) for contestant in contestants]
    total = sum(seeds + len(each.learning_rates) for each in contestants)
    done = 0

    for trainer in trainers:
        name, rates = trainer.contestant.name, trainer.contestant.learning_rates
        picked = None
        if rates:
            progress(f"{name}: learning rates", done / total)
            sensitivity[name] = _sensitivity(trainer.grid(pick_keys, epochs))
            picked = rates[sensitivity[name].picked]
            done += len(rates)
        progress(f"{name}: seeds", done / total)

        def after_run(name: str = name) -> None:
            nonlocal done
            done += 1
            progress(f"{name}: seeds", done / total)

        # A transformation without a grid takes no notice of the rate.
        rate = 1.0 if picked is None else picked
        runs = trainer.curves(rate, keys, epochs, after_run)
        seconds = trainer.seconds(rate, keys[0], epochs)
        rows.append(_row(trainer, picked, rate, runs, seconds, epochs))
        curves[name] = Curve(
            seconds=[seconds * epoch / epochs for epoch in range(epochs + 1)],
            train_loss=runs.train_loss.tolist(),
            validation_loss=runs.validation_loss.tolist(),
            test_score=runs.test_score.tolist(),
        )

    progress("gradient noise", 1.0)
    return Report(
        task.name,
        score_name(task),
        epochs,
        seeds,
        tuple(rows),
        curves,
        sensitivity,
        _noise(task, trainers, rows, noise_key),
    )


def _noise(task: Task, trainers: Sequence[Trainer], rows: Sequence[Row], key: jax.Array) -> Noise | None:
    """The gradient noise after one epoch of the algorithm with the lowest loss; ``None`` if none has one."""
    best = min(range(len(rows)), key=lambda i: (rows[i].diverged, _or_infinite(rows[i].final_loss)))
    if not np.isfinite(rows[best].final_loss):
        return None
    params = trainers[best].run(rows[best].learning_rate or 1.0, key, 1).params
    sizes, variance = gradient_noise(task, params, key)
    return Noise(sizes, variance, batches(task.train).size, rows[best].algorithm)


def _or_infinite(value: float) -> float:
    return value if np.isfinite(value) else float("inf")


def _diverged(losses: np.ndarray) -> np.ndarray:
    """For each run, whether it ended above its start or at no number."""
    return ~(losses[..., -1] <= losses[..., 0])


def _sensitivity(grid: Sweep) -> Sensitivity:
    def mean(losses: np.ndarray) -> list[float]:
        with np.errstate(invalid="ignore", over="ignore"):  # of a diverged run
            means: list[float] = losses[..., -1].mean(1, dtype=float).tolist()
        return means

    train_loss = grid.evaluations["train_loss"]
    diverged: list[bool] = np.any(_diverged(train_loss), axis=1).tolist()
    return Sensitivity(
        learning_rates=[point["learning_rate"] for point in grid.points],
        start_loss=float(train_loss[..., 0].mean()),
        train_loss=mean(train_loss),
        validation_loss=mean(grid.evaluations["validation_loss"]),
        diverged=diverged,
        picked=0 if grid.best_index is None else grid.best_index[0],
    )


def _row(
    trainer: Trainer, picked: float | None, rate: float, runs: Evaluation, seconds: float, epochs: int
) -> Row:
    scores = runs.test_score[:, -1].astype(float)
    params = jax.eval_shape(trainer.task.init, jax.random.key(0))
    state = jax.eval_shape(trainer.contestant.make(rate).init, params)
    steps = trainer.plan.full_steps * epochs
    with np.errstate(invalid="ignore", over="ignore"):  # of a diverged run
        return Row(
            algorithm=trainer.contestant.name,
            batch=trainer.plan.batch_size,
            learning_rate=picked,
            score=float(scores.mean()),
            spread=float(scores.std(ddof=1)) if len(scores) > 1 else 0.0,
            final_loss=float(runs.train_loss[:, -1].mean(dtype=float)),
            steps=steps,
            seconds=seconds,
            steps_per_second=steps / seconds,
            state_bytes=tree_bytes(state) / sum(leaf.size for leaf in jax.tree.leaves(params)),
            diverged=int(_diverged(runs.train_loss).sum()),
        )


def compare(
    loss_fn: LossFunction,
    params: Params | Callable[[jax.Array], Params],
    data: PyTree,
    transformations: Mapping[str, GradientTransformation | Callable[[Any], GradientTransformation]],
    *,
    batch_size: int | Mapping[str, int | None] | None = 32,
    learning_rates: Sequence[float] | Mapping[str, Sequence[float]] = half_decades(1e-4, 10.0),
    validation: PyTree = None,
    test: PyTree = None,
    epochs: int = 10,
    seeds: int = 3,
    name: str = "compare",
    progress: Progress = _silent,
) -> Report:
    """Let transformations race on your own problem; what ``gradxform compare`` does on its own data.

    A factory has its learning rate picked from a grid by `sweep`, by the loss
    on the validation split. Then every algorithm trains from several seeds.

    Args:
      loss_fn: ``loss_fn(params, batch)`` -> the mean loss over the batch, or
        ``(loss, metrics)``; if `metrics` is a dictionary with an
        ``"accuracy"``, that is the score on the test split, otherwise the
        loss is.
      params: the parameters to start from, or a function that draws them from
        a random key.
      data: a pytree of arrays with one row an example.
      transformations: by name, a transformation (of this library or any other
        with its interface), or a factory ``learning_rate -> transformation``,
        such as `gradxform.adam` or ``optax.adam``.
      batch_size: examples a step, ``None`` for all; one number, or one for
        each name.
      learning_rates: the grid for the factories; one, or one for each name.
      validation: data like `data`; left out, a fifth of `data` taken at random.
      test: data like `data`; left out, another fifth.
      epochs: passes over the training data.
      seeds: runs of each algorithm; a seed gives the order of the batches, and
        the first parameters if `params` is a function.
      name: what the report calls the problem.
      progress: called with what is going on and the fraction that is done.

    Returns:
      A `Report`: a table when printed; ``report.save(folder)`` writes table,
      JSON and pictures.

    Raises:
      ValueError: no transformations, a number below 1, or a learning rate
        that is not a positive number.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> from gradxform.comparison import compare
      >>> x = jnp.linspace(-1, 1, 50)
      >>> loss = lambda w, batch: ((w * batch["x"] - batch["y"]) ** 2).mean()
      >>> report = compare(loss, jnp.zeros(()), {"x": x, "y": 3 * x}, {"sgd": gx.sgd},
      ...                  batch_size=10, learning_rates=[0.001, 0.5], epochs=3, seeds=2)
      >>> report.rows[0].learning_rate
      0.5
    """
    if not transformations:
        raise ValueError(
            "compare: no transformations to compare; pass a dictionary of name to transformation"
        )
    for what, count in (("epochs", epochs), ("seeds", seeds)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"compare: {what} must be an integer of at least 1, got {count!r}")

    def of(name: str, option: Any, what: str) -> Any:
        if isinstance(option, Mapping):
            if name not in option:
                raise ValueError(
                    f"compare: {what} has nothing for {name!r}; it has {', '.join(option) or 'nothing'}"
                )
            return option[name]
        return option

    def contestant(name: str, entry: Any) -> Contestant:
        size = of(name, batch_size, "batch_size")
        if hasattr(entry, "init") and hasattr(entry, "update"):
            return Contestant(name, lambda learning_rate: entry, size, ())
        if not callable(entry):
            raise TypeError(
                f"compare: {name!r} must be a transformation or a factory of a learning rate, got {entry!r}"
            )
        rates = tuple(map(float, of(name, learning_rates, "learning_rates")))
        if not rates or not all(0 < rate < float("inf") for rate in rates):
            raise ValueError(f"compare: learning_rates of {name!r} must be positive numbers, got {rates}")
        return Contestant(name, entry, size, rates)

    contestants = [contestant(name, entry) for name, entry in transformations.items()]
    # A function is a leaf; a pytree that happens to be callable, such as a module, is not.
    draws = callable(params) and jax.tree_util.all_leaves([params])
    init = params if draws else lambda key: jax.tree.map(jnp.asarray, params)
    task = _split(Task(name, init, loss_fn, data, validation, test, epochs))
    return race(task, contestants, epochs=epochs, seeds=seeds, progress=progress)


def _split(task: Task) -> Task:
    """The task with a fifth of its training data in the place of each split that it lacks."""
    missing = [split for split in ("validation", "test") if getattr(task, split) is None]
    if not missing:
        return task
    size = batches(task.train).size
    fifth = size // 5
    if not fifth:
        raise ValueError(
            f"compare: {size} examples are too few to take a validation and a test split from; "
            "pass validation= and test="
        )
    order = np.random.default_rng(0).permutation(size)
    parts = {
        split: take(task.train, jnp.asarray(order[i * fifth : (i + 1) * fifth]))
        for i, split in enumerate(missing)
    }
    rest = take(task.train, jnp.asarray(order[len(missing) * fifth :]))
    return replace(task, train=rest, **parts)
