"""Optimizers that step by the gradient's sign: every number moves as far as the others."""

from typing import Any, Literal

from gradxform.chain import chain
from gradxform.hyperparams import Hyperparam, Scalar
from gradxform.optimizers.recipe import descend
from gradxform.primitives.moments import ema
from gradxform.primitives.scaling import scale
from gradxform.primitives.sign import scale_by_lion, scale_by_rprop, scale_by_sign
from gradxform.rule import Mask
from gradxform.transformation import GradientTransformation

__all__ = ["lion", "rprop", "sign_sgd", "signum"]


def sign_sgd(learning_rate: Hyperparam) -> GradientTransformation:
    r"""Sign descent: :math:`w \leftarrow w - \alpha \operatorname{sign}(g)`.

    Args:
      learning_rate: :math:`\alpha`, how far every number moves.

    Returns:
      A `GradientTransformation` without slots.

    References:
      Bernstein et al., `signSGD: compressed optimisation for non-convex problems
      <https://arxiv.org/abs/1802.04434>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.sign_sgd(0.5)
      >>> tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item()
      -0.5
    """
    return descend(scale_by_sign(), learning_rate)


def signum(
    learning_rate: Hyperparam, beta: Hyperparam = 0.9, accumulator_dtype: Any = None
) -> GradientTransformation:
    r"""Sign descent with momentum.

    .. math::
      m \leftarrow \beta m + (1 - \beta) g, \quad w \leftarrow w - \alpha \operatorname{sign}(m)

    Args:
      learning_rate: :math:`\alpha`, how far every number moves.
      beta: :math:`\beta`, in [0, 1).
      accumulator_dtype: the dtype to keep the average in.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: `beta` is not in [0, 1).

    References:
      Bernstein et al., `signSGD: compressed optimisation for non-convex problems
      <https://arxiv.org/abs/1802.04434>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.signum(0.5)
      >>> tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item()
      -0.5
    """
    average = ema(beta, debias=False, accumulator_dtype=accumulator_dtype)
    return descend(chain(average, scale_by_sign()), learning_rate)


def lion(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.99,
    mu_dtype: Any = None,
    weight_decay: Hyperparam = 1e-3,
    mask: Mask | None = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: Scalar = 1.0,
) -> GradientTransformation:
    r"""Lion: the sign of a moving average, with decoupled weight decay; half of Adam's memory.

    Args:
      learning_rate: :math:`\alpha`; a third to a tenth of what Adam takes.
      b1, b2, mu_dtype, mode, smooth_beta: as in `scale_by_lion`.
      weight_decay, mask: as in `add_decayed_weights`.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds, or the mode unknown.

    References:
      Chen et al., `Symbolic discovery of optimization algorithms
      <https://arxiv.org/abs/2302.06675>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.lion(0.5, weight_decay=0.0)
      >>> tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item()
      -0.5
    """
    direction = scale_by_lion(b1, b2, mu_dtype, mode=mode, smooth_beta=smooth_beta)
    return descend(direction, learning_rate, weight_decay, mask)


def rprop(
    learning_rate: Scalar,
    eta_minus: Hyperparam = 0.5,
    eta_plus: Hyperparam = 1.2,
    min_step_size: Hyperparam = 1e-6,
    max_step_size: Hyperparam = 50.0,
    *,
    one_step_late: bool = True,
) -> GradientTransformation:
    r"""Rprop: every number has a step size of its own, by whether its gradient's sign stays.

    It is for gradients of the whole data set.

    Args:
      learning_rate: the step size that every number starts with, above 0.
      eta_minus, eta_plus, min_step_size, max_step_size: as in `scale_by_rprop`.
      one_step_late: as in `scale_by_rprop`; ``False`` for the papers' form.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Riedmiller and Braun, `A direct adaptive method for faster backpropagation learning: the RPROP
      algorithm <https://doi.org/10.1109/ICNN.1993.298623>`_, 1993.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.rprop(0.5, one_step_late=False)
      >>> tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item()
      -0.5
    """
    bounds = eta_minus, eta_plus, min_step_size, max_step_size
    return chain(scale_by_rprop(learning_rate, *bounds, one_step_late=one_step_late), scale(-1.0))
