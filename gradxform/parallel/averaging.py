"""Gradients averaged over devices, for `jax.pmap` and `jax.shard_map`; and a random key for each device.

Under plain `jax.jit` with shardings neither is needed: there a gradient is that of the whole batch already.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import register_dataclass

from gradxform.arithmetic import slot_like
from gradxform.chain import map_rules
from gradxform.rule import Rule, Slots, Step
from gradxform.sparse import RowSparse, on_values
from gradxform.transformation import GradientTransformation, Params, Updates
from gradxform.trees import PyTree, check_inexact, flatten, flatten_like, paths

AxisName: TypeAlias = Hashable | Sequence[Hashable] | None
"""One or more names of `jax.pmap`'s, `jax.shard_map`'s or `jax.vmap`'s axes; ``None`` for none."""

__all__ = [
    "AverageGradientsState",
    "AxisName",
    "PerDevice",
    "average_gradients",
    "decorrelate",
    "fold_in_axis",
]


@partial(register_dataclass, data_fields=["array"], meta_fields=["axis_name"])
@dataclass(frozen=True)
class PerDevice:
    """An array that differs from device to device.

    Under `jax.shard_map` it goes in and out as ``PartitionSpec(axis_name)``,
    which is what `state_sharding` gives.

    Attributes:
      array: the array; along its first axis, of length 1, the devices stand side by side.
      axis_name: the names of the axes that the devices lie along.
    """

    array: Any
    axis_name: tuple[Hashable, ...]


class AverageGradientsState(NamedTuple):
    """The state of `average_gradients`.

    Attributes:
      error: what sending in a narrow dtype has taken so far, on each device by
        itself: a tree like the parameters; ``()`` without error feedback.
    """

    error: PyTree


