"""Connectionist temporal classification: labels in order, at unknown times."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.hyperparams import Checked, Scalar
from gradxform.losses.shared import as_array, as_labels, check, check_values, floats, log_softmax

__all__ = ["ctc_loss", "ctc_loss_with_forward_probs"]


def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: Scalar = -1e5,
) -> jax.Array:
    r"""The surprise at a sequence of labels, whatever the frames at which they appear.

    .. math::
      -\log \sum_{\pi : \mathcal{B}(\pi) = y} \prod_t p_t(\pi_t)

    The sum runs over all paths :math:`\pi`, one class a frame, that become the
    labels :math:`y` when repeats are merged and then blanks dropped
    (:math:`\mathcal{B}`). A class that no frame can be (a logit of minus
    infinity) and labels that no path can spell leave the gradient finite.

    Args:
      logits: scores of shape (batch, frames, classes), the blank among the classes.
      logit_paddings: of shape (batch, frames); 0 at a frame, 1 at padding.
      labels: integers of shape (batch, labels), without blanks.
      label_paddings: of shape (batch, labels); 0 at a label, 1 at padding, which
        stands behind the labels.
      blank_id: the class that is the blank.
      log_epsilon: what counts as the logarithm of 0, far below every logarithm
        of a probability.

    Returns:
      The losses in nats, of shape (batch,), in float32 or wider. About
      ``-log_epsilon`` where the frames are too few for the labels.

    Raises:
      TypeError: the logits are not floating-point numbers, or the labels no integers.
      ValueError: the shapes do not belong together, `blank_id` is no class,
        `log_epsilon` is not finite and negative, or a label that is no padding
        is known and out of range or the blank. Under `jax.jit` labels are not
        checked: a negative one counts from the last class, any other that is out
        of range makes the loss NaN.

    References:
      Graves et al., `Connectionist temporal classification
      <https://www.cs.toronto.edu/~graves/icml_2006.pdf>`_, 2006.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> frames, labels = jnp.zeros((1, 2, 3)), jnp.array([[1]])  # all 9 paths alike, 3 spell "1"
      >>> loss = losses.ctc_loss(frames, jnp.zeros((1, 2)), labels, jnp.zeros((1, 1)))
      >>> round(float(jnp.exp(-loss[0])), 4)
      0.3333
    """
    return _ctc("ctc_loss", logits, logit_paddings, labels, label_paddings, blank_id, log_epsilon)[0]


def ctc_loss_with_forward_probs(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: Scalar = -1e5,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""The same as `ctc_loss`, together with the forward variables that it is computed from.

    .. math::
      \beta_t(n) &= p_t(\text{blank}) \bigl( \beta_{t-1}(n) + \alpha_{t-1}(n - 1) \bigr) \\
      \alpha_t(n) &= p_t(y_n) \bigl( \alpha_{t-1}(n) + \beta_{t-1}(n)
      + [y_n \ne y_{n-1}] \, \alpha_{t-1}(n - 1) \bigr)

    where :math:`\beta_t(n)` is the probability of the first :math:`n` labels and
    then a blank in the frames up to :math:`t`, and :math:`\alpha_t(n)` that of
    ending in label :math:`n` itself. In the last frame :math:`\beta` is the
    probability of either.

    Args:
      logits: scores of shape (batch, frames, classes), the blank among the classes.
      logit_paddings: of shape (batch, frames); 0 at a frame, 1 at padding.
      labels: integers of shape (batch, labels), without blanks.
      label_paddings: of shape (batch, labels); 0 at a label, 1 at padding, which
        stands behind the labels.
      blank_id: the class that is the blank.
      log_epsilon: what counts as the logarithm of 0.

    Returns:
      The losses of shape (batch,), :math:`\log \beta` of shape
      (frames, batch, labels + 1) and :math:`\log \alpha` of shape
      (frames, batch, labels), in float32 or wider. Unreachable states have about
      `log_epsilon`.

    Raises:
      TypeError: the logits are not floating-point numbers, or the labels no integers.
      ValueError: the shapes do not belong together, `blank_id` is no class,
        `log_epsilon` is not finite and negative, or a label that is no padding
        is known and out of range or the blank. Under `jax.jit` labels are not
        checked: a negative one counts from the last class, any other that is out
        of range makes the loss NaN.

    References:
      Graves et al., `Connectionist temporal classification
      <https://www.cs.toronto.edu/~graves/icml_2006.pdf>`_, 2006.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> frames, labels = jnp.zeros((1, 2, 3)), jnp.array([[1]])
      >>> loss, blanks, emissions = losses.ctc_loss_with_forward_probs(
      ...     frames, jnp.zeros((1, 2)), labels, jnp.zeros((1, 1))
      ... )
      >>> blanks.shape, emissions.shape
      ((2, 1, 2), (2, 1, 1))
    """
    who = "ctc_loss_with_forward_probs"
    return _ctc(who, logits, logit_paddings, labels, label_paddings, blank_id, log_epsilon)


