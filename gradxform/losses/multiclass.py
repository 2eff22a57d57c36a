"""Losses of one class out of several: a score for each class."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.arithmetic import compute_dtype
from gradxform.hyperparams import Scalar, unit
from gradxform.losses.shared import (
    Axis,
    along,
    as_array,
    axes_of,
    check,
    floats,
    log_softmax,
    mask_of,
    pick,
    pick_labels,
    times,
)

__all__ = [
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "poly_loss_cross_entropy",
    "safe_softmax_cross_entropy",
    "smooth_labels",
    "softmax_cross_entropy",
    "softmax_cross_entropy_with_integer_labels",
]


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""The surprise at labels given as probabilities.

    .. math::
      -\sum_i y_i \log \frac{e^{z_i}}{\sum_j e^{z_j}}

    A class whose label is 0 adds 0 even where its logit is minus infinity.

    Args:
      logits: :math:`z`, a score for each class along `axis`.
      labels: :math:`y`, probabilities (one-hot, for instance), of the same shape
        or one that broadcasts beside `axis`.
      axis: the axis or axes of the classes; ``None`` for all.
      where: booleans that broadcast to the logits; classes at ``False`` do not
        exist. Where none is left the loss is 0.

    Returns:
      The losses in nats, in the shape without `axis`, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers, or `where` is not boolean.
      ValueError: the shapes do not belong together, or `axis` does not exist.

    References:
      Goodfellow, Bengio and Courville, `Deep learning
      <https://www.deeplearningbook.org/contents/mlp.html>`_, 2016, section 6.2.2.3.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> loss = losses.softmax_cross_entropy(jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 0.0, 1.0]))
      >>> round(float(loss), 4)
      0.4076
    """
    return _cross_entropy("softmax_cross_entropy", logits, labels, axis, where)


def safe_softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""The same as `softmax_cross_entropy` over the last axis, by the name that promises the limit at 0.

    .. math::
      -\sum_i y_i \log \frac{e^{z_i}}{\sum_j e^{z_j}}, \qquad 0 \cdot \infty = 0

    Here `softmax_cross_entropy` keeps the same promise.

    Args:
      logits: :math:`z`, a score for each class along the last axis; minus
        infinity excludes a class.
      labels: :math:`y`, probabilities, of the same shape or one that broadcasts
        beside the last axis.

    Returns:
      The losses in nats, in the shape without the last axis, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes do not belong together.

    References:
      Goodfellow, Bengio and Courville, `Deep learning
      <https://www.deeplearningbook.org/contents/mlp.html>`_, 2016, section 6.2.2.3.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> logits = jnp.array([0.0, 0.0, -jnp.inf])
      >>> round(float(losses.safe_softmax_cross_entropy(logits, jnp.array([1.0, 0.0, 0.0]))), 4)
      0.6931
    """
    return _cross_entropy("safe_softmax_cross_entropy", logits, labels, -1, None)


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""The surprise at labels given as numbers of classes.

    .. math::
      -\log \frac{e^{z_y}}{\sum_j e^{z_j}}

    Args:
      logits: :math:`z`, a score for each class along `axis`.
      labels: :math:`y`, integers from 0 to the number of classes less 1, in the
        shape of the logits without `axis`.
      axis: the axis of the classes; of several axes, the last one named runs
        fastest in the numbering.
      where: booleans that broadcast to the logits; classes at ``False`` do not
        exist. The loss of a label at such a class is 0.

    Returns:
      The losses in nats, in the shape of the labels, in float32 or wider.

    Raises:
      TypeError: the logits are not floating-point numbers, the labels are no
        integers, or `where` is not boolean.
      ValueError: the shapes do not belong together, `axis` does not exist, or a
        label is known and out of range. Under `jax.jit` labels are not checked:
        a negative one counts from the last class, any other that is out of
        range makes the loss NaN.

    References:
      Goodfellow, Bengio and Courville, `Deep learning
      <https://www.deeplearningbook.org/contents/mlp.html>`_, 2016, section 6.2.2.3.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> logits = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
      >>> loss = losses.softmax_cross_entropy_with_integer_labels(logits, jnp.array([2, 0]))
      >>> [round(x, 4) for x in loss.tolist()]
      [0.4076, 1.0986]
    """
    who = "softmax_cross_entropy_with_integer_labels"
    if not isinstance(axis, int | tuple) or axis == ():
        raise TypeError(f"{who}: axis must be an integer or a tuple of them, got {axis!r}")
    (z,) = floats(who, logits=logits)
    axes = axes_of(who, axis, z.ndim)
    mask = mask_of(who, where, z.shape)

    def classes_last(array: jax.Array) -> jax.Array:
        moved = jnp.moveaxis(array, axes, range(-len(axes), 0))
        return moved.reshape(*moved.shape[: z.ndim - len(axes)], -1)

    z = classes_last(z)
    y = pick_labels(who, labels, z.shape[:-1], z.shape[-1])
    return -pick(log_softmax(z, (-1,), None if mask is None else classes_last(mask)), y)


