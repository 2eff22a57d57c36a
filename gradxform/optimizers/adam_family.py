"""Adam's family: each is Adam with one thing changed."""

from collections.abc import Callable
from functools import partial
from typing import Any

from gradxform.chain import chain
from gradxform.hyperparams import Hyperparam
from gradxform.optimizers.adaptive import adam
from gradxform.optimizers.recipe import descend
from gradxform.primitives.adam_family import (
    scale_by_acprop,
    scale_by_adamax,
    scale_by_adan,
    scale_by_ademamix,
    scale_by_adopt,
    scale_by_amsgrad,
    scale_by_belief,
    scale_by_novograd,
    scale_by_radam,
    scale_by_simplified_ademamix,
    scale_by_yogi,
)
from gradxform.primitives.moments import scale_by_adam
from gradxform.primitives.momentum import scale_by_optimistic_gradient
from gradxform.rule import Mask
from gradxform.transformation import GradientTransformation

__all__ = [
    "acprop",
    "adabelief",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "amsgrad",
    "nadam",
    "nadamw",
    "novograd",
    "optimistic_adam",
    "optimistic_adam_v2",
    "radam",
    "simplified_ademamix",
    "yogi",
]


def adamw(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparam = 1e-4,
    mask: Mask | None = None,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Adam with decoupled weight decay: :math:`w \leftarrow w - \alpha (u_{\text{Adam}} + \lambda w)`.

    Args:
      learning_rate: :math:`\alpha`; the decay is multiplied by it too.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in `scale_by_adam`.
      weight_decay: :math:`\lambda`, at least 0.
      mask: which leaves to decay, as in `add_decayed_weights`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Loshchilov and Hutter, `Decoupled weight decay regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adamw(0.5, weight_decay=0.5)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}), {"w": 1.0})[0]["w"].item(), 6)
      -0.75
    """
    direction = scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return descend(direction, learning_rate, weight_decay, mask)


nadam = partial(adam, nesterov=True)
nadam.__doc__ = """Adam with Nesterov's look-ahead: `adam` with ``nesterov=True``.

Example:
  >>> import gradxform as gx
  >>> gx.nadam(0.1)
  chain(scale_by_adam(b1=0.9, b2=0.999, eps=1e-08, eps_root=0), scale_by_learning_rate(0.1))
"""

nadamw = partial(adamw, nesterov=True)
nadamw.__doc__ = """AdamW with Nesterov's look-ahead: `adamw` with ``nesterov=True``.

Example:
  >>> import gradxform as gx
  >>> tx = gx.nadamw(0.1, weight_decay=0.0)
  >>> gx.describe(tx).parts[0].call
  'scale_by_adam(b1=0.9, b2=0.999, eps=1e-08, eps_root=0)'
"""


def adamax(
    learning_rate: Hyperparam, b1: Hyperparam = 0.9, b2: Hyperparam = 0.999, eps: Hyperparam = 1e-8
) -> GradientTransformation:
    r"""AdaMax: :math:`v \leftarrow \max(\beta_2 v, |g| + \epsilon),\; w \leftarrow w - \alpha \hat m / v`.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps: as in `scale_by_adamax`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_, 2015, section 7.1.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adamax(0.5)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -0.5
    """
    return descend(scale_by_adamax(b1, b2, eps), learning_rate)


def adamaxw(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam = 1e-4,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""AdaMax with decoupled weight decay.

    Args:
      learning_rate: :math:`\alpha`; the decay is multiplied by it too.
      b1, b2, eps: as in `scale_by_adamax`.
      weight_decay, mask: as in `add_decayed_weights`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Loshchilov and Hutter, `Decoupled weight decay regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adamaxw(0.5, weight_decay=0.5)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}), {"w": 1.0})[0]["w"].item(), 6)
      -0.75
    """
    return descend(scale_by_adamax(b1, b2, eps), learning_rate, weight_decay, mask)


def amsgrad(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> GradientTransformation:
    r"""AMSGrad: Adam whose second moment never shrinks, so that rare large gradients are not forgotten.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps, eps_root, mu_dtype: as in `scale_by_amsgrad`.
      bias_correction_mu, bias_correction_nu: as in `scale_by_amsgrad`.

    Returns:
      A `GradientTransformation` with three slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Reddi, Kale and Kumar, `On the convergence of Adam and beyond
      <https://arxiv.org/abs/1904.09237>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.amsgrad(0.5)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -0.5
    """
    direction = scale_by_amsgrad(b1, b2, eps, eps_root, mu_dtype, bias_correction_mu, bias_correction_nu)
    return descend(direction, learning_rate)


def radam(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    threshold: Hyperparam = 5.0,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""Rectified Adam: it warms up by itself, as its second moment comes to be known.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps, eps_root, threshold, nesterov: as in `scale_by_radam`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Liu et al., `On the variance of the adaptive learning rate and beyond
      <https://arxiv.org/abs/1908.03265>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.radam(0.5)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -1.0
    """
    return descend(scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov), learning_rate)


def adabelief(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-16,
    eps_root: Hyperparam = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    r"""AdaBelief: a large step where the gradient is as its average foretold, a small one where it strays.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps, eps_root, nesterov: as in `scale_by_belief`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Zhuang et al., `AdaBelief optimizer <https://arxiv.org/abs/2010.07468>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adabelief(0.5, b1=0.5)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -1.0
    """
    return descend(scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov), learning_rate)


def yogi(
    learning_rate: Hyperparam, b1: Hyperparam = 0.9, b2: Hyperparam = 0.999, eps: Hyperparam = 1e-3
) -> GradientTransformation:
    r"""Yogi: Adam whose learning rates grow again only slowly after large gradients.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps: as in `scale_by_yogi`, which has the paper's form too.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Zaheer et al., `Adaptive methods for nonconvex optimization
      <https://papers.nips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.yogi(0.5, b1=0.0, b2=0.0, eps=0.0)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -0.5
    """
    return descend(scale_by_yogi(b1, b2, eps), learning_rate)


def adan(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.98,
    b2: Hyperparam = 0.92,
    b3: Hyperparam = 0.99,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 1e-8,
    weight_decay: Hyperparam = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""Adan: Adam with a Nesterov momentum that needs no gradient at the point ahead.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, b3, eps, eps_root: as in `scale_by_adan`.
      weight_decay, mask: as in `add_decayed_weights`; the paper decays by
        dividing by :math:`1 + \alpha \lambda`.

    Returns:
      A `GradientTransformation` with four slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Xie et al., `Adan: adaptive Nesterov momentum algorithm
      <https://arxiv.org/abs/2208.06677>`_, 2022.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adan(0.5)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -0.5
    """
    return descend(scale_by_adan(b1, b2, b3, eps, eps_root), learning_rate, weight_decay, mask)


