"""Optimizers without a learning rate to set: they find it from distances, or from the loss."""

import numbers
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradxform.arguments import check_number
from gradxform.arithmetic import (
    abs_squared,
    copy_of,
    debias,
    ema_of,
    safe_divide,
    safe_sqrt,
    slot_like,
    totals_of,
)
from gradxform.chain import chain
from gradxform.hyperparams import Hyperparam, Scalar, debiased, fraction, is_zero, nonnegative, positive, unit
from gradxform.optimizers.recipe import decay, descend
from gradxform.primitives.learning_rate_free import scale_by_cocob, scale_by_dog, scale_by_dowg
from gradxform.primitives.scaling import scale_by_learning_rate
from gradxform.rule import Mask, Rule, Step, lift
from gradxform.slots import Exact, NonNegative
from gradxform.transformation import GradientTransformation

__all__ = [
    "DAdaptSlots",
    "MomoAdamSlots",
    "MomoSlots",
    "ProdigySlots",
    "cocob",
    "dadapt_adamw",
    "dog",
    "dowg",
    "momo",
    "momo_adam",
    "prodigy",
]


class DAdaptSlots(NamedTuple):
    """What `dadapt_adamw` remembers: Adam's moments, the first one of steps; and a sum of gradients."""

    exp_avg: jax.Array
    exp_avg_sq: NonNegative
    grad_sum: jax.Array


class ProdigySlots(NamedTuple):
    """What `prodigy` remembers: Adam's moments, a sum of gradients, and where the parameters started."""

    exp_avg: jax.Array
    exp_avg_sq: NonNegative
    grad_sum: jax.Array
    params0: Exact


class DistanceNumbers(NamedTuple):
    """What `dadapt_adamw` and `prodigy` keep for the whole tree: the distance to go, and its numerator."""

    estim_lr: Any
    numerator_weighted: Any


class MomoSlots(NamedTuple):
    """What `momo` remembers: the average of gradients."""

    exp_avg: jax.Array


class MomoAdamSlots(NamedTuple):
    """What `momo_adam` remembers: Adam's moments."""

    exp_avg: jax.Array
    exp_avg_sq: NonNegative


class MomoNumbers(NamedTuple):
    """What `momo` keeps for the whole tree.

    Attributes:
      barf: the average of losses.
      gamma: the average of inner products of gradients and parameters.
      lb: the lower bound of the loss.
      tau: the length of the last step.
    """

    barf: Any
    gamma: Any
    lb: Any
    tau: Any


