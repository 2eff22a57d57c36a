"""Adaptive optimizers that remember less than one number for each parameter."""

from typing import Any

import jax.numpy as jnp

from gradxform.chain import chain, identity
from gradxform.hyperparams import Hyperparam
from gradxform.optimizers.recipe import decay, descend
from gradxform.primitives.clipping import clip_by_block_rms
from gradxform.primitives.factored import scale_by_factored_rms, scale_by_sm3
from gradxform.primitives.moments import ema
from gradxform.primitives.scaling import scale, scale_by_learning_rate
from gradxform.primitives.shaping import scale_by_param_block_rms
from gradxform.rule import Mask
from gradxform.transformation import GradientTransformation

__all__ = ["adafactor", "sm3"]


def adafactor(
    learning_rate: Hyperparam | None = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: Hyperparam = 0.8,
    decay_offset: Hyperparam = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: Hyperparam | None = 1.0,
    momentum: Hyperparam | None = None,
    dtype_momentum: Any = jnp.float32,
    weight_decay_rate: Hyperparam | None = None,
    eps: Hyperparam = 1e-30,
    factored: bool = True,
    weight_decay_mask: Mask | None = None,
) -> GradientTransformation:
    r"""Adafactor: RMSprop with a row's and a column's average in each cell's place, and relative steps.

    .. math::
      u = \frac{g}{\sqrt{r c / \bar r}}, \quad
      w \leftarrow w - \alpha \max(\mathrm{rms}(w), 10^{-3}) \frac{u}{\max(1, \mathrm{rms}(u) / d)}

    Args:
      learning_rate: :math:`\alpha`; left out, 1.
      min_dim_size_to_factor, decay_rate, factored: as in `scale_by_factored_rms`.
      decay_offset: its `step_offset`.
      multiply_by_parameter_scale: whether steps are relative to the weights.
      clipping_threshold: :math:`d`, above 0; ``None`` for no clipping.
      momentum: the decay of an average of the updates; ``None`` for none.
      dtype_momentum: the dtype to keep that average in.
      weight_decay_rate: a decay that the learning rate does not multiply.
      eps: what is added to the squared gradients, above 0.
      weight_decay_mask: which leaves the decay applies to.

    Returns:
      A `GradientTransformation` with two vectors for each matrix; with
      momentum also a slot the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Shazeer and Stern, `Adafactor: adaptive learning rates with sublinear
      memory cost <https://arxiv.org/abs/1804.04235>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adafactor(0.5)
      >>> tx.update({"w": 2.0}, tx.init({"w": 4.0}), {"w": 4.0})[0]["w"].item()
      -2.0
    """
    return chain(
        scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps),
        identity() if clipping_threshold is None else clip_by_block_rms(clipping_threshold),
        identity() if learning_rate is None else scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_param_block_rms() if multiply_by_parameter_scale else identity(),
        identity() if momentum is None else ema(momentum, debias=False, accumulator_dtype=dtype_momentum),
        decay(weight_decay_rate, weight_decay_mask),
        scale(-1.0),
    )


def sm3(learning_rate: Hyperparam, momentum: Hyperparam = 0.9) -> GradientTransformation:
    r"""SM3: AdaGrad that remembers the largest sum of each row and each column.

    Args:
      learning_rate: :math:`\alpha`.
      momentum: the decay of an average of the updates, in [0, 1].

    Returns:
      A `GradientTransformation` with a slot the size of the parameters for the
      momentum, and a vector for each axis of each array.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Anil et al., `Memory-efficient adaptive optimization
      <https://arxiv.org/abs/1901.11150>`_, 2019.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.sm3(0.5, momentum=0.0)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 4.0}))[0]["w"].item(), 6)
      -0.5
    """
    return descend(scale_by_sm3(momentum), learning_rate)
