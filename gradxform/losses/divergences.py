"""How far one distribution lies from another."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.losses.shared import Axis, along, log, times

__all__ = ["generalized_kl_divergence", "kl_divergence", "kl_divergence_with_log_targets"]


def kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""The Kullback-Leibler divergence from the predictions to the targets.

    .. math::
      \sum_i y_i (\log y_i - \log p_i)

    An outcome that the targets give no probability adds 0, whatever its
    prediction, and has a finite gradient. An outcome that only the predictions
    exclude makes the divergence infinite.

    Args:
      log_predictions: :math:`\log p`, as `jax.nn.log_softmax` returns it.
      targets: :math:`y`, probabilities, of the same shape or one that
        broadcasts beside `axis`.
      axis: the axis or axes over which the probabilities sum to 1; ``None`` for all.
      where: booleans that broadcast to the outcomes; those at ``False`` add 0.

    Returns:
      The divergences in nats, in the shape without `axis`, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers, or `where` is not boolean.
      ValueError: the shapes do not belong together, or `axis` does not exist.

    References:
      Kullback and Leibler, `On information and sufficiency
      <https://doi.org/10.1214/aoms/1177729694>`_, 1951.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> log_predictions = jnp.log(jnp.array([0.5, 0.5]))
      >>> round(float(losses.kl_divergence(log_predictions, jnp.array([1.0, 0.0]))), 4)
      0.6931
    """
    (log_p, y), axes, _ = along(
        "kl_divergence", axis, where, log_predictions=log_predictions, targets=targets
    )
    return jnp.sum(_terms(log_p, y), axis=axes)


def generalized_kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""The Kullback-Leibler divergence for measures whose totals may differ.

    .. math::
      \sum_i y_i (\log y_i - \log p_i) - y_i + p_i

    Convex and at least 0 for all nonnegative :math:`p` and :math:`y`; the plain
    divergence where both sum to the same.

    Args:
      log_predictions: :math:`\log p`.
      targets: :math:`y`, nonnegative, of the same shape or one that broadcasts
        beside `axis`.
      axis: the axis or axes to sum over; ``None`` for all.
      where: booleans that broadcast to the outcomes; those at ``False`` add 0.

    Returns:
      The divergences, in the shape without `axis`, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers, or `where` is not boolean.
      ValueError: the shapes do not belong together, or `axis` does not exist.

    References:
      Csiszár, `Why least squares and maximum entropy?
      <https://doi.org/10.1214/aos/1176348385>`_, 1991.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> round(float(losses.generalized_kl_divergence(jnp.zeros(2), jnp.array([2.0, 0.0]))), 4)
      1.3863
    """
    (log_p, y), axes, mask = along(
        "generalized_kl_divergence", axis, where, log_predictions=log_predictions, targets=targets
    )
    return jnp.sum(_terms(log_p, y) + jnp.exp(log_p) - y, axis=axes, where=mask)


def kl_divergence_with_log_targets(
    log_predictions: ArrayLike,
    log_targets: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""The Kullback-Leibler divergence of targets given as logarithms.

    .. math::
      \sum_i e^{\log y_i} (\log y_i - \log p_i)

    A log-target of minus infinity is a probability of 0 and adds 0.

    Args:
      log_predictions: :math:`\log p`, as `jax.nn.log_softmax` returns it.
      log_targets: :math:`\log y`, of the same shape or one that broadcasts
        beside `axis`.
      axis: the axis or axes over which the probabilities sum to 1; ``None`` for all.
      where: booleans that broadcast to the outcomes; those at ``False`` add 0.

    Returns:
      The divergences in nats, in the shape without `axis`, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers, or `where` is not boolean.
      ValueError: the shapes do not belong together, or `axis` does not exist.

    References:
      Kullback and Leibler, `On information and sufficiency
      <https://doi.org/10.1214/aoms/1177729694>`_, 1951.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> log_half = jnp.log(jnp.array([0.5, 0.5]))
      >>> losses.kl_divergence_with_log_targets(log_half, log_half).item()
      0.0
    """
    (log_p, log_y), axes, _ = along(
        "kl_divergence_with_log_targets",
        axis,
        where,
        log_predictions=log_predictions,
        log_targets=log_targets,
    )
    y = jnp.exp(log_y)
    return jnp.sum(y * jnp.where(y == 0, 0, log_y - jnp.where(y == 0, 0, log_p)), axis=axes)


def _terms(log_p: Any, y: Any) -> jax.Array:
    return times(y, log(y) - log_p)
