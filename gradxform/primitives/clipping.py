"""Rules that bound the gradient, and functions that bound the gradient of each example."""

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.arguments import check_number
from gradxform.arithmetic import (
    Scalar,
    abs_squared,
    compute_dtype,
    real_dtype,
    safe_divide,
    safe_sqrt,
    sum_of_squares,
)
from gradxform.hyperparams import Hyperparam, nonnegative, positive
from gradxform.rule import Lift, Rule, Slots, Step, lift, squared_norm
from gradxform.transformation import Updates
from gradxform.trees import PyTree, flatten, paths

Axis: TypeAlias = int | tuple[int, ...] | None

__all__ = [
    "adaptive_grad_clip",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "per_example_global_norm_clip",
    "per_example_layer_norm_clip",
    "unitwise_clip",
    "unitwise_norm",
]


def clip(max_delta: Hyperparam) -> Lift:
    r"""Bound every element: :math:`u = \max(-\delta, \min(\delta, g))`.

    Args:
      max_delta: :math:`\delta`, at least 0. Real and imaginary parts of a
        complex gradient are bounded each by itself.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: `max_delta` is negative.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.clip(1.0)
      >>> tx.update([-3.0], tx.init([0.0]))[0][0].item()
      -1.0
    """

    def bounded(x: Any, step: Step) -> Any:
        return jnp.clip(x, -step.max_delta, step.max_delta)

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        if jnp.iscomplexobj(grad):
            return bounded(grad.real, step) + 1j * bounded(grad.imag, step), slots
        return bounded(grad, step), slots

    equation = "u = max(−max_delta, min(max_delta, g))"
    return lift(Rule("clip", update, hyperparams={"max_delta": nonnegative(max_delta)}, equation=equation))


def clip_by_block_rms(threshold: Hyperparam) -> Lift:
    r"""Bound the root mean square of every array: :math:`u = g \min(1, c / \mathrm{rms}(g))`.

    Args:
      threshold: :math:`c`, above 0.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: `threshold` is not above 0.

    References:
      Shazeer and Stern, `Adafactor: adaptive learning rates with sublinear
      memory cost <https://arxiv.org/abs/1804.04235>`_, 2018, section 6.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.clip_by_block_rms(1.0)
      >>> grad = jnp.asarray([2.0, -2.0])
      >>> tx.update(grad, tx.init(grad))[0].tolist()
      [1.0, -1.0]
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        rms = safe_sqrt(sum_of_squares(grad) / max(grad.size, 1))
        return _shorten(grad, rms, step.threshold), slots

    return lift(
        Rule(
            "clip_by_block_rms",
            update,
            hyperparams={"threshold": positive(threshold)},
            equation="u = g · min(1, threshold / rms(g))",
            scope="array",
        )
    )


def clip_by_global_norm(max_norm: Hyperparam) -> Lift:
    r"""Shorten the whole gradient to a norm: :math:`u = g \min(1, c / \lVert g \rVert)`.

    The norm is taken over all leaves together.

    Args:
      max_norm: :math:`c`, above 0.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: `max_norm` is not above 0.

    References:
      Pascanu, Mikolov and Bengio, `On the difficulty of training recurrent
      neural networks <https://arxiv.org/abs/1211.5063>`_, 2013.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.clip_by_global_norm(1.0)
      >>> [round(u.item(), 6) for u in tx.update([3.0, 4.0], tx.init([0.0, 0.0]))[0]]
      [0.6, 0.8]
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return _shorten(grad, safe_sqrt(step.total), step.max_norm), slots

    return lift(
        Rule(
            "clip_by_global_norm",
            update,
            hyperparams={"max_norm": positive(max_norm)},
            equation="u = g · min(1, max_norm / ‖g‖)",
            total=squared_norm,
        )
    )


def _shorten(grad: Any, size: Any, bound: Any) -> Any:
    """The gradient, or what is left of it within the bound, where `size` is how large it is."""
    return jnp.where(size < bound, 1, safe_divide(bound, size)) * grad


