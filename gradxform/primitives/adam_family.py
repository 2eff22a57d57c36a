"""Rules that change one thing about Adam: its second moment, its first one, or what follows of both."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradxform.arguments import check_number
from gradxform.arithmetic import (
    abs_squared,
    debias,
    ema_of,
    safe_divide,
    safe_sqrt,
    slot_like,
    sum_of_squares,
)
from gradxform.hyperparams import (
    Checked,
    Hyperparam,
    Scalar,
    debiased,
    fraction,
    is_zero,
    nonnegative,
    positive,
    unit,
)
from gradxform.primitives.moments import AdamSlots, adam_hyperparams, adam_slots, first_moment
from gradxform.rule import Lift, Rule, Step, lift
from gradxform.slots import NonNegative

__all__ = [
    "AdEMAMixSlots",
    "AdanSlots",
    "AmsgradSlots",
    "SimplifiedAdEMAMixSlots",
    "scale_by_acprop",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_amsgrad",
    "scale_by_belief",
    "scale_by_novograd",
    "scale_by_radam",
    "scale_by_simplified_ademamix",
    "scale_by_yogi",
]


class AmsgradSlots(NamedTuple):
    """What `scale_by_amsgrad` remembers: the moments, and the largest second one so far."""

    mu: jax.Array
    nu: NonNegative
    nu_max: NonNegative


class AdanSlots(NamedTuple):
    """What `scale_by_adan` remembers: moments of gradients, of their differences, and of both; a gradient."""

    m: jax.Array
    v: jax.Array
    n: NonNegative
    g: jax.Array


class AdEMAMixSlots(NamedTuple):
    """What `scale_by_ademamix` remembers: a fast and a slow first moment, and the second one."""

    m1: jax.Array
    m2: jax.Array
    nu: NonNegative


class SimplifiedAdEMAMixSlots(NamedTuple):
    """What `scale_by_simplified_ademamix` remembers: a decayed sum of gradients, and the second moment."""

    m: jax.Array
    n: NonNegative


def scale_by_amsgrad(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
) -> Lift:
    r"""Adam whose second moment never shrinks.

    .. math::
      s \leftarrow \max(s, \hat v), \quad u = \frac{\hat m}{\sqrt{s + \bar\epsilon} + \epsilon}

    Args:
      b1: the decay of the first moment, in [0, 1).
      b2: the decay of the second moment, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.
      mu_dtype: the dtype to keep the first moment in.
      bias_correction_mu: whether to correct the first moment's bias; the paper does not.
      bias_correction_nu: whether to correct the second one's before the
        maximum is taken; the paper does not, and PyTorch does it after.

    Returns:
      A `GradientTransformation` with three slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Reddi, Kale and Kumar, `On the convergence of Adam and beyond
      <https://arxiv.org/abs/1904.09237>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_amsgrad(eps=0.0)
      >>> round(tx.update([3.0], tx.init([0.0]))[0][0].item(), 6)
      1.0
    """

    def init(param: Any) -> AmsgradSlots:
        return AmsgradSlots(*adam_slots(param, mu_dtype), slot_like(param, real=True))

    def update(grad: Any, slots: AmsgradSlots, param: Any, step: Step) -> tuple[Any, AmsgradSlots]:
        mu = ema_of(slots.mu, grad, step.b1)
        nu = ema_of(slots.nu, abs_squared(grad), step.b2)
        nu_max = lax.max(slots.nu_max, debias(nu, step.b2, step.t) if bias_correction_nu else nu)
        numerator = debias(mu, step.b1, step.t) if bias_correction_mu else mu
        update = safe_divide(numerator, safe_sqrt(nu_max + step.eps_root) + step.eps, step.eps)
        return update, AmsgradSlots(mu, nu, nu_max)

    equation = "s ← max(s, v̂), u = m̂ / (√(s + eps_root) + eps)"
    counts = bias_correction_mu or bias_correction_nu
    return lift(
        Rule(
            "scale_by_amsgrad", update, init, adam_hyperparams(b1, b2, eps, eps_root), equation, counts=counts
        )
    )


def scale_by_adamax(b1: Hyperparam = 0.9, b2: Hyperparam = 0.999, eps: Hyperparam = 1e-8) -> Lift:
    r"""Adam with a maximum in the second moment's place.

    .. math::
      v \leftarrow \max(\beta_2 v, |g| + \epsilon), \quad u = \hat m / v

    Args:
      b1: the decay of the first moment, in [0, 1).
      b2: :math:`\beta_2`, in [0, 1).
      eps: :math:`\epsilon`, at least 0; in the paper 0.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Kingma and Ba, `Adam <https://arxiv.org/abs/1412.6980>`_, 2015, section 7.1.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_adamax(eps=0.0)
      >>> round(tx.update([3.0], tx.init([0.0]))[0][0].item(), 6)
      1.0
    """

    def update(grad: Any, slots: AdamSlots, param: Any, step: Step) -> tuple[Any, AdamSlots]:
        mu = ema_of(slots.mu, grad, step.b1)
        nu = lax.max(step.b2 * slots.nu, lax.abs(grad) + step.eps)
        return safe_divide(debias(mu, step.b1, step.t), nu), AdamSlots(mu, nu)

    hyperparams = {"b1": debiased(b1), "b2": debiased(b2), "eps": nonnegative(eps)}
    equation = "v ← max(b2 · v, |g| + eps), u = m̂ / v"
    return lift(Rule("scale_by_adamax", update, adam_slots, hyperparams, equation, counts=True))


def scale_by_belief(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-16,
    eps_root: Hyperparam = 1e-16,
    *,
    nesterov: bool = False,
) -> Lift:
    r"""Adam that divides by how far gradients stray from their average.

    .. math::
      s \leftarrow \beta_2 s + (1 - \beta_2) |g - m|^2 + \bar\epsilon, \quad
      u = \hat m / (\sqrt{\hat s} + \epsilon)

    Args:
      b1: the decay of the first moment, in [0, 1).
      b2: :math:`\beta_2`, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.
      nesterov: whether to look ahead.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Zhuang et al., `AdaBelief optimizer <https://arxiv.org/abs/2010.07468>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_belief(b1=0.5)
      >>> round(tx.update([3.0], tx.init([0.0]))[0][0].item(), 6)
      2.0
    """

    def update(grad: Any, slots: AdamSlots, param: Any, step: Step) -> tuple[Any, AdamSlots]:
        mu = ema_of(slots.mu, grad, step.b1)
        nu = ema_of(slots.nu, abs_squared(grad - mu), step.b2) + step.eps_root
        numerator = first_moment(mu, grad, step, nesterov)
        update = safe_divide(numerator, safe_sqrt(debias(nu, step.b2, step.t)) + step.eps, step.eps)
        return update, AdamSlots(mu, nu)

    equation = "s ← avg (g − m)² + eps_root, u = m̂ / (√ŝ + eps)"
    return lift(
        Rule(
            "scale_by_belief",
            update,
            adam_slots,
            adam_hyperparams(b1, b2, eps, eps_root),
            equation,
            counts=True,
        )
    )


def scale_by_yogi(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-3,
    eps_root: Hyperparam = 0.0,
    initial_accumulator_value: Scalar = 1e-6,
    *,
    initial_first_moment: Scalar | None = None,
    bias_correction: bool = True,
) -> Lift:
    r"""Adam whose second moment moves by what the gradient's square is, not by how far it is away.

    .. math::
      v \leftarrow v - (1 - \beta_2) \operatorname{sign}(v - |g|^2) |g|^2, \quad
      u = \hat m / (\sqrt{\hat v + \bar\epsilon} + \epsilon)

    Args:
      b1: the decay of the first moment, in [0, 1).
      b2: :math:`\beta_2`, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.
      initial_accumulator_value: what both moments start at, at least 0.
      initial_first_moment: what the first one starts at instead; 0 in the paper.
      bias_correction: whether to correct the moments; the paper does not.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Zaheer et al., `Adaptive methods for nonconvex optimization
      <https://papers.nips.cc/paper/2018/hash/90365351ccc7437a1309dc64e4db32a3-Abstract.html>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_yogi(b1=0.0, b2=0.0, eps=0.0)
      >>> round(tx.update([3.0], tx.init([0.0]))[0][0].item(), 6)
      1.0
    """
    check_number("scale_by_yogi", "initial_accumulator_value", nonnegative(initial_accumulator_value))
    start = initial_accumulator_value if initial_first_moment is None else initial_first_moment

    def init(param: Any) -> AdamSlots:
        return AdamSlots(slot_like(param, start), slot_like(param, initial_accumulator_value, real=True))

    def update(grad: Any, slots: AdamSlots, param: Any, step: Step) -> tuple[Any, AdamSlots]:
        square = abs_squared(grad)
        mu = ema_of(slots.mu, grad, step.b1)
        nu = slots.nu - (1 - step.b2) * lax.sign(slots.nu - square) * square
        first, second = mu, nu
        if bias_correction:
            first, second = debias(mu, step.b1, step.t), debias(nu, step.b2, step.t)
        denominator = safe_sqrt(second + step.eps_root) + step.eps
        return safe_divide(first, denominator, step.eps), AdamSlots(mu, nu)

    equation = "v ← v − (1 − b2) · sign(v − g²) · g², u = m̂ / (√(v̂ + eps_root) + eps)"
    return lift(
        Rule(
            "scale_by_yogi",
            update,
            init,
            adam_hyperparams(b1, b2, eps, eps_root),
            equation,
            counts=bias_correction,
        )
    )


def scale_by_radam(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    threshold: Hyperparam = 5.0,
    *,
    nesterov: bool = False,
) -> Lift:
    r"""Adam that leaves its second moment out until enough gradients stand in it.

    .. math::
      \rho = \rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}, \quad
      r = \sqrt{\frac{(\rho - 4)(\rho - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho}}, \quad
      u = \begin{cases} r \hat m / (\sqrt{\hat v + \bar\epsilon} + \epsilon) & \rho \geq \tau \\
      \hat m & \text{else} \end{cases}

    with :math:`\rho_\infty = 2 / (1 - \beta_2) - 1`.

    Args:
      b1: the decay of the first moment, in [0, 1).
      b2: :math:`\beta_2`, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.
      threshold: :math:`\tau`, at least 4.
      nesterov: whether to look ahead.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Liu et al., `On the variance of the adaptive learning rate and beyond
      <https://arxiv.org/abs/1908.03265>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_radam()
      >>> round(tx.update([3.0], tx.init([0.0]))[0][0].item(), 6)
      3.0
    """

    def update(grad: Any, slots: AdamSlots, param: Any, step: Step) -> tuple[Any, AdamSlots]:
        mu = ema_of(slots.mu, grad, step.b1)
        nu = ema_of(slots.nu, abs_squared(grad), step.b2)
        most = 2 / (1 - step.b2) - 1
        # t b2ᵗ / (1 − b2ᵗ), of which the plain form loses all digits in float32
        length = most - 2 * (debias(step.t, step.b2, step.t) - step.t)
        enough = length >= step.threshold
        known = jnp.maximum(length, step.threshold)
        rectifier = safe_sqrt((known - 4) * (known - 2) * most / ((most - 4) * (most - 2) * known))
        denominator = safe_sqrt(debias(nu, step.b2, step.t) + step.eps_root) + step.eps
        numerator = first_moment(mu, grad, step, nesterov)
        update = jnp.where(enough, rectifier * safe_divide(numerator, denominator, step.eps), numerator)
        return update, AdamSlots(mu, nu)

    hyperparams = {
        **adam_hyperparams(b1, b2, eps, eps_root),
        "threshold": Checked(threshold, "at least 4", lambda x: x >= 4),
    }
    equation = "u = r · m̂ / (√(v̂ + eps_root) + eps) if ρ ≥ threshold else m̂"
    return lift(Rule("scale_by_radam", update, adam_slots, hyperparams, equation, counts=True))


def scale_by_adan(
    b1: Hyperparam = 0.98,
    b2: Hyperparam = 0.92,
    b3: Hyperparam = 0.99,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
) -> Lift:
    r"""Adam with Nesterov's momentum, estimated from differences of gradients.

    .. math::
      d = g - g_{\text{last}}, \quad
      m \leftarrow \operatorname{avg}_{\beta_1} g, \quad
      v \leftarrow \operatorname{avg}_{\beta_2} d, \quad
      n \leftarrow \operatorname{avg}_{\beta_3} |g + (1 - \beta_2) d|^2, \quad
      u = \frac{\hat m + (1 - \beta_2) \hat v}{\sqrt{\hat n + \bar\epsilon} + \epsilon}

    The betas are one minus the paper's.

    Args:
      b1: :math:`\beta_1`, in [0, 1).
      b2: :math:`\beta_2`, in [0, 1).
      b3: :math:`\beta_3`, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.

    Returns:
      A `GradientTransformation` with four slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Xie et al., `Adan: adaptive Nesterov momentum algorithm
      <https://arxiv.org/abs/2208.06677>`_, 2022.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_adan(eps=0.0)
      >>> round(tx.update([3.0], tx.init([0.0]))[0][0].item(), 6)
      1.0
    """

    def init(param: Any) -> AdanSlots:
        m, n = adam_slots(param)
        return AdanSlots(m, slot_like(param), n, slot_like(param))

    def update(grad: Any, slots: AdanSlots, param: Any, step: Step) -> tuple[Any, AdanSlots]:
        difference = (step.count > 0) * (grad - slots.g)
        m = ema_of(slots.m, grad, step.b1)
        v = ema_of(slots.v, difference, step.b2)
        n = ema_of(slots.n, abs_squared(grad + (1 - step.b2) * difference), step.b3)
        numerator = debias(m, step.b1, step.t) + (1 - step.b2) * debias(v, step.b2, step.t)
        denominator = safe_sqrt(debias(n, step.b3, step.t) + step.eps_root) + step.eps
        return safe_divide(numerator, denominator, step.eps), AdanSlots(m, v, n, grad)

    hyperparams = {**adam_hyperparams(b1, b2, eps, eps_root), "b3": debiased(b3)}
    equation = "d = g − last g, n ← avg (g + (1 − b2) · d)², u = (m̂ + (1 − b2) · d̂) / (√(n̂ + eps_root) + eps)"
    return lift(Rule("scale_by_adan", update, init, hyperparams, equation, counts=True))


def scale_by_novograd(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.25,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    weight_decay: Hyperparam = 0.0,
    mu_dtype: Any = None,
) -> Lift:
    r"""Adam with one second moment an array, and weight decay inside the first one.

    .. math::
      v \leftarrow \beta_2 v + (1 - \beta_2) \lVert g \rVert^2, \quad
      m \leftarrow \beta_1 m + \frac{g}{\sqrt{v + \bar\epsilon} + \epsilon} + \lambda w, \quad u = m

    In the first step :math:`v = \lVert g \rVert^2`.

    Args:
      b1: :math:`\beta_1`, in [0, 1).
      b2: :math:`\beta_2`, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.
      weight_decay: :math:`\lambda`, at least 0.
      mu_dtype: the dtype to keep :math:`m` in.

    Returns:
      A `GradientTransformation` with a slot the size of the parameters and a
      number for each array; its update needs the parameters if there is decay.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Ginsburg et al., `Stochastic gradient methods with layer-wise adaptive moments
      <https://arxiv.org/abs/1905.11286>`_, 2019.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.scale_by_novograd(eps=0.0)
      >>> grad = jnp.asarray([3.0, 4.0])
      >>> [round(u, 6) for u in tx.update(grad, tx.init(grad))[0].tolist()]
      [0.6, 0.8]
    """
    decays = not is_zero(weight_decay)

    def init(param: Any) -> AdamSlots:
        return AdamSlots(slot_like(param, dtype=mu_dtype), slot_like(sum_of_squares(jnp.zeros_like(param))))

    def update(grad: Any, slots: AdamSlots, param: Any, step: Step) -> tuple[Any, AdamSlots]:
        square = sum_of_squares(grad)
        nu = jnp.where(step.count == 0, square, ema_of(slots.nu, square, step.b2))
        mu = step.b1 * slots.mu + safe_divide(grad, safe_sqrt(nu + step.eps_root) + step.eps, step.eps)
        mu = mu + step.weight_decay * param if decays else mu
        return mu, AdamSlots(mu, nu)

    return lift(
        Rule(
            "scale_by_novograd",
            update,
            init,
            {**adam_hyperparams(b1, b2, eps, eps_root), "weight_decay": nonnegative(weight_decay)},
            "v ← avg ‖g‖², m ← b1 · m + g / (√(v + eps_root) + eps) + weight_decay · w, u = m",
            scope="array",
            needs_params=decays,
            counts=True,
        )
    )


def scale_by_ademamix(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    b3: Hyperparam = 0.9999,
    alpha: Hyperparam = 6.0,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
) -> Lift:
    r"""Adam with a second, much slower first moment.

    .. math::
      m_1 \leftarrow \operatorname{avg}_{\beta_1} g, \quad
      m_2 \leftarrow \operatorname{avg}_{\beta_3} g, \quad
      u = \frac{\hat m_1 + \alpha m_2}{\sqrt{\hat v + \bar\epsilon} + \epsilon}

    Args:
      b1: :math:`\beta_1`, in [0, 1).
      b2: the decay of the second moment, in [0, 1).
      b3: :math:`\beta_3`, in [0, 1]; the paper warms it up by a schedule.
      alpha: :math:`\alpha`, at least 0; the paper warms it up as well.
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.
      mu_dtype: the dtype to keep both first moments in.

    Returns:
      A `GradientTransformation` with three slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Pagliardini, Ablin and Grangier, `The AdEMAMix optimizer: better, faster, older
      <https://arxiv.org/abs/2409.03137>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_ademamix(eps=0.0, b3=0.5, alpha=2.0)
      >>> round(tx.update([3.0], tx.init([0.0]))[0][0].item(), 6)
      2.0
    """

    def init(param: Any) -> AdEMAMixSlots:
        m1, nu = adam_slots(param, mu_dtype)
        return AdEMAMixSlots(m1, slot_like(param, dtype=mu_dtype), nu)

    def update(grad: Any, slots: AdEMAMixSlots, param: Any, step: Step) -> tuple[Any, AdEMAMixSlots]:
        m1 = ema_of(slots.m1, grad, step.b1)
        m2 = ema_of(slots.m2, grad, step.b3)
        nu = ema_of(slots.nu, abs_squared(grad), step.b2)
        numerator = debias(m1, step.b1, step.t) + step.alpha * m2
        denominator = safe_sqrt(debias(nu, step.b2, step.t) + step.eps_root) + step.eps
        return safe_divide(numerator, denominator, step.eps), AdEMAMixSlots(m1, m2, nu)

    hyperparams = {**adam_hyperparams(b1, b2, eps, eps_root), "b3": unit(b3), "alpha": nonnegative(alpha)}
    equation = "m₁, m₂ ← avg g, u = (m̂₁ + alpha · m₂) / (√(v̂ + eps_root) + eps)"
    return lift(Rule("scale_by_ademamix", update, init, hyperparams, equation, counts=True))


def scale_by_simplified_ademamix(
    b1: Hyperparam = 0.99,
    b2: Hyperparam = 0.95,
    alpha: Hyperparam = 0.0,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
) -> Lift:
    r"""AdEMAMix with the gradient itself for its fast moment.

    .. math::
      m \leftarrow \beta_1 m + g, \quad u = \frac{m + \alpha g}{\sqrt{\hat v + \bar\epsilon} + \epsilon}

    Args:
      b1: :math:`\beta_1`, in [0, 1).
      b2: the decay of the second moment, in [0, 1).
      alpha: :math:`\alpha`, the current gradient's extra weight.
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Morwani et al., `Connections between schedule-free optimizers, AdEMAMix, and accelerated SGD variants
      <https://arxiv.org/abs/2502.02431>`_, 2025.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_simplified_ademamix(eps=0.0, alpha=1.0)
      >>> round(tx.update([3.0], tx.init([0.0]))[0][0].item(), 6)
      2.0
    """

    def init(param: Any) -> SimplifiedAdEMAMixSlots:
        return SimplifiedAdEMAMixSlots(*adam_slots(param))

    def update(
        grad: Any, slots: SimplifiedAdEMAMixSlots, param: Any, step: Step
    ) -> tuple[Any, SimplifiedAdEMAMixSlots]:
        m = grad + step.b1 * slots.m
        n = ema_of(slots.n, abs_squared(grad), step.b2)
        denominator = safe_sqrt(debias(n, step.b2, step.t) + step.eps_root) + step.eps
        return safe_divide(m + step.alpha * grad, denominator, step.eps), SimplifiedAdEMAMixSlots(m, n)

    hyperparams = {**adam_hyperparams(b1, b2, eps, eps_root), "alpha": alpha}
    equation = "m ← b1 · m + g, u = (m + alpha · g) / (√(v̂ + eps_root) + eps)"
    return lift(Rule("scale_by_simplified_ademamix", update, init, hyperparams, equation, counts=True))


def scale_by_adopt(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.9999,
    eps: Hyperparam = 1e-6,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Any], Any] = lambda count: count**0.25,
) -> Lift:
    r"""Adam that divides by the second moment of the gradients before this one, and averages afterwards.

    .. math::
      n = \operatorname{clip}\Bigl(\frac{g}{\max(\sqrt v, \epsilon)}, c_t\Bigr), \quad
      m \leftarrow \beta_1 m + (1 - \beta_1) n, \quad
      v \leftarrow \beta_2 v + (1 - \beta_2) |g|^2, \quad u = m

    The first gradient only sets :math:`v = |g|^2`; the update is 0.

    Args:
      b1: :math:`\beta_1`, in [0, 1).
      b2: :math:`\beta_2`, in [0, 1).
      eps: :math:`\epsilon`, above 0.
      mu_dtype: the dtype to keep :math:`m` in.
      nesterov: whether to average the new :math:`n` in twice.
      use_clipping: whether to clip.
      clip_value_fn: the count of steps before this one, a float -> :math:`c_t`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Taniguchi et al., `ADOPT: modified Adam can converge with any beta2 with the optimal rate
      <https://arxiv.org/abs/2411.02853>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_adopt(b1=0.5)
      >>> _, state = tx.update([3.0], tx.init([0.0]))
      >>> tx.update([3.0], state)[0][0].item()
      0.5
    """

    def update(grad: Any, slots: AdamSlots, param: Any, step: Step) -> tuple[Any, AdamSlots]:
        first = step.count == 0
        normal = grad / lax.max(safe_sqrt(slots.nu), jnp.full_like(slots.nu, step.eps))
        if use_clipping:
            normal = _clip(normal, clip_value_fn(step.t - 1))
        normal = jnp.where(first, slots.mu, normal)
        mu = ema_of(slots.mu, normal, step.b1)
        square = abs_squared(grad)
        nu = jnp.where(first, square, ema_of(slots.nu, square, step.b2))
        return (ema_of(mu, normal, step.b1) if nesterov else mu), AdamSlots(mu, nu)

    def init(param: Any) -> AdamSlots:
        return adam_slots(param, mu_dtype)

    hyperparams = {"b1": fraction(b1), "b2": fraction(b2), "eps": positive(eps)}
    equation = "u = m ← avg clip(g / max(√v, eps)), then v ← avg g²"
    return lift(Rule("scale_by_adopt", update, init, hyperparams, equation, counts=True))


def scale_by_acprop(
    b1: Hyperparam = 0.9, b2: Hyperparam = 0.999, eps: Hyperparam = 1e-16, eps_root: Hyperparam = 1e-16
) -> Lift:
    r"""Divide by how far earlier gradients strayed from their average, this one left out.

    .. math::
      u = \frac{g}{\sqrt{\hat s} + \epsilon}, \quad
      s \leftarrow \beta_2 s + (1 - \beta_2) |g - m|^2 + \bar\epsilon, \quad
      m \leftarrow \beta_1 m + (1 - \beta_1) g

    In the first step :math:`\hat s = 1`.

    Args:
      b1: :math:`\beta_1`, in [0, 1).
      b2: :math:`\beta_2`, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Zhuang et al., `Momentum centering and asynchronous update for adaptive gradient methods
      <https://arxiv.org/abs/2110.05454>`_, 2021.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_acprop()
      >>> _, state = tx.update([3.0], tx.init([0.0]))
      >>> round(tx.update([3.0], state)[0][0].item(), 6)
      1.0
    """

    def update(grad: Any, slots: AdamSlots, param: Any, step: Step) -> tuple[Any, AdamSlots]:
        first = step.count == 0
        earlier = jnp.where(first, 1, debias(slots.nu, step.b2, jnp.maximum(step.t - 1, 1)))
        nu = ema_of(slots.nu, abs_squared(grad - slots.mu), step.b2) + step.eps_root
        update = safe_divide(grad, safe_sqrt(earlier) + step.eps, step.eps)
        return update, AdamSlots(ema_of(slots.mu, grad, step.b1), nu)

    equation = "u = g / (√ŝ + eps), then s ← avg (g − m)² + eps_root"
    return lift(
        Rule(
            "scale_by_acprop",
            update,
            adam_slots,
            adam_hyperparams(b1, b2, eps, eps_root),
            equation,
            counts=True,
        )
    )


def _clip(x: Any, bound: Any) -> Any:
    """Numbers of at most this size, in the direction that they had."""
    if jnp.iscomplexobj(x):
        return x * safe_divide(jnp.minimum(lax.abs(x), bound), lax.abs(x))
    return jnp.clip(x, -bound, bound)
