"""Schedules that climb to a peak first, in a straight line."""

from typing import Any

import jax
import jax.numpy as jnp

from gradxform.hyperparams import Scalar, Schedule
from gradxform.schedules.curve import cosine, join, path, raised, schedule, shape_named, traced
from gradxform.schedules.decay import exponential_decay

__all__ = [
    "inverse_sqrt_schedule",
    "linear_to_zero_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_stable_decay_schedule",
]


@schedule
def warmup_constant_schedule(init_value: Scalar, peak_value: Scalar, warmup_steps: int) -> Schedule:
    r"""Up, and then the same: :math:`a + (b - a) \min(1, t / W)`.

    Args:
      init_value: :math:`a`, the value at count 0.
      peak_value: :math:`b`, the value from the count `warmup_steps` on.
      warmup_steps: :math:`W`, at least 0; 0 is the peak at once.

    Returns:
      A function of the count.

    Raises:
      ValueError: a value is not finite, or `warmup_steps` is out of range.

    Example:
      >>> import gradxform as gx
      >>> print(gx.warmup_constant_schedule(0.0, 1.0, 4)([0, 1, 4, 5]))
      [0.   0.25 1.   1.  ]
    """
    return path(init_value, (warmup_steps, peak_value))


@schedule
def warmup_cosine_decay_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: int,
    decay_steps: int,
    end_value: Scalar = 0.0,
    exponent: Scalar = 1.0,
) -> Schedule:
    r"""Up, and half a cosine down.

    At the count :math:`W` the value is :math:`b`, and from there on
    :math:`c + (b - c) ((1 + \cos(\pi \min(1, (t - W) / (T - W)))) / 2)^p`.

    Args:
      init_value: the value at count 0.
      peak_value: :math:`b`, the value at the count `warmup_steps`.
      warmup_steps: :math:`W`, at least 0.
      decay_steps: :math:`T`, the steps of the whole schedule, the warm-up
        included; above `warmup_steps`.
      end_value: :math:`c`, the value from the count `decay_steps` on.
      exponent: :math:`p`, above 0.

    Returns:
      A function of the count.

    Raises:
      ValueError: a value is not finite, a number of steps is out of range, or
        `exponent` is not above 0.

    References:
      Loshchilov and Hutter, `SGDR: stochastic gradient descent with warm
      restarts <https://arxiv.org/abs/1608.03983>`_, 2017.

    Example:
      >>> import gradxform as gx
      >>> print(gx.warmup_cosine_decay_schedule(0.0, 1.0, 4, 14)([0, 2, 4, 9, 14]).round(3))
      [0.  0.5 1.  0.5 0. ]
    """
    _check_longer("warmup_cosine_decay_schedule", "decay_steps", decay_steps, warmup_steps)
    descent = raised(cosine, exponent)
    return path(init_value, (warmup_steps, peak_value), (decay_steps, end_value, descent))


@schedule
def warmup_exponential_decay_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: Scalar,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Scalar | None = None,
) -> Schedule:
    """Up, and then `exponential_decay`, which counts from the end of the warm-up.

    Args:
      init_value: the value at count 0.
      peak_value: the value at the count `warmup_steps`.
      warmup_steps: the steps from the one to the other, at least 0.
      transition_steps: the steps in which the value is multiplied by
        `decay_rate` once, at least 1.
      decay_rate: the factor, above 0.
      transition_begin: the steps between warm-up and decay, at least 0.
      staircase: whether the value falls only every `transition_steps` steps.
      end_value: where the value stops: the smallest one if `decay_rate` is
        below 1, otherwise the largest.

    Returns:
      A function of the count.

    Raises:
      ValueError: a value is not finite, `decay_rate` is not above 0, or a
        number of steps is out of range.

    Example:
      >>> import gradxform as gx
      >>> print(gx.warmup_exponential_decay_schedule(0.0, 1.0, 4, 10, 0.5)([0, 2, 4, 14, 24]))
      [0.   0.5  1.   0.5  0.25]
    """
    decay = exponential_decay(
        peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value
    )
    return join([path(init_value, (warmup_steps, peak_value)), decay], [warmup_steps])


