"""Projections: the nearest point of a set, for parameters that must stay in one.

After ``params = gx.apply_updates(params, updates)`` comes, say,
``params = gx.projections.projection_simplex(params)``. All take a whole tree as one vector.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradxform.arithmetic import Scalar, compute_dtype
from gradxform.trees import PyTree, flatten, flatten_like

__all__ = [
    "projection_box",
    "projection_halfspace",
    "projection_hypercube",
    "projection_hyperplane",
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_l2_ball",
    "projection_l2_sphere",
    "projection_linf_ball",
    "projection_non_negative",
    "projection_simplex",
    "projection_vector",
]


def _check_scale(who: str, scale: Any) -> None:
    if isinstance(scale, int | float) and not scale >= 0:
        raise ValueError(f"{who}: scale must be at least 0, got {scale!r}")


def _vdot(x: PyTree, y: PyTree, who: str) -> jax.Array:
    leaves, treedef = flatten(x)
    others = flatten_like(treedef, x, y, root="a", like="x", who=who)
    products = [jnp.vdot(a, b) for a, b in zip(leaves, others, strict=True) if a is not None]
    return sum(products, start=jnp.zeros(()))


def _leafwise(tree: PyTree, function: Callable[[Any], Any]) -> PyTree:
    """The function of every leaf, in the leaf's dtype."""
    return jax.tree.map(lambda leaf: jnp.asarray(function(leaf), jnp.result_type(leaf)), tree)


def projection_non_negative(tree: PyTree) -> PyTree:
    r"""The nearest tree without negative numbers: :math:`\max(x, 0)`.

    Args:
      tree: a pytree of real arrays.

    Returns:
      A tree of the same shapes and dtypes.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_non_negative(jnp.asarray([-1.0, 2.0])).tolist()
      [0.0, 2.0]
    """
    return _leafwise(tree, lambda x: jnp.maximum(x, 0))


def projection_box(tree: PyTree, lower: PyTree, upper: PyTree) -> PyTree:
    r"""The nearest tree between two others: :math:`\min(\max(x, l), u)`.

    Args:
      tree: a pytree of real arrays.
      lower: :math:`l`, a tree of the same structure whose leaves broadcast
        with its leaves, or one number for all.
      upper: :math:`u`, likewise.

    Returns:
      A tree of the same shapes and dtypes.

    Raises:
      ValueError: `lower` or `upper` has another structure; the message names the path.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_box(jnp.asarray([-1.0, 2.0, 9.0]), 0.0, 5.0).tolist()
      [0.0, 2.0, 5.0]
    """
    leaves, treedef = flatten(tree)

    def bounds(bound: PyTree, root: str) -> list[Any]:
        if jax.tree_util.all_leaves([bound]) and bound is not None:
            return [bound] * len(leaves)
        return flatten_like(treedef, tree, bound, root=root, like="tree", who="projection_box")

    return treedef.unflatten(
        None if x is None else jnp.asarray(jnp.clip(x, low, high), jnp.result_type(x))
        for x, low, high in zip(leaves, bounds(lower, "lower"), bounds(upper, "upper"), strict=True)
    )


def projection_hypercube(tree: PyTree, scale: Any = 1) -> PyTree:
    r"""The nearest tree in :math:`[0, s]^n`.

    Args:
      tree: a pytree of real arrays.
      scale: :math:`s`: a number, or a tree like `tree`.

    Returns:
      A tree of the same shapes and dtypes.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_hypercube(jnp.asarray([-1.0, 0.5, 9.0])).tolist()
      [0.0, 0.5, 1.0]
    """
    return projection_box(tree, 0, scale)


def projection_linf_ball(tree: PyTree, scale: Scalar = 1) -> PyTree:
    r"""The nearest tree with :math:`\lVert x \rVert_\infty \leq s`.

    Args:
      tree: a pytree of real arrays.
      scale: :math:`s`, at least 0.

    Returns:
      A tree of the same shapes and dtypes.

    Raises:
      ValueError: `scale` is negative.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_linf_ball(jnp.asarray([-3.0, 0.5])).tolist()
      [-1.0, 0.5]
    """
    _check_scale("projection_linf_ball", scale)
    return _leafwise(tree, lambda x: jnp.clip(x, -scale, scale))


