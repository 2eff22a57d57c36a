"""Gradient descent, with and without momentum."""

from typing import Any

import jax

from gradxform.chain import chain, identity
from gradxform.hyperparams import Hyperparam, Scalar
from gradxform.primitives.momentum import trace
from gradxform.primitives.privacy import differentially_private_aggregate
from gradxform.primitives.scaling import scale_by_learning_rate
from gradxform.transformation import GradientTransformation

__all__ = ["dpsgd", "sgd"]


def sgd(
    learning_rate: Hyperparam,
    momentum: Hyperparam | None = None,
    nesterov: bool = False,
    accumulator_dtype: Any = None,
) -> GradientTransformation:
    r"""Gradient descent: :math:`w \leftarrow w - \alpha g`.

    How the gradient is drawn makes it one of three algorithms: of the mean
    loss over the whole data set (gradient descent), of one random example
    (stochastic gradient descent), or of a random batch (mini-batch gradient
    descent); `gradxform.fit` draws all three.

    Args:
      learning_rate: :math:`\alpha`.
      momentum: the decay :math:`\mu` of the heavy ball
        :math:`v \leftarrow g + \mu v`, which then takes the gradient's place.
      nesterov: whether the ball looks ahead.
      accumulator_dtype: the dtype to keep :math:`v` in.

    Returns:
      A `GradientTransformation`, without slots if there is no momentum.

    Raises:
      ValueError: `momentum` is not in [0, 1].

    References:
      Robbins and Monro, `A stochastic approximation method
      <https://doi.org/10.1214/aoms/1177729586>`_, 1951.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.sgd(0.1)
      >>> updates, _ = tx.update({"w": 2.0}, tx.init({"w": 1.0}))
      >>> round(updates["w"].item(), 6)
      -0.2
    """
    return chain(
        identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype),
        scale_by_learning_rate(learning_rate),
    )


def dpsgd(
    learning_rate: Hyperparam,
    l2_norm_clip: Scalar,
    noise_multiplier: Scalar,
    seed: int | jax.Array,
    momentum: Hyperparam | None = None,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Differentially private gradient descent: what is learned tells little of any one example.

    .. math::
      w \leftarrow w - \frac{\alpha}{B} \Bigl(\sum_{b=1}^B g_b \min\bigl(1, C / \lVert g_b \rVert\bigr)
        + \mathcal{N}(0, \sigma^2 C^2)\Bigr)

    The gradients come with the examples along their first axis:
    ``jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batch)``. What
    gathers gradients, such as `MultiSteps`, cannot stand around it. How much
    privacy a run has spent is to be counted elsewhere.

    Args:
      learning_rate: :math:`\alpha`.
      l2_norm_clip: :math:`C`, the largest norm of an example's gradient, above 0.
      noise_multiplier: :math:`\sigma`, at least 0.
      seed: a number to make a random key from, or a random key. The privacy
        rests on its being unknown.
      momentum: the decay of the heavy ball that then takes the gradient's
        place, as in `sgd`.
      nesterov: whether the ball looks ahead.

    Returns:
      A `GradientTransformation`; its updates have the parameters' shapes.

    Raises:
      ValueError: a hyperparameter is out of its bounds; in `update`, a
        gradient has no axis of examples, or one of another length than the others'.

    References:
      Abadi et al., `Deep learning with differential privacy
      <https://arxiv.org/abs/1607.00133>`_, 2016.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> def loss(w, x):
      ...     return (w - x) ** 2
      >>> tx = gx.dpsgd(0.1, l2_norm_clip=1.0, noise_multiplier=0.0, seed=0)
      >>> grads = jax.vmap(jax.grad(loss), in_axes=(None, 0))(0.0, jnp.asarray([0.25, 5.0]))
      >>> round(tx.update(grads, tx.init(0.0))[0].item(), 6)
      0.075
    """
    return chain(
        differentially_private_aggregate(l2_norm_clip, noise_multiplier, seed),
        identity() if momentum is None else trace(momentum, nesterov),
        scale_by_learning_rate(learning_rate),
    )
