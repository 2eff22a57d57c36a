"""Losses of a real number: how far a prediction lies from its target."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.hyperparams import Scalar, nonnegative, positive
from gradxform.losses.shared import Axis, along, check, common_shape, floats, unit_vectors

__all__ = ["cosine_distance", "cosine_similarity", "huber_loss", "l2_loss", "log_cosh", "squared_error"]


def squared_error(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    r"""The square of each error: :math:`(p - y)^2`.

    Args:
      predictions: :math:`p`, of any shape.
      targets: :math:`y`, of the same shape; 0 if left out.

    Returns:
      The loss of every element, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes differ.

    References:
      Hastie, Tibshirani and Friedman, `The elements of statistical learning
      <https://hastie.su.domains/ElemStatLearn/>`_, 2009, section 2.4.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> losses.squared_error(jnp.array([1.0, 4.0]), jnp.array([1.0, 2.0])).tolist()
      [0.0, 4.0]
    """
    return jnp.square(_errors("squared_error", predictions, targets, equal=True))


def l2_loss(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    r"""Half the square of each error, whose gradient is the error: :math:`\tfrac12 (p - y)^2`.

    Args:
      predictions: :math:`p`, of any shape.
      targets: :math:`y`, of the same shape; 0 if left out.

    Returns:
      The loss of every element, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes differ.

    References:
      Bishop, `Pattern recognition and machine learning
      <https://www.microsoft.com/en-us/research/publication/pattern-recognition-machine-learning/>`_,
      2006, section 1.1.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> losses.l2_loss(jnp.array([1.0, 4.0]), jnp.array([1.0, 2.0])).tolist()
      [0.0, 2.0]
    """
    return 0.5 * jnp.square(_errors("l2_loss", predictions, targets, equal=True))


def huber_loss(predictions: ArrayLike, targets: ArrayLike | None = None, *, delta: Scalar = 1.0) -> jax.Array:
    r"""A parabola that goes on as straight lines, so that outliers pull with a bounded force.

    .. math::
      L(e) = \begin{cases} \tfrac12 e^2 & |e| \le \delta \\
      \delta (|e| - \tfrac12 \delta) & |e| > \delta \end{cases}, \qquad e = p - y

    Args:
      predictions: :math:`p`, of any shape.
      targets: :math:`y`, of the same shape or one that broadcasts; 0 if left out.
      delta: :math:`\delta`, above 0, in the units of the targets.

    Returns:
      The loss of every element, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes do not belong together, or `delta` is not above 0.

    References:
      Huber, `Robust estimation of a location parameter
      <https://doi.org/10.1214/aoms/1177703732>`_, 1964.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> losses.huber_loss(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0])).tolist()
      [0.125, 2.5]
    """
    check("huber_loss", delta=positive(delta))
    size = jnp.abs(_errors("huber_loss", predictions, targets))
    inner = jnp.minimum(size, delta)
    return 0.5 * inner**2 + delta * (size - inner)


def log_cosh(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    r"""Like half the square near 0 and the absolute error far away: :math:`\log \cosh (p - y)`.

    Exact to rounding at both ends; its gradient is :math:`\tanh (p - y)`.

    Args:
      predictions: :math:`p`, of any shape.
      targets: :math:`y`, of the same shape or one that broadcasts; 0 if left out.

    Returns:
      The loss of every element, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes do not belong together.

    References:
      Chen et al., `Log hyperbolic cosine loss improves variational auto-encoder
      <https://openreview.net/forum?id=rkglvsC9Ym>`_, 2019.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> round(float(losses.log_cosh(jnp.array(1.0))), 4)
      0.4338
    """
    return _log_cosh(_errors("log_cosh", predictions, targets))


@jax.custom_jvp
def _log_cosh(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    near = jnp.minimum(size, 1)
    # cosh - 1 without the difference of two numbers near 1.
    beyond_one = 0.5 * jnp.expm1(-near) ** 2 * jnp.exp(near)
    return jnp.where(size < 1, jnp.log1p(beyond_one), size + jnp.log1p(jnp.exp(-2 * size)) - jnp.log(2.0))


@_log_cosh.defjvp
def _log_cosh_jvp(primals: Any, tangents: Any) -> Any:
    return _log_cosh(primals[0]), jnp.tanh(primals[0]) * tangents[0]


def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: Scalar = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""The cosine of the angle between two vectors.

    .. math::
      \frac{\sum_i p_i y_i}{\max(\lVert p \rVert, \sqrt\epsilon) \max(\lVert y \rVert, \sqrt\epsilon)}

    A vector of zeros has similarity 0 to everything; with ``epsilon=0`` its
    gradient is 0 too. Neither very long nor very short vectors overflow.

    Args:
      predictions: :math:`p`, vectors along `axis`.
      targets: :math:`y`, of the same shape or one that broadcasts beside `axis`.
      epsilon: :math:`\epsilon`, at least 0: the least squared length to divide by.
      axis: the axis or axes that make up a vector; ``None`` for all.
      where: booleans that broadcast to the vectors; elements at ``False`` are
        left out.

    Returns:
      The similarities, from -1 to 1, in the shape without `axis`, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers, or `where` is not boolean.
      ValueError: the shapes do not belong together, `axis` does not exist, or
        `epsilon` is negative.

    References:
      Manning, Raghavan and Schütze, `Introduction to information retrieval
      <https://nlp.stanford.edu/IR-book/>`_, 2008, section 6.3.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> round(float(losses.cosine_similarity(jnp.array([3.0, 4.0]), jnp.array([1.0, 0.0]))), 4)
      0.6
    """
    return _cosine("cosine_similarity", predictions, targets, epsilon, axis, where)


