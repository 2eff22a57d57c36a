"""Arrays as matrices, one axis of them the rows."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

__all__ = ["along", "gram"]


def along(axis: int, x: jax.Array, function: Callable[[jax.Array], jax.Array], *, lead: int = 0) -> jax.Array:
    """A function of matrices on the array as one, the axis its rows.

    Args:
      axis: the axis, counted after the leading ones.
      x: the array.
      function: from matrices to matrices of the same shape.
      lead: how many leading axes there are, whose places have a matrix each.

    Returns:
      An array like `x`.
    """
    moved = jnp.moveaxis(x, lead + axis, lead)
    matrices = function(moved.reshape(*moved.shape[: lead + 1], -1))
    return jnp.moveaxis(matrices.reshape(moved.shape), lead, lead + axis)


def gram(axis: int, x: jax.Array, *, lead: int = 0) -> jax.Array:
    r"""The products of the rows :math:`X X^\dagger`, where the axis is the rows of :math:`X`.

    Args:
      axis, x, lead: as in `along`.

    Returns:
      A Hermitian matrix for each place of the leading axes.
    """
    moved = jnp.moveaxis(x, lead + axis, lead)
    rows = moved.reshape(*moved.shape[: lead + 1], -1)
    return rows @ rows.mT.conj()