def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: Scalar = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Cross-entropy with the first term of its expansion in :math:`1 - p` weighted anew.

    .. math::
      \sum_i y_i \bigl( -\log p_i + \epsilon (1 - p_i) \bigr), \qquad
      p_i = \frac{e^{z_i}}{\sum_j e^{z_j}}

    Args:
      logits: :math:`z`, a score for each class along `axis`.
      labels: :math:`y`, probabilities, of the same shape or one that broadcasts
        beside `axis`.
      epsilon: :math:`\epsilon`, at least -1 for a loss that falls with
        :math:`p`; 0 gives cross-entropy.
      axis: the axis or axes of the classes; ``None`` for all.
      where: booleans that broadcast to the logits; classes at ``False`` do not
        exist. Where none is left the loss is 0.

    Returns:
      The losses, in the shape without `axis`, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers, or `where` is not boolean.
      ValueError: the shapes do not belong together, or `axis` does not exist.

    References:
      Leng et al., `PolyLoss: a polynomial expansion perspective of
      classification loss functions <https://arxiv.org/abs/2204.12511>`_, 2022.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> loss = losses.poly_loss_cross_entropy(jnp.zeros(2), jnp.array([1.0, 0.0]), epsilon=1.0)
      >>> round(float(loss), 4)
      1.1931
    """
    (z, y), axes, mask = along("poly_loss_cross_entropy", axis, where, logits=logits, labels=labels)
    log_p = log_softmax(z, axes, mask)
    cross_entropy = -jnp.sum(times(y, log_p), axis=axes)
    return cross_entropy - epsilon * jnp.sum(y * jnp.expm1(log_p), axis=axes)


def multiclass_hinge_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""How far the right class falls short of leading all others by 1.

    .. math::
      \max_i \bigl( s_i + [i \ne y] \bigr) - s_y

    Args:
      scores: :math:`s`, a score for each class along the last axis.
      labels: :math:`y`, integers from 0 to the number of classes less 1, in the
        shape of the scores without the last axis.

    Returns:
      The losses, in the shape of the labels, in float32 or wider.

    Raises:
      TypeError: the scores are not floating-point numbers, or the labels no integers.
      ValueError: the shapes do not belong together, or a label is known and out
        of range. Under `jax.jit` labels are not checked: a negative one counts
        from the last class, any other that is out of range makes the loss NaN.

    References:
      Crammer and Singer, `On the algorithmic implementation of multiclass
      kernel-based vector machines
      <https://www.jmlr.org/papers/v2/crammer01a.html>`_, 2001.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> losses.multiclass_hinge_loss(jnp.array([2.0, 0.5, 1.5]), jnp.array(0)).item()
      0.5
    """
    s, y = _scores("multiclass_hinge_loss", scores, labels)
    classes = s.shape[-1]
    other = jnp.arange(classes) != jnp.where(y < 0, y + classes, y)[..., None]
    return jnp.max(s + other, axis=-1) - pick(s, y)


