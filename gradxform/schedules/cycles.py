"""Schedules that go up and down, once or again and again."""

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import jax

from gradxform.hyperparams import Scalar, Schedule
from gradxform.schedules.curve import cosine, join, mix, path, reachable, schedule
from gradxform.schedules.warmup import warmup_cosine_decay_schedule

__all__ = [
    "cosine_onecycle_schedule",
    "cyclic_schedule",
    "linear_onecycle_schedule",
    "sgdr_schedule",
]


@schedule
def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: Scalar,
    pct_start: float = 0.3,
    div_factor: Scalar = 25.0,
    final_div_factor: Scalar = 1e4,
) -> Schedule:
    """One cycle of two half cosines: from peak / div up to the peak, and down to peak / (div · final div).

    Args:
      transition_steps: the steps of the cycle, at least 1.
      peak_value: the highest value.
      pct_start: the fraction of the steps spent on the way up, strictly
        between 0 and 1; the peak is at the last count within it.
      div_factor: the peak over the first value, above 0.
      final_div_factor: the first value over the last, above 0.

    Returns:
      A function of the count.

    Raises:
      ValueError: an argument is out of the range above.

    References:
      Smith and Topin, `Super-convergence: very fast training of neural
      networks using large learning rates <https://arxiv.org/abs/1708.07120>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> print(gx.cosine_onecycle_schedule(10, 1.0, div_factor=4.0)([0, 3, 10]))
      [2.5e-01 1.0e+00 2.5e-05]
    """
    return path(
        peak_value / div_factor,
        (int(pct_start * transition_steps), peak_value, cosine),
        (transition_steps, peak_value / (div_factor * final_div_factor), cosine),
    )


@schedule
def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: Scalar,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: Scalar = 25.0,
    final_div_factor: Scalar = 1e4,
) -> Schedule:
    """One cycle of straight lines: up to the peak, back to the first value, and down to a far smaller one.

    Args:
      transition_steps: the steps of the cycle, at least 1.
      peak_value: the highest value.
      pct_start: the fraction of the steps after which the peak is reached,
        strictly between 0 and 1.
      pct_final: the fraction after which the first value is reached again,
        above `pct_start` and below 1.
      div_factor: the peak over the first value, above 0.
      final_div_factor: the first value over the last, above 0.

    Returns:
      A function of the count.

    Raises:
      ValueError: an argument is out of the range above.

    References:
      Smith and Topin, `Super-convergence: very fast training of neural
      networks using large learning rates <https://arxiv.org/abs/1708.07120>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> print(gx.linear_onecycle_schedule(20, 1.0, div_factor=4.0)([0, 3, 6, 17, 20]))
      [2.50e-01 6.25e-01 1.00e+00 2.50e-01 2.50e-05]
    """
    if pct_final <= pct_start:
        raise ValueError(
            f"linear_onecycle_schedule: pct_final must be above pct_start={pct_start}, got {pct_final}"
        )
    first = peak_value / div_factor
    return path(
        first,
        (int(pct_start * transition_steps), peak_value),
        (int(pct_final * transition_steps), first),
        (transition_steps, peak_value / (div_factor * final_div_factor)),
    )


@schedule
def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """Cosines with warm restarts: one `warmup_cosine_decay_schedule` after the other.

    Args:
      cosine_kwargs: the arguments of each cycle by name; each lasts for its
        `decay_steps`, its warm-up included.

    Returns:
      A function of the count.

    Raises:
      TypeError, ValueError: there is no cycle, or one's arguments are wrong;
        the message says which.

    References:
      Loshchilov and Hutter, `SGDR: stochastic gradient descent with warm
      restarts <https://arxiv.org/abs/1608.03983>`_, 2017.

    Example:
      >>> import gradxform as gx
      >>> cycle = dict(init_value=0.0, peak_value=1.0, warmup_steps=2, decay_steps=6)
      >>> print(gx.sgdr_schedule([cycle, cycle])([0, 2, 4, 6, 8, 12]).round(3))
      [0.  1.  0.5 0.  1.  0. ]
    """
    cycles, steps = [], []
    for index, kwargs in enumerate(cosine_kwargs):
        try:
            cycles.append(warmup_cosine_decay_schedule(**kwargs))
        except (TypeError, ValueError) as error:
            raise type(error)(f"sgdr_schedule: cosine_kwargs[{index}]: {error}") from None
        steps.append(kwargs["decay_steps"])
    if not cycles:
        raise ValueError("sgdr_schedule: cosine_kwargs must hold at least one cycle, got none")
    return join(cycles, list(accumulate(steps))[:-1])


@schedule
def cyclic_schedule(
    init_value: Scalar,
    peak_value: Scalar,
    up_steps: int,
    down_steps: int | None = None,
    decay_rate: Scalar = 1.0,
) -> Schedule:
    r"""Triangles without end: up to the peak and back, each cycle's height a factor of the one before.

    In cycle :math:`k`, counted from 0, the value is
    :math:`a + (b - a) \, r^k \, \Delta`, where :math:`\Delta` climbs from 0 to 1
    and falls to 0 again.

    Args:
      init_value: :math:`a`, the value between the cycles.
      peak_value: :math:`b`, the first cycle's highest value.
      up_steps: the steps from the one to the other, at least 1.
      down_steps: the steps back, at least 1; by default `up_steps`.
      decay_rate: :math:`r`, above 0: 1 for equal cycles, 0.5 to halve their
        height each time.

    Returns:
      A function of the count.

    Raises:
      ValueError: an argument is out of the range above.

    References:
      Smith, `Cyclical learning rates for training neural networks
      <https://arxiv.org/abs/1506.01186>`_, 2017.

    Example:
      >>> import gradxform as gx
      >>> print(gx.cyclic_schedule(0.0, 1.0, 2, decay_rate=0.5)([0, 1, 2, 3, 4, 6, 10]))
      [0.   0.5  1.   0.5  0.   0.5  0.25]
    """
    period = reachable(up_steps + (up_steps if down_steps is None else down_steps))
    triangle = path(0.0, (up_steps, 1.0), (period, 0.0))

    def value(count: jax.Array) -> jax.Array:
        height = decay_rate ** (count // period).astype(float)
        return mix(triangle(count % period) * height, peak_value, init_value)

    return value
