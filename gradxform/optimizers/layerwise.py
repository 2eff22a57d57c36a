"""Optimizers whose steps have, layer by layer, a length in proportion to the weights'."""

from typing import Any

import jax.numpy as jnp

from gradxform.chain import chain
from gradxform.hyperparams import Hyperparam
from gradxform.optimizers.recipe import decay, descend
from gradxform.primitives.moments import scale_by_adam
from gradxform.primitives.momentum import trace
from gradxform.primitives.scaling import scale_by_learning_rate
from gradxform.primitives.shaping import scale_by_trust_ratio
from gradxform.rule import Mask, Rule, Slots, Step, lift
from gradxform.transformation import GradientTransformation
from gradxform.wrappers.masking import masked

__all__ = ["fromage", "lamb", "lars"]


def lars(
    learning_rate: Hyperparam,
    weight_decay: Hyperparam = 0.0,
    weight_decay_mask: Mask | None = True,
    trust_coefficient: Hyperparam = 0.001,
    eps: Hyperparam = 0.0,
    trust_ratio_mask: Mask = True,
    momentum: Hyperparam = 0.9,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""LARS: momentum with steps as long, layer by layer, as a share of the weights.

    .. math::
      v \leftarrow \mu v + \alpha \eta \frac{\lVert w \rVert}{\lVert g + \lambda w \rVert} (g + \lambda w),
      \quad w \leftarrow w - v

    Args:
      learning_rate: :math:`\alpha`.
      weight_decay, weight_decay_mask: :math:`\lambda` and which leaves it applies to.
      trust_coefficient, eps: :math:`\eta` and :math:`\epsilon`, as in `scale_by_trust_ratio`.
      trust_ratio_mask: which leaves the ratio applies to.
      momentum, nesterov: as in `trace`.

    Returns:
      A `GradientTransformation` with a slot the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      You, Gitman and Ginsburg, `Large batch training of convolutional networks
      <https://arxiv.org/abs/1708.03888>`_, 2017.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.lars(0.5, trust_coefficient=0.5)
      >>> tx.update({"w": 2.0}, tx.init({"w": 1.0}), {"w": 1.0})[0]["w"].item()
      -0.25
    """
    return chain(
        decay(weight_decay, weight_decay_mask),
        masked(scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps), trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        trace(momentum, nesterov),
    )


def lamb(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-6,
    eps_root: Hyperparam = 0.0,
    weight_decay: Hyperparam = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""LAMB: AdamW with steps as long, layer by layer, as the weights.

    .. math::
      r = u_{\text{Adam}} + \lambda w, \quad
      w \leftarrow w - \alpha \frac{\lVert w \rVert}{\lVert r \rVert} r

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps, eps_root: as in `scale_by_adam`.
      weight_decay, mask: as in `add_decayed_weights`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      You et al., `Large batch optimization for deep learning: training BERT in 76 minutes
      <https://arxiv.org/abs/1904.00962>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.lamb(0.5)
      >>> tx.update({"w": 2.0}, tx.init({"w": 4.0}), {"w": 4.0})[0]["w"].item()
      -2.0
    """
    direction = chain(scale_by_adam(b1, b2, eps, eps_root), decay(weight_decay, mask), scale_by_trust_ratio())
    return descend(direction, learning_rate)


def fromage(learning_rate: Hyperparam, min_norm: Hyperparam = 1e-6) -> GradientTransformation:
    r"""Fromage: steps of a share of the weights' length, after which the weights are as long as before.

    .. math::
      w \leftarrow \frac{1}{\sqrt{1 + \alpha^2}}
      \Bigl(w - \alpha \frac{\lVert w \rVert}{\lVert g \rVert} g\Bigr)

    Args:
      learning_rate: :math:`\alpha`.
      min_norm: the least that a norm counts as, at least 0.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Bernstein et al., `On the distance between two neural networks and the stability of learning
      <https://arxiv.org/abs/2002.03432>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.fromage(0.75)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 4.0}), {"w": 4.0})[0]["w"].item(), 6)
      -3.2
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        shrink = 1 / jnp.sqrt(1 + step.learning_rate**2)
        return shrink * (param - step.learning_rate * grad) - param, slots

    equation = "u = (w − learning_rate · g) / √(1 + learning_rate²) − w"
    hyperparams = {"learning_rate": learning_rate}
    rule = Rule(
        "step_and_shrink", update, hyperparams=hyperparams, equation=equation, needs_params=True, turns=True
    )
    return chain(scale_by_trust_ratio(min_norm), lift(rule))