def novograd(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.25,
    eps: Hyperparam = 1e-6,
    eps_root: Hyperparam = 0.0,
    weight_decay: Hyperparam = 0.0,
) -> GradientTransformation:
    r"""NovoGrad: one learning rate for each layer instead of each number.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps, eps_root, weight_decay: as in `scale_by_novograd`.

    Returns:
      A `GradientTransformation` with a slot the size of the parameters and a
      number for each array.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Ginsburg et al., `Stochastic gradient methods with layer-wise adaptive moments
      <https://arxiv.org/abs/1905.11286>`_, 2019.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.novograd(0.5)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -0.5
    """
    return descend(scale_by_novograd(b1, b2, eps, eps_root, weight_decay), learning_rate)


def optimistic_adam_v2(
    learning_rate: Hyperparam,
    *,
    alpha: Hyperparam = 1.0,
    beta: Hyperparam = 1.0,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    nesterov: bool = True,
) -> GradientTransformation:
    r"""Optimistic Adam, for games: it expects the next update of Adam to be like this one.

    Args:
      learning_rate: a factor on the whole update.
      alpha, beta: as in `scale_by_optimistic_gradient`.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in `scale_by_adam`.

    Returns:
      A `GradientTransformation` with three slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Daskalakis et al., `Training GANs with optimism
      <https://arxiv.org/abs/1711.00141>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.optimistic_adam_v2(0.5, nesterov=False)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -0.5
    """
    return descend(
        chain(
            scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov),
            scale_by_optimistic_gradient(alpha, beta),
        ),
        learning_rate,
    )


