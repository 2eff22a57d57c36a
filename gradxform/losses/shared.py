"""What the losses share: how arguments are read and refused, and sums that stay finite.

Every loss reads its arguments here, so that one rule holds for all of them:
numbers below float32 are computed in float32, and shapes that do not belong
together are refused instead of stretched to a third shape.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.arithmetic import compute_dtype, safe_sqrt
from gradxform.hyperparams import Checked, Scalar

Axis: TypeAlias = int | tuple[int, ...] | None
"""One axis, several, or all of them (``None``)."""


def floats(who: str, /, **arguments: Any) -> list[jax.Array]:
    """The arguments as arrays of their common dtype, float32 at least.

    The first must hold floating-point numbers, which catches predictions and
    labels passed the wrong way round; the others may hold integers or booleans.

    Raises:
      TypeError: an argument is a list, holds complex numbers, or is the first
        and an array of integers.
    """
    arrays = []
    for place, (name, value) in enumerate(arguments.items()):
        array = as_array(who, name, value)
        # A Python number has no dtype to get wrong.
        if place == 0 and not isinstance(value, int) and not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{who}: {name} must be floating-point numbers, got dtype {array.dtype}")
        arrays.append(array)
    dtype = compute_dtype(*arrays)
    return [array.astype(dtype) for array in arrays]


def as_array(who: str, name: str, value: Any) -> jax.Array:
    """The argument as an array of real numbers.

    Raises:
      TypeError: it is a container, or complex.
    """
    if isinstance(value, list | tuple | dict | str) or value is None:
        kind = type(value).__name__
        raise TypeError(f"{who}: {name} must be an array or a number, got {kind}; wrap it in jnp.asarray")
    array = jnp.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(
            f"{who}: {name} must be real, got dtype {array.dtype}; pass its real and imaginary parts"
        )
    return array


def as_labels(who: str, labels: Any) -> jax.Array:
    """The labels as an array of integers.

    Raises:
      TypeError: they are of another dtype.
    """
    array = as_array(who, "labels", labels)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{who}: labels must be integers, the numbers of classes, got dtype {array.dtype}")
    return array


def common_shape(who: str, arrays: Mapping[str, jax.Array], *, equal: bool = False) -> tuple[int, ...]:
    """The shape that the arguments broadcast to, which one of them must have already.

    That forbids the accident of a column against a row: ``(n, 1)`` and ``(n,)``
    would make an ``(n, n)`` table.

    Args:
      who: the loss that asks.
      arrays: the arguments by name.
      equal: whether all shapes must be the same to begin with.

    Raises:
      ValueError: they do not; the message names both shapes.
    """
    shapes = [array.shape for array in arrays.values()]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        shape = None
    if shape not in shapes or (equal and len(set(shapes)) > 1):
        found = " and ".join(f"{name} of shape {array.shape}" for name, array in arrays.items())
        rule = (
            "have the same shape" if equal else "have the same shape, or one that broadcasts to the other's"
        )
        raise ValueError(f"{who}: {found} do not belong together; they must {rule}")
    return shape


def axes_of(who: str, axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes, counted from 0.

    Raises:
      ValueError: one is out of range, or named twice.
    """
    if axis is None:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, tuple) else (axis,)
    if not all(-ndim <= one < ndim for one in axes) or len({one % ndim for one in axes}) < len(axes):
        raise ValueError(f"{who}: axis must name different axes of an array with {ndim}, got {axis!r}")
    return tuple(one % ndim for one in axes)


def mask_of(who: str, where: Any, shape: tuple[int, ...]) -> jax.Array | None:
    """The mask in full, or ``None`` where there is none.

    Raises:
      TypeError: it is not boolean.
      ValueError: it does not broadcast to `shape`.
    """
    if where is None:
        return None
    mask = as_array(who, "where", where)
    if mask.dtype != jnp.bool_:
        raise TypeError(f"{who}: where must be boolean, got dtype {mask.dtype}; pass where != 0")
    try:
        return jnp.broadcast_to(mask, shape)
    except ValueError as error:
        raise ValueError(
            f"{who}: where of shape {mask.shape} does not broadcast to the shape {shape} of what it masks"
        ) from error


def along(
    who: str, axis: Axis, where: Any, /, **arguments: Any
) -> tuple[list[jax.Array], tuple[int, ...], jax.Array | None]:
    """Read the arguments of a loss that sums over `axis`.

    Returns:
      The arguments in one shape, with zeros where they are masked out, the axes
      counted from 0, and the mask.

    Raises:
      TypeError, ValueError: naming the argument. Along the axes themselves
        nothing is broadcast.
    """
    arrays = dict(zip(arguments, floats(who, **arguments), strict=True))
    shape = common_shape(who, arrays)
    axes = axes_of(who, axis, len(shape))
    for array in arrays.values():
        missing = len(shape) - array.ndim
        if any(one < missing or array.shape[one - missing] != shape[one] for one in axes):
            found = " and ".join(f"{name} of shape {other.shape}" for name, other in arrays.items())
            raise ValueError(f"{who}: {found} differ along axis {axis!r}, where they must have the same size")
    mask = mask_of(who, where, shape)
    full = [jnp.broadcast_to(array, shape) for array in arrays.values()]
    if mask is not None:
        full = [jnp.where(mask, array, 0) for array in full]
    return full, axes, mask