def average_gradients(
    axis_name: AxisName = None,
    op: Literal["mean", "sum"] = "mean",
    *,
    dtype: Any = None,
    error_feedback: bool = False,
) -> GradientTransformation:
    r"""Average the gradients over devices: :math:`u = \frac1N \sum_{i=1}^N g_i`.

    As the first part of a chain it lets the same chain serve `jax.pmap` and
    `jax.shard_map`, and with no axis plain `jax.jit`. What comes after it (a
    norm over all leaves, `apply_if_finite`) sees the same on every device;
    gradients clipped for each example are clipped before.

    With `error_feedback` a device adds to the next gradient what rounding to
    `dtype` took from the last:

    .. math::
      c_i = \mathrm{round}(g_i + e_i), \quad e_i \leftarrow g_i + e_i - c_i, \quad
      u = \frac1N \sum_{i=1}^N c_i

    Row-sparse gradients stay so: every device gets the rows of all.

    Args:
      axis_name: the name of the axis, or names; ``None`` leaves the gradients as they are.
      op: ``"sum"`` leaves out :math:`1/N`, for losses that are sums.
      dtype: the floating-point dtype to send in; by default the gradient's.
        Complex gradients are sent as they are.
      error_feedback: whether to make up for what is lost by it. The state then
        has a tree like the parameters of `PerDevice` arrays; under
        `jax.shard_map` its `init` is called inside.

    Returns:
      A `GradientTransformation` with an `AverageGradientsState`. Its update raises
      `NameError` where no such axis is there, and `ValueError` where
      `jax.shard_map` has added the gradients up by itself.

    Raises:
      ValueError: `op` is none that there is, or there is error feedback without `dtype`.
      TypeError: `dtype` is no floating-point dtype.

    References:
      Seide et al., `1-bit stochastic gradient descent and its application to
      data-parallel distributed training of speech DNNs
      <https://doi.org/10.21437/Interspeech.2014-274>`_, 2014; Karimireddy et al., `Error
      feedback fixes SignSGD <https://arxiv.org/abs/1901.09847>`_, 2019.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> tx = gx.chain(gx.average_gradients("data"), gx.sgd(1.0))
      >>> step = jax.vmap(lambda grad: tx.update(grad, tx.init(grad))[0], axis_name="data")
      >>> step(jnp.asarray([1.0, 3.0])).tolist()
      [-2.0, -2.0]
    """
    if op not in ("mean", "sum"):
        raise ValueError(f"average_gradients: op must be 'mean' or 'sum', got {op!r}")
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"average_gradients: dtype must be a floating-point dtype, got {dtype!r}")
    if error_feedback and dtype is None:
        raise ValueError("average_gradients: error_feedback makes up for a narrow dtype; pass one")
    names = _names(axis_name)
    keeps_error = error_feedback and bool(names)

    def init(params: Params) -> AverageGradientsState:
        if not keeps_error:
            return AverageGradientsState(())
        leaves, treedef = flatten(params)
        return AverageGradientsState(
            treedef.unflatten(
                None if leaf is None else PerDevice(slot_like(leaf)[None], names) for leaf in leaves
            )
        )

    def update(
        grads: Updates, state: AverageGradientsState, params: Params | None = None
    ) -> tuple[Updates, AverageGradientsState]:
        if not names:
            return grads, state
        share = 1.0 if op == "sum" else 1.0 / _axis_size(names, "average_gradients")
        tracked = _tracked(names)
        leaves, treedef = flatten(grads)
        errors = [None] * len(leaves)
        if keeps_error:
            errors = flatten_like(
                treedef, grads, state.error, root="the errors", like="grads", who="average_gradients"
            )
        for index, (leaf, error) in enumerate(zip(leaves, errors, strict=True)):
            if leaf is not None:
                check_inexact(leaf, grads, index, root="grads", who="average_gradients")
                _check_own(leaf, tracked, grads, index)
                leaves[index], errors[index] = average(leaf, error, grads, index, bool(tracked))
        new = AverageGradientsState(treedef.unflatten(errors)) if keeps_error else state
        return treedef.unflatten(scaled(leaf, share) for leaf in leaves), new

    def average(leaf: Any, error: Any, grads: Updates, index: int, tracked: bool) -> tuple[Any, Any]:
        """The sum over devices, in the gradient's own dtype, and what it lost."""
        if isinstance(leaf, RowSparse):
            if error is not None:
                raise TypeError(
                    f"average_gradients: {paths(grads, 'grads')[index]} is row-sparse, and an error would "
                    "touch every row. Leave it out by masked, and average it by another average_gradients."
                )
            rows = leaf.indices, narrowed(leaf.values)
            indices, values = lax.all_gather(rows, names, tiled=True, **_alike(tracked))
            return RowSparse(indices, values.astype(leaf.dtype), leaf.shape), None
        if error is None:
            return lax.psum(narrowed(leaf), names).astype(leaf.dtype), None
        due = leaf.astype(error.array.dtype) + error.array[0]
        sent = narrowed(due)
        left = PerDevice((due - sent.astype(due.dtype))[None], names)
        return lax.psum(sent, names).astype(leaf.dtype), left

    def narrowed(array: Any) -> Any:
        array = jnp.asarray(array)
        return array if dtype is None or jnp.iscomplexobj(array) else array.astype(dtype)

    def scaled(leaf: Any, share: float) -> Any:
        return leaf if leaf is None or share == 1 else on_values(lambda array: share * array, leaf)

    return GradientTransformation(init, update)


