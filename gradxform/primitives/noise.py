"""Rules that disturb the gradient."""

from typing import Any

import jax
import jax.numpy as jnp

from gradxform.arguments import as_key
from gradxform.hyperparams import Hyperparam, nonnegative, tunable
from gradxform.rule import Lift, Rule, Slots, Step, lift

__all__ = ["add_noise"]


def add_noise(
    eta: Hyperparam, gamma: Hyperparam, key: jax.Array | int | None = None, *, seed: int | None = None
) -> Lift:
    r"""Add Gaussian noise that fades: :math:`u = g + \mathcal{N}(0, \eta / t^\gamma)`.

    Args:
      eta: :math:`\eta`, the variance at the first step, at least 0.
      gamma: :math:`\gamma`, how fast it fades, at least 0.
      key: a random key, or a number to make one from. It stands in the state
        (``set_hyperparams(state, key=...)`` sets it); steps and leaves draw
        different noise from it.
      seed: another name for a number as `key`.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: `eta` or `gamma` is negative, or there is no key, or two.
      TypeError: the key is neither a random key nor an integer.

    References:
      Neelakantan et al., `Adding gradient noise improves learning for very
      deep networks <https://arxiv.org/abs/1511.06807>`_, 2015.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.add_noise(eta=0.0, gamma=0.55, key=0)
      >>> tx.update([1.0], tx.init([0.0]))[0][0].item()
      1.0
    """
    if (key is None) == (seed is None):
        raise ValueError(
            "add_noise needs a random key, as key or as seed: pass key=jax.random.key(0), or a number"
        )
    key = as_key("add_noise", seed if key is None else key)

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        noise = jax.random.normal(step.key, grad.shape, grad.dtype)
        return grad + jnp.sqrt(step.eta / step.t**step.gamma) * noise, slots

    return lift(
        Rule(
            "add_noise",
            update,
            hyperparams={"eta": nonnegative(eta), "gamma": nonnegative(gamma), "key": tunable(key)},
            equation="u = g + N(0, eta / t^gamma)",
            random=True,
            counts=True,
        )
    )
