"""What every schedule is made of: a path through given values, and the checks of what it is given."""

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradxform.hyperparams import Scalar, Schedule, show

__all__ = ["Curve"]

LAST = 2**31 - 1
"""The count at which every transformation's count stays."""

Shape = Callable[[jax.Array], jax.Array]
"""How much of the start is in the value, from 1 down to 0, by how much of the way is left, from 1 to 0."""

MakerArgs = ParamSpec("MakerArgs")


class Curve:
    """A schedule that composes, scales and says what it is; every schedule of the library is one.

    `a.then(b, at=n)` is `a` up to the count `n` and `b`, counting from there,
    afterwards. `a * x` is `a` times a number, or times another schedule at the
    same count.

    It takes any count: a Python or NumPy integer, an array of counts, a traced
    one. A negative count is taken as 0. The value has the count's shape and at
    least JAX's default float dtype.

    Args:
      function: the value at a count, which comes as an array, at least 0. Any
        plain function of the count will do.
      name: what to show; by default the function's name.

    Example:
      >>> import gradxform as gx
      >>> gx.linear_schedule(0.0, 1.0, 4).then(gx.constant_schedule(0.5), at=2) * 10
      linear_schedule(0, 1, 4).then(constant_schedule(0.5), at=2) * 10
      >>> print((gx.linear_schedule(0.0, 1.0, 4) * 10)([0, 1, 4, 100]))
      [ 0.   2.5 10.  10. ]
    """

    __array_ufunc__ = None  # so that NumPy leaves `number * curve` to the curve

    def __init__(self, function: Schedule, name: str | None = None) -> None:
        if not callable(function):
            raise TypeError(f"Curve: function must map a count to a value, got {function!r}")
        self._function = function
        self.__qualname__ = show(function) if name is None else name
        # What `jax.jit` calls its program, whose name becomes that of a file.
        self.__name__ = self.__qualname__.lstrip("(").partition("(")[0]

    def __call__(self, count: Any) -> jax.Array:
        value = self._function(_as_count(count))
        # An explicit dtype makes it strongly typed, whatever the function returns.
        return jnp.asarray(value, jnp.promote_types(jnp.result_type(value), jnp.result_type(float)))

    def then(self, other: Schedule, at: int) -> "Curve":
        """This schedule below the count `at`, from there on another one that starts at its own count 0.

        Args:
          other: the schedule that follows, any function of the count.
          at: the first count of `other`, in steps, at least 0.

        Returns:
          The joined schedule.

        Raises:
          TypeError, ValueError: `other` is no function, or `at` is negative.
        """
        if not callable(other):
            raise TypeError(f"{self}.then: other must be a schedule (count -> value), got {other!r}")
        require(f"{self}.then", "at", at, DELAY)
        first = f"({self})" if " * " in repr(self) else repr(self)
        return Curve(join([self, as_curve(other)], [at]), f"{first}.then({show(other)}, at={show(at)})")

    def __mul__(self, factor: Any) -> "Curve":
        if not (callable(factor) or _is_number(factor)):
            return NotImplemented

        def value(count: jax.Array) -> Any:
            return self(count) * (factor(count) if callable(factor) else factor)

        if not callable(factor):
            require(f"{self}", "the factor", factor, FINITE)
        return Curve(value, f"{self} * {show(factor)}")

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return self.__qualname__


def as_curve(schedule: Schedule) -> Curve:
    """The schedule, safe to be asked for its value at any count."""
    return schedule if isinstance(schedule, Curve) else Curve(schedule)


def _as_count(count: Any) -> jax.Array:
    """The count, at least 0, in int32, or in the default float dtype where it is no integer."""
    if not isinstance(count, jax.Array):
        whole = np.asarray(count).dtype.kind in "biuO"  # O: an integer beyond 64 bits
        count = np.clip(np.asarray(count, float), 0, LAST).astype(np.int32 if whole else float)
    dtype = jnp.result_type(count)
    if jnp.issubdtype(dtype, jnp.floating):
        return jnp.maximum(count, 0).astype(float)
    if jnp.issubdtype(dtype, jnp.integer) and jnp.iinfo(dtype).max > LAST:
        count = jnp.minimum(count, LAST)
    return jnp.maximum(jnp.asarray(count, jnp.int32), 0)


# Shapes: straight, half a cosine, and one minus the root of the way that is done.


def linear(left: jax.Array) -> jax.Array:
    return left


def cosine(left: jax.Array) -> jax.Array:
    # (1 + cos) / 2 without its cancellation near the end.
    return lax.square(lax.sin(jnp.pi / 2 * left))


def sqrt(left: jax.Array) -> jax.Array:
    # 1 - sqrt(1 - left) without its cancellation near the end.
    return left / (1 + jnp.sqrt(jnp.maximum(1 - left, 0)))


def raised(shape: Shape, exponent: Scalar) -> Shape:
    if isinstance(exponent, int | float) and exponent == 1:
        return shape
    return lambda left: shape(left) ** exponent


SHAPES: dict[str, Shape] = {"linear": linear, "cosine": cosine, "sqrt": sqrt}


def shape_named(who: str, name: str, value: str) -> Shape:
    """The shape that an argument names."""
    if value not in SHAPES:
        raise ValueError(f"{who}: {name} must be one of {', '.join(map(repr, SHAPES))}, got {value!r}")
    return SHAPES[value]


