"""Rules that remember moments of the gradient, and rules that put them to work."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradxform.arguments import check_number
from gradxform.arithmetic import abs_squared, debias, ema_of, safe_divide, safe_sqrt, slot_like
from gradxform.hyperparams import Hyperparam, Scalar, debiased, nonnegative, unit
from gradxform.rule import Lift, Rule, Step, lift
from gradxform.slots import Exact, NonNegative

__all__ = [
    "AdaDeltaSlots",
    "AdamSlots",
    "EmaSlots",
    "RmsSlots",
    "StddevSlots",
    "SumOfSquaresSlots",
    "accumulate_squares",
    "adam_hyperparams",
    "adam_slots",
    "ema",
    "first_moment",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_stddev",
]


class SumOfSquaresSlots(NamedTuple):
    """What `accumulate_squares` and `scale_by_rss` remember: the sum of squared gradients."""

    sum_of_squares: NonNegative


class EmaSlots(NamedTuple):
    """What `ema` remembers: the moving average."""

    ema: jax.Array


class RmsSlots(NamedTuple):
    """What `scale_by_rms` remembers: the moving average of squared gradients."""

    nu: NonNegative


class StddevSlots(NamedTuple):
    """What `scale_by_stddev` remembers: the moving averages of gradients and of their squares."""

    mu: Exact
    nu: Exact


class AdaDeltaSlots(NamedTuple):
    """What `scale_by_adadelta` remembers: moving averages of squared gradients and squared updates."""

    e_g: NonNegative
    e_x: NonNegative


class AdamSlots(NamedTuple):
    """What `scale_by_adam` remembers: the first and the second moment."""

    mu: jax.Array
    nu: NonNegative


def accumulate_squares(initial_accumulator_value: Scalar = 0.0) -> Lift:
    r"""AdaGrad's memory: the sum of squared gradients, :math:`G \leftarrow G + |g|^2,\; u = G`.

    Args:
      initial_accumulator_value: what :math:`G` starts at, at least 0.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: `initial_accumulator_value` is negative.

    References:
      Duchi, Hazan and Singer, `Adaptive subgradient methods
      <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.accumulate_squares()
      >>> _, state = tx.update([1.0], tx.init([0.0]))
      >>> tx.update([2.0], state)[0][0].item()
      5.0
    """
    check_number("accumulate_squares", "initial_accumulator_value", nonnegative(initial_accumulator_value))

    def init(param: Any) -> SumOfSquaresSlots:
        return SumOfSquaresSlots(slot_like(param, initial_accumulator_value, real=True))

    def update(grad: Any, slots: SumOfSquaresSlots, param: Any, step: Step) -> tuple[Any, SumOfSquaresSlots]:
        total = slots.sum_of_squares + abs_squared(grad)
        return total, SumOfSquaresSlots(total)

    return lift(Rule("accumulate_squares", update, init, equation="G ← G + g², u = G"))


def ema(decay: Hyperparam, debias: bool = True, accumulator_dtype: Any = None) -> Lift:
    r"""An exponential moving average: :math:`m \leftarrow \beta m + (1 - \beta) g`.

    The update is :math:`m`, or without its bias to zero :math:`m / (1 - \beta^t)`.

    Args:
      decay: :math:`\beta`, in [0, 1).
      debias: whether to correct the bias.
      accumulator_dtype: the dtype to keep the average in; by default the
        parameter's, and at least float32.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: `decay` is not in [0, 1).

    Example:
      >>> import gradxform as gx
      >>> tx = gx.ema(0.75, debias=False)
      >>> tx.update([1.0], tx.init([0.0]))[0][0].item()
      0.25
    """

    def init(param: Any) -> EmaSlots:
        return EmaSlots(slot_like(param, dtype=accumulator_dtype))

    def update(grad: Any, slots: EmaSlots, param: Any, step: Step) -> tuple[Any, EmaSlots]:
        average = ema_of(slots.ema, grad, step.decay)
        return _debias(average, step.decay, step.t) if debias else average, EmaSlots(average)

    equation = "m ← decay · m + (1 − decay) · g, u = m" + (" / (1 − decayᵗ)" if debias else "")
    return lift(Rule("ema", update, init, {"decay": debiased(decay)}, equation, counts=debias))


def scale_by_rss(initial_accumulator_value: Scalar = 0.0, eps: Hyperparam = 1e-7) -> Lift:
    r"""Divide by the root of the sum of squares.

    .. math::
      G \leftarrow G + |g|^2, \quad u = g / \sqrt{G + \epsilon}

    Args:
      initial_accumulator_value: what :math:`G` starts at, at least 0; 0 as in the
        paper (Optax starts at 0.1).
      eps: :math:`\epsilon`, at least 0. A coordinate whose gradients have
        all been zero is not moved, even with 0.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: a hyperparameter is negative.

    References:
      Duchi, Hazan and Singer, `Adaptive subgradient methods
      <https://jmlr.org/papers/v12/duchi11a.html>`_, 2011.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_rss(eps=0.0)
      >>> _, state = tx.update([3.0], tx.init([0.0]))
      >>> round(tx.update([4.0], state)[0][0].item(), 6)
      0.8
    """
    check_number("scale_by_rss", "initial_accumulator_value", nonnegative(initial_accumulator_value))

    def init(param: Any) -> SumOfSquaresSlots:
        return SumOfSquaresSlots(slot_like(param, initial_accumulator_value, real=True))

    def update(grad: Any, slots: SumOfSquaresSlots, param: Any, step: Step) -> tuple[Any, SumOfSquaresSlots]:
        total = slots.sum_of_squares + abs_squared(grad)
        return safe_divide(grad, safe_sqrt(total + step.eps)), SumOfSquaresSlots(total)

    equation = "G ← G + g², u = g / √(G + eps)"
    return lift(Rule("scale_by_rss", update, init, {"eps": nonnegative(eps)}, equation))


def scale_by_rms(
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Lift:
    r"""Divide by the root mean square.

    .. math::
      E \leftarrow \gamma E + (1 - \gamma) |g|^2, \quad u = g / \sqrt{E + \epsilon}

    Args:
      decay: :math:`\gamma`, in [0, 1); without bias correction 1 is allowed too.
      eps: :math:`\epsilon`, at least 0.
      initial_scale: what :math:`E` starts at, at least 0.
      eps_in_sqrt: whether :math:`\epsilon` stands under the root; otherwise
        :math:`u = g / (\sqrt{E} + \epsilon)`.
      bias_correction: whether to divide :math:`E` by :math:`1 - \gamma^t` first.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Tieleman and Hinton, `Lecture 6.5: RMSprop
      <https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf>`_, 2012.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_rms(decay=0.75, eps=0.0)
      >>> tx.update([3.0], tx.init([0.0]))[0][0].item()
      2.0
    """
    check_number("scale_by_rms", "initial_scale", nonnegative(initial_scale))
    root = _root_of_sum if eps_in_sqrt else _root_and_eps

    def init(param: Any) -> RmsSlots:
        return RmsSlots(slot_like(param, initial_scale, real=True))

    def update(grad: Any, slots: RmsSlots, param: Any, step: Step) -> tuple[Any, RmsSlots]:
        nu = ema_of(slots.nu, abs_squared(grad), step.decay)
        mean_square = debias(nu, step.decay, step.t) if bias_correction else nu
        return safe_divide(grad, root(mean_square, step.eps)), RmsSlots(nu)

    hyperparams = {"decay": (debiased if bias_correction else unit)(decay), "eps": nonnegative(eps)}
    equation = f"E ← decay · E + (1 − decay) · g², u = g / {_written('E', bias_correction, eps_in_sqrt)}"
    return lift(Rule("scale_by_rms", update, init, hyperparams, equation, counts=bias_correction))


def scale_by_stddev(
    decay: Hyperparam = 0.9,
    eps: Hyperparam = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Lift:
    r"""Divide by the standard deviation of the gradient: :math:`u = g / \sqrt{E - |m|^2 + \epsilon}`.

    :math:`m` and :math:`E` are the moving averages of the gradient and of its
    square. Where rounding makes the variance negative, it counts as 0.

    Args:
      decay: :math:`\gamma`, in [0, 1); without bias correction 1 is allowed too.
      eps: :math:`\epsilon`, at least 0.
      initial_scale: what :math:`E` starts at, at least 0.
      eps_in_sqrt: whether :math:`\epsilon` stands under the root.
      bias_correction: whether to divide both averages by :math:`1 - \gamma^t` first.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Graves, `Generating sequences with recurrent neural networks
      <https://arxiv.org/abs/1308.0850>`_, 2013.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_stddev(decay=0.5, eps=0.0)
      >>> tx.update([3.0], tx.init([0.0]))[0][0].item()
      2.0
    """
    check_number("scale_by_stddev", "initial_scale", nonnegative(initial_scale))
    root = _root_of_sum if eps_in_sqrt else _root_and_eps

    def init(param: Any) -> StddevSlots:
        return StddevSlots(slot_like(param), slot_like(param, initial_scale, real=True))

    def update(grad: Any, slots: StddevSlots, param: Any, step: Step) -> tuple[Any, StddevSlots]:
        mu = ema_of(slots.mu, grad, step.decay)
        nu = ema_of(slots.nu, abs_squared(grad), step.decay)
        mean, mean_square = mu, nu
        if bias_correction:
            mean, mean_square = (debias(moment, step.decay, step.t) for moment in (mu, nu))
        variance = jnp.maximum(mean_square - abs_squared(mean), 0)
        return safe_divide(grad, root(variance, step.eps)), StddevSlots(mu, nu)

    hyperparams = {"decay": (debiased if bias_correction else unit)(decay), "eps": nonnegative(eps)}
    equation = f"m, E ← averages of g, g²; u = g / {_written('(E − m²)', bias_correction, eps_in_sqrt)}"
    return lift(Rule("scale_by_stddev", update, init, hyperparams, equation, counts=bias_correction))


def scale_by_adadelta(rho: Hyperparam = 0.9, eps: Hyperparam = 1e-6) -> Lift:
    r"""Give the gradient the units of past updates.

    .. math::
      E_g \leftarrow \rho E_g + (1 - \rho) |g|^2, \quad
      u = \frac{\sqrt{E_u + \epsilon}}{\sqrt{E_g + \epsilon}} g, \quad
      E_u \leftarrow \rho E_u + (1 - \rho) |u|^2

    Args:
      rho: :math:`\rho`, in [0, 1].
      eps: :math:`\epsilon`, at least 0; with 0 nothing ever moves.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.
      Its update still points uphill.

    Raises:
      ValueError: `rho` or `eps` is out of its bounds.

    References:
      Zeiler, `ADADELTA: an adaptive learning rate method
      <https://arxiv.org/abs/1212.5701>`_, 2012.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_adadelta(rho=0.0, eps=1.0)
      >>> tx.update([0.0], tx.init([0.0]))[0][0].item()
      0.0
    """

    def init(param: Any) -> AdaDeltaSlots:
        return AdaDeltaSlots(slot_like(param, real=True), slot_like(param, real=True))

    def update(grad: Any, slots: AdaDeltaSlots, param: Any, step: Step) -> tuple[Any, AdaDeltaSlots]:
        e_g = ema_of(slots.e_g, abs_squared(grad), step.rho)
        update = safe_divide(safe_sqrt(slots.e_x + step.eps), safe_sqrt(e_g + step.eps)) * grad
        return update, AdaDeltaSlots(e_g, ema_of(slots.e_x, abs_squared(update), step.rho))

    equation = "E_g ← avg g², u = √(E_u + eps) / √(E_g + eps) · g, E_u ← avg u²"
    return lift(
        Rule("scale_by_adadelta", update, init, {"rho": unit(rho), "eps": nonnegative(eps)}, equation)
    )


def scale_by_adam(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    eps_root: Hyperparam = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> Lift:
    r"""Divide the first moment by the root of the second.

    .. math::
      m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
      v \leftarrow \beta_2 v + (1 - \beta_2) |g|^2, \quad
      u = \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t) + \bar\epsilon} + \epsilon}

    With Nesterov's look-ahead the numerator is
    :math:`\beta_1 m / (1 - \beta_1^{t+1}) + (1 - \beta_1) g / (1 - \beta_1^t)`.

    Args:
      b1: :math:`\beta_1`, the decay of the first moment, in [0, 1).
      b2: :math:`\beta_2`, the decay of the second moment, in [0, 1).
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.
      mu_dtype: the dtype to keep the first moment in; by default the
        parameter's, and at least float32.
      nesterov: whether to look ahead.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Kingma and Ba, `Adam: a method for stochastic optimization
      <https://arxiv.org/abs/1412.6980>`_, 2015; Dozat, `Incorporating
      Nesterov momentum into Adam <https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ>`_, 2016.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_adam(eps=0.0)
      >>> round(tx.update([3.0], tx.init([0.0]))[0][0].item(), 6)
      1.0
    """

    def init(param: Any) -> AdamSlots:
        return adam_slots(param, mu_dtype)

    def update(grad: Any, slots: AdamSlots, param: Any, step: Step) -> tuple[Any, AdamSlots]:
        mu = ema_of(slots.mu, grad, step.b1)
        nu = ema_of(slots.nu, abs_squared(grad), step.b2)
        denominator = safe_sqrt(debias(nu, step.b2, step.t) + step.eps_root) + step.eps
        return safe_divide(first_moment(mu, grad, step, nesterov), denominator, step.eps), AdamSlots(mu, nu)

    hyperparams = adam_hyperparams(b1, b2, eps, eps_root)
    equation = "m ← avg g, v ← avg g², u = m̂ / (√(v̂ + eps_root) + eps)"
    return lift(Rule("scale_by_adam", update, init, hyperparams, equation, counts=True))


def adam_hyperparams(b1: Hyperparam, b2: Hyperparam, eps: Hyperparam, eps_root: Hyperparam) -> dict[str, Any]:
    """Adam's hyperparameters within their bounds."""
    return {
        "b1": debiased(b1),
        "b2": debiased(b2),
        "eps": nonnegative(eps),
        "eps_root": nonnegative(eps_root),
    }


def adam_slots(param: Any, mu_dtype: Any = None) -> AdamSlots:
    """Both moments, at 0."""
    return AdamSlots(slot_like(param, dtype=mu_dtype), slot_like(param, real=True))


def first_moment(mu: Any, grad: Any, step: Step, nesterov: bool) -> Any:
    """The first moment without its bias; with Nesterov's look-ahead as it will be after the next gradient."""
    if not nesterov:
        return debias(mu, step.b1, step.t)
    return ema_of(debias(mu, step.b1, step.t + 1), debias(grad, step.b1, step.t), step.b1)


_debias = debias


def _root_of_sum(x: jax.Array, eps: Scalar) -> jax.Array:
    return safe_sqrt(x + eps)


def _root_and_eps(x: jax.Array, eps: Scalar) -> jax.Array:
    return safe_sqrt(x) + eps


def _written(moment: str, bias_correction: bool, eps_in_sqrt: bool) -> str:
    corrected = f"{moment} / (1 − decayᵗ)" if bias_correction else moment
    return f"√({corrected} + eps)" if eps_in_sqrt else f"(√({corrected}) + eps)"
