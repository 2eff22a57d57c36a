"""Schedules put together from others, or given by their values at certain counts."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from gradxform.hyperparams import Scalar, Schedule
from gradxform.schedules.curve import (
    DELAY,
    NONNEGATIVE,
    as_curve,
    join,
    level,
    path,
    require,
    schedule,
    shape_named,
    traced,
)

__all__ = ["join_schedules", "piecewise_constant_schedule", "piecewise_interpolate_schedule"]


@schedule
def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """One schedule after the other, each counting from 0 where it begins.

    Args:
      schedules: functions of the count, at least one.
      boundaries: the first counts of all but the first schedule, increasing.

    Returns:
      A function of the count.

    Raises:
      TypeError: a schedule is no function.
      ValueError: there is no schedule, there are not as many boundaries as
        joins, or they do not increase from 0 on.

    Example:
      >>> import gradxform as gx
      >>> up, down = gx.linear_schedule(0.0, 1.0, 4), gx.cosine_decay_schedule(1.0, 10)
      >>> print(gx.join_schedules([up, down], [4])([0, 2, 4, 9, 14]).round(3))
      [0.  0.5 1.  0.5 0. ]
    """
    schedules, boundaries = list(schedules), list(boundaries)
    for index, each in enumerate(schedules):
        if not callable(each):
            raise TypeError(
                f"join_schedules: schedules[{index}] must be a schedule (count -> value), got {each!r}"
            )
    if not schedules:
        raise ValueError("join_schedules: schedules must hold at least one schedule, got none")
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"join_schedules: {len(schedules)} schedules have {len(schedules) - 1} boundaries between them, "
            f"got boundaries={boundaries}"
        )
    for index, boundary in enumerate(boundaries):
        require("join_schedules", f"boundaries[{index}]", boundary, DELAY)
    if not traced(*boundaries) and any(one >= other for one, other in pairwise(boundaries)):
        raise ValueError(f"join_schedules: boundaries must increase, got {boundaries}")
    return join(list(map(as_curve, schedules)), boundaries)


@schedule
def piecewise_constant_schedule(
    init_value: Scalar, boundaries_and_scales: Mapping[int, Scalar] | None = None
) -> Schedule:
    """A staircase: at each boundary the value is multiplied by that boundary's scale.

    Args:
      init_value: the value before the first boundary.
      boundaries_and_scales: count to factor, each at least 0, in any order.

    Returns:
      A function of the count.

    Raises:
      ValueError: `init_value` is not finite, or a boundary or scale is negative.

    Example:
      >>> import gradxform as gx
      >>> print(gx.piecewise_constant_schedule(1.0, {10: 0.5, 20: 0.5})([0, 9, 10, 20, 30]))
      [1.   1.   0.5  0.25 0.25]
    """
    knots = _knots("piecewise_constant_schedule", init_value, boundaries_and_scales)
    levels = [init_value, *(value for _, value in knots)]
    return join(list(map(level, levels)), [count for count, _ in knots])


@schedule
def piecewise_interpolate_schedule(
    interpolate_type: str, init_value: Scalar, boundaries_and_scales: Mapping[int, Scalar] | None = None
) -> Schedule:
    """From value to value along lines or half cosines: at each boundary the value has been scaled.

    Args:
      interpolate_type: the shape of the way, ``"linear"``, ``"cosine"``, or
        ``"sqrt"``, one minus the root of the part that is done.
      init_value: the value at count 0.
      boundaries_and_scales: count to the factor between the value there and at
        the boundary before, each at least 0, in any order.

    Returns:
      A function of the count.

    Raises:
      ValueError: `interpolate_type` is unknown, `init_value` is not finite, or
        a boundary or scale is negative.

    Example:
      >>> import gradxform as gx
      >>> print(gx.piecewise_interpolate_schedule("linear", 1.0, {4: 0.5, 8: 0.0})([0, 2, 4, 6, 8]))
      [1.   0.75 0.5  0.25 0.  ]
    """
    who = "piecewise_interpolate_schedule"
    shape = shape_named(who, "interpolate_type", interpolate_type)
    knots = _knots(who, init_value, boundaries_and_scales)
    return path(init_value, (0, init_value), *((count, value, shape) for count, value in knots))


def _knots(
    who: str, value: Scalar, boundaries_and_scales: Mapping[int, Scalar] | None
) -> list[tuple[int, Any]]:
    """The boundaries in order, each with the value from there on."""
    knots = []
    for boundary, scale in sorted((boundaries_and_scales or {}).items()):
        require(who, "a boundary in boundaries_and_scales", boundary, DELAY)
        require(who, f"boundaries_and_scales[{boundary}]", scale, NONNEGATIVE)
        value = value * scale
        knots.append((boundary, value))
    return knots
