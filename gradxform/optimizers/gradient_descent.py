"""Gradient descent, with and without momentum."""

from typing import Any

from gradxform.chain import chain, identity
from gradxform.hyperparams import Hyperparam
from gradxform.primitives.momentum import trace
from gradxform.primitives.scaling import scale_by_learning_rate
from gradxform.transformation import GradientTransformation

__all__ = ["sgd"]


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
