"""Moving averages of trees."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.arithmetic import (
    Scalar,
    abs_squared,
    debias,
    ema_of,
)
from gradxform.transformation import Updates
from gradxform.tree.leaves import each, like, wide
from gradxform.trees import PyTree, map_leaves


def update_moment(updates: Updates, moments: PyTree, decay: Scalar, order: int) -> PyTree:
    r"""One step of a moving average of powers: :math:`m \leftarrow \beta m + (1 - \beta) g^k`.

    Args:
      updates: :math:`g`, a tree of arrays.
      moments: :math:`m`, a tree of the same structure and shapes.
      decay: :math:`\beta`.
      order: :math:`k`.

    Returns:
      The new moments.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    Example:
      >>> from gradxform import tree
      >>> tree.update_moment({"w": 2.0}, {"w": 0.0}, decay=0.75, order=2)["w"].item()
      1.0
    """
    return _update("update_moment", lambda g, m: ema_of(m, g**order, decay), updates, moments)


def update_infinity_moment(updates: Updates, moments: PyTree, decay: Scalar, eps: Scalar) -> PyTree:
    r"""One step of a decaying maximum: :math:`m \leftarrow \max(\beta m, |g| + \epsilon)`.

    Args:
      updates: :math:`g`, a tree of arrays.
      moments: :math:`m`, a tree of the same structure and shapes.
      decay: :math:`\beta`.
      eps: :math:`\epsilon`.

    Returns:
      The new moments.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    References:
      Kingma and Ba, `Adam: a method for stochastic optimization
      <https://arxiv.org/abs/1412.6980>`_, 2014, section 7.1.

    Example:
      >>> from gradxform import tree
      >>> tree.update_infinity_moment({"w": -2.0}, {"w": 8.0}, decay=0.5, eps=0.0)["w"].item()
      4.0
    """
    return _update(
        "update_infinity_moment", lambda g, m: jnp.maximum(jnp.abs(g) + eps, decay * m), updates, moments
    )


def update_moment_per_elem_norm(updates: Updates, moments: PyTree, decay: Scalar, order: int) -> PyTree:
    r"""As `update_moment`, with :math:`|g|^k` where the numbers are complex.

    Args:
      updates: :math:`g`, a tree of arrays.
      moments: :math:`m`, a tree of the same structure and shapes.
      decay: :math:`\beta`.
      order: :math:`k`.

    Returns:
      The new moments.

    Raises:
      ValueError: the structures or shapes disagree; the message names the path.

    Example:
      >>> from gradxform import tree
      >>> tree.update_moment_per_elem_norm({"w": 3 + 4j}, {"w": 0.0}, decay=0.0, order=2)["w"].item()
      25.0
    """

    def power(g: Any) -> Any:
        if not jnp.iscomplexobj(g):
            return g**order
        return abs_squared(g) ** (order // 2 if order % 2 == 0 else order / 2)

    return _update("update_moment_per_elem_norm", lambda g, m: ema_of(m, power(g), decay), updates, moments)


def _update(who: str, f: Callable[[Any, Any], Any], updates: Updates, moments: PyTree) -> PyTree:
    def update(g: Any, m: Any) -> jax.Array:
        if jnp.shape(g) != jnp.shape(m):
            raise ValueError(f"tree.{who}: the shapes {jnp.shape(g)} and {jnp.shape(m)} differ")
        return like(f(wide(g), wide(m)), g, m)

    return map_leaves(update, updates, moments, who=f"tree.{who}", names=("updates", "moments"))


def bias_correction(moment: PyTree, decay: Scalar, count: ArrayLike) -> PyTree:
    r"""Moving averages without their bias to zero: :math:`m / (1 - \beta^t)`.

    Args:
      moment: :math:`m`, a tree of arrays.
      decay: :math:`\beta`, in [0, 1).
      count: :math:`t`, the number of steps taken, at least 1.

    Returns:
      A tree of that structure.

    References:
      Kingma and Ba, `Adam: a method for stochastic optimization
      <https://arxiv.org/abs/1412.6980>`_, 2014, section 3.

    Example:
      >>> from gradxform import tree
      >>> tree.bias_correction({"w": 0.5}, decay=0.5, count=1)["w"].item()
      1.0
    """
    t = jnp.maximum(jnp.asarray(count, float), 1)  # before the first step there is nothing to correct
    return each("bias_correction", lambda m: like(debias(wide(m), decay, t), m), moment)
