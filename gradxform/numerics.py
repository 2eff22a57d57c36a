"""Small numerical functions for training steps and for rules of one's own, named as Optax's."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.arithmetic import abs_squared, compute_dtype, next_count, real_dtype
from gradxform.transformation import Updates

__all__ = ["safe_increment", "safe_norm", "safe_root_mean_squares", "scale_gradient"]


def safe_increment(count: ArrayLike) -> jax.Array:
    r"""Count one step more, and stay at the largest number that there is: :math:`\min(t + 1, t_\max)`.

    Args:
      count: :math:`t`, an integer or floating-point array.

    Returns:
      The new count, in the same dtype.

    Raises:
      TypeError: the count is neither an integer nor floating-point.

    Example:
      >>> import jax.numpy as jnp
      >>> import gradxform as gx
      >>> gx.safe_increment(jnp.array([0, 127], jnp.int8)).tolist()
      [1, 127]
    """
    count = jnp.asarray(count)
    if jnp.issubdtype(count.dtype, jnp.floating):
        return jnp.minimum(count + 1, jnp.finfo(count.dtype).max)
    if jnp.issubdtype(count.dtype, jnp.integer):
        return next_count(count)
    raise TypeError(f"safe_increment: a count is an integer or floating-point, got dtype {count.dtype}")


def safe_norm(
    x: ArrayLike,
    min_norm: ArrayLike,
    ord: int | float | str | None = None,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> jax.Array:
    r"""The norm, kept away from 0: :math:`\max(\lVert x \rVert, c)`.

    Where :math:`c` is the larger one the gradient is 0, also at 0, where the
    gradient of the norm is NaN.

    Args:
      x: an array.
      min_norm: :math:`c`.
      ord: which norm, as in `jax.numpy.linalg.norm`.
      axis: the axes to take it over, as in `jax.numpy.linalg.norm`.
      keepdims: whether those axes stay, with size 1.

    Returns:
      The norm, in the real dtype of `x`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import gradxform as gx
      >>> value, gradient = jax.value_and_grad(gx.safe_norm)(jnp.zeros(2), 1e-3)
      >>> round(value.item(), 6), gradient.tolist()
      (0.001, [0.0, 0.0])
    """
    x, dtype = _wide(x)
    small: Any = jnp.linalg.norm(x, ord=ord, axis=axis, keepdims=True) <= min_norm
    # The branch not taken needs a finite gradient too, which a norm has at 1.
    norm: Any = jnp.linalg.norm(jnp.where(small, 1, x), ord=ord, axis=axis, keepdims=keepdims)
    return jnp.where(small.reshape(norm.shape), min_norm, norm).astype(dtype)


def safe_root_mean_squares(x: ArrayLike, min_rms: ArrayLike) -> jax.Array:
    r"""The root mean square, kept away from 0: :math:`\max(\sqrt{\frac 1 n \sum_i |x_i|^2}, c)`.

    Where :math:`c` is the larger one the gradient is 0, also at 0.

    Args:
      x: an array.
      min_rms: :math:`c`.

    Returns:
      The root mean square, in the real dtype of `x`; of no elements, :math:`c`.

    Example:
      >>> import jax.numpy as jnp
      >>> import gradxform as gx
      >>> gx.safe_root_mean_squares(jnp.array([3.0, -3.0]), 1e-3).item()
      3.0
    """
    x, dtype = _wide(x)
    mean = jnp.mean(abs_squared(x)) if x.size else jnp.zeros(())
    small = mean <= jnp.square(min_rms)
    return jnp.where(small, min_rms, jnp.sqrt(jnp.where(small, 1, mean))).astype(dtype)


def scale_gradient(inputs: Updates, scale: ArrayLike) -> Updates:
    r"""The same values, with another gradient: :math:`f(x) = x`, :math:`f'(x) = c`.

    Args:
      inputs: :math:`x`, a tree of arrays.
      scale: :math:`c`; 0 stops the gradient, a negative number turns it round.

    Returns:
      The same tree.

    References:
      Ganin and Lempitsky, `Unsupervised domain adaptation by backpropagation
      <https://arxiv.org/abs/1409.7495>`_, 2015, section 3.1.

    Example:
      >>> import jax
      >>> import gradxform as gx
      >>> jax.grad(lambda x: gx.scale_gradient(x, -0.5) ** 2)(3.0).item()
      -3.0
    """

    @jax.custom_jvp
    def same(tree: Updates) -> Updates:
        return tree

    @same.defjvp
    def _(primals: tuple[Updates], tangents: tuple[Updates]) -> tuple[Updates, Updates]:
        return primals[0], jax.tree.map(scaled, tangents[0])

    def scaled(tangent: Any) -> Any:
        dtype = getattr(tangent, "dtype", jnp.result_type(float))
        if dtype == jax.dtypes.float0:  # an integer has no gradient
            return tangent
        return jnp.asarray(scale * tangent, dtype)

    return same(inputs)


def _wide(x: ArrayLike) -> tuple[jax.Array, Any]:
    """The array in at least float32, and the real dtype that it came in."""
    array = jnp.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        array = array.astype(float)
    return array.astype(compute_dtype(array.dtype)), real_dtype(array.dtype)
