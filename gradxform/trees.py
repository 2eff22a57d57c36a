"""Walking several pytrees together, and naming the leaf when they disagree.

Everything in the library that goes through a pytree leaf by leaf goes through
here. ``None`` counts as a leaf, so that a missing gradient keeps its place; a
row-sparse gradient is one leaf too.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import (
    PyTreeDef,
    all_leaves,
    keystr,
    register_pytree_node_class,
    tree_flatten,
    tree_flatten_with_path,
)

from gradxform.sparse import RowSparse

PyTree = Any
"""Any nesting of containers that JAX knows, with arrays at its leaves."""

__all__ = [
    "AnyParams",
    "PyTree",
    "broadcast_prefix",
    "check_all_inexact",
    "check_gradient",
    "check_gradients",
    "check_inexact",
    "flatten",
    "flatten_like",
    "map_leaves",
    "paths",
    "refuse_rows",
    "tree_bytes",
]


@register_pytree_node_class
class AnyParams:
    """Parameters of any structure: where `init` puts it into a state, the state has a tree like them.

    It has one leaf, so that functions of parameters take it.

    Args:
      leaf: the leaf.
    """

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf

    def tree_flatten(self) -> tuple[tuple[Any], None]:
        return (self.leaf,), None

    @classmethod
    def tree_unflatten(cls, aux: None, children: tuple[Any]) -> "AnyParams":
        return cls(*children)


def _is_leaf(node: Any) -> bool:
    return node is None or isinstance(node, RowSparse)


def flatten(tree: PyTree) -> tuple[list[Any], PyTreeDef]:
    """The leaves of `tree` and its structure; ``None`` is a leaf."""
    return tree_flatten(tree, is_leaf=_is_leaf)


def paths(tree: PyTree, root: str) -> list[str]:
    """The path of every leaf, written as one would index it: ``params['dense']['kernel']``."""
    with_path, _ = tree_flatten_with_path(tree, is_leaf=_is_leaf)
    return [root + keystr(path) for path, _ in with_path]


def flatten_like(
    treedef: PyTreeDef,
    reference: PyTree,
    tree: PyTree,
    *,
    root: str,
    like: str,
    who: str,
    remedy: str = "",
) -> list[Any]:
    """The subtrees of `tree` that stand at the leaves of `reference`.

    Args:
      treedef: the structure of `reference`, as `flatten` returned it.
      reference: the tree that says where the leaves are.
      tree: a tree that has at least the structure of `reference`.
      root: what to call `tree` in an error.
      like: what to call `reference` in an error.
      who: the transformation that asks.
      remedy: what an error says to do.

    Raises:
      ValueError: the structures differ; the message names the first path that does.
    """
    try:
        subtrees: list[Any] = treedef.flatten_up_to(tree)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{who}: {root} and {like} do not have the same structure: "
            f"{_first_difference(reference, tree, root, like)}. "
            f"{remedy or f'Pass {like} of the same structure as the parameters given to init.'}"
        ) from error
    return subtrees


def _first_difference(reference: PyTree, tree: PyTree, root: str, like: str) -> str:
    """Where two trees part."""
    wanted = [path for path, _ in tree_flatten_with_path(reference, is_leaf=_is_leaf)[0]]
    found = [path for path, _ in tree_flatten_with_path(tree, is_leaf=_is_leaf)[0]]
    for path in wanted:
        if not any(_same(other[: len(path)], path) for other in found):
            return f"{like}{keystr(path)} has no counterpart in {root}"
    for path in found:
        if not any(_same(path[: len(other)], other) for other in wanted):
            return f"{root}{keystr(path)} has no counterpart in {like}"
    return "their containers are of different types"


def _same(left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    # A field and a dictionary's key of the same name are different places.
    return [(type(key), key) for key in left] == [(type(key), key) for key in right]


def map_leaves(f: Callable[..., Any], *trees: PyTree, who: str, names: tuple[str, ...]) -> PyTree:
    """`f` of every leaf of the first tree and what stands in its place in the others; ``None`` stays.

    Args:
      f: a function of as many arguments as there are trees.
      *trees: the trees.
      who: the function that asks.
      names: what to call the trees in an error.

    Raises:
      ValueError: the structures differ, or a leaf is missing; the message names
        the path. It also stands in the notes of what `f` raises.
    """
    leaves, treedef = flatten(trees[0])
    columns = [
        flatten_like(
            treedef,
            trees[0],
            tree,
            root=name,
            like=names[0],
            who=who,
            remedy=f"Pass {name} of the structure of {names[0]}.",
        )
        for tree, name in zip(trees[1:], names[1:], strict=True)
    ]

    def at(index: int, leaf: Any, *beside: Any) -> Any:
        if leaf is None:
            return None
        for name, other in zip(names, (leaf, *beside), strict=True):
            refuse_rows(other, trees[0], index, root=name, who=who)
            if other is None:
                raise ValueError(
                    f"{who}: {paths(trees[0], name)[index]} is None, but {names[0]} has a leaf in its place"
                )
        try:
            return f(leaf, *beside)
        except (TypeError, ValueError) as error:
            error.add_note(f"in {who}, at {paths(trees[0], names[0])[index]}")
            raise

    return treedef.unflatten(map(at, range(len(leaves)), leaves, *columns))


def refuse_rows(leaf: Any, tree: PyTree, index: int, *, root: str, who: str) -> None:
    """Raise if `leaf`, number `index` of `tree`, is row-sparse."""
    if isinstance(leaf, RowSparse):
        raise TypeError(
            f"{who}: {paths(tree, root)[index]} is row-sparse, and this needs whole arrays. Put densify() "
            "before it in the chain, or take the leaf's to_dense()."
        )


def check_inexact(leaf: Any, tree: PyTree, index: int, *, root: str, who: str) -> None:
    """Raise unless `leaf`, number `index` of `tree`, holds real or complex floating-point numbers."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        if isinstance(leaf, float | complex):
            return
        dtype = jnp.result_type(leaf) if isinstance(leaf, int | bool) else type(leaf).__name__
    elif jnp.issubdtype(dtype, jnp.inexact):
        return
    raise TypeError(
        f"{who}: {paths(tree, root)[index]} has dtype {dtype}; only floating-point and complex leaves "
        "can be optimized. Take the leaf out of the tree (put None in its place), or differentiate "
        "with respect to the other leaves only."
    )


