"""Arithmetic on trees, leaf by leaf."""

import functools
import operator

import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.tree.leaves import each, like, pairwise, wide
from gradxform.trees import PyTree, map_leaves


def add(tree_x: PyTree, tree_y: PyTree, *other_trees: PyTree) -> PyTree:
    r"""The sum of trees, leaf by leaf: :math:`x + y + \dots`.

    Args:
      tree_x: a tree of arrays.
      tree_y: a tree of the same structure.
      *other_trees: more of them.

    Returns:
      A tree of that structure.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    Example:
      >>> from gradxform import tree
      >>> tree.add({"w": 1.0}, {"w": 2.0}, {"w": 3.0})
      {'w': 6.0}
    """
    names = ("tree_x", "tree_y", *(f"other_trees[{i}]" for i in range(len(other_trees))))
    return map_leaves(
        lambda *leaves: functools.reduce(operator.add, leaves),
        tree_x,
        tree_y,
        *other_trees,
        who="tree.add",
        names=names,
    )


def sub(tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """The difference of two trees, leaf by leaf: :math:`x - y`.

    Args:
      tree_x: a tree of arrays.
      tree_y: a tree of the same structure.

    Returns:
      A tree of that structure.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    Example:
      >>> from gradxform import tree
      >>> tree.sub({"w": 1.0}, {"w": 3.0})
      {'w': -2.0}
    """
    return pairwise("sub", operator.sub, tree_x, tree_y)


def mul(tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """The product of two trees, leaf by leaf: :math:`x y`.

    Args:
      tree_x: a tree of arrays.
      tree_y: a tree of the same structure.

    Returns:
      A tree of that structure.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    Example:
      >>> from gradxform import tree
      >>> tree.mul({"w": 2.0}, {"w": 3.0})
      {'w': 6.0}
    """
    return pairwise("mul", operator.mul, tree_x, tree_y)


def div(tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """The quotient of two trees, leaf by leaf: :math:`x / y`.

    Args:
      tree_x: a tree of arrays.
      tree_y: a tree of the same structure.

    Returns:
      A tree of that structure.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    Example:
      >>> from gradxform import tree
      >>> tree.div({"w": 1.0}, {"w": 4.0})
      {'w': 0.25}
    """
    return pairwise("div", operator.truediv, tree_x, tree_y)


def scale(scalar: ArrayLike, tree: PyTree) -> PyTree:
    """A tree times a number: :math:`c x`.

    Args:
      scalar: :math:`c`.
      tree: a tree of arrays.

    Returns:
      A tree of that structure.

    Example:
      >>> from gradxform import tree
      >>> tree.scale(2.0, {"w": 3.0, "b": None})
      {'b': None, 'w': 6.0}
    """
    return each("scale", lambda x: scalar * x, tree)


def add_scale(tree_x: PyTree, scalar: ArrayLike, tree_y: PyTree) -> PyTree:
    """A tree plus a multiple of another one: :math:`x + c y`.

    Args:
      tree_x: a tree of arrays.
      scalar: :math:`c`.
      tree_y: a tree of the same structure.

    Returns:
      A tree of that structure.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    Example:
      >>> from gradxform import tree
      >>> tree.add_scale({"w": 1.0}, 0.5, {"w": 4.0})["w"].item()
      3.0
    """
    return pairwise(
        "add_scale",
        lambda x, y: like(wide(x) + wide(scalar) * wide(y), x, scalar, y),
        tree_x,
        tree_y,
    )


def clip(tree: PyTree, min_value: ArrayLike | None = None, max_value: ArrayLike | None = None) -> PyTree:
    r"""Every element brought into an interval: :math:`\min(\max(x, a), b)`.

    Args:
      tree: a tree of real arrays.
      min_value: :math:`a`; left out, there is no lower end.
      max_value: :math:`b`; left out, there is no upper end.

    Returns:
      A tree of that structure.

    Example:
      >>> from gradxform import tree
      >>> tree.clip({"w": 3.0}, 0.0, 1.0)["w"].item()
      1.0
    """
    return each("clip", lambda x: jnp.clip(x, min_value, max_value), tree)


def conj(tree: PyTree) -> PyTree:
    r"""The complex conjugate of every element: :math:`\bar x`.

    Args:
      tree: a tree of arrays.

    Returns:
      A tree of that structure.

    Example:
      >>> from gradxform import tree
      >>> tree.conj([1 + 2j])[0].item()
      (1-2j)
    """
    return each("conj", jnp.conj, tree)


def real(tree: PyTree) -> PyTree:
    r"""The real part of every element: :math:`\Re x`.

    Args:
      tree: a tree of arrays.

    Returns:
      A tree of that structure.

    Example:
      >>> from gradxform import tree
      >>> tree.real([1 + 2j])[0].item()
      1.0
    """
    return each("real", jnp.real, tree)


def where(condition: ArrayLike, tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """One tree or the other: :math:`x` where the condition holds, else :math:`y`.

    Args:
      condition: a boolean, or a boolean array that broadcasts with every leaf.
      tree_x: a tree of arrays.
      tree_y: a tree of the same structure.

    Returns:
      A tree of that structure.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    Example:
      >>> from gradxform import tree
      >>> tree.where(False, {"w": 1.0}, {"w": 2.0})["w"].item()
      2.0
    """
    return pairwise("where", lambda x, y: jnp.where(condition, x, y), tree_x, tree_y)
