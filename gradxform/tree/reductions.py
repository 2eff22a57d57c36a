"""Numbers made of a whole tree."""

import builtins
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.arithmetic import abs_squared, safe_sqrt
from gradxform.sparse import RowSparse
from gradxform.tree.leaves import like, wide
from gradxform.trees import PyTree, flatten, map_leaves


def _total(
    who: str, of_leaf: Callable[..., Any], tree: PyTree, *others: PyTree, in_pairs: bool = False
) -> Any:
    """The sum over the leaves of `of_leaf`, in the dtype that the leaves promote to; of no leaves, 0."""
    names = ("tree_x", "tree_y") if others else ("tree",)
    given = [leaf for part in (tree, *others) for leaf in jax.tree.leaves(part)]
    terms = jax.tree.leaves(
        map_leaves(lambda *leaves: of_leaf(*map(wide, leaves)), tree, *others, who=f"tree.{who}", names=names)
    )
    if not terms:
        return 0
    return like(_add_in_pairs(terms) if in_pairs else functools.reduce(operator.add, terms), *given)


def _add_in_pairs(terms: Sequence[Any]) -> Any:
    half = len(terms) // 2
    return _add_in_pairs(terms[:half]) + _add_in_pairs(terms[half:]) if half else terms[0]


def sum(tree: PyTree, associative_reduction: bool = False) -> ArrayLike:
    r"""The sum of all elements: :math:`\sum_i x_i`.

    Args:
      tree: a tree of arrays.
      associative_reduction: whether to add up the leaves' sums in pairs, which
        may compile faster for very many leaves, and rounds otherwise.

    Returns:
      The sum; 0 of an empty tree.

    Example:
      >>> from gradxform import tree
      >>> tree.sum({"w": 1.0, "b": 2.0}).item()
      3.0
    """
    total: jax.Array = _total("sum", jnp.sum, tree, in_pairs=associative_reduction)
    return total


def vdot(tree_x: PyTree, tree_y: PyTree) -> ArrayLike:
    r"""The inner product of two trees: :math:`\sum_i \bar x_i y_i`.

    Args:
      tree_x: a tree of arrays.
      tree_y: a tree of the same structure and shapes.

    Returns:
      The inner product; 0 of empty trees.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    Example:
      >>> from gradxform import tree
      >>> tree.vdot({"w": 2.0, "b": 1.0}, {"w": 3.0, "b": -1.0}).item()
      5.0
    """

    def dot(x: Any, y: Any) -> jax.Array:
        if x.shape != y.shape:
            raise ValueError(f"tree.vdot: the shapes {x.shape} and {y.shape} differ")
        # Not as a dot product: on accelerators that multiplies in less than float32.
        return jnp.sum(jnp.conj(x) * y)

    total: jax.Array = _total("vdot", dot, tree_x, tree_y)
    return total


def norm(tree: PyTree, ord: int | str | float | None = None, squared: bool = False) -> jax.Array:
    r"""The norm of a tree taken for one vector: :math:`\lVert x \rVert_p`.

    The gradient at 0 is 0.

    Args:
      tree: a tree of arrays.
      ord: :math:`p`: 2 (the default), 1, or infinity (also ``"inf"`` and ``"infinity"``).
      squared: whether to return the square.

    Returns:
      The norm, real; 0 of an empty tree.

    Raises:
      ValueError: `ord` is another one.

    Example:
      >>> from gradxform import tree
      >>> tree.norm({"w": 3.0, "b": -4.0}).item(), tree.norm({"w": 3.0, "b": -4.0}, ord=1).item()
      (5.0, 7.0)
    """
    rows = [leaf.coalesce().values if isinstance(leaf, RowSparse) else leaf for leaf in flatten(tree)[0]]
    leaves = [leaf for leaf in rows if leaf is not None]
    widened = [wide(leaf) for leaf in leaves]
    if ord is None or ord == 2:
        value = jnp.asarray(sum([abs_squared(x) for x in widened]))
        value = value if squared else safe_sqrt(value * 1.0)
    elif ord == 1 or ord in (jnp.inf, "inf", "infinity"):
        sizes = [jnp.abs(x) for x in widened]
        value = jnp.asarray(sum(sizes) if ord == 1 else max(sizes) if size(sizes) else 0.0)
        value = jnp.square(value) if squared else value
    else:
        raise ValueError(f"tree.norm: ord must be 1, 2, inf or None, got {ord!r}")
    return like(value, *leaves) if leaves else value


def max(tree: PyTree) -> ArrayLike:
    r"""The largest element: :math:`\max_i x_i`.

    Args:
      tree: a tree of real arrays; those without elements do not count.

    Returns:
      The largest element; minus infinity of an empty tree.

    Example:
      >>> from gradxform import tree
      >>> tree.max({"w": 1.0, "b": 2.0}).item()
      2.0
    """
    extremes = [jnp.max(leaf) for leaf in jax.tree.leaves(tree) if jnp.size(leaf)]
    return functools.reduce(jnp.maximum, extremes) if extremes else -math.inf


def min(tree: PyTree) -> ArrayLike:
    r"""The smallest element: :math:`\min_i x_i`.

    Args:
      tree: a tree of real arrays; those without elements do not count.

    Returns:
      The smallest element; infinity of an empty tree.

    Example:
      >>> from gradxform import tree
      >>> tree.min({"w": 1.0, "b": 2.0}).item()
      1.0
    """
    extremes = [jnp.min(leaf) for leaf in jax.tree.leaves(tree) if jnp.size(leaf)]
    return functools.reduce(jnp.minimum, extremes) if extremes else math.inf


def size(tree: PyTree) -> int:
    """The number of elements in all leaves.

    Args:
      tree: a tree of arrays, which may be abstract.

    Returns:
      The number.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import tree
      >>> tree.size({"w": jnp.ones((2, 3)), "b": 0.0})
      7
    """
    return builtins.sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def allclose(
    a: PyTree, b: PyTree, rtol: ArrayLike = 1e-05, atol: ArrayLike = 1e-08, equal_nan: bool = False
) -> ArrayLike:
    r"""Whether two trees are nearly equal: :math:`|a_i - b_i| \le \mathrm{atol} + \mathrm{rtol}\,|b_i|`.

    Args:
      a: a tree of arrays.
      b: a tree of the same structure.
      rtol: the relative tolerance.
      atol: the absolute tolerance.
      equal_nan: whether NaN is near NaN.

    Returns:
      A boolean.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    Example:
      >>> from gradxform import tree
      >>> bool(tree.allclose({"w": 1.0}, {"w": 1.000001}))
      True
    """
    close = map_leaves(
        lambda x, y: jnp.allclose(x, y, rtol, atol, equal_nan), a, b, who="tree.allclose", names=("a", "b")
    )
    return functools.reduce(operator.and_, jax.tree.leaves(close), True)
