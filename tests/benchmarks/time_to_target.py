"""How soon each optimizer reaches a target: ``python tests/benchmarks/time_to_target.py``.

Writes docs/measured/time-to-target.json, of which `run.py` makes the page's section. Names of optimizers as
arguments print their runs beside the reference's and write nothing.
"""

import datetime
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import character_transformer as transformer
import jax
import numpy as np
from run import CONVERGENCE, as_json, machine, versions

import gradxform as gx
from gradxform.comparison.contestants import half_decades
from gradxform.comparison.tasks import TASKS, Task

SEEDS = range(5)
TUNING = range(100, 102)
"""Seeds of which nothing else is known."""

EVALUATIONS = 50
SAMPLES = 2000
SHARE = 0.98
REFERENCE = "adamw"


class Contestant(NamedTuple):
    """An optimizer, the middle of its learning rates, and how it draws its batches.

    Attributes:
      make: learning rate -> transformation.
      rate: in the midst of five half decades.
      batch: examples a step: the task's number, one, or all.
    """

    make: Callable[[Any], gx.GradientTransformation]
    rate: float
    batch: str = "some"

    @property
    def rates(self) -> tuple[float, ...]:
        return half_decades(self.rate / 10.1, self.rate * 10.1)


def _whole(make: Callable[[Any], gx.GradientTransformation]) -> Callable[[Any], gx.GradientTransformation]:
    """Of an optimizer that needs whole arrays, where a task's gradients are row-sparse."""
    return lambda learning_rate: gx.chain(gx.densify(), make(learning_rate))


CONTESTANTS: dict[str, Contestant] = {
    REFERENCE: Contestant(gx.adamw, 0.01),
    "gradient descent": Contestant(gx.sgd, 1.0, "all"),
    "sgd, one example": Contestant(gx.sgd, 0.03, "one"),
    "sgd": Contestant(gx.sgd, 0.3),
    "sgd, momentum": Contestant(partial(gx.sgd, momentum=0.9), 0.1),
    "adagrad": Contestant(gx.adagrad, 0.1),
    "rmsprop": Contestant(gx.rmsprop, 0.01),
    "adadelta": Contestant(gx.adadelta, 10.0),
    "adam": Contestant(gx.adam, 0.01),
    "nadam": Contestant(gx.nadam, 0.01),
    "radam": Contestant(gx.radam, 0.01),
    "adan": Contestant(gx.adan, 0.01),
    "lamb": Contestant(_whole(gx.lamb), 0.01),
    "lion": Contestant(gx.lion, 3e-3),
    "adafactor": Contestant(_whole(partial(gx.adafactor, multiply_by_parameter_scale=False)), 0.01),
    "muon": Contestant(_whole(gx.muon), 0.01),
    # On text an axis has 1,370 words, and to renew their eigenvectors takes longer than all else together.
    "soap": Contestant(_whole(partial(gx.soap, max_precond_dim=1000)), 0.01),
    "prodigy": Contestant(_whole(gx.prodigy), 1.0),
    "schedule_free_adamw": Contestant(gx.schedule_free_adamw, 0.03),
}


def characters() -> Task:
    """A transformer of 120,000 numbers on the Python reference, in passages of 64 characters."""

    def passages(text: np.ndarray) -> np.ndarray:
        starts = np.arange(0, len(text) - transformer.CONTEXT, transformer.CONTEXT)
        return text[starts[:, None] + np.arange(transformer.CONTEXT + 1)]

    train, test = map(passages, transformer.text())
    held = 64
    return Task("characters", transformer.init, transformer.loss, train[:-held], train[-held:], test)


@dataclass(frozen=True)
class Problem:
    """A task, how many examples a batch has, and for how many steps."""

    make: Callable[[], Task]
    batch: int
    steps: int


PROBLEMS = {
    "digits": Problem(TASKS["digits"], 32, 1000),
    "breast-cancer": Problem(TASKS["breast-cancer"], 32, 600),
    "text": Problem(TASKS["text"], 32, 1000),
    "characters": Problem(characters, 8, 250),
}


ABSENT = {("characters", "gradient descent")}
"""A step on all of the text takes longer than all on batches."""


