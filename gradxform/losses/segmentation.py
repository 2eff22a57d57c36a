"""Losses of regions: how much a predicted mask overlaps the true one."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradxform.arithmetic import safe_divide
from gradxform.hyperparams import Scalar, nonnegative
from gradxform.losses.shared import axes_of, check, common_shape, floats, log_softmax

__all__ = ["binary_dice_loss", "dice_loss", "multiclass_generalized_dice_loss"]

_REDUCTIONS = {"mean": jnp.mean, "sum": jnp.sum, "none": None}


def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: Scalar = 1.0,
    alpha: Scalar = 0.5,
    beta: Scalar = 0.5,
    apply_softmax: bool = True,
    reduction: str = "mean",
    ignore_background: bool = False,
    axis: int | Sequence[int] | ArrayLike | None = None,
) -> jax.Array:
    r"""One minus the overlap of regions, for each class.

    .. math::
      w_c \Bigl( 1 - \frac{I_c + s}{I_c + \alpha F_c + \beta M_c + s} \Bigr)

    with the overlap :math:`I_c = \sum p_c y_c`, the false area
    :math:`F_c = \sum p_c (1 - y_c)` and the missed area
    :math:`M_c = \sum (1 - p_c) y_c`. With :math:`\alpha = \beta = \tfrac12` it is
    the Dice loss, otherwise that of Tversky. Without smoothing, a class that is
    neither predicted nor there has loss 0.

    Args:
      predictions: logits of shape (batch, ..., classes), or with
        ``apply_softmax=False`` probabilities :math:`p`, which may as well be
        those of independent classes.
      targets: :math:`y`, one-hot or probabilities, of the same shape.
      class_weights: :math:`w`, of shape (classes,); 1 by default.
      smooth: :math:`s`, at least 0.
      alpha: :math:`\alpha`, at least 0, the price of false area.
      beta: :math:`\beta`, at least 0, the price of missed area.
      apply_softmax: whether the predictions are logits.
      reduction: ``"mean"`` or ``"sum"`` over the classes (of ``w_c`` times the
        loss, not divided by the weights), or ``"none"``.
      ignore_background: whether to leave out class 0, unless it is the only one.
      axis: the axes that a region extends over; by default all but the first
        and the last. Not that of the classes.

    Returns:
      The losses in the shape without `axis` and, unless `reduction` is
      ``"none"``, without the classes; in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes differ, `class_weights` is not a weight for each
        class, `axis` does not exist or is that of the classes, `reduction` is
        unknown, or a number is negative.

    References:
      Milletari, Navab and Ahmadi, `V-Net <https://arxiv.org/abs/1606.04797>`_,
      2016. Salehi, Erdogmus and Gholipour, `Tversky loss function for image
      segmentation <https://arxiv.org/abs/1706.05721>`_, 2017.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> image = jnp.array([[[0.0, 1.0], [1.0, 0.0]]])  # a batch of one, two pixels, two classes
      >>> losses.dice_loss(image, image, apply_softmax=False).item()
      0.0
    """
    return _dice(
        "dice_loss",
        *_regions("dice_loss", predictions, targets),
        class_weights=class_weights,
        smooth=smooth,
        alpha=alpha,
        beta=beta,
        apply_softmax=apply_softmax,
        reduction=reduction,
        ignore_background=ignore_background,
        axis=axis,
    )


def multiclass_generalized_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: Scalar = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
) -> jax.Array:
    r"""The Dice loss with small classes weighted up by their area squared.

    .. math::
      \frac1{BC} \sum_{b, c} w_c L_{bc}, \qquad
      w_c \propto \frac{1}{\bigl( \sum y_c \bigr)^2 + 10^{-7}}, \qquad \sum_c w_c = C

    where :math:`L_{bc}` is `dice_loss` of class :math:`c` in example :math:`b`
    and the areas are those of the whole batch. A class that the batch does not
    show gets nearly all the weight. Without the background, the mean runs over
    the other classes, but the weights keep their size.

    Args:
      predictions: logits of shape (batch, ..., classes), or with
        ``apply_softmax=False`` probabilities.
      targets: :math:`y`, one-hot or probabilities, of the same shape.
      smooth: what is added to the areas, at least 0, see `dice_loss`.
      apply_softmax: whether the predictions are logits.
      ignore_background: whether to leave out class 0, unless it is the only one.

    Returns:
      The loss, a number in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes differ, or `smooth` is negative.

    References:
      Sudre et al., `Generalised Dice overlap as a deep learning loss function
      for highly unbalanced segmentations <https://arxiv.org/abs/1707.03237>`_, 2017.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> image = jnp.array([[[0.0, 1.0], [1.0, 0.0]]])
      >>> losses.multiclass_generalized_dice_loss(image, image, apply_softmax=False).item()
      0.0
    """
    who = "multiclass_generalized_dice_loss"
    p, y = _regions(who, predictions, targets)
    areas = jnp.sum(y, axis=tuple(range(y.ndim - 1)))
    weights = 1 / (areas**2 + 1e-7)
    result = _dice(
        who,
        p,
        y,
        class_weights=weights / jnp.mean(weights),
        smooth=smooth,
        apply_softmax=apply_softmax,
        ignore_background=ignore_background,
    )
    return jnp.mean(result)


def binary_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: Scalar = 1.0,
    apply_sigmoid: bool = True,
) -> jax.Array:
    r"""One minus the overlap of a predicted region and the true one.

    .. math::
      1 - \frac{\sum p y + s}{\tfrac12 \sum p + \tfrac12 \sum y + s}

    Args:
      predictions: logits of shape (batch, ...), or with ``apply_sigmoid=False``
        probabilities :math:`p`. An axis of size 1 at the end makes no difference.
      targets: :math:`y`, 0 or 1 or between, of the same shape.
      smooth: :math:`s`, at least 0.
      apply_sigmoid: whether the predictions are logits.

    Returns:
      The loss of each example, of shape (batch,), in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes differ, or `smooth` is negative.

    References:
      Milletari, Navab and Ahmadi, `V-Net <https://arxiv.org/abs/1606.04797>`_, 2016.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> mask = jnp.array([[1.0, 1.0, 0.0]])
      >>> losses.binary_dice_loss(mask, mask, apply_sigmoid=False).tolist()
      [0.0]
    """
    who = "binary_dice_loss"
    p, y = _regions(who, predictions, targets)
    if apply_sigmoid:
        p = jax.nn.sigmoid(p)
    if p.ndim == 1 or p.shape[-1] != 1:
        p, y = p[..., None], y[..., None]
    return _dice(who, p, y, smooth=smooth, apply_softmax=False)


def _regions(who: str, predictions: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    p, y = floats(who, predictions=predictions, targets=targets)
    if not common_shape(who, {"predictions": p, "targets": y}, equal=True):
        raise ValueError(f"{who}: predictions must be an array, with the batch first, got a single number")
    return p, y


def _dice(
    who: str,
    p: jax.Array,
    y: jax.Array,
    *,
    class_weights: Any = None,
    smooth: Any,
    alpha: Any = 0.5,
    beta: Any = 0.5,
    apply_softmax: bool,
    reduction: str = "mean",
    ignore_background: bool = False,
    axis: Any = None,
) -> jax.Array:
    check(who, smooth=nonnegative(smooth), alpha=nonnegative(alpha), beta=nonnegative(beta))
    if reduction not in _REDUCTIONS:
        raise ValueError(
            f"{who}: reduction must be one of {', '.join(map(repr, _REDUCTIONS))}, got {reduction!r}"
        )
    classes = p.shape[-1]
    weights = jnp.ones(classes, p.dtype) if class_weights is None else jnp.asarray(class_weights, p.dtype)
    if weights.shape != (classes,):
        raise ValueError(f"{who}: class_weights must have the shape ({classes},), got {weights.shape}")
    if axis is None:
        axes = tuple(range(1, p.ndim - 1))
    else:
        axes = axes_of(who, tuple(int(one) for one in np.atleast_1d(np.asarray(axis))), p.ndim)
    if p.ndim - 1 in axes:
        raise ValueError(f"{who}: axis must not name the last axis, that of the classes, got {axis!r}")

    if apply_softmax:
        p = jnp.exp(log_softmax(p, (-1,)))
    if ignore_background and classes > 1:
        p, y, weights = p[..., 1:], y[..., 1:], weights[1:]
    overlap, false, missed = (jnp.sum(area, axis=axes) for area in (p * y, p * (1 - y), (1 - p) * y))
    # Without smoothing nothing may overlap nothing; that is a perfect match.
    cost = alpha * false + beta * missed
    result = weights * safe_divide(cost, overlap + cost + smooth)
    reduce = _REDUCTIONS[reduction]
    return result if reduce is None else reduce(result, axis=-1)
