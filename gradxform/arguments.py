"""What several factories ask of their arguments that are no hyperparameters."""

import numbers
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from gradxform.hyperparams import Checked, check

__all__ = ["as_key", "check_bounds", "check_number", "whole", "whole_or_array"]


def whole(who: str, *, least: int = 1, **arguments: Any) -> None:
    """Refuse arguments that are no integers, or too small.

    Raises:
      TypeError, ValueError: naming the function, the argument and the value.
    """
    for name, value in arguments.items():
        text = f"{who}: {name} must be an integer of at least {least}, got {value!r}"
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(text)
        if value < least:
            raise ValueError(text)


def as_key(who: str, key: Any) -> Any:
    """A random key, which a number is made into.

    Raises:
      TypeError: it is neither; the message names the function and the value.
    """
    if isinstance(key, numbers.Integral) and not isinstance(key, bool):
        return jax.random.PRNGKey(int(key))
    if not isinstance(key, jax.Array | np.ndarray):
        raise TypeError(f"{who}: key must be jax.random.key(0), or an integer to make one from, got {key!r}")
    return key


def check_number(who: str, name: str, value: Checked) -> None:
    """Raise unless the value is a number within its bounds or an array; what has no state has no schedule."""
    if not isinstance(value.value, numbers.Number | jax.Array | np.ndarray):
        raise TypeError(f"{who}: {name} must be a number or an array, got {value.value!r}")
    check(who, {name: value})


def check_bounds(who: str, arguments: Iterable[tuple[str, Any, Callable[[Any], bool], str]]) -> None:
    """Refuse numbers out of their bounds. Arrays may be traced, and are taken as they are.

    Args:
      who: the function that asks.
      arguments: of each its name, its value, what says whether it fits, and what is allowed.

    Raises:
      ValueError: naming the function, the argument and the value.
    """
    for name, given, fits, allowed in arguments:
        if isinstance(given, int | float) and not fits(given):
            raise ValueError(f"{who}: {name} must be {allowed}, got {given!r}")


def whole_or_array(who: str, *, least: int = 1, **arguments: Any) -> None:
    """Refuse arguments that are no integers, or too small. Arrays are taken as they are.

    Raises:
      TypeError, ValueError: naming the function, the argument and the value.
    """
    known = {name: x for name, x in arguments.items() if not isinstance(x, jax.Array | np.ndarray)}
    whole(who, least=least, **known)
