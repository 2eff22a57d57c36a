"""What the functions of this package share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradxform.arithmetic import compute_dtype, real_dtype
from gradxform.trees import PyTree, map_leaves


def pairwise(who: str, f: Callable[[Any, Any], Any], tree_x: PyTree, tree_y: PyTree) -> PyTree:
    """`f` of each leaf of a tree and the leaf of another one in its place."""
    return map_leaves(f, tree_x, tree_y, who=f"tree.{who}", names=("tree_x", "tree_y"))


def each(who: str, f: Callable[[Any], Any], tree: PyTree) -> PyTree:
    """`f` of each leaf of a tree."""
    return map_leaves(f, tree, who=f"tree.{who}", names=("tree",))


def wide(x: Any) -> jax.Array:
    """The array, in float32 where it is below."""
    dtype = jnp.result_type(x)
    return jnp.asarray(x, compute_dtype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else dtype)


def like(value: jax.Array, *given: Any) -> jax.Array:
    """The value in the dtype that the arguments promote to, or the real part's if it is real."""
    common = jnp.result_type(*given)
    if not jnp.issubdtype(common, jnp.inexact):
        return value
    return jnp.asarray(value, common if jnp.iscomplexobj(value) else real_dtype(common))