def adaptive_grad_clip(clipping: Hyperparam, eps: Hyperparam = 1e-3, axis: Axis = None) -> Lift:
    r"""Bound the gradient of every unit by the unit's own size.

    .. math::
      u_i = g_i \min\left(1,
        \lambda \frac{\max(\lVert w_i \rVert, \epsilon)}{\lVert g_i \rVert}\right)

    A unit :math:`i` is what `unitwise_norm` takes one norm of: an output of a
    linear or convolutional layer, or a whole vector.

    Args:
      clipping: :math:`\lambda`, the largest ratio of the norms, at least 0.
      eps: :math:`\epsilon`, the least norm a unit is taken to have, at least
        0, so that units that start at 0 can move.
      axis: the axes that a unit extends over; by default they follow from the
        number of axes.

    Returns:
      A `GradientTransformation` without slots; its update needs the parameters.

    Raises:
      ValueError: a hyperparameter is negative, or a parameter has more than
        five axes and `axis` is not given.

    References:
      Brock et al., `High-performance large-scale image recognition without
      normalization <https://arxiv.org/abs/2102.06171>`_, 2021.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> params, grads = jnp.asarray([3.0, 4.0]), jnp.asarray([6.0, 8.0])
      >>> tx = gx.adaptive_grad_clip(0.5)
      >>> tx.update(grads, tx.init(params), params)[0].tolist()
      [1.5, 2.0]
    """

    def init(param: Any) -> Slots:
        _unit_axes(np.shape(param), axis, "adaptive_grad_clip")  # complains before the first step
        return ()

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        axes = _unit_axes(grad.shape, axis, "adaptive_grad_clip")
        max_norm = step.clipping * jnp.maximum(_unit_norms(param, axes), step.eps)
        return _shorten_units(_unit_norms(grad, axes), max_norm, grad), slots

    return lift(
        Rule(
            "adaptive_grad_clip",
            update,
            init,
            {"clipping": nonnegative(clipping), "eps": nonnegative(eps)},
            "u = g · min(1, clipping · max(‖w‖, eps) / ‖g‖) unit by unit",
            scope="array",
            needs_params=True,
        )
    )


def unitwise_norm(x: Any, axis: Axis = None) -> jax.Array:
    r"""The norm of the unit that each element belongs to: :math:`\lVert x_i \rVert_2`.

    Args:
      x: an array. Of vectors and scalars the whole is one unit, also with axes
        of length 1 beside; of two or three axes, a unit extends over the first
        (linear layers); of four or five, over all but the last (convolutions).
      axis: the axes that a unit extends over, if others.

    Returns:
      The norms, real, in the shape of `x`.

    Raises:
      ValueError: `x` has more than five axes and `axis` is not given.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.unitwise_norm(jnp.asarray([[3.0, 0.0], [4.0, 2.0]])).tolist()
      [[5.0, 2.0], [5.0, 2.0]]
    """
    x = jnp.asarray(x)
    wide = x.astype(compute_dtype(x.dtype))
    norms = _unit_norms(wide, _unit_axes(x.shape, axis, "unitwise_norm"))
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.inexact) else wide.dtype
    return jnp.broadcast_to(norms, x.shape).astype(real_dtype(dtype))


def unitwise_clip(g_norm: Any, max_norm: Any, grad: Any, div_eps: Scalar = 1e-6) -> jax.Array:
    r"""Shorten every unit that is too long: :math:`u_i = g_i \min(1, c_i / \lVert g_i \rVert)`.

    Args:
      g_norm: :math:`\lVert g_i \rVert`, in the shape of `grad`; `unitwise_norm` gives it.
      max_norm: :math:`c_i`, in the shape of `grad`.
      grad: the gradient.
      div_eps: the least norm to divide by.

    Returns:
      The shortened gradient.

    Raises:
      ValueError: the shapes differ.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> grad = jnp.asarray([3.0, 4.0])
      >>> gx.unitwise_clip(gx.unitwise_norm(grad), jnp.full(2, 10.0), grad).tolist()
      [3.0, 4.0]
    """
    for name, norms in (("g_norm", g_norm), ("max_norm", max_norm)):
        if np.shape(norms) != np.shape(grad):
            raise ValueError(
                f"unitwise_clip: {name} has shape {np.shape(norms)}, grad has {np.shape(grad)}; "
                "broadcast it to the shape of grad, as unitwise_norm does"
            )
    g_norm, max_norm, grad = map(jnp.asarray, (g_norm, max_norm, grad))
    return _shorten_units(g_norm, max_norm, grad, div_eps)