def mix(weight: jax.Array, one: Scalar, other: Scalar) -> jax.Array:
    """The weighted mean, which is exactly `one` at weight 1 and `other` at weight 0."""
    return weight * one + (1 - weight) * other


def path(start: Scalar, *knots: tuple[Any, ...]) -> Schedule:
    """From the value `start` at count 0 through the knots, each exactly met, then the last one's value.

    Args:
      start: the value at count 0.
      *knots: ``(count, value)`` or ``(count, value, shape)``, where the shape
        is that of the way to this knot. Counts do not decrease.

    Returns:
      A function of the count; below 0 it is `start`.
    """
    pieces, boundaries = [], [0]
    for count, value, *shape in knots:
        pieces.append(_piece(start, value, count - boundaries[-1], shape[0] if shape else linear))
        boundaries.append(count)
        start = value
    return join(pieces, boundaries[1:-1])


def _piece(start: Scalar, end: Scalar, steps: Any, shape: Shape) -> Schedule:
    """From `start` to `end` in so many steps, then `end`; without steps it is `end` at once."""
    divisor = jnp.maximum(steps, 1) if traced(steps) else max(steps, 1)

    def value(count: jax.Array) -> jax.Array:
        left = jnp.clip(steps - count, 0, steps).astype(float) / divisor
        # Compiled, a division by a constant may be a multiplication that misses 1.
        return mix(jnp.where(count <= 0, steps > 0, shape(left)), start, end)

    return value


def level(height: Scalar) -> Schedule:
    """The same value for ever."""
    return lambda count: jnp.zeros(count.shape) + height


def join(schedules: Sequence[Schedule], boundaries: Sequence[Any]) -> Schedule:
    """One schedule after the other, each counting from the boundary where it begins.

    Each is asked for its value at counts below 0 too, which is not used.
    """

    def value(count: jax.Array) -> Any:
        result = schedules[0](count)
        for begin, schedule in zip(map(reachable, boundaries), schedules[1:], strict=True):
            result = jnp.where(count < begin, result, schedule(count - begin))
        return result

    return value


def reachable(count: Any) -> Any:
    """The count, or the last one there is, which stands for any beyond it."""
    return min(count, LAST) if isinstance(count, int) else count


class Allowed(NamedTuple):
    """The values that an argument may take."""

    words: str
    contains: Callable[[Any], bool]


FINITE = Allowed("a finite number", lambda x: abs(x) < math.inf)
NONNEGATIVE = Allowed("a finite number, at least 0", lambda x: 0 <= x < math.inf)
POSITIVE = Allowed("a finite number above 0", lambda x: 0 < x < math.inf)
FRACTION = Allowed("strictly between 0 and 1", lambda x: 0 < x < 1)
STEPS = Allowed("at least 1 and below 2**31", lambda x: 1 <= x <= LAST)
DELAY = Allowed("at least 0 and below 2**31", lambda x: 0 <= x <= LAST)

# An argument's name says what it may be: the same in every schedule.
ALLOWED: dict[str, Allowed] = {
    **dict.fromkeys(["value", "init_value", "peak_value", "end_value", "alpha"], FINITE),
    **dict.fromkeys(["transition_steps", "decay_steps", "total_steps", "up_steps", "down_steps"], STEPS),
    **dict.fromkeys(["transition_begin", "warmup_steps", "stable_steps"], DELAY),
    **dict.fromkeys(["power", "exponent", "decay_rate", "timescale"], POSITIVE),
    **dict.fromkeys(["div_factor", "final_div_factor"], POSITIVE),
    **dict.fromkeys(["pct_start", "pct_final"], FRACTION),
}


def traced(*values: Any) -> bool:
    """Whether a value is not known yet, so that it cannot be checked."""
    return any(isinstance(value, jax.core.Tracer) for value in values)


def _is_number(value: Any) -> bool:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real or isinstance(value, jax.Array | np.ndarray)


def require(who: str, name: str, value: Any, allowed: Allowed) -> None:
    """Refuse what is no number, or a number that is not allowed.

    Raises:
      TypeError, ValueError: naming the schedule, the argument and the value.
    """
    if not _is_number(value):
        raise TypeError(f"{who}: {name} must be a number, got {value!r}")
    if not traced(value) and not all(map(allowed.contains, np.ravel(value).tolist())):
        raise ValueError(f"{who}: {name} must be {allowed.words}, got {value!r}")


def schedule(maker: Callable[MakerArgs, Schedule]) -> Callable[MakerArgs, Curve]:
    """Make a `Curve` of what the maker returns: its arguments checked by name, its repr the call."""
    signature = inspect.signature(maker)
    who = maker.__name__

    @functools.wraps(maker)
    def make(*args: MakerArgs.args, **kwargs: MakerArgs.kwargs) -> Curve:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(f"{who}: {error}") from None
        for name, value in given.items():
            optional = signature.parameters[name].default is None
            if name in ALLOWED and not (value is None and optional):
                require(who, name, value, ALLOWED[name])
        shown = [*map(show, args), *(f"{name}={show(value)}" for name, value in kwargs.items())]
        return Curve(maker(*args, **kwargs), f"{who}({', '.join(shown)})")

    return make
