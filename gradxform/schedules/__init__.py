"""Schedules: functions from the step count, which starts at 0, to a hyperparameter's value."""

from gradxform.schedules.curve import Curve
from gradxform.schedules.cycles import (
    cosine_onecycle_schedule,
    cyclic_schedule,
    linear_onecycle_schedule,
    sgdr_schedule,
)
from gradxform.schedules.decay import (
    constant_schedule,
    cosine_decay_schedule,
    exponential_decay,
    linear_schedule,
    polynomial_schedule,
)
from gradxform.schedules.piecewise import (
    join_schedules,
    piecewise_constant_schedule,
    piecewise_interpolate_schedule,
)
from gradxform.schedules.plot import plot_schedule
from gradxform.schedules.warmup import (
    inverse_sqrt_schedule,
    linear_to_zero_schedule,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
    warmup_stable_decay_schedule,
)

__all__ = [
    "Curve",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "cyclic_schedule",
    "exponential_decay",
    "inverse_sqrt_schedule",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "linear_to_zero_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "plot_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_stable_decay_schedule",
]