def multiclass_perceptron_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""How far the right class lies behind the best: :math:`\max_i s_i - s_y`.

    Args:
      scores: :math:`s`, a score for each class along the last axis.
      labels: :math:`y`, integers from 0 to the number of classes less 1, in the
        shape of the scores without the last axis.

    Returns:
      The losses, in the shape of the labels, in float32 or wider.

    Raises:
      TypeError: the scores are not floating-point numbers, or the labels no integers.
      ValueError: the shapes do not belong together, or a label is known and out
        of range. Under `jax.jit` labels are not checked: a negative one counts
        from the last class, any other that is out of range makes the loss NaN.

    References:
      Collins, `Discriminative training methods for hidden Markov models
      <https://aclanthology.org/W02-1001/>`_, 2002.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> losses.multiclass_perceptron_loss(jnp.array([1.0, 3.0]), jnp.array(0)).item()
      2.0
    """
    s, y = _scores("multiclass_perceptron_loss", scores, labels)
    return jnp.max(s, axis=-1) - pick(s, y)


def multiclass_sparsemax_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    r"""The loss whose gradient is sparsemax less the one-hot label.

    .. math::
      \max_{p \in \Delta} \Bigl( \langle s, p \rangle - \tfrac12 \lVert p \rVert^2 \Bigr)
      + \tfrac12 - s_y

    over the probability simplex :math:`\Delta`. It is 0 as soon as the right
    class leads by 1.

    Args:
      scores: :math:`s`, a score for each class along the last axis.
      labels: :math:`y`, integers from 0 to the number of classes less 1, in the
        shape of the scores without the last axis.

    Returns:
      The losses, in the shape of the labels, in float32 or wider.

    Raises:
      TypeError: the scores are not floating-point numbers, or the labels no integers.
      ValueError: the shapes do not belong together, or a label is known and out
        of range. Under `jax.jit` labels are not checked: a negative one counts
        from the last class, any other that is out of range makes the loss NaN.

    References:
      Martins and Astudillo, `From softmax to sparsemax
      <https://arxiv.org/abs/1602.02068>`_, 2016.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> losses.multiclass_sparsemax_loss(jnp.array([2.0, 0.0]), jnp.array(0)).item()
      0.0
      >>> losses.multiclass_sparsemax_loss(jnp.array([2.0, 0.0]), jnp.array(1)).item()
      2.0
    """
    s, y = _scores("multiclass_sparsemax_loss", scores, labels)
    # Only differences between scores matter, and small numbers keep their digits.
    s = s - jax.lax.stop_gradient(jnp.max(s, axis=-1, keepdims=True))
    p = _sparsemax(s)
    chosen = jnp.where(p > 0, s, 0)
    return jnp.sum(p * chosen - 0.5 * p * p, axis=-1) + 0.5 - pick(s, y)


def _sparsemax(s: jax.Array) -> jax.Array:
    """The point of the probability simplex nearest to `s`, along the last axis."""
    falling = -jnp.sort(-s, axis=-1)
    total = jnp.cumsum(falling, axis=-1)
    count = jnp.sum(1 + jnp.arange(1, s.shape[-1] + 1) * falling > total, axis=-1, keepdims=True)
    threshold = (jnp.take_along_axis(total, count - 1, axis=-1) - 1) / count
    return jnp.where(s > threshold, s - threshold, 0)


def smooth_labels(
    labels: ArrayLike,
    alpha: Scalar,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Labels mixed with the uniform distribution over the `n` classes: :math:`(1 - \alpha) y + \alpha / n`.

    Args:
      labels: :math:`y`, probabilities (one-hot, for instance).
      alpha: :math:`\alpha`, the share of the uniform distribution, from 0 to 1.
      axis: the axis or axes of the classes; ``None`` for all.
      where: booleans that broadcast to the labels; only classes at ``True``
        count towards `n`. Where there are none, nothing is mixed in.

    Returns:
      The mixed labels, in the shape of the labels, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers, or `where` is not boolean.
      ValueError: `alpha` is outside [0, 1], `where` does not broadcast, or
        `axis` does not exist.

    References:
      Szegedy et al., `Rethinking the inception architecture for computer vision
      <https://arxiv.org/abs/1512.00567>`_, 2015, section 7.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> [round(x, 4) for x in losses.smooth_labels(jnp.array([1.0, 0.0]), 0.1).tolist()]
      [0.95, 0.05]
    """
    who = "smooth_labels"
    check(who, alpha=unit(alpha))
    y = as_array(who, "labels", labels)
    y = y.astype(compute_dtype(y))
    axes = axes_of(who, axis, y.ndim)
    mask = mask_of(who, where, y.shape)
    counted = jnp.ones(y.shape, bool) if mask is None else mask
    classes = jnp.sum(counted, axis=axes, keepdims=True, dtype=y.dtype)
    return (1 - alpha) * y + jnp.where(classes == 0, 0, alpha / jnp.maximum(classes, 1))


def _cross_entropy(who: str, logits: Any, labels: Any, axis: Axis, where: Any) -> jax.Array:
    (z, y), axes, mask = along(who, axis, where, logits=logits, labels=labels)
    return -jnp.sum(times(y, log_softmax(z, axes, mask)), axis=axes)


def _scores(who: str, scores: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
    (s,) = floats(who, scores=scores)
    if s.ndim == 0:
        raise ValueError(f"{who}: scores must have the classes along their last axis, got a single number")
    return s, pick_labels(who, labels, s.shape[:-1], s.shape[-1])