def _unit_axes(shape: tuple[int, ...], axis: Axis, who: str) -> Axis:
    """The axes that a unit of an array of this shape extends over."""
    if axis is not None:
        return axis
    if sum(length != 1 for length in shape) <= 1:
        return tuple(range(len(shape)))
    if len(shape) > 5:
        raise ValueError(
            f"{who}: what is a unit of an array of shape {shape}? Up to five axes have a convention; "
            "pass axis=..., the axes that a unit extends over"
        )
    return 0 if len(shape) <= 3 else tuple(range(len(shape) - 1))


def _unit_norms(x: Any, axes: Axis) -> Any:
    """One norm for each unit, with axes of length 1 in the place of the others."""
    return safe_sqrt(jnp.sum(abs_squared(x), axis=axes, keepdims=True))


def _shorten_units(g_norm: Any, max_norm: Any, grad: Any, div_eps: Scalar = 1e-6) -> jax.Array:
    return jnp.where(g_norm < max_norm, grad, grad * (max_norm / jnp.maximum(g_norm, div_eps)))


def per_example_global_norm_clip(grads: Updates, l2_norm_clip: Scalar) -> tuple[Updates, jax.Array]:
    r"""Shorten each example's gradient to a norm, and add them up.

    .. math:: u = \sum_b g_b \min(1, C / \lVert g_b \rVert)

    The norm of an example's gradient is taken over all leaves together.

    Args:
      grads: a pytree of gradients, each with the examples along its first axis.
      l2_norm_clip: :math:`C`, at least 0.

    Returns:
      The sums, shaped as `grads` without their first axis, and how many
      examples were shortened.

    Raises:
      ValueError: a leaf has no axis of examples or one of another length, or
        `l2_norm_clip` is negative; the message names it.

    References:
      Abadi et al., `Deep learning with differential privacy
      <https://arxiv.org/abs/1607.00133>`_, 2016.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> total, shortened = gx.per_example_global_norm_clip([jnp.asarray([[3.0, 4.0], [0.0, 1.0]])], 2.5)
      >>> total[0].tolist(), shortened.item()
      ([1.5, 3.0], 1)
    """
    check_number("per_example_global_norm_clip", "l2_norm_clip", nonnegative(l2_norm_clip))
    leaves, treedef = flatten(grads)
    example_count(grads, "per_example_global_norm_clip")
    sums, shortened = sum_of_shortened(leaves, l2_norm_clip)
    return treedef.unflatten(map(_as_given, sums, leaves)), shortened


