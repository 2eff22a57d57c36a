"""Rules that go by the sign of the gradient more than by its size."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradxform.arguments import check_number
from gradxform.arithmetic import ema_of, slot_like
from gradxform.hyperparams import Hyperparam, Scalar, positive, unit
from gradxform.rule import Lift, Rule, Slots, Step, lift
from gradxform.slots import NonNegative

__all__ = ["LionSlots", "RpropSlots", "scale_by_lion", "scale_by_rprop", "scale_by_sign"]


class LionSlots(NamedTuple):
    """What `scale_by_lion` remembers: the moving average of gradients."""

    mu: jax.Array


class RpropSlots(NamedTuple):
    """What `scale_by_rprop` remembers: the size of each number's step, and the last steps."""

    step_sizes: NonNegative
    prev_updates: jax.Array


def scale_by_sign() -> Lift:
    r"""Keep the sign alone: :math:`u = \operatorname{sign}(g)`, 0 for 0; :math:`g / |g|` where complex.

    Returns:
      A `GradientTransformation` without slots.

    References:
      Bernstein et al., `signSGD: compressed optimisation for non-convex problems
      <https://arxiv.org/abs/1802.04434>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_sign()
      >>> tx.update([-3.0], tx.init([0.0]))[0][0].item()
      -1.0
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return lax.sign(grad), slots

    return lift(Rule("scale_by_sign", update, equation="u = sign(g)"))


def scale_by_lion(
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.99,
    mu_dtype: Any = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: Scalar = 1.0,
) -> Lift:
    r"""The sign of a moving average that gives the newest gradient more weight than it will keep.

    .. math::
      c = \beta_1 m + (1 - \beta_1) g, \quad u = \operatorname{sign}(c), \quad
      m \leftarrow \beta_2 m + (1 - \beta_2) g

    Args:
      b1: :math:`\beta_1`, in [0, 1].
      b2: :math:`\beta_2`, in [0, 1].
      mu_dtype: the dtype to keep :math:`m` in; by default the parameter's,
        and at least float32.
      mode: ``"hard"`` as in the paper; ``"smooth"``, :math:`\tanh(\kappa c)`
        in the sign's place; ``"refined"``, :math:`c` itself where it lies
        between -1 and 1.
      smooth_beta: :math:`\kappa`, above 0.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds, or the mode unknown.

    References:
      Chen et al., `Symbolic discovery of optimization algorithms
      <https://arxiv.org/abs/2302.06675>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_lion()
      >>> tx.update([3.0], tx.init([0.0]))[0][0].item()
      1.0
    """
    shapes = {
        "hard": lambda c, step: lax.sign(c),
        "smooth": lambda c, step: lax.tanh(step.smooth_beta * c),
        "refined": lambda c, step: jnp.where(lax.abs(c) < 1, c, lax.sign(c)),
    }
    if mode not in shapes:
        raise ValueError(f"scale_by_lion: mode must be one of {', '.join(map(repr, shapes))}, got {mode!r}")
    shape = shapes[mode]

    def init(param: Any) -> LionSlots:
        return LionSlots(slot_like(param, dtype=mu_dtype))

    def update(grad: Any, slots: LionSlots, param: Any, step: Step) -> tuple[Any, LionSlots]:
        return shape(ema_of(slots.mu, grad, step.b1), step), LionSlots(ema_of(slots.mu, grad, step.b2))

    hyperparams = {"b1": unit(b1), "b2": unit(b2)}
    if mode == "smooth":
        hyperparams["smooth_beta"] = positive(smooth_beta)
    written = {"hard": "sign(c)", "smooth": "tanh(smooth_beta · c)", "refined": "c if |c| < 1 else sign(c)"}
    equation = f"c = b1 · m + (1 − b1) · g, u = {written[mode]}, m ← b2 · m + (1 − b2) · g"
    return lift(Rule("scale_by_lion", update, init, hyperparams, equation))


def scale_by_rprop(
    learning_rate: Scalar,
    eta_minus: Hyperparam = 0.5,
    eta_plus: Hyperparam = 1.2,
    min_step_size: Hyperparam = 1e-6,
    max_step_size: Hyperparam = 50.0,
    *,
    one_step_late: bool = True,
) -> Lift:
    r"""A step size for each number, longer while the gradient's sign stays, shorter when it turns.

    .. math::
      \Delta \leftarrow \begin{cases}
      \min(\eta_+ \Delta, \Delta_{\max}) & g g_{\text{last}} > 0 \\
      \max(\eta_- \Delta, \Delta_{\min}) & g g_{\text{last}} < 0 \\
      \Delta & \text{else} \end{cases}, \quad
      u = \begin{cases} 0 & g g_{\text{last}} < 0 \\ \Delta \operatorname{sign}(g) & \text{else} \end{cases}

    After a turn the next gradient counts as one without a last one. It is for gradients
    of the whole data set; the noise of a batch turns signs too.

    Args:
      learning_rate: the step size that every number starts with, above 0.
      eta_minus: :math:`\eta_-`, in [0, 1].
      eta_plus: :math:`\eta_+`, above 0.
      min_step_size: :math:`\Delta_{\min}`, above 0.
      max_step_size: :math:`\Delta_{\max}`, above 0.
      one_step_late: whether each step is taken when the next gradient is
        known, unless that one turns, as Optax does; the papers, and PyTorch,
        take it at once.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters,
      which have to be real.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Riedmiller and Braun, `A direct adaptive method for faster backpropagation learning: the RPROP
      algorithm <https://doi.org/10.1109/ICNN.1993.298623>`_, 1993; Igel and Hüsken, `Improving the
      Rprop learning algorithm`, 2000, whose iRprop⁻ it is.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_rprop(0.5, one_step_late=False)
      >>> _, state = tx.update([3.0], tx.init([0.0]))
      >>> round(tx.update([1.0], state)[0][0].item(), 6)
      0.6
    """
    check_number("scale_by_rprop", "learning_rate", positive(learning_rate))

    def init(param: Any) -> RpropSlots:
        check_real("scale_by_rprop", param)
        return RpropSlots(slot_like(param, learning_rate), slot_like(param))

    def update(grad: Any, slots: RpropSlots, param: Any, step: Step) -> tuple[Any, RpropSlots]:
        sign = grad * slots.prev_updates
        longer, shorter = slots.step_sizes * step.eta_plus, slots.step_sizes * step.eta_minus
        sizes = jnp.clip(jnp.where(sign > 0, longer, shorter), step.min_step_size, step.max_step_size)
        sizes = jnp.where(sign == 0, slots.step_sizes, sizes)
        now = jnp.where(sign < 0, 0, sizes * lax.sign(grad))
        late = jnp.where(sign < 0, 0, slots.prev_updates)
        return (late if one_step_late else now), RpropSlots(sizes, now)

    hyperparams = {
        "eta_minus": unit(eta_minus),
        "eta_plus": positive(eta_plus),
        "min_step_size": positive(min_step_size),
        "max_step_size": positive(max_step_size),
    }
    equation = "u = Δ · sign(g), Δ longer while the sign stays, shorter and u = 0 when it turns"
    return lift(Rule("scale_by_rprop", update, init, hyperparams, equation))


def check_real(who: str, param: Any) -> None:
    """Raise unless the parameter is real."""
    if jnp.issubdtype(jnp.result_type(param), jnp.complexfloating):
        raise TypeError(
            f"{who} compares numbers, and complex ones have no order; wrap it in split_real_and_imaginary"
        )