def _flat(tree: PyTree) -> jax.Array:
    """All leaves as one vector, wide enough for sums."""
    leaves = jax.tree.leaves(tree)
    dtype = compute_dtype(*(jnp.result_type(leaf) for leaf in leaves)) if leaves else jnp.float32
    return jnp.concatenate([jnp.ravel(jnp.asarray(leaf, dtype)) for leaf in leaves] or [jnp.zeros(0, dtype)])


def _simplex_threshold(x: jax.Array, scale: Any) -> jax.Array:
    r"""The number :math:`\theta` for which :math:`\sum \max(x - \theta, 0) = s`."""
    # Which entries stay positive is a matter of order alone, through which no gradient flows.
    sorted_down = jnp.sort(jax.lax.stop_gradient(x))[::-1]
    ranks = jnp.arange(1, x.size + 1)
    positive = sorted_down - (jnp.cumsum(sorted_down) - scale) / ranks > 0
    support = jax.lax.stop_gradient(x) >= jnp.min(jnp.where(positive, sorted_down, jnp.inf))
    threshold: jax.Array = (jnp.sum(jnp.where(support, x, 0)) - scale) / jnp.maximum(jnp.sum(support), 1)
    return threshold


def projection_simplex(tree: PyTree, scale: Scalar = 1) -> PyTree:
    r"""The nearest tree of nonnegative numbers that sum to `s`: :math:`\max(x - \theta, 0)`.

    Args:
      tree: a pytree of real arrays.
      scale: :math:`s`, above 0.

    Returns:
      A tree of the same shapes and dtypes.

    Raises:
      ValueError: `scale` is not above 0.

    References:
      Held, Wolfe and Crowder, `Validation of subgradient optimization
      <https://doi.org/10.1007/BF01580223>`_, 1974.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_simplex(jnp.asarray([1.0, 1.5, -2.0])).tolist()
      [0.25, 0.75, 0.0]
    """
    if isinstance(scale, int | float) and not scale > 0:
        raise ValueError(f"projection_simplex: scale must be above 0, got {scale!r}")
    threshold = _simplex_threshold(_flat(tree), scale)
    return _leafwise(tree, lambda x: jnp.maximum(x - threshold, 0))


def projection_l1_sphere(tree: PyTree, scale: Scalar = 1) -> PyTree:
    r"""The nearest tree with :math:`\lVert x \rVert_1 = s`.

    Where several are nearest, as for 0, it is the one with positive numbers.

    Args:
      tree: a pytree of real arrays.
      scale: :math:`s`, above 0.

    Returns:
      A tree of the same shapes and dtypes.

    Raises:
      ValueError: `scale` is not above 0.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_l1_sphere(jnp.asarray([3.0, -2.5])).tolist()
      [0.75, -0.25]
    """
    if isinstance(scale, int | float) and not scale > 0:
        raise ValueError(f"projection_l1_sphere: scale must be above 0, got {scale!r}")
    magnitudes = projection_simplex(jax.tree.map(jnp.abs, tree), scale)
    return jax.tree.map(lambda x, size: jnp.where(jnp.signbit(x), -size, size), tree, magnitudes)


def projection_l1_ball(tree: PyTree, scale: Scalar = 1) -> PyTree:
    r"""The nearest tree with :math:`\lVert x \rVert_1 \leq s`.

    Args:
      tree: a pytree of real arrays.
      scale: :math:`s`, above 0.

    Returns:
      A tree of the same shapes and dtypes.

    Raises:
      ValueError: `scale` is not above 0.

    References:
      Duchi et al., `Efficient projections onto the l1-ball for learning in
      high dimensions <https://doi.org/10.1145/1390156.1390191>`_, 2008.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_l1_ball(jnp.asarray([0.25, -0.5])).tolist()
      [0.25, -0.5]
    """
    inside = jnp.sum(jnp.abs(_flat(tree))) <= scale
    return jax.tree.map(lambda x, outer: jnp.where(inside, x, outer), tree, projection_l1_sphere(tree, scale))


