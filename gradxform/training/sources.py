"""Where the batches of a training run come from: arrays in memory, or a stream of batches."""

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.training.batches import Batches, Shuffled, Shuffler
from gradxform.trees import PyTree, tree_bytes

__all__ = ["Drawn", "Rows", "Stream", "is_stream"]

_STACK_BYTES = 32 * 2**20
"""How much of a stream may be stacked for one compiled call."""


class Drawn(NamedTuple):
    """The data of one compiled call.

    Attributes:
      data: what the program takes.
      steps: how many steps to take with it.
      length: the most steps that the program has room for.
      signature: equal for data of equal structure, shapes and dtypes.
    """

    data: PyTree
    steps: int
    length: int
    signature: Any


def is_stream(data: Any) -> bool:
    """Whether `data` is an iterator, generator or loader of batches, not a tree of arrays."""
    return (
        jax.tree_util.all_leaves([data])
        and isinstance(data, Iterable)
        and not hasattr(data, "shape")
        and not isinstance(data, str)
    )


class Rows:
    """A data set in memory, one row an example.

    Args:
      data: a pytree of arrays.
      plan: how batches are drawn from it.
      length: the most steps in a compiled call.
      many: whether batches are drawn for each of several keys.
    """

    def __init__(self, data: PyTree, plan: Batches, length: int, *, many: bool = False) -> None:
        self.plan, self._data, self._length = plan, jax.tree.map(jnp.asarray, data), length
        self._shuffler = None if plan.whole else Shuffler(plan, length, many=many)

    def draw(self, most: int, step: int, key: jax.Array) -> Drawn:
        """The data for at most so many steps, from number `step` on."""
        most, data = min(most, self._length), self._data
        if self._shuffler is not None:
            most = min(most, self._shuffler.end(step) - step)
            data = Shuffled(data, *self._shuffler.orders(key, step))
        return Drawn(data, most, self._length, None)

    def batch(self, drawn: Drawn, key: jax.Array, step: int, offset: int) -> tuple[np.ndarray, str]:
        """The batch of a step, number `offset` of the call, and what to call it in an error."""
        indices = np.asarray(self.plan.at(key, step))
        if self.plan.whole:
            return indices, "is the whole data set"
        shown = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
        return indices, f"holds the examples [{shown}]"


class Stream:
    """Batches taken from an iterator, in groups of one shape.

    Args:
      source: an iterator of batches, or an iterable that starts anew each time.
      passes: how often to go through it.
      length: the most steps in a compiled call.

    Raises:
      ValueError: an iterator is to be gone through more than once.
    """

    plan = None

    def __init__(self, source: Iterable[PyTree], passes: int, length: int) -> None:
        if passes > 1 and isinstance(source, Iterator):
            raise ValueError(
                f"fit: epochs={passes}, but an iterator can be gone through only once; pass steps=..., or "
                "an object whose __iter__ starts anew"
            )
        self._batches: Iterator[PyTree] = chain.from_iterable(repeat(source, passes))
        self._length = length
        self._ahead: list[PyTree] = []

    def draw(self, most: int, step: int = 0, key: jax.Array | None = None) -> Drawn | None:
        """The next batches, at most so many and all of one signature; ``None`` at the end."""
        group: list[PyTree] = []
        room = most
        try:
            while len(group) < room:
                batch = self._ahead.pop() if self._ahead else jax.tree.map(_array, next(self._batches))
                if group and _signature(batch) != _signature(group[0]):
                    self._ahead.append(batch)
                    break
                group.append(batch)
                room = min(most, self._length_for(batch))
        except StopIteration:
            pass
        except KeyboardInterrupt:
            if not group:
                raise
            # These have left the iterator for good: they are learned from first, then the run is interrupted.
            self._batches = _interrupted()
        if not group:
            return None
        length = self._length_for(group[0])
        # Filled up, because the program has one length.
        fill = [group[-1]] * (length - len(group))
        return Drawn(jax.tree.map(_stacked, *group, *fill), len(group), length, _signature(group[0]))

    def batch(self, drawn: Drawn, key: jax.Array, step: int, offset: int) -> tuple[PyTree, str]:
        """The batch of a step, number `offset` of the call, and what to call it in an error."""
        return jax.tree.map(lambda leaf: leaf[offset], drawn.data), "is in this error's `batch`"

    def _length_for(self, batch: PyTree) -> int:
        return max(1, min(self._length, _STACK_BYTES // max(1, tree_bytes(batch))))


def _array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _stacked(*rows: Any) -> Any:
    return (jnp.stack if isinstance(rows[0], jax.Array) else np.stack)(rows)


def _signature(batch: PyTree) -> Any:
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _interrupted() -> Iterator[PyTree]:
    raise KeyboardInterrupt
    yield