def per_example_layer_norm_clip(
    grads: Updates, global_l2_norm_clip: Scalar, uniform: bool = True
) -> tuple[Updates, PyTree]:
    r"""Shorten each example's gradient leaf by leaf, and add them up.

    .. math:: u_i = \sum_b g_{b,i} \min(1, C_i / \lVert g_{b,i} \rVert)

    The bounds of the :math:`K` leaves make up the global one,
    :math:`\sum_i C_i^2 = C^2`: either all are :math:`C / \sqrt K`, or leaf
    :math:`i` with :math:`D_i` of the :math:`D` parameters has
    :math:`C \sqrt{D_i / D}`.

    Args:
      grads: a pytree of gradients, each with the examples along its first axis.
      global_l2_norm_clip: :math:`C`, at least 0.
      uniform: whether the bounds are equal; otherwise they go by size.

    Returns:
      The sums, shaped as `grads` without their first axis, and a tree of how
      many examples were shortened.

    Raises:
      ValueError: a leaf has no axis of examples or one of another length, or
        `global_l2_norm_clip` is negative; the message names it.

    References:
      McMahan et al., `Learning differentially private recurrent language
      models <https://arxiv.org/abs/1710.06963>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> total, shortened = gx.per_example_layer_norm_clip([jnp.asarray([[3.0, 4.0], [0.0, 1.0]])], 2.5)
      >>> total[0].tolist(), shortened[0].item()
      ([1.5, 3.0], 1)
    """
    check_number("per_example_layer_norm_clip", "global_l2_norm_clip", nonnegative(global_l2_norm_clip))
    leaves, treedef = flatten(grads)
    example_count(grads, "per_example_layer_norm_clip")
    sizes = [0 if leaf is None else 1 if uniform else math.prod(np.shape(leaf)[1:]) for leaf in leaves]
    sums, counts = list(leaves), list(leaves)
    for i, leaf in enumerate(leaves):
        if leaf is not None:
            # Where no leaf has an element, none needs a share of the bound.
            share = math.sqrt(sizes[i] / max(sum(sizes), 1))
            [total], counts[i] = sum_of_shortened([leaf], share * global_l2_norm_clip)
            sums[i] = _as_given(total, leaf)
    return treedef.unflatten(sums), treedef.unflatten(counts)


def example_count(grads: Updates, who: str) -> int:
    """How many examples the gradients are of; 0 if there are no gradients.

    Raises:
      ValueError: a leaf has no axis of examples, or not as many as the others.
    """
    leaves, _ = flatten(grads)
    shapes = {i: np.shape(leaf) for i, leaf in enumerate(leaves) if leaf is not None}
    first = next(iter(shapes), 0)
    for i, shape in shapes.items():
        if not shape or shape[0] != shapes[first][0]:
            others = f", {paths(grads, 'grads')[first]} has {shapes[first]}" if i != first else ""
            raise ValueError(
                f"{who}: {paths(grads, 'grads')[i]} has shape {shape}{others}; the first axis must be that "
                "of the examples. Take a gradient for each example: "
                "jax.vmap(jax.grad(loss), in_axes=(None, 0))(params, batch)."
            )
    return shapes[first][0] if shapes else 0


def sum_of_shortened(leaves: list[Any], bound: Scalar) -> tuple[list[Any], jax.Array]:
    """The sum over the examples of their gradients, each shortened to the bound; and how many were.

    The sums are float32 or wider. Where a leaf is None, so is its sum.
    """
    squares: Any = np.zeros((), np.float32)
    for leaf in leaves:
        if leaf is not None:
            squares = _add_squares_of_examples(squares, leaf)
    factors, shortened = _factors(squares, bound)
    return [None if leaf is None else _weighted_sum(factors, leaf) for leaf in leaves], shortened


@jax.jit
def _add_squares_of_examples(total: Any, leaf: Any) -> Any:
    squares = abs_squared(jnp.asarray(leaf, compute_dtype(leaf.dtype)))
    return total + jnp.sum(squares, axis=tuple(range(1, leaf.ndim)))


@jax.jit
def _factors(squares: Any, bound: Any) -> tuple[Any, Any]:
    norms = safe_sqrt(squares)
    # An example whose gradient is 0 is within every bound, even 0.
    factors = jnp.where(norms <= bound, 1, safe_divide(bound, norms))
    return factors, jnp.sum(factors < 1, dtype=jnp.int32)


@jax.jit
def _weighted_sum(factors: Any, leaf: Any) -> Any:
    dtype = compute_dtype(leaf.dtype)
    # Less than full precision would let the sum exceed the bound.
    return jnp.tensordot(factors.astype(real_dtype(dtype)), leaf.astype(dtype), axes=1, precision="highest")


def _as_given(total: Any, leaf: Any) -> Any:
    """The sum in the dtype of the gradients, unless those are integers."""
    return total.astype(leaf.dtype) if leaf is not None and jnp.issubdtype(leaf.dtype, jnp.inexact) else total