def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: Scalar = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""One minus the cosine of the angle between two vectors.

    .. math::
      1 - \frac{\sum_i p_i y_i}{\max(\lVert p \rVert, \sqrt\epsilon) \max(\lVert y \rVert, \sqrt\epsilon)}

    Args:
      predictions: :math:`p`, vectors along `axis`.
      targets: :math:`y`, of the same shape or one that broadcasts beside `axis`.
      epsilon: :math:`\epsilon`, at least 0: the least squared length to divide by.
      axis: the axis or axes that make up a vector; ``None`` for all.
      where: booleans that broadcast to the vectors; elements at ``False`` are
        left out.

    Returns:
      The distances, from 0 to 2, in the shape without `axis`, in float32 or
      wider. That of a vector of zeros is 1.

    Raises:
      TypeError: an argument is no array of real numbers, or `where` is not boolean.
      ValueError: the shapes do not belong together, `axis` does not exist, or
        `epsilon` is negative.

    References:
      Manning, Raghavan and Schütze, `Introduction to information retrieval
      <https://nlp.stanford.edu/IR-book/>`_, 2008, section 6.3.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> losses.cosine_distance(jnp.array([2.0, 0.0]), jnp.array([0.0, 3.0])).item()
      1.0
    """
    return 1 - _cosine("cosine_distance", predictions, targets, epsilon, axis, where)


def _cosine(who: str, predictions: Any, targets: Any, epsilon: Any, axis: Axis, where: Any) -> jax.Array:
    check(who, epsilon=nonnegative(epsilon))
    (p, y), axes, _ = along(who, axis, where, predictions=predictions, targets=targets)
    return jnp.sum(unit_vectors(p, axes, epsilon) * unit_vectors(y, axes, epsilon), axis=axes)


def _errors(who: str, predictions: Any, targets: Any, *, equal: bool = False) -> jax.Array:
    if targets is None:
        return floats(who, predictions=predictions)[0]
    p, y = floats(who, predictions=predictions, targets=targets)
    common_shape(who, {"predictions": p, "targets": y}, equal=equal)
    return p - y
