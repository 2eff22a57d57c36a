"""Row-sparse gradients: a few rows of a large array, as embedding tables have them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, register_pytree_with_keys_class

__all__ = ["RowSparse", "is_row_sparse", "map_values", "on_values", "shape_of"]


@register_pytree_with_keys_class
class RowSparse:
    r"""A few rows of a large array; all its other rows are zero.

    It stands in a tree of gradients where the gradient of an embedding table
    would. Rules whose scope is one element take it: they see the rows alone,
    and theirs alone of the slots and parameters. What they make of it is
    row-sparse too, and `apply_updates` adds it in place.

    The meaning is lazy: a row that the gradient does not touch keeps its
    slots and its parameters. Its moments do not fade, its momentum does not
    carry it on, and its weights do not decay, until it is touched again.
    Where a rule does nothing to an element whose gradient is zero (gradient
    descent, AdaGrad), lazy is the same as dense.

    Args:
      indices: which rows, integers of shape ``(k,)``. A row may come more than
        once; then its values add up. The number of rows of the array stands
        for no row at all, so that `k` can be static.
      values: the rows, of shape ``(k, *shape[1:])``.
      shape: the shape of the whole array.

    Attributes:
      coalesced: whether its rows are sorted and no row comes twice.

    Raises:
      TypeError: the indices are no integers.
      ValueError: the shapes disagree.
      IndexError: an index is out of range. Under `jax.jit`, where indices are
        not known, such a row is dropped.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> grad = gx.RowSparse(jnp.asarray([2, 0, 2]), jnp.asarray([1.0, 2.0, 3.0]), (4,))
      >>> grad.to_dense().tolist()
      [2.0, 0.0, 4.0, 0.0]
      >>> table = jnp.ones(4)
      >>> tx = gx.sgd(0.5)
      >>> updates, _ = tx.update({"table": grad}, tx.init({"table": table}))
      >>> gx.apply_updates({"table": table}, updates)["table"].tolist()
      [0.0, 1.0, -1.0, 1.0]
    """

    indices: Any
    values: Any
    shape: tuple[int, ...]
    coalesced: bool

    def __init__(self, indices: Any, values: Any, shape: tuple[int, ...]) -> None:
        self.indices, self.values, self.coalesced = jnp.asarray(indices), jnp.asarray(values), False
        self.shape = tuple(int(size) for size in shape)
        _check_integers(self.indices)
        if not self.shape or self.values.shape != (*self.indices.shape, *self.shape[1:]):
            raise ValueError(
                f"RowSparse: {self.indices.shape} indices into an array of shape {self.shape} need values "
                f"of shape {(*self.indices.shape, *self.shape[1:])}, got {self.values.shape}"
            )
        if self.indices.ndim != 1:
            raise ValueError(
                f"RowSparse: indices must have one axis, got shape {self.indices.shape}; reshape(-1) them, "
                "and the values' leading axes with them"
            )
        if not isinstance(self.indices, jax.core.Tracer):
            beyond = np.asarray((self.indices < 0) | (self.indices > self.shape[0]))
            if beyond.any():
                raise IndexError(
                    f"RowSparse: index {self.indices[beyond.argmax()]} is out of range for an array of "
                    f"{self.shape[0]} rows; {self.shape[0]} itself stands for no row"
                )

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        children = (GetAttrKey("indices"), self.indices), (GetAttrKey("values"), self.values)
        return children, (self.shape, self.coalesced)

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> "RowSparse":
        return cls._of(*children, *aux)

    @classmethod
    def _of(cls, indices: Any, values: Any, shape: tuple[int, ...], coalesced: bool) -> "RowSparse":
        """Without the checks: leaves of a tree can be anything, but never the indices' arithmetic."""
        _check_integers(indices)
        self = object.__new__(cls)
        self.indices, self.values, self.shape, self.coalesced = indices, values, shape, coalesced
        return self

    @property
    def dtype(self) -> Any:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def ndim(self) -> int:
        """How many axes the whole array has."""
        return len(self.shape)

    def __repr__(self) -> str:
        rows = self.indices.shape[0] if hasattr(self.indices, "shape") else "?"
        return f"RowSparse({rows} of {self.shape[0]} rows, shape={self.shape})"

    def coalesce(self) -> "RowSparse":
        """The same array with every row at most once, sorted.

        Returns:
          A `RowSparse` of as many rows; those that are not needed stand for no
          row, and their values are 0.
        """
        if self.coalesced:
            return self
        rows, count = self.shape[0], self.indices.shape[0]
        if not count:
            return self._of(self.indices, self.values, self.shape, True)
        known = (self.indices >= 0) & (self.indices < rows)
        indices = jnp.where(known, self.indices, rows).astype(jnp.int32)
        # Numbers alone sort six times faster than with their places, which a search then finds.
        ordered = jnp.sort(indices)
        group = jnp.cumsum(jnp.diff(ordered, prepend=ordered[:1]) != 0, dtype=jnp.int32)
        # No row's index is beyond the array, each its own: so indices stay distinct and sorted.
        spare = rows + jnp.arange(count, dtype=jnp.int32)
        chosen = spare.at[jnp.where(ordered < rows, group, count)].set(ordered, mode="drop")
        # What is no row goes to no group.
        groups = jnp.where(known, group[jnp.searchsorted(ordered, indices)], count)
        summed = jax.ops.segment_sum(self.values, groups, count)
        return self._of(chosen, summed, self.shape, True)

    def to_dense(self) -> jax.Array:
        """The whole array.

        Returns:
          An array of `shape`.
        """
        return jnp.zeros(self.shape, self.dtype).at[self._rows()].add(self.values, mode="drop")

    def with_values(self, values: Any) -> "RowSparse":
        """The same rows with other values.

        Args:
          values: of the shape of those there are.

        Returns:
          A `RowSparse`.
        """
        return self._of(self.indices, values, self.shape, self.coalesced)

    def take(self, array: Any) -> jax.Array:
        """These rows of another array.

        Args:
          array: an array with as many rows as the whole one.

        Returns:
          Its rows, with zeros where there is no row.
        """
        rows: jax.Array = array.at[self._rows()].get(mode="fill", fill_value=0, **self._promises())
        return rows

    def put(self, array: Any, rows: Any) -> jax.Array:
        """Another array with other rows in the place of these; each must come once only.

        Args:
          array: an array with as many rows as the whole one.
          rows: what `take` would give of the result.

        Returns:
          The array.
        """
        changed: jax.Array = array.at[self._rows()].set(rows, mode="drop", **self._promises())
        return changed

    def _rows(self) -> Any:
        # A negative index would count from the end.
        return self.indices if self.coalesced else jnp.where(self.indices < 0, self.shape[0], self.indices)

    def _promises(self) -> dict[str, bool]:
        return {"indices_are_sorted": self.coalesced, "unique_indices": self.coalesced}


def _check_integers(indices: Any) -> None:
    dtype = getattr(indices, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"RowSparse: indices of dtype {dtype}. Arithmetic on trees reaches the indices too: do it on "
            "the values, or call densify first."
        )


def is_row_sparse(node: Any) -> bool:
    """Whether it is a `RowSparse`; what to give as `is_leaf`."""
    return isinstance(node, RowSparse)


def map_values(function: Callable[[Any], Any], tree: Any) -> Any:
    """`function` of all arrays of a tree, and of the values of those that are row-sparse."""
    return jax.tree.map(lambda leaf: on_values(function, leaf), tree, is_leaf=is_row_sparse)


def on_values(function: Callable[[Any], Any], leaf: Any) -> Any:
    """`function` of an array, or of the values of a `RowSparse`, which stays one."""
    return leaf.with_values(function(leaf.values)) if isinstance(leaf, RowSparse) else function(leaf)


def shape_of(leaf: Any) -> tuple[int, ...]:
    """The shape of an array, or of the whole array that a `RowSparse` stands for."""
    return leaf.shape if isinstance(leaf, RowSparse) else np.shape(leaf)
