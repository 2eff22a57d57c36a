"""The arithmetic that all rules share: which dtype to compute in, and functions safe at zero.

They call `jax.lax` where every optimizer passes: each operation of `jax.numpy` is a function to
itself, traced anew for every shape, which takes four times as long.
"""

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = [
    "Decay",
    "Scalar",
    "abs_squared",
    "bias_of",
    "compute_dtype",
    "copy_of",
    "debias",
    "ema_of",
    "next_count",
    "safe_cbrt",
    "safe_divide",
    "safe_sqrt",
    "slot_like",
    "sum_of_squares",
    "times",
    "total_of",
    "totals_of",
]

Scalar: TypeAlias = float | jax.Array


class Decay:
    """The decay of a moving average, and what `debias` divides the average of this step by.

    In arithmetic it is its value; functions of `jax.numpy` take its `value`.

    Args:
      value: the decay of this step.
      bias: 1 less the product of the decays of all steps so far, this one included.
      t: the number of this step.
    """

    def __init__(self, value: Any, bias: Any, t: Any) -> None:
        self.value, self.bias, self.t = value, bias, t

    def bias_after(self, t: Any) -> Any:
        """The bias after `t` steps, should the decay stay as it is."""
        if t is self.t:
            return self.bias
        if isinstance(self.value, float | int):
            return bias_of(self.value, t)
        return 1 - (1 - self.bias) * self.value ** (t - self.t)

    def __jax_array__(self) -> Any:
        return self.value

    def __float__(self) -> float:
        return float(self.value)

    def __mul__(self, other: Any) -> Any:
        return self.value * other

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Any:
        return self.value + other

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self.value - other

    def __rsub__(self, other: Any) -> Any:
        return other - self.value

    def __truediv__(self, other: Any) -> Any:
        return self.value / other

    def __rtruediv__(self, other: Any) -> Any:
        return other / self.value

    def __pow__(self, power: Any) -> Any:
        return self.value**power


def compute_dtype(*dtypes: Any) -> Any:
    """The dtype to compute in: what the inputs promote to, and at least float32."""
    return jnp.promote_types(jnp.result_type(*dtypes), jnp.float32)


def real_dtype(dtype: Any) -> Any:
    """The dtype of the real part."""
    return jnp.finfo(dtype).dtype


def next_count(count: jax.Array) -> jax.Array:
    """One more, and at the largest integer no more."""
    below = lax.lt(count, np.asarray(np.iinfo(count.dtype).max, count.dtype))
    return lax.add(count, lax.convert_element_type(below, count.dtype))


def slot_like(param: Any, fill: Scalar = 0.0, *, dtype: Any = None, real: bool = False) -> jax.Array:
    """A slot of the parameter's shape and sharding.

    Args:
      param: the parameter, or its shape and dtype.
      fill: the value of every element.
      dtype: the dtype to keep the slot in; by default the parameter's, and
        float32 for those below it.
      real: whether the slot holds real numbers even where the parameter is
        complex, as sums of squares do.

    Returns:
      The array.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.slot_like(jnp.ones(2, jnp.bfloat16)).dtype
      dtype('float32')
    """
    if dtype is None:
        dtype = compute_dtype(jnp.result_type(param))
        dtype = real_dtype(dtype) if real else dtype
    if not hasattr(param, "dtype"):
        return jnp.full(jnp.shape(param), fill, dtype)
    return jnp.full_like(param, fill, dtype=dtype)


def copy_of(param: Any, dtype: Any = None) -> jax.Array:
    """A slot that starts as the parameter itself, in a buffer of its own.

    Args:
      param: the parameter.
      dtype: the dtype to keep it in; by default the parameter's, and float32 for those below it.

    Returns:
      The array.
    """
    dtype = compute_dtype(jnp.result_type(param)) if dtype is None else dtype
    if isinstance(param, jax.ShapeDtypeStruct):
        return slot_like(param, dtype=dtype)
    if jnp.iscomplexobj(param):
        dtype = jnp.promote_types(dtype, jnp.complex64)
    return jnp.array(param, dtype)


def abs_squared(x: jax.Array) -> jax.Array:
    """:math:`|x|^2`, real for complex `x`, and with a gradient of 0 at 0.

    Args:
      x: an array of any shape.

    Returns:
      An array like the real part of `x`.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.abs_squared(jnp.asarray(3 + 4j)).item()
      25.0
    """
    return (x * x.conj()).real if jnp.iscomplexobj(x) else lax.square(x)