def dog(
    learning_rate: Hyperparam = 1.0,
    init_step: tuple[Literal["distance", "learning_rate", "heuristic"], Scalar] = ("heuristic", 1e-6),
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam | None = None,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""DoG: gradient descent whose step is the farthest distance from the start over the gradients so far.

    Args:
      learning_rate: a factor on the step; 1 is what the theory asks for.
      init_step, eps: as in `scale_by_dog`.
      weight_decay, mask: an L2 penalty, as in `add_decayed_weights`.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Ivgi, Hinder and Carmon, `DoG is SGD's best friend
      <https://arxiv.org/abs/2302.12022>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.dog(init_step=("distance", 0.5)), {"w": 1.0}
      >>> tx.update({"w": 4.0}, tx.init(params), params)[0]["w"].item()
      -0.5
    """
    return descend(chain(decay(weight_decay, mask), scale_by_dog(init_step, eps)), learning_rate)


def dowg(
    learning_rate: Hyperparam = 1.0,
    init_estim_sq_dist: Scalar | None = None,
    eps: Hyperparam = 1e-4,
    weight_decay: Hyperparam | None = None,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""DoWG: DoG that gives gradients far from the start more weight.

    Args:
      learning_rate: a factor on the step; 1 is what the theory asks for.
      init_estim_sq_dist, eps: as in `scale_by_dowg`.
      weight_decay, mask: an L2 penalty, as in `add_decayed_weights`.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.
      TypeError: `init_estim_sq_dist` is left out, and `eps` is no number.

    References:
      Khaled, Mishchenko and Jin, `DoWG unleashed: an efficient universal parameter-free gradient
      descent method <https://arxiv.org/abs/2305.16284>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.dowg(init_estim_sq_dist=0.25, eps=0.0), {"w": 1.0}
      >>> tx.update({"w": 4.0}, tx.init(params), params)[0]["w"].item()
      -0.5
    """
    return descend(chain(decay(weight_decay, mask), scale_by_dowg(init_estim_sq_dist, eps)), learning_rate)


def cocob(
    learning_rate: Hyperparam = 1.0,
    alpha: Hyperparam = 100.0,
    eps: Scalar = 1e-8,
    weight_decay: Hyperparam = 0.0,
    mask: Mask | None = None,
) -> GradientTransformation:
    r"""COCOB: each number bets on the sign of its next gradient.

    Args:
      learning_rate: a factor on the gradient.
      alpha, eps: as in `scale_by_cocob`.
      weight_decay, mask: an L2 penalty, as in `add_decayed_weights`.

    Returns:
      A `GradientTransformation` with five slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Orabona and Tommasi, `Training deep networks without learning rates through coin betting
      <https://arxiv.org/abs/1705.07795>`_, 2017.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.cocob(alpha=2.0), {"w": 1.0}
      >>> tx.update({"w": 4.0}, tx.init(params), params)[0]["w"].item()
      -0.5
    """
    return chain(
        decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )


def dadapt_adamw(
    learning_rate: Hyperparam = 1.0,
    betas: tuple[Hyperparam, Hyperparam] = (0.9, 0.999),
    eps: Hyperparam = 1e-8,
    estim_lr0: Scalar = 1e-6,
    weight_decay: Hyperparam = 0.0,
) -> GradientTransformation:
    r"""D-Adaptation: AdamW times a lower bound of the distance to the solution, which only grows.

    .. math::
      \lambda = d \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}, \quad
      s \leftarrow \operatorname{avg}_{\sqrt{\beta_2}} \lambda g, \quad
      r \leftarrow \operatorname{avg}_{\sqrt{\beta_2}} \lambda
        \Bigl\langle g, \frac{s_{\text{last}}}{\sqrt v + \epsilon} \Bigr\rangle, \quad
      d \leftarrow \max\Bigl(d, \frac{r}{(1 - \sqrt{\beta_2}) \lVert s \rVert_1}\Bigr)

    Args:
      learning_rate: :math:`\alpha`, a factor, best 1; its schedule is the step's.
      betas: the decays of Adam's moments, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      estim_lr0: what :math:`d` starts at, above 0.
      weight_decay: decoupled, at least 0.

    Returns:
      A `GradientTransformation` with three slots the size of the parameters;
      its update needs the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Defazio and Mishchenko, `Learning-rate-free learning by D-adaptation
      <https://arxiv.org/abs/2301.07733>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.dadapt_adamw(estim_lr0=0.5), {"w": 1.0}
      >>> round(tx.update({"w": 4.0}, tx.init(params), params)[0]["w"].item(), 4)
      -0.5
    """

    def init(param: Any) -> DAdaptSlots:
        return DAdaptSlots(slot_like(param), slot_like(param, real=True), slot_like(param))

    def moments(grad: Any, slots: DAdaptSlots, step: Step) -> DAdaptSlots:
        length = _length(step)
        return DAdaptSlots(
            ema_of(slots.exp_avg, length * grad, step.b1),
            ema_of(slots.exp_avg_sq, abs_squared(grad), step.b2),
            ema_of(slots.grad_sum, length * grad, step.b2**0.5),
        )

    def total(grad: Any, slots: DAdaptSlots, param: Any, step: Step) -> Any:
        # Without a gradient so far the sum above is 0 too; a comparison would keep it all from being fused.
        root = safe_sqrt(slots.exp_avg_sq) + step.eps
        weighted = slots.grad_sum / lax.max(root, np.asarray(np.finfo(root.dtype).tiny, root.dtype))
        return totals_of(_product(grad, weighted), lax.abs(moments(grad, slots, step).grad_sum))

    def advance(total: Any, step: Step) -> DistanceNumbers:
        inner, size = total
        numerator = ema_of(step.last.numerator_weighted, _length(step) * inner, step.b2**0.5)
        distance = safe_divide(numerator, (1 - step.b2**0.5) * size)
        return DistanceNumbers(jnp.maximum(step.last.estim_lr, distance), numerator)

    def update(grad: Any, slots: DAdaptSlots, param: Any, step: Step) -> tuple[Any, DAdaptSlots]:
        new = moments(grad, slots, step)
        direction = safe_divide(new.exp_avg, safe_sqrt(new.exp_avg_sq) + step.eps, step.eps)
        decayed = 0 if is_zero(weight_decay) else step.weight_decay * _length(step) * param
        return -(decayed + direction), new

    return _estimating("dadapt_adamw", update, init, total, advance, estim_lr0, {
        "b1": fraction(betas[0]),
        "b2": fraction(betas[1]),
        "learning_rate": learning_rate,
        "eps": nonnegative(eps),
        "weight_decay": nonnegative(weight_decay),
    })  # fmt: skip


def prodigy(
    learning_rate: Hyperparam = 1.0,
    betas: tuple[Hyperparam, Hyperparam] = (0.9, 0.999),
    beta3: Hyperparam | None = None,
    eps: Hyperparam = 1e-8,
    estim_lr0: Scalar = 1e-6,
    estim_lr_coef: Hyperparam = 1.0,
    weight_decay: Hyperparam = 0.0,
    safeguard_warmup: bool = False,
) -> GradientTransformation:
    r"""Prodigy: D-Adaptation that finds the distance faster.

    .. math::
      r \leftarrow \beta_3 r + \frac{d}{d_0} \lambda \langle g, w_0 - w \rangle, \quad
      s \leftarrow \beta_3 s + \frac{d}{d_0} \lambda g, \quad
      d \leftarrow \max\Bigl(d, c \frac{r}{\lVert s \rVert_1}\Bigr)

    with :math:`\lambda` as in `dadapt_adamw`, and Adam's moments of :math:`d g`.

    Args:
      learning_rate: :math:`\alpha`, a factor, best 1; its schedule is the step's.
      betas: the decays of Adam's moments, in [0, 1).
      beta3: :math:`\beta_3`, in [0, 1]; by default :math:`\sqrt{\beta_2}`,
        and then :math:`\beta_2` has to be a number.
      eps: at least 0; multiplied by :math:`d`.
      estim_lr0: :math:`d_0`, above 0.
      estim_lr_coef: :math:`c`, at least 0; below 1 more careful, above bolder.
      weight_decay: decoupled, at least 0.
      safeguard_warmup: whether to leave the learning rate out of :math:`s`,
        for a schedule that warms up.

    Returns:
      A `GradientTransformation` with four slots the size of the parameters;
      its update needs the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.
      TypeError: `beta3` is left out, and :math:`\beta_2` is no number.

    References:
      Mishchenko and Defazio, `Prodigy: an expeditiously adaptive parameter-free learner
      <https://arxiv.org/abs/2306.06101>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.prodigy(estim_lr0=0.5), {"w": 1.0}
      >>> round(tx.update({"w": 4.0}, tx.init(params), params)[0]["w"].item(), 4)
      -0.5
    """
    if beta3 is None:
        if not isinstance(betas[1], numbers.Number):
            raise TypeError(f"prodigy: betas[1] is {betas[1]!r}, so beta3 must be given")
        beta3 = betas[1] ** 0.5

    def init(param: Any) -> ProdigySlots:
        moments = slot_like(param), slot_like(param, real=True)
        return ProdigySlots(*moments, slot_like(param), copy_of(param))

    def moments(grad: Any, slots: ProdigySlots, step: Step) -> ProdigySlots:
        distance = step.last.estim_lr
        weight = distance if safeguard_warmup else _length(step)
        return ProdigySlots(
            ema_of(slots.exp_avg, distance * grad, step.b1),
            ema_of(slots.exp_avg_sq, abs_squared(distance * grad), step.b2),
            step.beta3 * slots.grad_sum + weight * (distance * grad) / estim_lr0,
            slots.params0,
        )

    def total(grad: Any, slots: ProdigySlots, param: Any, step: Step) -> Any:
        way = _product(grad, slots.params0 - param)
        return totals_of(way, lax.abs(moments(grad, slots, step).grad_sum))

    def advance(total: Any, step: Step) -> DistanceNumbers:
        inner, size = total
        gain = step.last.estim_lr / estim_lr0 * _length(step) * inner
        numerator = step.beta3 * step.last.numerator_weighted + gain
        distance = step.estim_lr_coef * safe_divide(numerator, size)
        return DistanceNumbers(jnp.maximum(step.last.estim_lr, distance), numerator)

    def update(grad: Any, slots: ProdigySlots, param: Any, step: Step) -> tuple[Any, ProdigySlots]:
        new, length = moments(grad, slots, step), _length(step)
        direction = safe_divide(new.exp_avg, safe_sqrt(new.exp_avg_sq) + step.shared.estim_lr * step.eps)
        decayed = 0 if is_zero(weight_decay) else step.weight_decay * param
        return -length * (decayed + direction), new

    return _estimating("prodigy", update, init, total, advance, estim_lr0, {
        "b1": fraction(betas[0]),
        "b2": fraction(betas[1]),
        "beta3": unit(beta3),
        "learning_rate": learning_rate,
        "eps": nonnegative(eps),
        "estim_lr_coef": nonnegative(estim_lr_coef),
        "weight_decay": nonnegative(weight_decay),
    })  # fmt: skip


def momo(
    learning_rate: Hyperparam = 1.0,
    beta: Hyperparam = 0.9,
    lower_bound: Scalar = 0.0,
    weight_decay: Hyperparam = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformation:
    r"""MoMo: momentum with Polyak's step, along a model that averages of losses and gradients make.

    .. math::
      \tau = \min\Bigl(\alpha, \frac{[(1 + \alpha \lambda)(\bar f - f_* - \gamma)
        + \langle m, w \rangle]_+}{\lVert m \rVert^2}\Bigr), \quad
      w \leftarrow \frac{w}{1 + \alpha \lambda} - \tau m

    with averages :math:`m, \bar f` and :math:`\gamma` of :math:`g, f` and :math:`\langle g, w \rangle`.

    Args:
      learning_rate: :math:`\alpha`, the longest step.
      beta: the averages' decay, in [0, 1).
      lower_bound: :math:`f_*`, the least value that the loss can have.
      weight_decay: :math:`\lambda`, at least 0.
      adapt_lower_bound: whether to find :math:`f_*` along the way, from `lower_bound` on.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters; its update needs
      the loss and the parameters, ``update(grads, state, params, value=loss)``.

    Raises:
      ValueError: a hyperparameter is out of its bounds.
      TypeError: in `update`, there is no `value`.

    References:
      Schaipp et al., `MoMo: momentum models for adaptive learning rates
      <https://arxiv.org/abs/2305.07583>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.momo(), {"w": 2.0}
      >>> tx.update({"w": 4.0}, tx.init(params), params, value=4.0)[0]["w"].item()
      -1.0
    """

    def init(param: Any) -> MomoSlots:
        return MomoSlots(slot_like(param))

    def decay_now(step: Step) -> Any:
        return jnp.where(step.count == 0, 0, step.beta)

    def moments(grad: Any, slots: MomoSlots, step: Step) -> tuple[MomoSlots, Any]:
        average = ema_of(slots.exp_avg, grad, decay_now(step))
        return MomoSlots(average), average

    hyperparams = {"beta": fraction(beta)}
    arguments = learning_rate, weight_decay, lower_bound, adapt_lower_bound
    return _momo("momo", init, moments, decay_now, lambda step: 1.0, hyperparams, *arguments)


def momo_adam(
    learning_rate: Hyperparam = 1e-2,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    lower_bound: Scalar = 0.0,
    weight_decay: Hyperparam = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformation:
    r"""MoMo-Adam: MoMo with Adam's division by the root of the second moment.

    Args:
      learning_rate: :math:`\alpha`, the longest step.
      b1: the decay of the averages of gradients and losses, in [0, 1).
      b2: the decay of the second moment, in [0, 1).
      eps: what is added to its root, at least 0.
      lower_bound, weight_decay, adapt_lower_bound: as in `momo`.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters; its update needs
      the loss and the parameters, ``update(grads, state, params, value=loss)``.

    Raises:
      ValueError: a hyperparameter is out of its bounds.
      TypeError: in `update`, there is no `value`.

    References:
      Schaipp et al., `MoMo: momentum models for adaptive learning rates
      <https://arxiv.org/abs/2305.07583>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.momo_adam(0.5), {"w": 2.0}
      >>> round(tx.update({"w": 4.0}, tx.init(params), params, value=4.0)[0]["w"].item(), 5)
      -0.5
    """

    def init(param: Any) -> MomoAdamSlots:
        return MomoAdamSlots(slot_like(param), slot_like(param, real=True))

    def moments(grad: Any, slots: MomoAdamSlots, step: Step) -> tuple[MomoAdamSlots, Any]:
        average = ema_of(slots.exp_avg, grad, step.b1)
        squares = ema_of(slots.exp_avg_sq, abs_squared(grad), step.b2)
        root = safe_sqrt(debias(squares, step.b2, step.t)) + step.eps
        return MomoAdamSlots(average, squares), safe_divide(average, root, step.eps)

    hyperparams = {"b1": debiased(b1), "b2": debiased(b2), "eps": nonnegative(eps)}
    arguments = learning_rate, weight_decay, lower_bound, adapt_lower_bound
    return _momo(
        "momo_adam",
        init,
        moments,
        lambda step: step.b1,
        lambda step: 1 / debias(jnp.ones_like(step.t), step.b1, step.t),
        hyperparams,
        *arguments,
    )


def _momo(
    name: str,
    init: Callable[[Any], Any],
    moments: Callable[[Any, Any, Step], tuple[Any, Any]],
    decay_now: Callable[[Step], Any],
    bias: Callable[[Step], Any],
    hyperparams: dict[str, Any],
    learning_rate: Hyperparam,
    weight_decay: Hyperparam,
    lower_bound: Scalar,
    adapt_lower_bound: bool,
) -> GradientTransformation:
    """MoMo with any direction; `moments` gives the new slots and the direction."""

    def total(grad: Any, slots: Any, param: Any, step: Step) -> Any:
        new, direction = moments(grad, slots, step)
        pairs = (grad, param), (new.exp_avg, direction), (new.exp_avg, param)
        return totals_of(*(_product(*pair) for pair in pairs))

    def advance(total: Any, step: Step) -> MomoNumbers:
        slope, square, inner = total
        rate, last, unbias = step.learning_rate, step.last, bias(step)
        grown = 1 + rate * step.weight_decay
        loss = ema_of(last.barf, step.value, decay_now(step))
        gamma = ema_of(last.gamma, slope, decay_now(step))
        bound = last.lb
        if adapt_lower_bound:
            cap = grown * (loss - gamma) + inner
            lowered = jnp.maximum(cap / (2 * unbias * grown), lower_bound)
            bound = jnp.where(cap < grown * unbias * bound, lowered, bound)
        gap = jnp.maximum(grown * (loss - unbias * bound - gamma) + inner, 0)
        length = jnp.where(square <= np.finfo(float).eps, 0, safe_divide(gap, square))
        tau = jnp.minimum(rate / unbias, length)
        if adapt_lower_bound:
            bound = jnp.maximum((loss + inner - gamma - tau * square / 2) / unbias, lower_bound)
        return MomoNumbers(loss, gamma, bound, tau)

    def update(grad: Any, slots: Any, param: Any, step: Step) -> tuple[Any, Any]:
        new, direction = moments(grad, slots, step)
        decayed = step.learning_rate * step.weight_decay
        return -decayed / (1 + decayed) * param - step.shared.tau * direction, new

    return lift(
        Rule(
            name,
            update,
            init,
            {**hyperparams, "learning_rate": learning_rate, "weight_decay": nonnegative(weight_decay)},
            "u = −tau · m, tau = min(learning_rate, (avg loss − lb + ⟨m, w⟩ − avg ⟨g, w⟩) / ‖m‖²)",
            scope="array",  # its totals are of slots and parameters, of which rows would be a part
            needs_params=True,
            counts=True,
            total=total,
            shared=MomoNumbers(0.0, 0.0, lower_bound, 0.0),
            advance=advance,
            extra=("value",),
            turns=True,
        )
    )


def _estimating(
    name: str,
    update: Callable[..., Any],
    init: Callable[[Any], Any],
    total: Callable[..., Any],
    advance: Callable[..., Any],
    first: Scalar,
    hyperparams: dict[str, Any],
) -> GradientTransformation:
    """A rule that estimates the distance to the solution."""
    check_number(name, "estim_lr0", positive(first))
    return lift(
        Rule(
            name,
            update,
            init,
            hyperparams,
            "u = −d · learning_rate · Adam, d ← max(d, an estimate of the distance to the solution)",
            scope="array",  # as in MoMo
            needs_params=True,
            counts=True,
            total=total,
            shared=DistanceNumbers(first, 0.0),
            advance=advance,
            turns=True,
        )
    )


def _length(step: Step) -> Any:
    """The distance, times the learning rate, times Adam's corrections of bias."""
    one = jnp.ones_like(step.t)
    bias = debias(one, step.b1, step.t) / jnp.sqrt(debias(one, step.b2, step.t))
    return step.last.estim_lr * step.learning_rate * bias


def _product(left: Any, right: Any) -> Any:
    """Whose sum is the inner product of two arrays; its real part, where they are complex."""
    return (left.conj() * right).real if jnp.iscomplexobj(left) else left * right