def optimistic_adam(
    learning_rate: Hyperparam,
    optimism: Hyperparam | None = None,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
) -> GradientTransformation:
    r"""Optimistic Adam under its older name: `optimistic_adam_v2`, whose `alpha` is the learning rate here.

    Args:
      learning_rate: :math:`\alpha` of `scale_by_optimistic_gradient`.
      optimism: :math:`\beta` of it; by default the learning rate.
      b1, b2, eps, eps_root, mu_dtype, nesterov: as in `scale_by_adam`.

    Returns:
      A `GradientTransformation` with three slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.optimistic_adam(0.5, nesterov=False)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -0.5
    """
    beta = learning_rate if optimism is None else optimism
    adam_arguments: dict[str, Any] = {"b1": b1, "b2": b2, "eps": eps, "eps_root": eps_root}
    return optimistic_adam_v2(
        1.0, alpha=learning_rate, beta=beta, mu_dtype=mu_dtype, nesterov=nesterov, **adam_arguments
    )


def ademamix(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    b3: Hyperparam = 0.9999,
    alpha: Hyperparam = 5.0,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    weight_decay: Hyperparam = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""AdEMAMix: Adam that also goes where gradients of tens of thousands of steps ago pointed.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, b3, alpha, eps, eps_root, mu_dtype: as in `scale_by_ademamix`.
      weight_decay, mask: as in `add_decayed_weights`.

    Returns:
      A `GradientTransformation` with three slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Pagliardini, Ablin and Grangier, `The AdEMAMix optimizer: better, faster, older
      <https://arxiv.org/abs/2409.03137>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.ademamix(0.5, b3=0.5, alpha=2.0)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -1.0
    """
    direction = scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, mu_dtype)
    return descend(direction, learning_rate, weight_decay, mask)


def simplified_ademamix(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.99,
    b2: Hyperparam = 0.95,
    alpha: Hyperparam = 0.0,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    weight_decay: Hyperparam = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""AdEMAMix with a slot less.

    Args:
      learning_rate: :math:`\alpha`; its steps are :math:`1 / (1 - \beta_1)` times as long as Adam's.
      b1, b2, alpha, eps, eps_root: as in `scale_by_simplified_ademamix`.
      weight_decay, mask: as in `add_decayed_weights`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Morwani et al., `Connections between schedule-free optimizers, AdEMAMix, and accelerated SGD variants
      <https://arxiv.org/abs/2502.02431>`_, 2025.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.simplified_ademamix(0.5)
      >>> round(tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item(), 6)
      -0.5
    """
    direction = scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root)
    return descend(direction, learning_rate, weight_decay, mask)


def adopt(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.9999,
    eps: Hyperparam = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Any], Any] = lambda count: count**0.25,
) -> GradientTransformation:
    r"""ADOPT: Adam in another order, which converges whatever the decay of its second moment.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps, mu_dtype, nesterov, use_clipping, clip_value_fn: as in `scale_by_adopt`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Taniguchi et al., `ADOPT: modified Adam can converge with any beta2 with the optimal rate
      <https://arxiv.org/abs/2411.02853>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adopt(0.5, b1=0.0)
      >>> _, state = tx.update({"w": 2.0}, tx.init({"w": 1.0}))
      >>> tx.update({"w": 2.0}, state)[0]["w"].item()
      -0.5
    """
    clipping: dict[str, Any] = {"use_clipping": use_clipping, "clip_value_fn": clip_value_fn}
    return descend(scale_by_adopt(b1, b2, eps, mu_dtype, nesterov=nesterov, **clipping), learning_rate)


def acprop(
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-16,
    eps_root: Hyperparam = 1e-16,
    weight_decay: Hyperparam = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""ACProp: AdaBelief whose divisor knows nothing of the gradient that it divides.

    Args:
      learning_rate: :math:`\alpha`.
      b1, b2, eps, eps_root: as in `scale_by_acprop`.
      weight_decay, mask: as in `add_decayed_weights`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Zhuang et al., `Momentum centering and asynchronous update for adaptive gradient methods
      <https://arxiv.org/abs/2110.05454>`_, 2021.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.acprop(0.5)
      >>> tx.update({"w": 2.0}, tx.init({"w": 1.0}))[0]["w"].item()
      -1.0
    """
    return descend(scale_by_acprop(b1, b2, eps, eps_root), learning_rate, weight_decay, mask)
