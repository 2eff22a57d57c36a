"""Schedules: functions from the step count, which starts at 0, to a hyperparameter's value."""

from typing import Any

import jax.numpy as jnp

from gradxform.hyperparams import Schedule

__all__ = ["constant_schedule", "cosine_decay_schedule", "linear_schedule"]


def constant_schedule(value: float) -> Schedule:
    """The same value at every step, but in the state, where `get_hyperparams` shows it.

    Args:
      value: the value.

    Returns:
      A function of the count.

    Example:
      >>> import gradxform as gx
      >>> float(gx.constant_schedule(0.5)(100))
      0.5
    """
    return lambda count: jnp.full(jnp.shape(count), value)


def linear_schedule(
    init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    r"""A straight line: :math:`a + (b - a) \min(1, \max(0, t - t_0) / T)`.

    Args:
      init_value: :math:`a`, the value up to the count `transition_begin`.
      end_value: :math:`b`, the value from `transition_steps` steps later on.
      transition_steps: :math:`T`, at least 1.
      transition_begin: :math:`t_0`.

    Returns:
      A function of the count.

    Raises:
      ValueError: `transition_steps` is below 1.

    Example:
      >>> import gradxform as gx
      >>> float(gx.linear_schedule(1.0, 0.0, 10)(5))
      0.5
    """
    _check_steps("linear_schedule", "transition_steps", transition_steps)

    def schedule(count: Any) -> Any:
        done = jnp.clip((jnp.asarray(count) - transition_begin) / transition_steps, 0, 1)
        # A weighted mean, so that both ends are exact.
        return (1 - done) * init_value + done * end_value

    return schedule


def cosine_decay_schedule(
    init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0
) -> Schedule:
    r"""Half a cosine down: :math:`a ((1 - \alpha) c^p + \alpha),\; c = (1 + \cos(\pi \min(1, t / T))) / 2`.

    Args:
      init_value: :math:`a`, the value at the start.
      decay_steps: :math:`T`, at least 1.
      alpha: the value at the end, as a fraction of the first.
      exponent: :math:`p`.

    Returns:
      A function of the count.

    Raises:
      ValueError: `decay_steps` is below 1.

    References:
      Loshchilov and Hutter, `SGDR: stochastic gradient descent with warm
      restarts <https://arxiv.org/abs/1608.03983>`_, 2017.

    Example:
      >>> import gradxform as gx
      >>> float(gx.cosine_decay_schedule(2.0, 10)(10))
      0.0
    """
    _check_steps("cosine_decay_schedule", "decay_steps", decay_steps)

    def schedule(count: Any) -> Any:
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(jnp.asarray(count) / decay_steps, 1)))
        return init_value * ((1 - alpha) * cosine**exponent + alpha)

    return schedule


def _check_steps(who: str, name: str, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"{who}: {name} must be at least 1, got {steps}")