def _norm(tree: PyTree) -> jax.Array:
    x = _flat(tree)
    square = jnp.sum(x * x)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def projection_l2_sphere(tree: PyTree, scale: Scalar = 1) -> PyTree:
    r"""The nearest tree with :math:`\lVert x \rVert_2 = s`: :math:`s x / \lVert x \rVert`.

    Of 0 all points of the sphere are nearest; then it is the one with equal numbers.

    Args:
      tree: a pytree of real arrays.
      scale: :math:`s`, at least 0.

    Returns:
      A tree of the same shapes and dtypes.

    Raises:
      ValueError: `scale` is negative.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_l2_sphere(jnp.asarray([6.0, 8.0]), 5.0).tolist()
      [3.0, 4.0]
    """
    _check_scale("projection_l2_sphere", scale)
    norm = _norm(tree)
    equal = scale / jnp.sqrt(jnp.maximum(_flat(tree).size, 1))
    factor = scale / jnp.where(norm > 0, norm, 1)
    return _leafwise(tree, lambda x: jnp.where(norm > 0, x * factor, equal))


def projection_l2_ball(tree: PyTree, scale: Scalar = 1) -> PyTree:
    r"""The nearest tree with :math:`\lVert x \rVert_2 \leq s`: :math:`x \min(1, s / \lVert x \rVert)`.

    Args:
      tree: a pytree of real arrays.
      scale: :math:`s`, at least 0.

    Returns:
      A tree of the same shapes and dtypes.

    Raises:
      ValueError: `scale` is negative.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_l2_ball(jnp.asarray([6.0, 8.0]), 5.0).tolist()
      [3.0, 4.0]
    """
    _check_scale("projection_l2_ball", scale)
    norm = _norm(tree)
    factor = jnp.where(norm > scale, scale / jnp.where(norm > scale, norm, 1), 1)
    return _leafwise(tree, lambda x: x * factor)


def projection_vector(x: PyTree, a: PyTree) -> PyTree:
    r"""The nearest multiple of a vector: :math:`\frac{\langle a, x \rangle}{\langle a, a \rangle} a`.

    Args:
      x: a pytree of real arrays.
      a: a tree of the same structure and shapes, not 0.

    Returns:
      A tree of the same shapes.

    Raises:
      ValueError: the structures differ; the message names the path.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_vector(jnp.asarray([3.0, 1.0]), jnp.asarray([1.0, 1.0])).tolist()
      [2.0, 2.0]
    """
    factor = _vdot(x, a, "projection_vector") / _vdot(a, a, "projection_vector")
    return jax.tree.map(lambda leaf: factor * leaf, a)


def projection_hyperplane(x: PyTree, a: PyTree, b: Scalar) -> PyTree:
    r"""The nearest tree with :math:`\langle a, x \rangle = b`.

    Args:
      x: a pytree of real arrays.
      a: a tree of the same structure and shapes, not 0.
      b: a number.

    Returns:
      A tree of the same shapes.

    Raises:
      ValueError: the structures differ; the message names the path.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_hyperplane(jnp.zeros(2), jnp.asarray([1.0, 1.0]), 4.0).tolist()
      [2.0, 2.0]
    """
    who = "projection_hyperplane"
    step = (_vdot(x, a, who) - b) / _vdot(a, a, who)
    return jax.tree.map(lambda leaf, normal: leaf - step * normal, x, a)


def projection_halfspace(x: PyTree, a: PyTree, b: Scalar) -> PyTree:
    r"""The nearest tree with :math:`\langle a, x \rangle \leq b`.

    Args:
      x: a pytree of real arrays.
      a: a tree of the same structure and shapes, not 0.
      b: a number.

    Returns:
      A tree of the same shapes.

    Raises:
      ValueError: the structures differ; the message names the path.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.projections.projection_halfspace(jnp.ones(2), jnp.asarray([1.0, 1.0]), 4.0).tolist()
      [1.0, 1.0]
    """
    who = "projection_halfspace"
    step = jnp.maximum(_vdot(x, a, who) - b, 0) / _vdot(a, a, who)
    return jax.tree.map(lambda leaf, normal: leaf - step * normal, x, a)