def decorrelate(tx: GradientTransformation, axis_name: AxisName) -> GradientTransformation:
    """Let each device draw its own random numbers, where by default all devices draw the same.

    The key in the state stays the same on all devices. Noise that is averaged
    afterwards may differ from device to device. What is added or rounded
    behind `average_gradients` must not, or the parameters drift apart.

    Args:
      tx: a transformation with random rules, such as `add_noise`; or a chain that has some.
      axis_name: the name of the axis that the devices lie along, or names;
        ``None`` leaves all as it is.

    Returns:
      A `GradientTransformation` with the state of `tx`. Its update raises
      `NameError` where no such axis is there.

    Raises:
      ValueError: no rule of `tx` is random.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> tx = gx.decorrelate(gx.add_noise(1.0, 0.0, key=0), "data")
      >>> draw = jax.vmap(lambda grad: tx.update(grad, tx.init(grad))[0], axis_name="data")
      >>> noise = draw(jnp.zeros(2))
      >>> bool(noise[0] == noise[1])
      False
    """
    found = []

    def own(rule: Rule) -> Rule:
        if not rule.random:
            return rule
        found.append(rule.name)

        def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
            known = vars(step)
            return rule.update(
                grad, slots, param, Step({**known, "key": fold_in_axis(known["key"], axis_name)})
            )

        return replace(rule, update=update)

    changed = map_rules(tx, own)
    if not found:
        raise ValueError(
            f"decorrelate: no rule draws random numbers in {tx!r}; put decorrelate around the part that "
            "does, inside the wrappers. A part that is not made of rules takes a key folded by fold_in_axis."
        )
    return changed


def fold_in_axis(key: jax.Array, axis_name: AxisName) -> jax.Array:
    """A random key of this device, made of one that all devices have: for dropout, say.

    Args:
      key: the random key.
      axis_name: the name of the axis that the devices lie along, or names;
        ``None`` gives the key back.

    Returns:
      A random key, another one at each place along the axis.

    Raises:
      NameError: no such axis is there.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> keys = jax.vmap(lambda _: gx.fold_in_axis(jax.random.key(0), "data"), axis_name="data")
      >>> bool((keys(jax.numpy.arange(2)) == keys(jax.numpy.arange(2))[::-1]).any())
      False
    """
    names = _names(axis_name)
    if not names:
        return key
    _axis_size(names, "fold_in_axis")
    return jax.random.fold_in(key, lax.axis_index(names))


def _names(axis_name: AxisName) -> tuple[Hashable, ...]:
    if axis_name is None:
        return ()
    return tuple(axis_name) if isinstance(axis_name, tuple | list) else (axis_name,)


def _axis_size(names: tuple[Hashable, ...], who: str) -> int:
    """How many devices lie along the axes.

    Raises:
      NameError: one of them is not there.
    """
    try:
        return int(lax.psum(1, names))
    except NameError as error:
        raise NameError(
            f"{who}: there is no axis {' or '.join(map(repr, names))} here. Call it inside "
            f"jax.pmap(..., axis_name={names[0]!r}), or inside jax.shard_map over a mesh with that axis. "
            "Under plain jax.jit with shardings gradients are those of the whole batch: leave axis_name out."
        ) from error


def _tracked(names: tuple[Hashable, ...]) -> frozenset[Hashable]:
    """Those of the axes along which JAX tracks what differs, as `jax.shard_map` does unless told not to."""
    return frozenset(names) & _differs(lax.axis_index(names))


def _differs(array: Any) -> frozenset[Hashable]:
    """The axes along which an array may differ, of those that are tracked."""
    kind = jax.typeof(array)
    tracked = getattr(kind, "manual_axis_type", None)
    return frozenset(getattr(kind, "vma", ()) if tracked is None else tracked.varying)  # the older name


def _alike(tracked: bool) -> dict[str, Any]:
    """How `jax.lax.all_gather` is told that its result is the same on all devices, where JAX tracks that."""
    return {"to": "invarying"} if tracked else {}


def _check_own(leaf: Any, tracked: frozenset[Hashable], grads: Updates, index: int) -> None:
    """Raise if the gradient is not each device's own, so that averaging it would do nothing."""
    same = tracked - _differs(leaf.values if isinstance(leaf, RowSparse) else leaf)
    if same:
        raise ValueError(
            f"average_gradients: {paths(grads, 'grads')[index]} is the same all along "
            f"{', '.join(sorted(map(repr, same)))}: jax.shard_map adds up by itself the gradients of "
            "parameters that are the same on all devices. Differentiate with respect to "
            "jax.lax.pcast(params, axis_name, to='varying'), or call jax.shard_map with check_vma=False."
        )
