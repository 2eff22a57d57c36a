"""Losses of an order: which items of a list should come first."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.losses.shared import along, common_shape, log_softmax, times

__all__ = ["ranking_softmax_loss"]


def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., Any] | None = jnp.mean,
) -> jax.Array:
    r"""The surprise at drawing each relevant item first, by its relevance.

    .. math::
      -\sum_i w_i y_i \log \frac{e^{s_i}}{\sum_j e^{s_j}}

    A list without a relevant item has loss 0 and counts in the mean.

    Args:
      logits: :math:`s`, the scores of the items, a list along the last axis.
      labels: :math:`y`, the relevance of each item, at least 0; of the same
        shape or one that broadcasts beside the last axis.
      where: booleans that broadcast to the logits; items at ``False`` are
        padding.
      weights: :math:`w`, a weight for each item, or one for each list in the
        shape (..., 1); 1 by default.
      reduce_fn: how to join the losses of the lists: a function
        ``(losses, where=mask)`` like `jax.numpy.mean`, where the mask tells the
        lists that have any item, or is ``None`` if the argument `where` is. If
        no list has any item, the mask keeps them all, and their losses are 0.
        With ``None`` the losses are returned as they are.

    Returns:
      The joined loss, or with ``reduce_fn=None`` one for each list, in float32
      or wider.

    Raises:
      TypeError: an argument is no array of real numbers, or `where` is not boolean.
      ValueError: the shapes do not belong together.

    References:
      Cao et al., `Learning to rank: from pairwise approach to listwise approach
      <https://www.microsoft.com/en-us/research/publication/learning-to-rank-from-pairwise-approach-to-listwise-approach/>`_,
      2007. Bruch et al., `An analysis of the softmax cross entropy loss for
      learning-to-rank with binary relevance
      <https://doi.org/10.1145/3341981.3344221>`_, 2019.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> scores, relevance = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[0.0, 0.0, 1.0]])
      >>> round(float(losses.ranking_softmax_loss(scores, relevance)), 4)
      0.4076
    """
    who = "ranking_softmax_loss"
    (s, y), _, mask = along(who, -1, where, logits=logits, labels=labels)
    if weights is not None:
        w = jnp.asarray(weights, s.dtype)
        if common_shape(who, {"logits": s, "weights": w}) != s.shape:
            raise ValueError(
                f"{who}: weights of shape {w.shape} have more axes than logits of shape {s.shape}"
            )
        y = y * w
    result = -jnp.sum(times(y, log_softmax(s, (-1,), mask)), axis=-1)
    if reduce_fn is None:
        return result
    if mask is not None:
        lists = jnp.any(mask, axis=-1)
        # A mean over nothing would be 0 / 0, with a NaN for its gradient.
        mask = lists | ~jnp.any(lists)
    reduced: jax.Array = reduce_fn(result, where=mask)
    return reduced
