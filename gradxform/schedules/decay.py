"""Schedules of one shape: from a first value to a last one, or on and on."""

from typing import Any

import jax
import jax.numpy as jnp

from gradxform.hyperparams import Scalar, Schedule
from gradxform.schedules.curve import cosine, level, linear, path, raised, schedule

__all__ = [
    "constant_schedule",
    "cosine_decay_schedule",
    "exponential_decay",
    "linear_schedule",
    "polynomial_schedule",
]


@schedule
def constant_schedule(value: Scalar) -> Schedule:
    """The same value at every step, but in the state, where `get_hyperparams` shows it.

    Args:
      value: the value.

    Returns:
      A function of the count.

    Raises:
      ValueError: `value` is not finite.

    Example:
      >>> import gradxform as gx
      >>> gx.constant_schedule(0.5)(100).item()
      0.5
    """
    return level(value)


@schedule
def linear_schedule(
    init_value: Scalar, end_value: Scalar, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    r"""A straight line: :math:`a + (b - a) \min(1, \max(0, t - t_0) / T)`.

    Args:
      init_value: :math:`a`, the value up to the count `transition_begin`.
      end_value: :math:`b`, the value from `transition_steps` steps later on.
      transition_steps: :math:`T`, at least 1.
      transition_begin: :math:`t_0`, at least 0.

    Returns:
      A function of the count.

    Raises:
      ValueError: a value is not finite, or a number of steps is out of range.

    Example:
      >>> import gradxform as gx
      >>> gx.linear_schedule(1.0, 0.0, 10)(5).item()
      0.5
    """
    end = transition_begin + transition_steps
    return path(init_value, (transition_begin, init_value), (end, end_value))


@schedule
def polynomial_schedule(
    init_value: Scalar,
    end_value: Scalar,
    power: Scalar,
    transition_steps: int,
    transition_begin: int = 0,
) -> Schedule:
    r"""A power of what is left of the way: :math:`b + (a - b) (1 - \min(1, \max(0, t - t_0) / T))^p`.

    Args:
      init_value: :math:`a`, the value up to the count `transition_begin`.
      end_value: :math:`b`, the value from `transition_steps` steps later on.
      power: :math:`p`, above 0; 1 is a straight line.
      transition_steps: :math:`T`, at least 1.
      transition_begin: :math:`t_0`, at least 0.

    Returns:
      A function of the count.

    Raises:
      ValueError: a value is not finite, `power` is not above 0, or a number of
        steps is out of range.

    Example:
      >>> import gradxform as gx
      >>> gx.polynomial_schedule(1.0, 0.0, 2, 10)(5).item()
      0.25
    """
    end = transition_begin + transition_steps
    return path(init_value, (transition_begin, init_value), (end, end_value, raised(linear, power)))


@schedule
def exponential_decay(
    init_value: Scalar,
    transition_steps: int,
    decay_rate: Scalar,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Scalar | None = None,
) -> Schedule:
    r"""A constant factor every so many steps: :math:`a \, r^{\max(0, t - t_0) / T}`.

    Args:
      init_value: :math:`a`, the value up to the count `transition_begin`.
      transition_steps: :math:`T`, the steps in which the value is multiplied
        by `decay_rate` once, at least 1.
      decay_rate: :math:`r`, above 0; above 1 the value grows.
      transition_begin: :math:`t_0`, at least 0.
      staircase: whether the value stays for :math:`T` steps and then falls at
        once, the exponent rounded down.
      end_value: where the value stops: the smallest one if `decay_rate` is
        below 1, otherwise the largest.

    Returns:
      A function of the count.

    Raises:
      ValueError: a value is not finite, `decay_rate` is not above 0, or a
        number of steps is out of range.

    Example:
      >>> import gradxform as gx
      >>> print(gx.exponential_decay(1.0, 10, 0.5)([0, 10, 20]))
      [1.   0.5  0.25]
    """

    def value(count: jax.Array) -> Any:
        passed = jnp.maximum(count - transition_begin, 0)
        # Whole periods are counted apart, so that they come out exact.
        periods = (passed // transition_steps).astype(float)
        if not staircase:
            periods = periods + (passed % transition_steps).astype(float) / transition_steps
        result = init_value * decay_rate**periods
        if end_value is None:
            return result
        return jnp.where(decay_rate < 1, jnp.maximum(result, end_value), jnp.minimum(result, end_value))

    return value


@schedule
def cosine_decay_schedule(
    init_value: Scalar, decay_steps: int, alpha: Scalar = 0.0, exponent: Scalar = 1.0
) -> Schedule:
    r"""Half a cosine down: :math:`a ((1 - \alpha) c^p + \alpha),\; c = (1 + \cos(\pi \min(1, t / T))) / 2`.

    Args:
      init_value: :math:`a`, the value at the start.
      decay_steps: :math:`T`, at least 1.
      alpha: the value at the end, as a fraction of the first.
      exponent: :math:`p`, above 0.

    Returns:
      A function of the count.

    Raises:
      ValueError: a value is not finite, `decay_steps` is out of range, or
        `exponent` is not above 0.

    References:
      Loshchilov and Hutter, `SGDR: stochastic gradient descent with warm
      restarts <https://arxiv.org/abs/1608.03983>`_, 2017.

    Example:
      >>> import gradxform as gx
      >>> gx.cosine_decay_schedule(2.0, 10)(10).item()
      0.0
    """
    return path(init_value, (decay_steps, alpha * init_value, raised(cosine, exponent)))