def check_all_inexact(tree: PyTree, *, root: str, who: str) -> None:
    """Raise unless every leaf of a tree holds real or complex floating-point numbers."""
    for index, leaf in enumerate(flatten(tree)[0]):
        if leaf is not None:
            check_inexact(leaf, tree, index, root=root, who=who)


def check_gradient(grad: Any, param: Any, grads: PyTree, index: int, *, who: str) -> None:
    """Raise unless `grad`, number `index` of `grads`, can be the gradient with respect to `param`."""
    check_inexact(grad, grads, index, root="grads", who=who)
    if param is None or not all_leaves([param]):
        raise ValueError(
            f"{who}: {paths(grads, 'grads')[index]} is a gradient, but in its place the parameters have "
            f"{'None' if param is None else type(param).__name__}. Pass the parameters that the gradients "
            "were taken with respect to."
        )
    if np.iscomplexobj(grad) and not np.iscomplexobj(param):
        raise TypeError(
            f"{who}: {paths(grads, 'grads')[index]} is complex, its parameter has dtype "
            f"{jnp.result_type(param)}. Take the real part of the gradient first."
        )
    if np.shape(grad) != np.shape(param):
        raise ValueError(
            f"{who}: {paths(grads, 'grads')[index]} has shape {np.shape(grad)}, its parameter has shape "
            f"{np.shape(param)}. Pass the parameters that the gradients were taken with respect to."
        )


def check_gradients(grads: PyTree, params: PyTree, *, who: str) -> None:
    """Raise unless each leaf of `grads` can be the gradient with respect to the parameter in its place."""
    leaves, treedef = flatten(grads)
    beside = flatten_like(treedef, grads, params, root="params", like="grads", who=who)
    for index, (grad, param) in enumerate(zip(leaves, beside, strict=True)):
        if grad is not None:
            check_gradient(grad, param, grads, index, who=who)


def broadcast_prefix(prefix: PyTree, tree: PyTree, *, root: str, who: str) -> list[Any]:
    """One value of `prefix` for each leaf of `tree`; a leaf of `prefix` may stand for a whole subtree.

    Raises:
      ValueError: `prefix` is not a prefix of `tree`; the message names the path.
    """
    values, prefix_def = tree_flatten(prefix, is_leaf=_is_leaf)
    subtrees = flatten_like(prefix_def, prefix, tree, root="the parameters", like=root, who=who)
    return [
        value
        for value, subtree in zip(values, subtrees, strict=True)
        for _ in range(len(flatten(subtree)[0]))
    ]


def tree_bytes(tree: PyTree) -> int:
    """How many bytes the arrays of `tree` hold, abstract ones included."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
