"""Losses of yes-or-no answers: one score an answer."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.hyperparams import Scalar, nonnegative, unit
from gradxform.losses.shared import check, check_integers, common_shape, floats, power, times

__all__ = [
    "hinge_loss",
    "perceptron_loss",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "sparsemax_loss",
]


def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""The surprise at each label under a probability given as its logit.

    .. math::
      -y \log \sigma(x) - (1 - y) \log \sigma(-x)

    Each class has a logit of its own, so an example may belong to several.

    Args:
      logits: :math:`x`, of any shape.
      labels: :math:`y`, 0 or 1 or a probability between, of the same shape or
        one that broadcasts.

    Returns:
      The loss of every element in nats, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes do not belong together, or an integer label is known
        and neither 0 nor 1. Under `jax.jit` labels are taken as they are.

    References:
      Goodfellow, Bengio and Courville, `Deep learning
      <https://www.deeplearningbook.org/contents/mlp.html>`_, 2016, section 6.2.2.2.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> loss = losses.sigmoid_binary_cross_entropy(jnp.array([0.0, 1e4]), jnp.array([1, 1]))
      >>> [round(x, 4) for x in loss.tolist()]
      [0.6931, 0.0]
    """
    x, y = _scores("sigmoid_binary_cross_entropy", (0, 1), logits=logits, labels=labels)
    return _cross_entropy(x, y)


def sigmoid_focal_loss(
    logits: ArrayLike, labels: ArrayLike, *, alpha: Scalar | None = None, gamma: Scalar = 2.0
) -> jax.Array:
    r"""Binary cross-entropy that counts the answers already right for less.

    .. math::
      \alpha_y (1 - p_y)^\gamma \bigl( -y \log p - (1 - y) \log (1 - p) \bigr), \qquad p = \sigma(x)

    with :math:`p_y = y p + (1 - y)(1 - p)` and
    :math:`\alpha_y = y \alpha + (1 - y)(1 - \alpha)`.

    Args:
      logits: :math:`x`, of any shape.
      labels: :math:`y`, 0 or 1 or a probability between, of the same shape or
        one that broadcasts.
      alpha: :math:`\alpha` in [0, 1], the weight of the label 1 against the
        label 0; by default both have weight 1.
      gamma: :math:`\gamma`, at least 0; 0 gives cross-entropy.

    Returns:
      The loss of every element, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes do not belong together, an integer label is known
        and neither 0 nor 1, or `alpha` or `gamma` is out of bounds. Under
        `jax.jit` labels are taken as they are.

    References:
      Lin et al., `Focal loss for dense object detection
      <https://arxiv.org/abs/1708.02002>`_, 2017.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> round(float(losses.sigmoid_focal_loss(jnp.array(0.0), jnp.array(1))), 4)
      0.1733
    """
    who = "sigmoid_focal_loss"
    check(who, gamma=nonnegative(gamma))
    x, y = _scores(who, (0, 1), logits=logits, labels=labels)
    # The probability of the other answer, summed as it is instead of as 1 - p: no digits cancel.
    wrong = y * jax.nn.sigmoid(-x) + (1 - y) * jax.nn.sigmoid(x)
    loss = power(wrong, gamma) * _cross_entropy(x, y)
    if alpha is None:
        return loss
    check(who, alpha=unit(alpha))
    return (y * alpha + (1 - y) * (1 - alpha)) * loss


def hinge_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> jax.Array:
    r"""How far a score falls short of a margin of 1 on the right side: :math:`\max(0, 1 - y s)`.

    Args:
      predictor_outputs: :math:`s`, of any shape.
      targets: :math:`y`, -1 or 1, of the same shape or one that broadcasts.

    Returns:
      The loss of every element, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes do not belong together, or an integer target is
        known and neither -1 nor 1 (labels 0 and 1 become targets as
        ``2 * labels - 1``). Under `jax.jit` targets are taken as they are.

    References:
      Cortes and Vapnik, `Support-vector networks
      <https://doi.org/10.1007/BF00994018>`_, 1995.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> losses.hinge_loss(jnp.array([2.0, 0.5, -1.0]), jnp.array([1, 1, 1])).tolist()
      [0.0, 0.5, 2.0]
    """
    s, y = _scores("hinge_loss", (-1, 1), predictor_outputs=predictor_outputs, targets=targets)
    return jax.nn.relu(1 - y * s)


def perceptron_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> jax.Array:
    r"""How far a score lies on the wrong side of 0: :math:`\max(0, -y s)`.

    At a score of 0 the gradient is :math:`-y / 2`, so a predictor that starts
    at 0 learns.

    Args:
      predictor_outputs: :math:`s`, of any shape.
      targets: :math:`y`, -1 or 1, of the same shape.

    Returns:
      The loss of every element, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes differ, or an integer target is known and neither
        -1 nor 1 (labels 0 and 1 become targets as ``2 * labels - 1``). Under
        `jax.jit` targets are taken as they are.

    References:
      Rosenblatt, `The perceptron: a probabilistic model for information storage
      and organization in the brain <https://doi.org/10.1037/h0042519>`_, 1958.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> losses.perceptron_loss(jnp.array([2.0, -3.0]), jnp.array([1, 1])).tolist()
      [0.0, 3.0]
    """
    s, y = _scores(
        "perceptron_loss", (-1, 1), equal=True, predictor_outputs=predictor_outputs, targets=targets
    )
    return jnp.maximum(0, -y * s)


def sparsemax_loss(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""The hinge with its corner rounded by a parabola.

    .. math::
      L(s) = \begin{cases} 0 & s \ge 1 \\ -s & s \le -1 \\ \tfrac14 (1 - s)^2 & \text{else}
      \end{cases}, \qquad s = \begin{cases} x & y = 1 \\ -x & y = 0 \end{cases}

    It is sparsemax's loss for two classes whose scores differ by :math:`x`:
    probabilities can be exactly 0 and 1.

    Args:
      logits: :math:`x`, of any shape.
      labels: :math:`y`, 0 or 1, of the same shape or one that broadcasts. A
        fraction counts as 1.

    Returns:
      The loss of every element, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes do not belong together, or an integer label is known
        and neither 0 nor 1. Under `jax.jit` every label but 0 counts as 1.

    References:
      Martins and Astudillo, `From softmax to sparsemax
      <https://arxiv.org/abs/1602.02068>`_, 2016.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> losses.sparsemax_loss(jnp.array([2.0, 0.0, -3.0]), jnp.array([1, 1, 1])).tolist()
      [0.0, 0.25, 3.0]
    """
    x, y = _scores("sparsemax_loss", (0, 1), logits=logits, labels=labels)
    wrong = jnp.where(y != 0, -x, x)
    return 0.25 * (jnp.clip(wrong, -1, 1) + 1) ** 2 + jax.nn.relu(wrong - 1)


def _cross_entropy(x: jax.Array, y: jax.Array) -> jax.Array:
    return -times(y, jax.nn.log_sigmoid(x)) - times(1 - y, jax.nn.log_sigmoid(-x))


def _scores(who: str, allowed: tuple[int, ...], *, equal: bool = False, **arguments: Any) -> list[jax.Array]:
    """The scores and the labels in one dtype, their shapes and the integers among the labels checked."""
    (scores, labels), (_, name) = floats(who, **arguments), arguments
    common_shape(who, dict(zip(arguments, (scores, labels), strict=True)), equal=equal)
    check_integers(who, name, arguments[name], allowed)
    return [scores, labels]
