"""Losses made from a prediction rule: every maximum has its loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.losses.shared import along

__all__ = ["make_fenchel_young_loss"]


def make_fenchel_young_loss(max_fun: Callable[..., Any]) -> Callable[..., jax.Array]:
    r"""The loss that belongs to a (regularized) maximum over the last axis.

    .. math::
      L(s, y) = \Omega^*(s) - \langle s, y \rangle, \qquad
      \Omega^*(s) = \max_p \langle s, p \rangle - \Omega(p)

    Its gradient in :math:`s` is the prediction :math:`\nabla \Omega^*(s)` less
    the target. It lies :math:`\Omega(y)`, which does not depend on :math:`s`,
    below the loss of the paper. Log-sum-exp gives softmax cross-entropy; the
    plain maximum gives the perceptron's loss.

    Args:
      max_fun: :math:`\Omega^*`, from a vector of scores to a number. It is
        mapped over all axes but the last.

    Returns:
      A function ``loss(scores, targets, *args, **kwargs)`` of scores and targets
      in one shape (or one that broadcasts beside the last axis). It returns the
      losses in the shape without the last axis, in float32 or wider. Further
      arguments go to `max_fun`.

    Raises:
      TypeError: `max_fun` is not callable; from the loss: an argument is no
        array of real numbers.
      ValueError: from the loss: the shapes do not belong together.

    References:
      Blondel, Martins and Niculae, `Learning with Fenchel-Young losses
      <https://arxiv.org/abs/1901.02324>`_, 2020.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> cross_entropy = losses.make_fenchel_young_loss(jax.nn.logsumexp)
      >>> round(float(cross_entropy(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 0.0, 1.0]))), 4)
      0.4076
    """
    if not callable(max_fun):
        raise TypeError(f"make_fenchel_young_loss: max_fun must be a function of a vector, got {max_fun!r}")

    def fenchel_young_loss(scores: ArrayLike, targets: ArrayLike, *args: Any, **kwargs: Any) -> jax.Array:
        (s, y), axes, _ = along("fenchel_young_loss", -1, None, scores=scores, targets=targets)
        maximum = jnp.vectorize(lambda vector: max_fun(vector, *args, **kwargs), signature="(n)->()")
        result: jax.Array = maximum(s) - jnp.sum(s * y, axis=axes)
        return result

    return fenchel_young_loss
