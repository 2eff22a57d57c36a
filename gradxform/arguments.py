"""What several factories ask of their arguments that are no hyperparameters."""

import numbers
from typing import Any

import jax
import numpy as np

__all__ = ["as_key", "whole"]


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
