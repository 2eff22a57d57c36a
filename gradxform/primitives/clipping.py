"""Rules that bound the gradient."""

from typing import Any

import jax.numpy as jnp

from gradxform.arithmetic import safe_divide, safe_sqrt, sum_of_squares
from gradxform.hyperparams import Hyperparam, nonnegative, positive
from gradxform.rule import Lift, Rule, Slots, Step, lift

__all__ = ["clip", "clip_by_global_norm"]


def clip(max_delta: Hyperparam) -> Lift:
    r"""Bound every element: :math:`u = \max(-\delta, \min(\delta, g))`.

    Args:
      max_delta: :math:`\delta`, at least 0. Real and imaginary parts of a
        complex gradient are bounded each by itself.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: `max_delta` is negative.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.clip(1.0)
      >>> tx.update([-3.0], tx.init([0.0]))[0][0].item()
      -1.0
    """

    def bounded(x: Any, step: Step) -> Any:
        return jnp.clip(x, -step.max_delta, step.max_delta)

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        if jnp.iscomplexobj(grad):
            return bounded(grad.real, step) + 1j * bounded(grad.imag, step), slots
        return bounded(grad, step), slots

    equation = "u = max(−max_delta, min(max_delta, g))"
    return lift(Rule("clip", update, hyperparams={"max_delta": nonnegative(max_delta)}, equation=equation))


def clip_by_global_norm(max_norm: Hyperparam) -> Lift:
    r"""Shorten the whole gradient to a norm: :math:`u = g \min(1, c / \lVert g \rVert)`.

    The norm is taken over all leaves together.

    Args:
      max_norm: :math:`c`, above 0.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: `max_norm` is not above 0.

    References:
      Pascanu, Mikolov and Bengio, `On the difficulty of training recurrent
      neural networks <https://arxiv.org/abs/1211.5063>`_, 2013.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.clip_by_global_norm(1.0)
      >>> [round(u.item(), 6) for u in tx.update([3.0, 4.0], tx.init([0.0, 0.0]))[0]]
      [0.6, 0.8]
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        norm = safe_sqrt(step.total)
        return jnp.where(norm < step.max_norm, 1, safe_divide(step.max_norm, norm)) * grad, slots

    return lift(
        Rule(
            "clip_by_global_norm",
            update,
            hyperparams={"max_norm": positive(max_norm)},
            equation="u = g · min(1, max_norm / ‖g‖)",
            total=sum_of_squares,
        )
    )
