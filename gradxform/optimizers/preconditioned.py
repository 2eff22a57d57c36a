"""Methods with a preconditioner for each axis: Shampoo, and SOAP, which is Adam in its eigenbasis."""

from gradxform.hyperparams import Hyperparam
from gradxform.optimizers.recipe import descend
from gradxform.primitives.kronecker import Graft, scale_by_shampoo, scale_by_soap
from gradxform.rule import Mask
from gradxform.transformation import GradientTransformation

__all__ = ["shampoo", "soap"]


def shampoo(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-6,
    graft: Graft | None = "adam",
    graft_eps: Hyperparam = 1e-8,
    block_size: int = 1024,
    update_interval: int = 10,
    start_preconditioning_step: int = 0,
    exponent_override: int | None = None,
    weight_decay: Hyperparam = 0.0,
    mask: Mask | None = None,
    *,
    relative_eps: bool = True,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Shampoo, its steps as long as those of a diagonal method.

    .. math::
      w \leftarrow w - \alpha \left(\operatorname{avg} \frac{\lVert b(g) \rVert}{\lVert d \rVert} d
      + \lambda w\right), \quad
      d = g \times_1 L_1^{-1/2k} \dots \times_k L_k^{-1/2k}

    with everything as in `scale_by_shampoo`. The original is ``shampoo(rate,
    0.0, 1.0, 1e-4, None, update_interval=1, relative_eps=False)``.

    Args:
      learning_rate: :math:`\alpha`; grafted, what suits the method :math:`b`.
      b1, b2, eps, graft, graft_eps, block_size, update_interval,
        start_preconditioning_step, exponent_override, relative_eps, nesterov:
        those of `scale_by_shampoo`.
      weight_decay: :math:`\lambda`, at least 0.
      mask: the leaves that decay.

    Returns:
      A `GradientTransformation` with the slots of `scale_by_shampoo`.

    Raises:
      ValueError: an argument is out of its bounds or unknown.

    References:
      Gupta, Koren and Singer, `Shampoo: preconditioned stochastic tensor
      optimization <https://arxiv.org/abs/1802.09568>`_, 2018.

    Example:
      >>> import jax.numpy as jnp
      >>> from gradxform.optimizers.preconditioned import shampoo
      >>> tx, params = shampoo(0.5), jnp.diag(jnp.asarray([4.0, 0.25]))
      >>> tx.update(params, tx.init(params))[0].diagonal().round(2).tolist()
      [-0.5, -0.5]
    """
    direction = scale_by_shampoo(
        b1,
        b2,
        eps,
        graft,
        graft_eps,
        block_size,
        update_interval,
        start_preconditioning_step,
        exponent_override,
        relative_eps=relative_eps,
        nesterov=nesterov,
    )
    return descend(direction, learning_rate, weight_decay, mask)


def soap(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.95,
    b2: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    shampoo_beta: Hyperparam | None = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    weight_decay: Hyperparam = 0.01,
    mask: Mask | None = None,
    *,
    precondition_1d: bool = False,
    skip_first: bool = True,
) -> GradientTransformation:
    r"""SOAP: AdamW, its moments those of the gradient in Shampoo's eigenbasis.

    .. math::
      w \leftarrow w - \alpha \left(\mathrm{Adam}(g \times_1 Q_1^\dagger \dots \times_k Q_k^\dagger)
      \times_1 Q_1 \dots \times_k Q_k + \lambda w\right)

    Args:
      learning_rate: :math:`\alpha`, about what suits Adam.
      b1, b2, eps, shampoo_beta, precondition_frequency, max_precond_dim,
        precondition_1d, skip_first: those of `scale_by_soap`.
      weight_decay: :math:`\lambda`, at least 0; it is not skipped at the first step.
      mask: the leaves that decay.

    Returns:
      A `GradientTransformation` with the slots of `scale_by_soap`.

    Raises:
      ValueError: an argument is out of its bounds.

    References:
      Vyas et al., `SOAP: improving and stabilizing Shampoo using Adam
      <https://arxiv.org/abs/2409.11321>`_, 2024.

    Example:
      >>> from gradxform.optimizers.preconditioned import soap
      >>> tx = soap(0.5, weight_decay=0.0)
      >>> round(tx.update([2.0], tx.init([3.0]))[0][0].item(), 6)
      -0.5
    """
    direction = scale_by_soap(
        b1,
        b2,
        eps,
        shampoo_beta,
        precondition_frequency,
        max_precond_dim,
        precondition_1d=precondition_1d,
        skip_first=skip_first,
    )
    return descend(direction, learning_rate, weight_decay, mask)