def _ctc(
    who: str,
    logits: Any,
    logit_paddings: Any,
    labels: Any,
    label_paddings: Any,
    blank_id: int,
    log_epsilon: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    z, y, no_frame, no_label = _arguments(who, logits, logit_paddings, labels, label_paddings, blank_id)
    check(who, log_epsilon=Checked(log_epsilon, "finite and below 0", lambda x: -math.inf < x < 0))
    never = jnp.asarray(log_epsilon, z.dtype)

    log_p = jnp.maximum(log_softmax(jnp.where(no_frame[..., None], 0, z), (2,)), never)
    y = jnp.where(no_label, blank_id, y)
    log_blank = log_p[:, :, blank_id]
    log_label = jnp.take_along_axis(log_p, y[:, None, :], axis=2, mode="fill", fill_value=jnp.nan)
    batch, length = y.shape
    repeats = jnp.concatenate([jnp.ones((batch, 1), bool), y[:, 1:] == y[:, :-1]], axis=1)[:, :length]

    def after(emissions: jax.Array) -> jax.Array:
        """The emissions by the number of labels passed: none yet is impossible."""
        return jnp.concatenate([jnp.full((batch, 1), never), emissions], axis=1)

    def step(carry: tuple[jax.Array, jax.Array], frame: Any) -> Any:
        blanks, emissions = carry
        log_blank, log_label, padded = frame
        before = after(emissions)
        next_blanks = jnp.logaddexp(blanks, before) + log_blank[:, None]
        arrive = jnp.logaddexp(blanks[:, :-1], jnp.where(repeats, never, before[:, :-1]))
        next_emissions = jnp.logaddexp(emissions, arrive) + log_label
        carry = (
            jnp.where(padded[:, None], blanks, next_blanks),
            jnp.where(padded[:, None], emissions, next_emissions),
        )
        return carry, carry

    start = (
        jnp.full((batch, length + 1), never).at[:, 0].set(0),
        jnp.full((batch, length), never),
    )
    frames = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), (log_blank, log_label, no_frame))
    (blanks, emissions), (all_blanks, all_emissions) = jax.lax.scan(step, start, frames)
    spelled = jnp.sum(~no_label, axis=1, keepdims=True)
    ends = jnp.logaddexp(blanks, after(emissions))
    complete = jnp.take_along_axis(ends, spelled, axis=1)
    return -complete[:, 0], all_blanks.at[-1].set(ends), all_emissions


def _arguments(
    who: str, logits: Any, logit_paddings: Any, labels: Any, label_paddings: Any, blank_id: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    (z,) = floats(who, logits=logits)
    if z.ndim != 3:
        raise ValueError(f"{who}: logits must have the shape (batch, frames, classes), got {z.shape}")
    batch, frames, classes = z.shape
    y = as_labels(who, labels)
    if y.ndim != 2 or y.shape[0] != batch:
        raise ValueError(
            f"{who}: labels must have the shape (batch, labels) with the batch size of logits of shape "
            f"{z.shape}, got {y.shape}"
        )
    paddings = []
    for name, padding, of, shape in [
        ("logit_paddings", logit_paddings, "logits", (batch, frames)),
        ("label_paddings", label_paddings, "labels", y.shape),
    ]:
        array = as_array(who, name, padding)
        if array.shape != shape:
            raise ValueError(f"{who}: {name} must have the shape {shape}, as {of} do, got {array.shape}")
        paddings.append(array > 0)
    no_frame, no_label = paddings
    if not 0 <= blank_id < classes:
        raise ValueError(f"{who}: blank_id must be one of the {classes} classes, from 0, got {blank_id}")
    check_values(
        who,
        "labels",
        y,
        lambda x: (x >= 0) & (x < classes) & (x != blank_id),
        f"from 0 to {classes - 1} and not the blank, {blank_id}, unless label_paddings is 1 there",
        unless=no_label,
    )
    return z, y, no_frame, no_label
