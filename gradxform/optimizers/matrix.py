"""Methods that treat a matrix as one, not as its entries: Muon, GaLore, Shampoo and SOAP."""

from typing import Any

import jax
import numpy as np

from gradxform.chain import chain
from gradxform.hyperparams import Hyperparam
from gradxform.optimizers.recipe import descend
from gradxform.primitives.algebra import graft as graft_onto
from gradxform.primitives.low_rank import scale_by_galore
from gradxform.primitives.moments import ema, scale_by_adam, scale_by_rms
from gradxform.primitives.orthogonal import (
    PRESETS,
    Coefficients,
    DimensionNumbers,
    MuonDimensionNumbers,
    Preconditioning,
    scale_by_muon,
    scale_by_shape,
)
from gradxform.primitives.shampoo import scale_by_shampoo, scale_by_soap
from gradxform.rule import Lift, Mask, of_params
from gradxform.transformation import GradientTransformation, Params
from gradxform.trees import PyTree, broadcast_prefix, flatten
from gradxform.wrappers.masking import partition

__all__ = ["galore", "muon", "shampoo", "soap"]


def muon(
    learning_rate: Hyperparam,
    ns_coeffs: Coefficients = PRESETS["standard"],
    ns_steps: int = 5,
    beta: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam = 0.0,
    weight_decay_mask: Mask | None = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: Preconditioning = "frobenius",
    adam_b1: Hyperparam = 0.9,
    adam_b2: Hyperparam = 0.999,
    adam_eps_root: Hyperparam = 0.0,
    adam_weight_decay: Hyperparam = 0.0,
    adam_learning_rate: Hyperparam | None = None,
    muon_weight_dimension_numbers: DimensionNumbers = None,
    consistent_rms: Hyperparam | None = None,
    bias_correction: bool = True,
) -> GradientTransformation:
    r"""Muon: momentum with all singular values near one; what is no matrix goes to AdamW.

    .. math::
      m \leftarrow \beta m + (1 - \beta) g, \quad
      w \leftarrow w - \alpha \left(\sqrt{\max(1, d_{out} / d_{in})}\,
      \mathrm{NewtonSchulz}(\hat m) + \lambda w\right)

    where :math:`\hat m` is :math:`m` looking ahead, as in `scale_by_muon`.

    Args:
      learning_rate: :math:`\alpha`.
      ns_coeffs: three coefficients, a row of three for every step, or
        ``"standard"`` or ``"dion"``.
      ns_steps: how many steps of Newton and Schulz.
      beta: :math:`\beta`, in [0, 1).
      eps: added to the norm that :math:`\hat m` is divided by, and AdamW's, at least 0.
      weight_decay: :math:`\lambda`, at least 0.
      weight_decay_mask: which leaves of Muon's it applies to.
      mu_dtype: the dtype to keep the momentum in, AdamW's too.
      nesterov: whether to look ahead, AdamW too.
      adaptive: whether to multiply by the dual norm, as in `scale_by_muon`.
      preconditioning: the norm, as in `orthogonalize_via_newton_schulz`.
      adam_b1: AdamW's :math:`\beta_1`, in [0, 1).
      adam_b2: AdamW's :math:`\beta_2`, in [0, 1).
      adam_eps_root: a small number under AdamW's root, at least 0.
      adam_weight_decay: AdamW's :math:`\lambda`, at least 0.
      adam_learning_rate: AdamW's :math:`\alpha`; left out, Muon's.
      muon_weight_dimension_numbers: `MuonDimensionNumbers` for each leaf that
        is Muon's, and ``None`` for those that are AdamW's: a tree like the
        parameters, a prefix of one, or a function from the parameters to it;
        left out, all matrices are Muon's.
      consistent_rms: the updates' root mean square, as in `scale_by_shape`.
      bias_correction: whether to correct the momentum's bias to zero; the
        original does not.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters for
      matrices and two for the others.

    Raises:
      TypeError, ValueError: an argument is out of its bounds or unknown.

    References:
      Jordan et al., `Muon: an optimizer for hidden layers in neural networks
      <https://kellerjordan.github.io/posts/muon/>`_, 2024; Liu et al., `Muon
      is scalable for LLM training <https://arxiv.org/abs/2502.16982>`_, 2025.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx, params = gx.muon(0.5, (2.0, -1.5, 0.5), 9), {"b": jnp.ones(1), "w": jnp.eye(2)}
      >>> updates, _ = tx.update(params, tx.init(params))
      >>> [round(value, 5) for value in updates["w"].diagonal().tolist()]
      [-0.5, -0.5]
    """
    axes = _matrices if muon_weight_dimension_numbers is None else muon_weight_dimension_numbers

    def labels(params: Params) -> PyTree:
        found = broadcast_prefix(
            of_params(axes, params), params, root="muon_weight_dimension_numbers", who="muon"
        )
        return flatten(params)[1].unflatten("adam" if each is None else "muon" for each in found)

    orthogonal = scale_by_muon(
        ns_coeffs,
        ns_steps,
        beta,
        eps,
        mu_dtype,
        nesterov=nesterov,
        adaptive=adaptive,
        preconditioning=preconditioning,
        weight_dimension_numbers=axes,
        bias_correction=bias_correction,
    )
    adam = scale_by_adam(adam_b1, adam_b2, eps, adam_eps_root, mu_dtype, nesterov=nesterov)
    adam_rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    return partition(
        {
            "muon": descend(
                chain(orthogonal, scale_by_shape(axes, consistent_rms)),
                learning_rate,
                weight_decay,
                weight_decay_mask,
            ),
            "adam": descend(adam, adam_rate, adam_weight_decay),
        },
        labels,
    )


