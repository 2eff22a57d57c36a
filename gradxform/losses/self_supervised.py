"""Losses of embeddings: like things close together, unlike things apart."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradxform.arithmetic import safe_sqrt
from gradxform.hyperparams import Scalar, nonnegative, positive
from gradxform.losses.shared import (
    Axis,
    as_array,
    axes_of,
    check,
    common_shape,
    floats,
    log_sum_exp,
    power,
    unit_vectors,
)

__all__ = ["ntxent", "triplet_margin_loss"]


def ntxent(embeddings: ArrayLike, labels: ArrayLike, temperature: Scalar = 0.07) -> jax.Array:
    r"""Normalized temperature-scaled cross-entropy: tell a likeness from all that is unlike.

    .. math::
      \frac{1}{|P|} \sum_{(i, j) \in P}
      -\log \frac{e^{c_{ij} / \tau}}{e^{c_{ij} / \tau} + \sum_{k : y_k \ne y_i} e^{c_{ik} / \tau}}

    over the ordered pairs :math:`P` of different embeddings with the same
    label, where :math:`c` is the cosine of two embeddings.

    Args:
      embeddings: of shape (batch, features).
      labels: :math:`y`, of shape (batch,); equal for embeddings that belong together.
      temperature: :math:`\tau`, above 0.

    Returns:
      The loss, a number in float32 or wider; 0 if no two labels are equal.

    Raises:
      TypeError: the embeddings are not floating-point numbers.
      ValueError: `embeddings` is not two-dimensional, `labels` is not a label
        for each, or `temperature` is not above 0.

    References:
      Chen et al., `A simple framework for contrastive learning of visual
      representations <https://arxiv.org/abs/2002.05709>`_, 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> pairs = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
      >>> round(float(losses.ntxent(pairs, jnp.array([0, 0, 1, 1]), temperature=1.0)), 4)
      0.5514
    """
    who = "ntxent"
    check(who, temperature=positive(temperature))
    (x,) = floats(who, embeddings=embeddings)
    y = as_array(who, "labels", labels)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(
            f"{who}: embeddings must have the shape (batch, features) and labels the shape (batch,), "
            f"got {x.shape} and {y.shape}"
        )
    directions = unit_vectors(x, (1,))
    # Accelerators would round the product to bfloat16.
    cosines = jnp.matmul(directions, directions.T, precision=jax.lax.Precision.HIGHEST) / temperature
    alike = y[:, None] == y[None, :]
    pairs = alike & ~jnp.eye(len(y), dtype=bool)
    unlike = log_sum_exp(cosines, 1, ~alike)
    losses = jax.nn.softplus(unlike[:, None] - cosines)
    return jnp.sum(losses, where=pairs) / jnp.maximum(jnp.sum(pairs), 1).astype(x.dtype)


def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: Axis = -1,
    norm_degree: Scalar = 2,
    margin: Scalar = 1.0,
    eps: Scalar = 1e-6,
) -> jax.Array:
    r"""How far an anchor is from being closer to its likeness than to a stranger, by a margin.

    .. math::
      \max(0, d(a, p) - d(a, n) + m), \qquad
      d(u, v) = \Bigl( \sum_i |u_i - v_i|^q + \epsilon \Bigr)^{1/q}

    Args:
      anchors: :math:`a`, vectors along `axis`.
      positives: :math:`p`, of the same shape or one that broadcasts.
      negatives: :math:`n`, of the same shape or one that broadcasts.
      axis: the axis or axes that make up a vector; ``None`` for all.
      norm_degree: :math:`q`, above 0; ``inf`` takes the largest difference.
      margin: :math:`m`, at least 0.
      eps: :math:`\epsilon`, at least 0. Equal vectors have a finite gradient
        also with 0.

    Returns:
      The losses, in the shape without `axis`, in float32 or wider.

    Raises:
      TypeError: an argument is no array of real numbers.
      ValueError: the shapes do not belong together, `axis` does not exist, or a
        number is out of bounds.

    References:
      Schroff, Kalenichenko and Philbin, `FaceNet: a unified embedding for face
      recognition and clustering <https://arxiv.org/abs/1503.03832>`_, 2015.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform import losses
      >>> anchor, positive, negative = jnp.zeros(2), jnp.array([3.0, 4.0]), jnp.array([0.0, 5.0])
      >>> losses.triplet_margin_loss(anchor, positive, negative).item()
      1.0
    """
    who = "triplet_margin_loss"
    check(who, norm_degree=positive(norm_degree), margin=nonnegative(margin), eps=nonnegative(eps))
    a, p, n = floats(who, anchors=anchors, positives=positives, negatives=negatives)
    axes = axes_of(who, axis, len(common_shape(who, {"anchors": a, "positives": p, "negatives": n})))

    def distance(u: jax.Array, v: jax.Array) -> jax.Array:
        if isinstance(norm_degree, float) and norm_degree == jnp.inf:
            return jnp.max(jnp.abs(u - v), axis=axes)
        if isinstance(norm_degree, int | float) and norm_degree == 2:
            return safe_sqrt(jnp.sum((u - v) ** 2, axis=axes) + eps)
        return power(jnp.sum(power(jnp.abs(u - v), norm_degree), axis=axes) + eps, 1 / norm_degree)

    return jax.nn.relu(distance(a, p) - distance(a, n) + margin)
