"""Training many runs of one algorithm side by side, timing one of them, and measuring gradient noise."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.comparison.contestants import Contestant
from gradxform.comparison.tasks import LossFunction, Task
from gradxform.training.batches import Batches, batches, take
from gradxform.transformation import Params, State, apply_updates
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
def _draw(plan: Batches, keys: jax.Array, epoch: Any) -> jax.Array:
    """The batches of an epoch for every key: int32 ``[keys, steps, batch]``."""
    return jax.vmap(lambda key: plan.epoch(jax.random.fold_in(key, epoch)))(keys)


class Arena:
    """A task, and what all algorithms that train on it share: start and evaluation, each compiled once.

    Args:
      task: what to train on.
      lanes: how many runs train side by side in one program.
    """

    def __init__(self, task: Task, lanes: int) -> None:
        self.task, self.lanes = task, lanes
        self.start = jax.jit(jax.vmap(task.init))
        self.evaluate = jax.jit(jax.vmap(partial(_evaluate, task)))


class Trainer:
    """Trains one algorithm on a task.

    An epoch is one call of a compiled `jax.lax.scan` over its steps. Its short
    last batch is left out, so that every step costs the same.

    Args:
      arena: the task.
      contestant: the algorithm.
    """

    def __init__(self, arena: Arena, contestant: Contestant) -> None:
        self.arena, self.task, self.contestant = arena, arena.task, contestant
        self.plan = batches(self.task.train, contestant.batch_size, drop_last=True)
        self._start = jax.jit(jax.vmap(lambda rate, params: contestant.make(rate).init(params)))
        self._epochs = jax.jit(jax.vmap(self._epoch))

    def _epoch(
        self, learning_rate: Any, params: Params, state: State, order: jax.Array
    ) -> tuple[Params, State]:
        # The rate may be traced: any factory of any library takes it, and a grid is one program.
        tx = self.contestant.make(learning_rate)
        value_and_grad = jax.value_and_grad if self.plan.whole else self.task.value_and_grad

        def step(carry: tuple[Params, State], indices: jax.Array) -> tuple[tuple[Params, State], None]:
            params, state = carry
            batch = self.task.train if self.plan.whole else take(self.task.train, indices)
            _, grads = value_and_grad(lambda params: _scalar(self.task.loss, params, batch))(params)
            updates, state = tx.update(grads, state, params)
            return (apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, state), order)
        return params, state

    def train(
        self,
        learning_rates: Sequence[float],
        keys: jax.Array,
        epochs: int,
        after_epoch: Callable[[], None] = lambda: None,
    ) -> tuple[Params, Evaluation]:
        """Train as many runs as there are keys, `Arena.lanes` at a time.

        Args:
          learning_rates: one for each run.
          keys: one for each run; they give the first parameters and the batches.
          epochs: passes over the training split.
          after_epoch: called after each of them, for each group of runs.

        Returns:
          The parameters with a leading axis of runs, and an `Evaluation` of
          arrays ``[runs, epochs + 1]``: at the start and after every epoch.
        """
        lanes = self.arena.lanes
        groups = [
            self._group(learning_rates[at : at + lanes], keys[at : at + lanes], epochs, after_epoch)
            for at in range(0, len(keys), lanes)
        ]
        together: tuple[Params, Evaluation] = jax.tree.map(lambda *leaves: np.concatenate(leaves), *groups)
        return together

    def _group(
        self, learning_rates: Sequence[float], keys: jax.Array, epochs: int, after_epoch: Callable[[], None]
    ) -> tuple[Params, Evaluation]:
        runs = len(keys)
        # The last run fills the empty lanes: one program for every number of runs.
        lane = np.minimum(np.arange(self.arena.lanes), runs - 1)
        rates, lane_keys = jnp.asarray(learning_rates, float)[lane], keys[lane]
        params = self.arena.start(lane_keys)
        state = self._start(rates, params)
        curve = [self.arena.evaluate(params)]
        for epoch in range(epochs):
            params, state = self._epochs(rates, params, state, _draw(self.plan, lane_keys, epoch))
            curve.append(jax.block_until_ready(self.arena.evaluate(params)))
            after_epoch()
        evaluations = Evaluation(*(np.stack(column, axis=1)[:runs] for column in zip(*curve, strict=True)))
        return jax.tree.map(lambda leaf: leaf[:runs], params), evaluations

    def seconds(self, learning_rate: float, key: jax.Array, epochs: int) -> float:
        """How long one run takes, alone, compiled, its batches drawn, without evaluation.

        Args:
          learning_rate: its learning rate, a constant of the program.
          key: its key.
          epochs: passes over the training split.

        Returns:
          The seconds of the median epoch, times `epochs`.
        """
        lane_keys = jnp.stack([key] * self.arena.lanes)  # the programs that are compiled already
        start = jax.tree.map(lambda leaf: leaf[0], self.arena.start(lane_keys))
        order = _draw(self.plan, lane_keys, 0)[0]
        carry = start, self.contestant.make(learning_rate).init(start)
        epoch = jax.jit(lambda params, state: self._epoch(learning_rate, params, state, order))
        carry = jax.block_until_ready(epoch(*carry))
        seconds: list[float] = []
        while len(seconds) < 5 or (sum(seconds) < 0.2 and len(seconds) < 100):
            began = time.perf_counter()
            carry = jax.block_until_ready(epoch(*carry))
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds)) * epochs


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

    # One batch after the other: the gradients of all of them at once may not fit in memory.
    distances = jax.jit(lambda drawn: jax.lax.map(distance, drawn))

    orders = _draw(batches(examples, 1), jax.random.split(key, least_draws), 0).reshape(-1, examples)

    def measured(size: int) -> float:
        steps = examples // size
        epochs = 1 if size == 1 else max(2, -(-least_draws // steps))
        return float(distances(orders[:epochs, : steps * size].reshape(-1, size)).mean())

    return sizes, [measured(size) for size in sizes]
