"""Rules that pull the parameters towards zero."""

from typing import Any

from gradxform.hyperparams import Hyperparam, nonnegative
from gradxform.rule import Lift, Mask, Rule, Slots, Step, lift

__all__ = ["add_decayed_weights"]


def add_decayed_weights(weight_decay: Hyperparam = 0.0, mask: Mask | None = None) -> Lift:
    r"""Add a multiple of the parameters: :math:`u = g + \lambda w`.

    After the moments it is decoupled weight decay, before them an L2 penalty.

    Args:
      weight_decay: :math:`\lambda`, at least 0.
      mask: which leaves to decay: a tree of booleans like the parameters (or
        a prefix of one), or a function from the parameters to it.

    Returns:
      A `GradientTransformation` without slots; its update needs the parameters.

    Raises:
      ValueError: `weight_decay` is negative, or the mask does not fit the
        parameters.

    References:
      Loshchilov and Hutter, `Decoupled weight decay regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.add_decayed_weights(0.5, mask={"w": True, "b": False})
      >>> params = {"w": 2.0, "b": 2.0}
      >>> updates, _ = tx.update({"w": 1.0, "b": 1.0}, tx.init(params), params)
      >>> float(updates["w"]), float(updates["b"])
      (2.0, 1.0)
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return grad + step.weight_decay * param, slots

    return lift(
        Rule(
            "add_decayed_weights",
            update,
            hyperparams={"weight_decay": nonnegative(weight_decay)},
            equation="u = g + weight_decay · w",
            needs_params=True,
            mask=mask,
        )
    )
