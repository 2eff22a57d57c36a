"""Training an algorithm on a task, timing it, and measuring the noise of its gradient."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.comparison.contestants import Contestant
from gradxform.comparison.tasks import LossFunction, Task
from gradxform.training.batches import Batches, batches, take
from gradxform.training.fit import fit
from gradxform.training.history import FitResult
from gradxform.training.sweep import sweep
from gradxform.training.sweep_result import Sweep
from gradxform.transformation import Params
from gradxform.trees import PyTree

__all__ = ["Arena", "Evaluation", "Trainer", "gradient_noise", "score_name"]


class Evaluation(NamedTuple):
    """Losses and scores over whole splits.

    Attributes:
      train_loss, validation_loss, test_loss: the loss over the split.
      validation_score, test_score: its accuracy if the loss function returns
        one, otherwise the loss.
    """

    train_loss: Any
    validation_loss: Any
    test_loss: Any
    validation_score: Any
    test_score: Any


def _scalar(loss: LossFunction, params: Params, batch: PyTree) -> Any:
    value = loss(params, batch)
    return value[0] if isinstance(value, tuple) else value


def _measure(loss: LossFunction, params: Params, split: PyTree) -> tuple[Any, Any]:
    """The loss over a split, and the accuracy if there is one."""
    value = loss(params, split)
    value, metrics = value if isinstance(value, tuple) else (value, None)
    return value, metrics["accuracy"] if isinstance(metrics, dict) and "accuracy" in metrics else value


def _evaluate(task: Task, params: Params) -> Evaluation:
    train_loss, _ = _measure(task.loss, params, task.train)
    validation_loss, validation_score = _measure(task.loss, params, task.validation)
    test_loss, test_score = _measure(task.loss, params, task.test)
    return Evaluation(train_loss, validation_loss, test_loss, validation_score, test_score)


def score_name(task: Task) -> str:
    """What the task is scored by: ``"accuracy"`` if its loss function returns that, otherwise ``"loss"``."""
    value = jax.eval_shape(lambda key: task.loss(task.init(key), task.train), jax.random.key(0))
    has = isinstance(value, tuple) and isinstance(value[1], dict) and "accuracy" in value[1]
    return "accuracy" if has else "loss"


@partial(jax.jit, static_argnums=0)
def _draw(plan: Batches, keys: jax.Array) -> jax.Array:
    """The batches of an epoch for every key: int32 ``[keys, steps, batch]``."""
    return jax.vmap(plan.epoch)(keys)


class Arena:
    """A task, and what all algorithms that train on it share: start and evaluation, each compiled once.

    Args:
      task: what to train on.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.start = jax.jit(lambda key: task.init(jax.random.fold_in(key, 2)))  # as `sweep` does
        self.evaluate = jax.jit(lambda params: _evaluate(task, params)._asdict())


class Trainer:
    """Trains one algorithm on a task: a grid of learning rates by `sweep`, single runs by `fit`.

    The short batch at an epoch's end is left out, so that every step costs the same.

    Args:
      arena: the task.
      contestant: the algorithm.
    """

    def __init__(self, arena: Arena, contestant: Contestant) -> None:
        self.arena, self.task, self.contestant = arena, arena.task, contestant
        self.plan = batches(self.task.train, contestant.batch_size, drop_last=True)
        # Made once for each rate, so that nothing is compiled twice.
        self.tx = cache(contestant.make)
        whole = self.plan.whole
        self._how: dict[str, Any] = {
            "batch_size": contestant.batch_size,
            "drop_last": True,
            "progress": False,
            "value_and_grad": jax.value_and_grad if whole else self.task.value_and_grad,
        }

    def grid(self, keys: jax.Array, epochs: int) -> Sweep:
        """Train with every learning rate of the grid from every key, evaluated at the start and the end."""
        return sweep(
            self.task.loss,
            self.task.init,
            self.task.train,
            lambda learning_rate: self.contestant.make(learning_rate),
            {"learning_rate": self.contestant.learning_rates},
            seeds=keys,
            epochs=epochs,
            evaluate=self.arena.evaluate,
            evaluate_every=epochs * self.plan.steps_per_epoch,
            by="validation_loss",
            **self._how,
        )

    def run(self, learning_rate: float, key: jax.Array, epochs: int, *, evaluate: bool = False) -> FitResult:
        """Train once, from a key that gives the first parameters and the batches.

        Args:
          learning_rate: a constant of the program.
          key: the key.
          epochs: passes over the training split.
          evaluate: whether to do so at the start and after every epoch.

        Returns:
          What `fit` returns.
        """
        return fit(
            self.task.loss,
            self.arena.start(key),
            self.task.train,
            self.tx(learning_rate),
            key=key,
            epochs=epochs,
            evaluate=self.arena.evaluate if evaluate else None,
            evaluate_every=self.plan.steps_per_epoch,
            on_nonfinite="continue",
            **self._how,
        )

    def curves(
        self, learning_rate: float, keys: jax.Array, epochs: int, after_run: Callable[[], None]
    ) -> Evaluation:
        """Train once from each key; an `Evaluation` of arrays ``[keys, epochs + 1]``."""
        runs = []
        for key in keys:
            history = self.run(learning_rate, key, epochs, evaluate=True).history
            runs.append([each.values for each in history.evaluations])
            after_run()
        return Evaluation(
            *(np.asarray([[values[name] for values in run] for run in runs]) for name in Evaluation._fields)
        )

    def seconds(self, learning_rate: float, key: jax.Array, epochs: int) -> float:
        """How long one run takes, alone, compiled, without evaluation: the median of a few."""
        seconds: list[float] = []
        while len(seconds) < 3 or (sum(seconds) < 0.2 and len(seconds) < 20):
            seconds.append(float(self.run(learning_rate, key, epochs).history.seconds[-1]))
        return float(np.median(seconds))


def gradient_noise(
    task: Task, params: Params, key: jax.Array, least_draws: int = 64
) -> tuple[list[int], list[float]]:
    r"""How far a batch's gradient is from the whole data set's: :math:`E\|g_B - g\|^2`.

    Batches are drawn as in training: an epoch goes through all examples, so
    at batch size 1 the figure is exact.

    Args:
      task: the task.
      params: where to measure.
      key: of the draws.
      least_draws: how many batches of each size at least.

    Returns:
      The batch sizes 1, 4, 16, ... below the number of examples, and the mean
      squared distance for each.
    """
    examples = batches(task.train).size
    sizes = [4**k for k in range(10) if 4**k < examples] or [1]
    gradient = jax.grad(lambda params, batch: _scalar(task.loss, params, batch))
    whole = jax.jit(gradient)(params, task.train)

    def distance(indices: jax.Array) -> jax.Array:
        grads = gradient(params, take(task.train, indices))
        apart = jax.tree.map(lambda g, w: (jnp.abs(g - w) ** 2).sum(), grads, whole)
        return sum(jax.tree.leaves(apart), start=jnp.zeros(()))

    orders: jax.Array = _draw(batches(examples, 1), jax.random.split(key, least_draws)).reshape(-1, examples)

    def drawn(size: int) -> jax.Array:
        steps = examples // size
        epochs = 1 if size == 1 else max(2, -(-least_draws // steps))
        return orders[:epochs, : steps * size].reshape(-1, size)

    # One batch after the other: the gradients of all of them at once may not fit in memory.
    measured = jax.jit(lambda sizes: [jax.lax.map(distance, indices).mean() for indices in sizes])
    return sizes, [float(each) for each in measured([drawn(size) for size in sizes])]
