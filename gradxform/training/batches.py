"""Drawing batches on the device: the whole data set, one example, or k of them at a time.

Everything here is a pure function of a random key, so it runs under `jax.jit`,
`jax.vmap` and `jax.lax.scan`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.trees import PyTree, flatten, paths

__all__ = ["Batches", "Shuffled", "Shuffler", "batches", "epoch_key", "step_key", "take"]

_MOST_DRAWS = 2**22
"""How many examples are put in order ahead, unless a single epoch has more."""


@dataclass(frozen=True)
class Batches:
    """How the examples of a data set are drawn, epoch by epoch; made by `batches`.

    Attributes:
      size: the number of examples, and so of draws in an epoch.
      batch_size: the number of examples in a batch, 1 to `size`.
      replacement: whether every example is drawn independently of the others;
        otherwise an epoch goes through all of them in a random order.
      drop_last: whether the short batch at an epoch's end is left out.
    """

    size: int
    batch_size: int
    replacement: bool = False
    drop_last: bool = False

    @property
    def whole(self) -> bool:
        """Whether the batch is the data set itself: nothing to draw and nothing to gather."""
        return self.batch_size == self.size and not self.replacement

    @property
    def full_steps(self) -> int:
        """The number of batches of `batch_size` in an epoch."""
        return self.size // self.batch_size

    @property
    def remainder(self) -> int:
        """The number of examples in the short batch at an epoch's end; 0 if there is none."""
        return 0 if self.drop_last else self.size % self.batch_size

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch, a short one included."""
        return self.full_steps + (self.remainder > 0)

    def order(self, key: jax.Array) -> jax.Array:
        """The draws of an epoch one after the other: int32 of shape ``[size]``."""
        if self.whole:
            return jnp.arange(self.size, dtype=jnp.int32)
        if self.replacement:
            return jax.random.randint(key, (self.size,), 0, self.size, dtype=jnp.int32)
        return jax.random.permutation(key, jnp.arange(self.size, dtype=jnp.int32))

    def epoch(self, key: jax.Array) -> jax.Array:
        """The full batches of the epoch that `key` draws: int32 of shape ``[full_steps, batch_size]``."""
        return self.order(key)[: self.full_steps * self.batch_size].reshape(self.full_steps, self.batch_size)

    def short(self, key: jax.Array) -> jax.Array:
        """The short batch at the end of that epoch: int32 of shape ``[remainder]``."""
        end = self.full_steps * self.batch_size
        return self.order(key)[end : end + self.remainder]

    def at(self, key: jax.Array, step: int) -> jax.Array:
        """The batch of step number `step` (from 0 on, over all epochs) of a `fit` with that `key`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        begin = position * self.batch_size
        return self.order(epoch_key(key, epoch))[begin : begin + self.batch_size]


class Shuffled(NamedTuple):
    """A data set, and the order of its examples in a few epochs.

    Attributes:
      data: a pytree of arrays with one row an example.
      orders: int32 of shape ``[epochs, size]``.
      first: the number of the first of these epochs.
    """

    data: PyTree
    orders: jax.Array
    first: Any


