"""Rules that multiply the gradient by a number."""

import numbers
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradxform.arithmetic import safe_divide, times
from gradxform.hyperparams import Hyperparam, Schedule, Tunable, nonnegative, positive
from gradxform.rule import Lift, Rule, Slots, Step, lift, squared_norm

__all__ = ["scale", "scale_by_learning_rate", "scale_by_polyak", "scale_by_schedule", "set_to_zero"]


def scale(step_size: Hyperparam) -> Lift:
    r"""Multiply by a number: :math:`u = s g`.

    Args:
      step_size: the factor :math:`s`.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      TypeError, ValueError: `step_size` is not a number.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale(-0.5)
      >>> tx.update([2.0], tx.init([0.0]))[0][0].item()
      -1.0
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return times(step.step_size, grad), slots

    turns, hyperparams = turns_round(step_size), {"step_size": step_size}
    return lift(Rule("scale", update, hyperparams=hyperparams, equation="u = step_size · g", turns=turns))


def turns_round(factor: Hyperparam) -> bool:
    """Whether a factor is a number that turns the direction round."""
    return isinstance(factor, numbers.Real) and factor < 0


def scale_by_learning_rate(learning_rate: Hyperparam, *, flip_sign: bool = True) -> Lift:
    r"""Multiply by the learning rate and turn downhill: :math:`u = -\alpha g`.

    Args:
      learning_rate: :math:`\alpha`.
      flip_sign: whether to go downhill; without, :math:`u = \alpha g`.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      TypeError, ValueError: `learning_rate` is not a number, schedule or tunable.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_learning_rate(0.5)
      >>> tx.update([2.0], tx.init([0.0]))[0][0].item()
      -1.0
    """
    sign = -1 if flip_sign else 1

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return times(sign * step.learning_rate, grad), slots

    equation = f"u = {'−' if flip_sign else ''}learning_rate · g"
    hyperparams = {"learning_rate": learning_rate}
    name = "scale_by_learning_rate"
    return lift(Rule(name, update, hyperparams=hyperparams, equation=equation, turns=flip_sign))


def scale_by_schedule(step_size_fn: Schedule | Tunable) -> Lift:
    r"""Multiply by a number that changes over the steps: :math:`u = s(t) g`.

    Args:
      step_size_fn: count -> factor; the count starts at 0.

    Returns:
      A `GradientTransformation` without slots; the factor in force stands in
      its state as ``step_size``.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_schedule(lambda count: 1.0 / (count + 1))
      >>> _, state = tx.update([2.0], tx.init([0.0]))
      >>> tx.update([2.0], state)[0][0].item()
      1.0
    """
    return scale(step_size_fn)


def scale_by_polyak(
    f_min: Hyperparam = 0.0,
    max_learning_rate: Hyperparam = 1.0,
    eps: Hyperparam = 0.0,
    variant: str = "sps",
) -> Lift:
    r"""Take the step after which the loss, were it linear, would be at its least value.

    .. math::
      u = \min\Bigl(\frac{f - f_{\min}}{\lVert g \rVert^2 + \epsilon}, \alpha_{\max}\Bigr) g

    The norm is taken over all leaves together.

    Args:
      f_min: :math:`f_{\min}`, the least value that the loss can have.
      max_learning_rate: :math:`\alpha_{\max}`, above 0.
      eps: :math:`\epsilon`, at least 0.
      variant: ``"sps"``, or ``"sps+"``, which never steps uphill where the
        loss lies below :math:`f_{\min}`.

    Returns:
      A `GradientTransformation` without slots; its update needs the loss,
      ``update(grads, state, params, value=loss)``.

    Raises:
      ValueError: a hyperparameter is out of its bounds, or the variant unknown.
      TypeError: in `update`, there is no `value`.

    References:
      Loizou et al., `Stochastic Polyak step-size for SGD
      <https://arxiv.org/abs/2002.10542>`_, 2021; Garrigos, Gower and Schaipp, `Function value
      learning <https://arxiv.org/abs/2307.14528>`_, 2023, for ``"sps+"``.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_polyak()
      >>> tx.update([4.0], tx.init([2.0]), value=4.0)[0][0].item()
      1.0
    """
    if variant not in ("sps", "sps+"):
        raise ValueError(f"scale_by_polyak: variant must be 'sps' or 'sps+', got {variant!r}")

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        gap = step.value - step.f_min
        gap = jnp.maximum(gap, 0) if variant == "sps+" else gap
        square = step.total + step.eps
        length = jnp.minimum(safe_divide(gap, square), step.max_learning_rate)
        return jnp.where(square <= np.finfo(float).eps, 0, length) * grad, slots

    return lift(
        Rule(
            "scale_by_polyak",
            update,
            hyperparams={
                "f_min": f_min,
                "max_learning_rate": positive(max_learning_rate),
                "eps": nonnegative(eps),
            },
            equation="u = min((value − f_min) / (‖g‖² + eps), max_learning_rate) · g",
            total=squared_norm,
            extra=("value",),
        )
    )


def set_to_zero() -> Lift:
    r"""Let nothing through: :math:`u = 0`, also where the gradient is no number.

    Returns:
      A `GradientTransformation` without slots.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.set_to_zero()
      >>> tx.update([2.0], tx.init([0.0]))[0][0].item()
      0.0
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return jnp.zeros_like(grad), slots

    return lift(Rule("set_to_zero", update, equation="u = 0"))