def _matrices(params: Params) -> PyTree:
    return jax.tree.map(lambda param: MuonDimensionNumbers() if np.ndim(param) == 2 else None, params)


def galore(
    learning_rate: Hyperparam,
    rank: int = 128,
    update_proj_gap: int = 200,
    scale: Hyperparam = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_decay: Hyperparam = 0.0,
    mask: Mask | None = None,
    weight_dimension_numbers: DimensionNumbers = None,
    *,
    shorter_side: bool = False,
) -> GradientTransformation:
    r"""GaLore: Adam on a projection of each gradient matrix, its moments as small as the projection.

    .. math::
      g \approx U \Sigma V^\top, \quad P = U_{:, :r}, \quad
      w \leftarrow w - \alpha \left(s P\, T(P^\top g) + \lambda w\right)

    Args:
      learning_rate: :math:`\alpha`.
      rank: :math:`r`, how many singular vectors to project on.
      update_proj_gap: every how many steps to take new ones.
      scale: :math:`s`, on the projected updates.
      base_optimizer: :math:`T`, which needs no parameters; left out, `scale_by_adam`.
      weight_decay: :math:`\lambda`, at least 0.
      mask: which leaves to decay.
      weight_dimension_numbers: which leaves are matrices, as in `scale_by_galore`.
      shorter_side: whether to project the shorter side, as the paper does.

    Returns:
      A `GradientTransformation`.

    Raises:
      TypeError, ValueError: an argument is out of its bounds.

    References:
      Zhao et al., `GaLore: memory-efficient LLM training by gradient low-rank
      projection <https://arxiv.org/abs/2403.03507>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx, params = gx.galore(0.5, rank=1), jnp.asarray([[3.0, 0.0], [0.0, 1.0]])
      >>> abs(tx.update(params, tx.init(params), params)[0]).round(4).tolist()
      [[0.5, 0.0], [0.0, 0.0]]
    """
    direction = scale_by_galore(
        rank, update_proj_gap, scale, base_optimizer, weight_dimension_numbers, shorter_side=shorter_side
    )
    return descend(direction, learning_rate, weight_decay, mask)