@schedule
def warmup_stable_decay_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    end_value: Scalar = 0.0,
    decay_type: str = "linear",
) -> Schedule:
    """Up, level, and down: training may stay on the level for as long as it likes before the descent.

    Args:
      init_value: the value at count 0.
      peak_value: the value from the count `warmup_steps` on.
      warmup_steps: the steps of the climb, at least 0.
      stable_steps: the steps at the peak, at least 0.
      decay_steps: the steps of the descent alone, at least 1.
      end_value: the value after it.
      decay_type: the descent's shape: ``"linear"``, ``"cosine"``, or
        ``"sqrt"``, one minus the root of the part that is done, steep at first.

    Returns:
      A function of the count.

    Raises:
      ValueError: a value is not finite, a number of steps is out of range, or
        `decay_type` is unknown.

    References:
      Hu et al., `MiniCPM: unveiling the potential of small language models
      with scalable training strategies <https://arxiv.org/abs/2404.06395>`_, 2024.
      Hägele et al., `Scaling laws and compute-optimal training beyond fixed
      training durations <https://arxiv.org/abs/2405.18392>`_, 2024 (the root).

    Example:
      >>> import gradxform as gx
      >>> print(gx.warmup_stable_decay_schedule(0.0, 1.0, 2, 5, 4)([0, 1, 2, 7, 9, 11]))
      [0.  0.5 1.  1.  0.5 0. ]
    """
    shape = shape_named("warmup_stable_decay_schedule", "decay_type", decay_type)
    level_ends = warmup_steps + stable_steps
    return path(
        init_value,
        (warmup_steps, peak_value),
        (level_ends, peak_value),
        (level_ends + decay_steps, end_value, shape),
    )


@schedule
def inverse_sqrt_schedule(
    init_value: Scalar, peak_value: Scalar, warmup_steps: int, timescale: Scalar | None = None
) -> Schedule:
    r"""Up, and down for ever as one over a square root: :math:`b \sqrt{\tau / (\tau + t - W)}`.

    Args:
      init_value: the value at count 0.
      peak_value: :math:`b`, the value at the count `warmup_steps`.
      warmup_steps: :math:`W`, at least 0.
      timescale: :math:`\tau`, in steps, above 0: after :math:`3 \tau` steps of
        decay the value is half the peak. By default `warmup_steps`, which
        makes the decay :math:`b \sqrt{W / t}`.

    Returns:
      A function of the count.

    Raises:
      ValueError: a value is not finite, `warmup_steps` is out of range, or
        `timescale` is not above 0, or not given where there is no warm-up.

    References:
      Vaswani et al., `Attention is all you need
      <https://arxiv.org/abs/1706.03762>`_, 2017, section 5.3.

    Example:
      >>> import gradxform as gx
      >>> print(gx.inverse_sqrt_schedule(0.0, 1.0, 100)([0, 50, 100, 400]))
      [0.  0.5 1.  0.5]
    """
    if timescale is None:
        if not traced(warmup_steps) and warmup_steps == 0:
            raise ValueError(
                "inverse_sqrt_schedule: with warmup_steps=0 timescale must be a number, got None"
            )
        timescale = warmup_steps

    def decay(count: jax.Array) -> Any:
        # The quotient is exactly 1 at the peak.
        return peak_value * jnp.sqrt(timescale / (timescale + jnp.maximum(count, 0).astype(float)))

    return join([path(init_value, (warmup_steps, peak_value)), decay], [warmup_steps])


@schedule
def linear_to_zero_schedule(peak_value: Scalar, total_steps: int, warmup_steps: int = 0) -> Schedule:
    r"""A budget of steps spent: up from 0, then straight down to 0 as :math:`b (T - t) / (T - W)`.

    Args:
      peak_value: :math:`b`, the value at the count `warmup_steps`.
      total_steps: :math:`T`, the budget, the warm-up included; from this
        count on the value is 0.
      warmup_steps: :math:`W`, the steps of the climb, at least 0 and below
        `total_steps`.

    Returns:
      A function of the count.

    Raises:
      ValueError: `peak_value` is not finite, or a number of steps is out of range.

    References:
      Li, Yumer and Ramanan, `Budgeted training: rethinking deep neural network
      training under resource constraints <https://arxiv.org/abs/1905.04753>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> print(gx.linear_to_zero_schedule(1.0, 12, warmup_steps=4)([0, 2, 4, 8, 12]))
      [0.  0.5 1.  0.5 0. ]
    """
    _check_longer("linear_to_zero_schedule", "total_steps", total_steps, warmup_steps)
    return path(0.0, (warmup_steps, peak_value), (total_steps, 0.0))


def _check_longer(who: str, name: str, steps: Any, warmup_steps: Any) -> None:
    if not traced(steps, warmup_steps) and steps <= warmup_steps:
        raise ValueError(
            f"{who}: {name} counts the warm-up in and must be above warmup_steps={warmup_steps}, got {steps}"
        )