def budget(problem: Problem, contestant: Contestant) -> tuple[int | None, int]:
    """Batch size and steps: single examples are as many in all, whole data sets a quarter as many steps."""
    if contestant.batch == "one":
        return 1, problem.steps * problem.batch
    return (None, problem.steps // 4) if contestant.batch == "all" else (problem.batch, problem.steps)


def first_reached(losses: Any, steps: Any, target: float) -> float:
    """The steps taken at the first evaluation that is no worse than the target; infinite without one."""
    reached = np.flatnonzero(np.asarray(losses) <= target)
    return float(steps[reached[0]]) if reached.size else np.inf


def goal(losses: Any) -> float:
    """Of the way from the first loss to the lowest in the first half: `SHARE`, the median over the runs.

    The lowest itself is luck where the evaluations differ as much as they go down.
    """
    first, half = np.asarray(losses)[..., 0], np.asarray(losses)[..., : EVALUATIONS // 2 + 1]
    lowest = np.fmin.reduce(half, axis=-1)
    return float(np.median(first + SHARE * (lowest - first)))


def pick(losses: np.ndarray, steps: Any, target: float) -> int:
    """The rate that reaches the target soonest on average, and if none does, the one that comes lowest.

    Args:
      losses: of rates, seeds and evaluations.
      steps: taken before each evaluation.
      target: of the validation loss.

    Returns:
      Its place.
    """
    late = 2 * steps[-1]
    sooner = [np.mean([min(first_reached(run, steps, target), late) for run in runs]) for runs in losses]
    lowest = np.nanmin(np.where(np.isfinite(losses), losses, np.inf), -1).mean(-1)
    return min(range(len(losses)), key=lambda place: (sooner[place], lowest[place]))


def train(
    task: Task, problem: Problem, contestant: Contestant, targets: tuple[float, float] | None
) -> tuple[dict[str, Any], tuple[float, float]]:
    """Pick the rate, and train with it from each seed; what came out, and the targets.

    Without targets this is the reference: the targets are made of its own losses.
    """
    batch, steps = budget(problem, contestant)
    every = max(1, steps // EVALUATIONS)
    loss_of = jax.jit(lambda params, data: _loss(task.loss(params, data)))
    settings = {"batch_size": batch, "steps": steps, "value_and_grad": task.value_and_grad, "progress": False}

    def told(data: Any) -> Callable[[Any], dict[str, Any]]:
        return lambda params: {"held out": loss_of(params, data)}

    found = gx.sweep(
        task.loss,
        task.init,
        task.train,
        contestant.make,
        {"learning_rate": contestant.rates},
        seeds=TUNING,
        evaluate=told(task.validation),
        evaluate_every=every,
        by="held out",
        mode="min",
        **settings,
    )
    validation = found.evaluations["held out"]
    best_of_all = np.unravel_index(np.nanargmin(validation.mean(1)), validation.mean(1).shape)[0]
    target = goal(validation[best_of_all]) if targets is None else targets[0]
    rate = contestant.rates[pick(validation, found.evaluated_at, target)]

    tx = contestant.make(rate)
    evaluate = told(task.test)

    def fit(seed: int, settings: Mapping[str, Any]) -> Any:
        begin = task.init(jax.random.fold_in(jax.random.key(seed), 2))  # as sweep does
        return gx.fit(task.loss, begin, task.train, tx, key=seed, on_nonfinite="continue", **settings)

    evaluating = {"evaluate": evaluate, "evaluate_every": every}
    histories = [fit(seed, settings | evaluating).history for seed in SEEDS]
    at = [evaluation.step for evaluation in histories[0].evaluations]
    test = np.array(
        [[evaluation.values["held out"] for evaluation in each.evaluations] for each in histories]
    )
    targets = (target, goal(test)) if targets is None else targets
    timed = settings | {"steps": -(-steps // 3)}
    step = median(fit(seed, timed).history.seconds[-1] for seed in range(3)) / timed["steps"]
    reached = [first_reached(losses, at, targets[1]) for losses in test]
    lowest = np.fmin.reduce(test, axis=-1)
    return (
        {
            "rate": rate,
            "at_edge": rate in (contestant.rates[0], contestant.rates[-1]),
            "steps": [count if np.isfinite(count) else None for count in reached],
            "seconds_a_step": step,
            "lowest": [float(loss) for loss in lowest],
        },
        targets,
    )


def _loss(returned: Any) -> Any:
    return returned[0] if isinstance(returned, tuple) else returned


def ranking(runs: Sequence[Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """The optimizers by how many times the best one's time they take: the median over the tasks.

    Of each task and optimizer counts the median over the seeds. The intervals hold 95 % of what comes out
    when the seeds are drawn anew, with replacement, for each task and optimizer by itself.

    Args:
      runs: for each task and optimizer the steps to the target of each seed, ``None`` where it was not
        reached, and the seconds of a step; without steps it could not take part, and reaches no target.
      seed: of the draws.

    Returns:
      For each optimizer, the best one first, its ratios in seconds and in steps, each with its interval;
      infinite ones are ``None``.
    """
    tasks, names = (list(dict.fromkeys(run[name] for run in runs)) for name in ("task", "optimizer"))
    seeds = max(len(run["steps"]) for run in runs)
    steps = np.full((len(tasks), len(names), seeds), np.inf)
    step = np.ones((len(tasks), len(names), 1))
    for run in runs:
        place = tasks.index(run["task"]), names.index(run["optimizer"])
        if run["steps"]:
            steps[place] = [np.inf if count is None else count for count in run["steps"]]
            step[place] = run["seconds_a_step"]

    def ratios(counts: np.ndarray) -> np.ndarray:
        middle = np.median(counts, -1)
        best = middle.min(1, keepdims=True)
        return np.median(
            np.where(np.isfinite(middle), middle / np.where(np.isfinite(best), best, 1), np.inf), 0
        )

    rng = np.random.default_rng(seed)
    drawn = [rng.integers(0, seeds, steps.shape) for _ in range(SAMPLES)]
    columns = {}
    for unit, counts in (("seconds", steps * step), ("steps", steps)):
        again = np.array([ratios(np.take_along_axis(counts, draw, -1)) for draw in drawn])
        low, high = np.quantile(again, [0.025, 0.975], axis=0, method="nearest")
        columns[unit] = np.stack([low, ratios(counts), high], -1)
    order = sorted(range(len(names)), key=lambda i: (columns["seconds"][i, 1], columns["steps"][i, 1]))
    return [
        {"optimizer": names[i], **{unit: _finite(columns[unit][i].tolist()) for unit in columns}}
        for i in order
    ]


def _finite(numbers: list[float]) -> list[float | None]:
    return [number if np.isfinite(number) else None for number in numbers]


def measure(names: Sequence[str]) -> dict[str, Any]:
    """Train all of them; what came out."""
    begin, rows, targets = perf_counter(), [], {}
    begun = {"date": f"{datetime.date.today():%Y-%m-%d}", "machine": machine(), "versions": versions()}
    begun |= {"failed": []}
    for task_name, problem in PROBLEMS.items():
        task, target = problem.make(), None
        for name in names:
            row: dict[str, Any] = {"task": task_name, "optimizer": name, "steps": []}
            if (task_name, name) not in ABSENT:
                result, target = train(task, problem, CONTESTANTS[name], target)
                row |= result
            rows.append(row)
            print(json.dumps(row), flush=True)
            jax.clear_caches()
        assert target is not None
        targets[task_name] = {"target": target[1], "steps": problem.steps, "batch": problem.batch}
    minutes = round((perf_counter() - begin) / 60)
    return {
        **begun,
        "minutes": minutes,
        "tasks": targets,
        "ranking": ranking(rows),
        "rows": rows,
    }


def main(arguments: list[str]) -> None:
    """Measure all and write, or those asked for and print."""
    results = measure(list(dict.fromkeys([REFERENCE, *(arguments or CONTESTANTS)])))
    if not arguments:
        CONVERGENCE.write_text(f"{as_json(results)}\n")


if __name__ == "__main__":
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    main(sys.argv[1:])