_ADAMS_LENGTH = scale_by_rms(0.999, bias_correction=True, eps_in_sqrt=False)


def shampoo(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-12,
    block_size: int = 1024,
    update_interval: int = 10,
    graft: Lift | None = _ADAMS_LENGTH,
    weight_decay: Hyperparam = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""Shampoo: each axis preconditioned by its own second moment, the step as long as a diagonal method's.

    .. math::
      d = L_1^{-1/2k} \dots L_k^{-1/2k} g, \quad
      m \leftarrow \beta_1 m + (1 - \beta_1) \lVert b(g) \rVert \frac{d}{\lVert d \rVert}, \quad
      w \leftarrow w - \alpha (\hat m + \lambda w)

    The paper's own form is ``shampoo(rate, b1=0.0, b2=1.0, update_interval=1, graft=None)``.

    Args:
      learning_rate: :math:`\alpha`; with the default graft about Adam's.
      b1: :math:`\beta_1`, in [0, 1).
      b2, eps, block_size, update_interval: as in `scale_by_shampoo`.
      graft: :math:`b`, rules that give the length of each leaf's step: by
        default that of RMSprop with Adam's decay; ``identity()`` for the
        gradient's, ``None`` for that of :math:`d` itself.
      weight_decay: :math:`\lambda`, at least 0.
      mask: which leaves to decay.

    Returns:
      A `GradientTransformation` with a slot the size of the parameters, those
      of `graft`, and two square matrices for each axis of each block.

    Raises:
      TypeError, ValueError: an argument is out of its bounds.

    References:
      Gupta, Koren and Singer, `Shampoo: preconditioned stochastic tensor
      optimization <https://arxiv.org/abs/1802.09568>`_, 2018; Shi et al., `A
      distributed data-parallel PyTorch implementation of the distributed
      Shampoo optimizer <https://arxiv.org/abs/2309.06497>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx, params = gx.shampoo(0.5), jnp.diag(jnp.asarray([4.0, 0.25]))
      >>> tx.update(params, tx.init(params))[0].round(3).tolist()
      [[-0.5, -0.0], [-0.0, -0.5]]
    """
    direction = scale_by_shampoo(b2, eps, block_size, update_interval)
    step = direction if graft is None else graft_onto(direction, graft)
    return descend(chain(step, ema(b1)), learning_rate, weight_decay, mask)


def soap(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.95,
    b2: Hyperparam = 0.95,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam = 0.01,
    shampoo_beta: Hyperparam | None = None,
    precondition_frequency: int = 10,
    max_precond_dim: int = 10000,
    precondition_1d: bool = False,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""SOAP: Adam with decoupled weight decay, in the eigenvectors that Shampoo would use.

    .. math::
      w \leftarrow w - \alpha \left(Q_1 \frac{Q_1^\top \hat m Q_2}{\sqrt{\hat v} + \epsilon} Q_2^\top
      + \lambda w\right)

    Embeddings, of which a gradient touches few rows, are better left to Adam
    (see `scale_by_soap`).

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps, shampoo_beta: as in `scale_by_soap`.
      precondition_frequency, max_precond_dim, precondition_1d: as there.
      weight_decay: :math:`\lambda`, at least 0.
      mask: which leaves to decay.

    Returns:
      A `GradientTransformation` with the slots of `scale_by_soap`. Its first
      update moves no rotated leaf but by its decay.

    Raises:
      TypeError, ValueError: an argument is out of its bounds.

    References:
      Vyas et al., `SOAP: improving and stabilizing Shampoo using Adam
      <https://arxiv.org/abs/2409.11321>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.soap(0.5, weight_decay=0.0)
      >>> round(tx.update([2.0], tx.init([3.0]))[0][0].item(), 6)
      -0.5
    """
    direction = scale_by_soap(
        b1, b2, eps, shampoo_beta, precondition_frequency, max_precond_dim, precondition_1d
    )
    return descend(direction, learning_rate, weight_decay, mask)