class Shuffler:
    """Draws the orders of a few epochs at a time.

    It does so in a program of its own, which all trainings on a data set share:
    random numbers take longer to compile than many a step.

    Args:
      plan: how batches are drawn; not of the whole data set.
      length: the most steps of a compiled call.
      many: whether to draw for each of several keys.
    """

    def __init__(self, plan: Batches, length: int, *, many: bool = False) -> None:
        self._epochs = max(1, min(length // plan.steps_per_epoch, _MOST_DRAWS // plan.size))
        self._steps = self._epochs * plan.steps_per_epoch
        self._draw = _orders(plan, self._epochs, many)
        self._first = -1

    def end(self, step: int) -> int:
        """The step that the orders drawn for `step` reach up to."""
        return (step // self._steps + 1) * self._steps

    def orders(self, key: jax.Array, step: int) -> tuple[jax.Array, np.int32]:
        """The orders of the epoch that `step` is in and of some around it, and the number of the first."""
        first = step // self._steps * self._epochs
        if first != self._first:
            self._first, self._held = first, self._draw(key, np.int32(first))
        return self._held, np.int32(first)


@lru_cache(maxsize=64)
def _orders(plan: Batches, epochs: int, many: bool) -> Callable[..., jax.Array]:
    def draw(key: jax.Array, first: Any) -> jax.Array:
        return jax.vmap(lambda epoch: plan.order(epoch_key(key, epoch)))(first + jnp.arange(epochs))

    return jax.jit(jax.vmap(draw, (0, None)) if many else draw)


def epoch_key(key: jax.Array, epoch: int | jax.Array) -> jax.Array:
    """The key that draws epoch number `epoch` of a `fit` with that `key`."""
    return jax.random.fold_in(jax.random.fold_in(key, 0), epoch)


def step_key(key: jax.Array, step: int | jax.Array) -> jax.Array:
    """The key that the loss gets at step number `step` of a `fit` with that `key`."""
    return jax.random.fold_in(jax.random.fold_in(key, 1), step)


def batches(
    data_or_size: PyTree, batch_size: int | None = None, *, replacement: bool = False, drop_last: bool = False
) -> Batches:
    """Plan how to draw batches.

    Args:
      data_or_size: a pytree of arrays with one row an example, or the number
        of examples.
      batch_size: the number of examples in a batch; by default all of them.
      replacement: whether to draw every example independently of the others;
        by default an epoch goes through all of them in a random order.
      drop_last: whether to leave out the short batch at an epoch's end.

    Returns:
      The plan: a hashable `Batches`.

    Raises:
      ValueError: there are no examples, two leaves do not have as many rows,
        or `batch_size` is not between 1 and the number of examples.

    Example:
      >>> import jax
      >>> from gradxform.training import batches
      >>> plan = batches(10, batch_size=4)
      >>> plan.steps_per_epoch, plan.remainder
      (3, 2)
      >>> plan.epoch(jax.random.key(0)).shape, plan.short(jax.random.key(0)).shape
      ((2, 4), (2,))
    """
    is_size = isinstance(data_or_size, int | np.integer) and not isinstance(data_or_size, bool)
    size = int(data_or_size) if is_size else _rows(data_or_size)
    if size < 1:
        raise ValueError(f"batches: the data set is empty ({size} examples); training needs at least one")
    if batch_size is None:
        batch_size = size
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
        raise TypeError(f"batches: batch_size must be an integer or None, got {batch_size!r}")
    if not 1 <= batch_size <= size:
        raise ValueError(
            f"batches: batch_size must be between 1 and the number of examples, {size}; got {batch_size}. "
            "Leave it out to take the whole data set."
        )
    return Batches(size, int(batch_size), replacement, drop_last)


def take(data: PyTree, indices: jax.Array) -> PyTree:
    """The examples at `indices`: those rows of every array.

    Args:
      data: a pytree of arrays with one row an example.
      indices: integers of any shape, from 0 to the number of rows; those
        beyond are moved to the nearest.

    Returns:
      A tree like `data`, whose leaves have the shape of `indices` in the
      place of their leading axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform.training import take
      >>> take({"x": jnp.arange(5) * 10}, jnp.array([3, 1]))["x"].tolist()
      [30, 10]
    """

    def rows(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        if indices.shape == (1,):  # a slice costs half of what a gather does
            return jax.lax.dynamic_slice_in_dim(leaf, indices[0], 1)
        return jnp.take(leaf, indices, axis=0, mode="clip")

    return jax.tree.map(rows, data)


def _rows(data: PyTree) -> int:
    """The number of rows that all leaves of `data` have."""
    named = [pair for pair in zip(paths(data, "data"), flatten(data)[0], strict=True) if pair[1] is not None]
    if not named:
        raise ValueError("batches: the data set has no arrays")
    first_name, first = named[0]
    for name, leaf in named:
        if not np.shape(leaf):
            raise ValueError(
                f"batches: {name} is a single number, {leaf!r}; data is a tree of arrays with one row an "
                "example. Make lists into arrays first; give an iterator of batches as iter(list)."
            )
        if np.shape(leaf)[0] != np.shape(first)[0]:
            raise ValueError(
                f"batches: {first_name} has {np.shape(first)[0]} rows and {name} has {np.shape(leaf)[0]}; "
                "every array needs one row an example."
            )
    return int(np.shape(first)[0])
