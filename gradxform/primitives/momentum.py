"""Rules that keep going in the direction of past gradients."""

from typing import Any, NamedTuple

import jax

from gradxform.arithmetic import slot_like
from gradxform.hyperparams import Hyperparam, unit
from gradxform.rule import Lift, Rule, Step, lift

__all__ = ["OptimisticSlots", "TraceSlots", "scale_by_optimistic_gradient", "trace"]


class TraceSlots(NamedTuple):
    """What `trace` remembers: the decayed sum of gradients."""

    trace: jax.Array


class OptimisticSlots(NamedTuple):
    """What `scale_by_optimistic_gradient` remembers: the last gradient."""

    previous_gradient: jax.Array


def trace(decay: Hyperparam, nesterov: bool = False, accumulator_dtype: Any = None) -> Lift:
    r"""The heavy ball: a decayed sum of gradients, :math:`v \leftarrow g + \mu v,\; u = v`.

    With Nesterov's look-ahead, :math:`u = g + \mu v`, where :math:`v` is the new sum.

    Args:
      decay: the momentum :math:`\mu`, in [0, 1].
      nesterov: whether to look ahead.
      accumulator_dtype: the dtype to keep the sum in; by default the
        parameter's, and at least float32.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: `decay` is not in [0, 1].

    References:
      Polyak, `Some methods of speeding up the convergence of iteration methods
      <https://doi.org/10.1016/0041-5553(64)90137-5>`_, 1964; Sutskever et al.,
      `On the importance of initialization and momentum in deep learning
      <https://proceedings.mlr.press/v28/sutskever13.html>`_, 2013.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.trace(0.5)
      >>> _, state = tx.update([1.0], tx.init([0.0]))
      >>> tx.update([1.0], state)[0][0].item()
      1.5
    """

    def init(param: Any) -> TraceSlots:
        return TraceSlots(slot_like(param, dtype=accumulator_dtype))

    def update(grad: Any, slots: TraceSlots, param: Any, step: Step) -> tuple[Any, TraceSlots]:
        total = grad + step.decay * slots.trace
        return (grad + step.decay * total if nesterov else total), TraceSlots(total)

    equation = "v ← g + decay · v, u = " + ("g + decay · v" if nesterov else "v")
    return lift(Rule("trace", update, init, {"decay": unit(decay)}, equation))


def scale_by_optimistic_gradient(alpha: Hyperparam = 1.0, beta: Hyperparam = 1.0) -> Lift:
    r"""Expect the next gradient to change as this one did.

    .. math::
      u = \alpha g + \beta (g - g_{\text{last}})

    In the first step :math:`u = \alpha g`.

    Args:
      alpha: :math:`\alpha`, the gradient's weight.
      beta: :math:`\beta`, the weight of its change.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    References:
      Mokhtari, Ozdaglar and Pattathil, `A unified analysis of extra-gradient and optimistic
      gradient methods <https://arxiv.org/abs/1901.08511>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.scale_by_optimistic_gradient()
      >>> _, state = tx.update([1.0], tx.init([0.0]))
      >>> tx.update([2.0], state)[0][0].item()
      3.0
    """

    def init(param: Any) -> OptimisticSlots:
        return OptimisticSlots(slot_like(param))

    def update(grad: Any, slots: OptimisticSlots, param: Any, step: Step) -> tuple[Any, OptimisticSlots]:
        change = (step.count > 0) * (grad - slots.previous_gradient)
        return step.alpha * grad + step.beta * change, OptimisticSlots(grad)

    equation = "u = alpha · g + beta · (g − last g)"
    hyperparams = {"alpha": alpha, "beta": beta}
    return lift(Rule("scale_by_optimistic_gradient", update, init, hyperparams, equation, counts=True))
