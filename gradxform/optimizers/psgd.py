"""PSGD: stochastic gradient descent with a fitted preconditioner."""

from typing import Any

import jax

from gradxform.hyperparams import Hyperparam, Scalar
from gradxform.optimizers.recipe import descend
from gradxform.primitives.psgd import MemorySaveMode, scale_by_kron
from gradxform.rule import Mask
from gradxform.transformation import GradientTransformation

__all__ = ["kron"]


def kron(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    weight_decay: Hyperparam = 0.0,
    weight_decay_mask: Mask | None = None,
    preconditioner_update_probability: Hyperparam | None = None,
    max_size_triangular: int = 8192,
    min_ndim_triangular: int = 2,
    memory_save_mode: MemorySaveMode = None,
    momentum_into_precond_update: bool = True,
    preconditioner_lr: Hyperparam = 0.1,
    preconditioner_init_scale: Scalar = 1.0,
    mu_dtype: Any = None,
    precond_dtype: Any = None,
    *,
    max_rms: Hyperparam = 1.1,
    key: jax.Array | int = 0,
) -> GradientTransformation:
    r"""PSGD: momentum, preconditioned by a Kronecker product that is fitted to whiten it.

    .. math::
      w \leftarrow w - \alpha (P \hat m + \lambda w), \quad P = Q^\top Q, \quad
      Q = Q_1 \otimes \dots \otimes Q_d, \quad
      P \to (\mathbb{E}\, \hat m \hat m^\top)^{-1/2}

    As in Adam the steps have about the size :math:`\alpha`, but in the axes of
    the curvature, not those of the parameters. `scale_by_kron` says how the
    triangular :math:`Q_i`, one for each axis of each array, are fitted.

    Args:
      learning_rate: :math:`\alpha`; about a third of Adam's is a good start.
      b1: the decay of the momentum :math:`\hat m`, in [0, 1).
      weight_decay: :math:`\lambda`, at least 0.
      weight_decay_mask: which leaves to decay.
      preconditioner_update_probability, max_size_triangular: as in `scale_by_kron`.
      min_ndim_triangular, memory_save_mode, momentum_into_precond_update: as there.
      preconditioner_lr, preconditioner_init_scale: as there.
      mu_dtype, precond_dtype, max_rms, key: as there.

    Returns:
      A `GradientTransformation` with a slot the size of the parameters, and a
      square or a vector for each axis of each array.

    Raises:
      ValueError: an argument is out of its bounds.
      TypeError: an argument is no integer, or no key; in `init`, a parameter is complex.

    References:
      Li, `Preconditioned stochastic gradient descent
      <https://arxiv.org/abs/1512.04202>`_, 2018; Pooladzandi and Li,
      `Curvature-informed SGD via general purpose Lie-group preconditioners
      <https://arxiv.org/abs/2402.04553>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.kron(0.5, preconditioner_update_probability=0.0)
      >>> round(tx.update([1.0], tx.init([3.0]), [3.0])[0][0].item(), 5)
      -0.5
    """
    direction = scale_by_kron(
        b1,
        preconditioner_update_probability,
        max_size_triangular,
        min_ndim_triangular,
        memory_save_mode,
        momentum_into_precond_update,
        preconditioner_lr,
        preconditioner_init_scale,
        mu_dtype,
        precond_dtype,
        max_rms=max_rms,
        key=key,
    )
    return descend(direction, learning_rate, weight_decay, weight_decay_mask)
