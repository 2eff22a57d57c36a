"""The dtypes of trees."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gradxform.tree.leaves import each
from gradxform.trees import PyTree, flatten, map_leaves, paths


def cast(tree: PyTree, dtype: DTypeLike | None) -> PyTree:
    """Every leaf in one dtype.

    Args:
      tree: a tree of arrays.
      dtype: the dtype; ``None`` leaves the tree as it is.

    Returns:
      A tree of that structure.

    Raises:
      TypeError: a leaf is complex and the dtype is not; its path is in the notes.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import tree
      >>> tree.cast({"w": 1.0}, jnp.bfloat16)["w"].dtype.name
      'bfloat16'
    """
    return tree if dtype is None else each("cast", lambda x: _cast(x, dtype), tree)


def cast_like(tree: PyTree, other_tree: PyTree) -> PyTree:
    """Every leaf in the dtype that another tree has in its place.

    Args:
      tree: a tree of arrays.
      other_tree: a tree of the same structure; what has no dtype in it leaves
        the leaf as it is.

    Returns:
      A tree of the structure of `tree`.

    Raises:
      TypeError: a leaf is complex and its dtype is not to be; its path is in the notes.
      ValueError: the structures disagree; the message names the path.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import tree
      >>> tree.cast_like({"w": 1.0}, {"w": jnp.ones(3, jnp.float16)})["w"].dtype.name
      'float16'
    """
    return map_leaves(
        lambda x, other: _cast(x, other.dtype) if hasattr(other, "dtype") else x,
        tree,
        other_tree,
        who="tree.cast_like",
        names=("tree", "other_tree"),
    )


def _cast(x: Any, to: DTypeLike) -> jax.Array:
    if jnp.iscomplexobj(x) and not jnp.issubdtype(to, jnp.complexfloating):
        raise TypeError(
            f"{jnp.result_type(x)} does not go into {jnp.dtype(to)}; take the real part first (tree.real)"
        )
    return jnp.asarray(x).astype(to)


def dtype(tree: PyTree, mixed_dtype_handler: Literal["promote", "highest", "lowest"] | None = None) -> Any:
    """The dtype of a tree.

    Args:
      tree: a tree of arrays.
      mixed_dtype_handler: what to do if the leaves have several: ``"promote"``
        takes the one that they promote to, ``"highest"`` and ``"lowest"`` the
        last and the first of them, where each promotes to the next; ``None``
        refuses.

    Returns:
      The dtype; of an empty tree the default one.

    Raises:
      ValueError: there are several dtypes and `mixed_dtype_handler` is
        ``None``, or they have no order; the message names the paths. Or the
        handler is another one.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import tree
      >>> tree.dtype({"w": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16)}, "lowest").name
      'bfloat16'
    """
    if mixed_dtype_handler not in (None, "promote", "highest", "lowest"):
        raise ValueError(
            f"tree.dtype: mixed_dtype_handler must be None, 'promote', 'highest' or 'lowest', "
            f"got {mixed_dtype_handler!r}"
        )
    first: dict[Any, str] = {}
    for path, leaf in zip(paths(tree, "tree"), flatten(tree)[0], strict=True):
        if leaf is not None:
            first.setdefault(jnp.result_type(leaf), path)
    if not first:
        return jnp.result_type(float)
    promoted = functools.reduce(jnp.promote_types, first)
    if len(first) == 1 or mixed_dtype_handler == "promote":
        return promoted
    found = ", ".join(f"{path} has {one}" for one, path in first.items())
    if mixed_dtype_handler is None:
        raise ValueError(
            f"tree.dtype: there are several dtypes: {found}. Pass mixed_dtype_handler='promote', "
            "'highest' or 'lowest' to choose one."
        )

    def lower(left: Any, right: Any) -> Any:
        higher = jnp.promote_types(left, right)
        if higher not in (left, right):
            raise ValueError(
                f"tree.dtype: {left} and {right} have no order, they promote to {higher}: {found}. "
                "Pass mixed_dtype_handler='promote'."
            )
        return left if higher == right else right

    lowest = functools.reduce(lower, first)
    return promoted if mixed_dtype_handler == "highest" else lowest