def sum_of_squares(x: jax.Array) -> jax.Array:
    r""":math:`\sum |x|^2` over the whole array."""
    return total_of(abs_squared(x))


def total_of(x: jax.Array) -> jax.Array:
    """The sum of all numbers of an array."""
    total: jax.Array = lax.reduce(x, np.zeros((), x.dtype), lax.add, range(x.ndim))
    return total


def totals_of(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The sum of all numbers of each of several arrays of one shape and dtype, in one pass over them."""
    zeros = (np.zeros((), arrays[0].dtype),) * len(arrays)

    def plus(left: Any, right: Any) -> Any:
        return tuple(map(lax.add, left, right))

    return tuple(lax.reduce(arrays, zeros, plus, range(arrays[0].ndim)))


@jax.custom_jvp
def safe_sqrt(x: jax.Array) -> jax.Array:
    r""":math:`\sqrt{x}` whose derivative at 0 is 0 instead of infinity.

    A gradient through an optimizer's update (a meta-gradient) stays finite
    where all gradients were zero.

    Args:
      x: an array of any shape, nowhere negative.

    Returns:
      An array like `x`.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> jax.grad(gx.safe_sqrt)(0.0).item()
      0.0
    """
    return lax.sqrt(x)


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals: Any, tangents: Any) -> Any:
    root = safe_sqrt(primals[0])
    return root, jnp.where(root == 0, 0, safe_divide(tangents[0], 2 * root))


@jax.custom_jvp
def safe_cbrt(x: jax.Array) -> jax.Array:
    r""":math:`\sqrt[3]{x}` whose derivative at 0 is 0 instead of infinity."""
    return lax.cbrt(x)


@safe_cbrt.defjvp
def _safe_cbrt_jvp(primals: Any, tangents: Any) -> Any:
    root = safe_cbrt(primals[0])
    return root, jnp.where(root == 0, 0, safe_divide(tangents[0], 3 * root * root))


def safe_divide(numerator: jax.Array, denominator: jax.Array, eps: Scalar = 0.0) -> jax.Array:
    """The quotient, and the numerator itself where the denominator is 0.

    For a coordinate that no gradient has touched both are 0, and so is the update.

    Args:
      numerator, denominator: arrays that broadcast.
      eps: what the denominator has been kept above 0 by. Where that is a Python
        number, nothing has to be compared, which is a twentieth of Adam's step.

    Returns:
      Their quotient.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.safe_divide(jnp.asarray([6.0, 0.0]), jnp.asarray([3.0, 0.0])).tolist()
      [2.0, 0.0]
    """
    if isinstance(eps, float | int) and eps >= np.finfo(denominator.dtype).tiny:
        return numerator / denominator
    untouched = lax.eq(denominator, np.zeros((), denominator.dtype))
    return numerator / lax.add(denominator, untouched.astype(denominator.dtype))


def times(factor: Scalar, x: jax.Array) -> jax.Array:
    """The product; with a Python number one operation to trace."""
    return lax.mul(x, np.asarray(factor, x.dtype)) if isinstance(factor, float | int) else factor * x


def ema_of(average: jax.Array, value: jax.Array, decay: Scalar) -> jax.Array:
    r"""One step of an exponential moving average: :math:`\beta a + (1 - \beta) x`.

    Args:
      average: :math:`a`, the average so far.
      value: :math:`x`, of the same shape.
      decay: :math:`\beta`.

    Returns:
      The next average.

    Example:
      >>> import gradxform as gx
      >>> gx.ema_of(4.0, 8.0, 0.75)
      5.0
    """
    return decay * average + (1 - decay) * value


def debias(average: jax.Array, decay: Scalar, t: Scalar) -> jax.Array:
    r"""The moving average without its bias to zero: :math:`a / (1 - \beta^t)`.

    Args:
      average: :math:`a`, which started at 0.
      decay: :math:`\beta`; the correction of a Python number is exact to the last
        digit, and a `Decay` has its own.
      t: :math:`t`, how many values the average has seen, at least 1.

    Returns:
      An array like `average`.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.debias(jnp.asarray(0.75), 0.5, 2).item()
      1.0
    """
    return average / (decay.bias_after(t) if isinstance(decay, Decay) else bias_of(decay, t))


def bias_of(decay: Scalar, t: Scalar) -> jax.Array:
    r"""What a moving average of so many ones is: :math:`1 - \beta^t`."""
    if isinstance(decay, float | int):
        # 1 - 0.999**t loses three digits in float32; the logarithm of the Python number does not.
        return -jnp.expm1(t * (math.log(decay) if decay else -math.inf))
    return 1 - decay**t
