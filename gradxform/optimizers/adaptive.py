"""The classic adaptive methods: a learning rate of its own for every coordinate."""

from typing import Any

from gradxform.chain import chain, identity
from gradxform.hyperparams import Hyperparam, Scalar
from gradxform.optimizers.recipe import decay
from gradxform.primitives.moments import (
    scale_by_adadelta,
    scale_by_adam,
    scale_by_rms,
    scale_by_rss,
    scale_by_stddev,
)
from gradxform.primitives.momentum import trace
from gradxform.primitives.scaling import scale_by_learning_rate
from gradxform.rule import Mask
from gradxform.transformation import GradientTransformation

__all__ = ["adadelta", "adagrad", "adam", "rmsprop"]


def adagrad(
    learning_rate: Hyperparam, initial_accumulator_value: Scalar = 0.0, eps: Hyperparam = 1e-7
) -> GradientTransformation:
    r"""AdaGrad: :math:`G \leftarrow G + g^2,\; w \leftarrow w - \alpha g / \sqrt{G + \epsilon}`.

    Coordinates with rare gradients keep a large step, which suits sparse
    features. The sum only grows, so the step only shrinks.

    Args:
      learning_rate: :math:`\alpha`.
      initial_accumulator_value: what :math:`G` starts at, at least 0: 0 as in the paper
        (Optax starts at 0.1).
      eps: :math:`\epsilon`, at least 0.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: a hyperparameter is negative.

    References:
      Duchi, Hazan and Singer, `Adaptive subgradient methods for online
      learning and stochastic optimization
      <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adagrad(0.5, eps=0.0)
      >>> tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item()
      -0.5
    """
    return chain(
        scale_by_rss(initial_accumulator_value, eps),
        scale_by_learning_rate(learning_rate),
    )


def rmsprop(
    learning_rate: Hyperparam,
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Hyperparam | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    r"""RMSprop: AdaGrad that forgets.

    .. math::
      E \leftarrow \gamma E + (1 - \gamma) g^2, \quad
      w \leftarrow w - \alpha g / \sqrt{E + \epsilon}

    A moving average stands in the sum's place, so that the step does not die.

    Args:
      learning_rate: :math:`\alpha`.
      decay: :math:`\gamma`, in [0, 1]; with bias correction in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      initial_scale: what :math:`E` starts at, at least 0.
      eps_in_sqrt: whether :math:`\epsilon` stands under the root; PyTorch
        and Keras put it outside.
      centered: whether to divide by the standard deviation instead.
      momentum: the decay of a heavy ball on the finished updates.
      nesterov: whether the ball looks ahead.
      bias_correction: whether to correct :math:`E` as Adam does.

    Returns:
      A `GradientTransformation`; a slot the size of the parameters, one more
      each for `centered` and `momentum`.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Tieleman and Hinton, `Lecture 6.5: RMSprop
      <https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf>`_, 2012.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.rmsprop(0.5, decay=0.75, eps=0.0)
      >>> tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item()
      -1.0
    """
    scale_down = scale_by_stddev if centered else scale_by_rms
    return chain(
        scale_down(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        identity() if momentum is None else trace(momentum, nesterov),
    )


def adadelta(
    learning_rate: Hyperparam | None = None,
    rho: Hyperparam = 0.9,
    eps: Hyperparam = 1e-6,
    weight_decay: Hyperparam = 0.0,
    weight_decay_mask: Mask | None = None,
) -> GradientTransformation:
    r"""AdaDelta: no learning rate to set; the past updates give the scale of the next.

    .. math::
      E_g \leftarrow \rho E_g + (1 - \rho) g^2, \quad
      u = \frac{\sqrt{E_u + \epsilon}}{\sqrt{E_g + \epsilon}} g, \quad
      w \leftarrow w - u, \quad
      E_u \leftarrow \rho E_u + (1 - \rho) u^2

    Args:
      learning_rate: a factor on :math:`u`; left out, 1 as in the paper.
      rho: :math:`\rho`, in [0, 1].
      eps: :math:`\epsilon`, at least 0. It sets the size of the first steps.
      weight_decay: an L2 penalty's :math:`\lambda`, at least 0.
      weight_decay_mask: which leaves it applies to.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Zeiler, `ADADELTA: an adaptive learning rate method
      <https://arxiv.org/abs/1212.5701>`_, 2012.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adadelta(rho=0.0, eps=1.0)
      >>> round(tx.update({"w": 3.0}, tx.init({"w": 1.0}))[0]["w"].item(), 4)
      -0.9487
    """
    return chain(
        decay(weight_decay, weight_decay_mask),
        scale_by_adadelta(rho, eps),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
    )


def adam(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Adam: momentum over RMSprop, both without their bias to zero.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
      v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
      \hat m = \frac{m}{1 - \beta_1^t}, \quad
      \hat v = \frac{v}{1 - \beta_2^t}, \quad
      w \leftarrow w - \alpha \frac{\hat m}{\sqrt{\hat v} + \epsilon}

    Args:
      learning_rate: :math:`\alpha`.
      b1: :math:`\beta_1`, the decay of :math:`m`, in [0, 1).
      b2: :math:`\beta_2`, the decay of :math:`v`, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      eps_root: a small number under the root, at least 0.
      mu_dtype: the dtype to keep :math:`m` in.
      nesterov: whether to look ahead (NAdam).

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Kingma and Ba, `Adam: a method for stochastic optimization
      <https://arxiv.org/abs/1412.6980>`_, 2015.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adam(0.5)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -0.5
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
        scale_by_learning_rate(learning_rate),
    )