def check(who: str, **bounds: Checked) -> None:
    """Refuse a hyperparameter outside its bounds; arrays pass unseen.

    Raises:
      ValueError: naming the loss, the hyperparameter and the value.
    """
    for name, bound in bounds.items():
        if isinstance(bound.value, float | int | np.generic) and not bound.contains(bound.value):
            raise ValueError(f"{who}: {name} must be {bound.allowed}, got {bound.value}")


def check_values(
    who: str, name: str, values: Any, valid: Callable[[Any], Any], allowed: str, *, unless: Any = False
) -> None:
    """Refuse values that are known and not allowed.

    Values that a transformation traces (inside `jax.jit`, say) or that lie on
    other hosts are not known and pass.

    Args:
      who: the loss that asks.
      name: what to call the values.
      values: an array.
      valid: the elements that are allowed, as a boolean array.
      allowed: the same in words.
      unless: elements that may have any value.

    Raises:
      ValueError: naming the first element and its value.
    """
    if not (_known(values) and _known(unless)):
        return
    # NumPy, because jnp would trace even a known array inside of jit.
    host = np.asarray(values)
    wrong = np.argwhere(~(valid(host) | np.asarray(unless)))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        place = f"{name}[{', '.join(map(str, index))}]" if index else name
        raise ValueError(f"{who}: {place} is {host[index]}, but {name} must be {allowed}")


def _known(values: Any) -> bool:
    return not isinstance(values, jax.core.Tracer) and getattr(values, "is_fully_addressable", True)


def check_integers(who: str, name: str, values: Any, allowed: tuple[int, ...]) -> None:
    """Refuse known integers and booleans other than those allowed; fractions pass.

    Raises:
      ValueError: naming the first element and its value.
    """
    array = as_array(who, name, values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        check_values(who, name, values, lambda x: np.isin(x, allowed), " or ".join(map(str, allowed)))


def pick_labels(who: str, labels: Any, shape: tuple[int, ...], classes: int) -> jax.Array:
    """Integer labels below `classes` and of the shape given.

    Raises:
      TypeError: they are not integers.
      ValueError: they have another shape, or are known and out of range.
    """
    array = as_labels(who, labels)
    if array.shape != shape:
        raise ValueError(
            f"{who}: labels of shape {array.shape} do not belong to scores without their class axis, "
            f"of shape {shape}; the shapes must be the same"
        )
    check_values(
        who,
        "labels",
        labels,
        lambda x: (x >= 0) & (x < classes),
        f"from 0 to {classes - 1}; give padding any class, and multiply its loss by 0",
    )
    return array


def pick(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """The score of each label along the last axis; NaN for a label that is out of range."""
    return jnp.take_along_axis(scores, labels[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]


def times(weight: jax.Array, value: jax.Array) -> jax.Array:
    """The product, and 0 where the weight is 0 and the value infinite."""
    return weight * jnp.where((weight == 0) & jnp.isinf(value), 0, value)


def power(base: jax.Array, exponent: Scalar) -> jax.Array:
    """`base`, at least 0, to a power, with gradient 0 where the base is 0."""
    positive = base > 0
    at_zero = jnp.where(jnp.asarray(exponent) == 0, 1, 0).astype(base.dtype)
    return jnp.where(positive, jnp.where(positive, base, 1) ** exponent, at_zero)


def log(x: jax.Array) -> jax.Array:
    """The logarithm, and 0 with gradient 0 where `x` is 0."""
    return jnp.log(jnp.where(x == 0, 1, x))


def _shift(logits: jax.Array, axis: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """The largest logit, or 0 if all are minus infinity, and the sum of exponentials beyond it."""
    top = jax.lax.stop_gradient(jnp.max(logits, axis=tuple(axis), keepdims=True, initial=-jnp.inf))
    top = jnp.where(jnp.isneginf(top), 0, top)
    return top, jnp.sum(jnp.exp(logits - top), axis=tuple(axis), keepdims=True)


def log_softmax(logits: jax.Array, axis: Sequence[int], where: jax.Array | None = None) -> jax.Array:
    r""":math:`z_i - \log \sum_j e^{z_j}` over the entries that the mask keeps, and 0 at the others.

    Finite gradients also where nothing is kept or every logit is minus infinity.
    """
    kept = logits if where is None else jnp.where(where, logits, -jnp.inf)
    top, total = _shift(kept, axis)
    result = kept - top - log(total)
    return result if where is None else jnp.where(where, result, 0)


def log_sum_exp(logits: jax.Array, axis: int, where: jax.Array) -> jax.Array:
    """The logarithm of the sum over the entries kept, minus infinity where there are none."""
    top, total = _shift(jnp.where(where, logits, -jnp.inf), (axis,))
    return jnp.squeeze(jnp.where(total == 0, -jnp.inf, top + log(total)), axis)


def unit_vectors(x: jax.Array, axis: Sequence[int], epsilon: Scalar = 0.0) -> jax.Array:
    r""":math:`x / \max(\lVert x \rVert, \sqrt\epsilon)`, and 0 with gradient 0 for 0 / 0.

    The vector is brought to size 1 before it is squared, so nothing overflows
    or underflows on the way.
    """
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=tuple(axis), keepdims=True, initial=0))
    scale = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    x = x / scale
    norm = safe_sqrt(jnp.sum(x * x, axis=tuple(axis), keepdims=True))
    length = jnp.maximum(norm, jnp.sqrt(jnp.asarray(epsilon, x.dtype)) / scale)
    return jnp.where(length > 0, x / jnp.where(length > 0, length, 1), 0)
