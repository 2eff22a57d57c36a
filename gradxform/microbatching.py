"""Batches too large for memory: a function runs over slices of them, one after the other, in one program."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from gradxform.arithmetic import compute_dtype
from gradxform.trees import PyTree, broadcast_prefix, flatten, paths

__all__ = [
    "AccumulationType",
    "Accumulator",
    "PerExample",
    "micro_grad",
    "micro_vmap",
    "microbatch",
    "reshape_batch_axis",
]


class AccumulationType(enum.Enum):
    """How the results of the microbatches become one.

    Attributes:
      MEAN: their mean.
      SUM: their sum.
      RUNNING_MEAN: the mean of those that were run, where
        `num_real_microbatches` leaves some out.
      CONCAT: one after the other along the leading axis, in the batch's order.
    """

    MEAN = enum.auto()
    SUM = enum.auto()
    RUNNING_MEAN = enum.auto()
    CONCAT = enum.auto()


@dataclass(frozen=True)
class Accumulator:
    """How the results of the microbatches become one, array by array.

    Attributes:
      init: ``init(value) -> carry``, where `value` has the shape and dtype of
        a result.
      update: ``update(carry, value, index) -> carry``.
      finalize: ``finalize(carry) -> value``.
      aggregate: ``aggregate(values) -> value``, over the leading axis of one
        microbatch's results; for `micro_vmap`.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], Any]
    finalize: Callable[[Any], Any]
    aggregate: Callable[[Any], Any]


Accumulation: TypeAlias = Accumulator | AccumulationType | PyTree
"""One for all results, or a tree of them that is a prefix of the result."""


def _wide_zeros(value: Any) -> jax.Array:
    wide = compute_dtype(value.dtype) if jnp.issubdtype(value.dtype, jnp.inexact) else value.dtype
    return jnp.zeros(value.shape, wide)


def _only_inexact(value: Any) -> jax.Array:
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        raise TypeError(
            f"microbatch: a mean needs floating-point results, this one has dtype {value.dtype}; take the SUM"
        )
    return _wide_zeros(value)


def _mean_over(values: Any) -> Any:
    return jnp.mean(values, axis=0)


def _accumulator(kind: Any, microbatches: int) -> Accumulator:
    if isinstance(kind, Accumulator):
        return kind
    match kind:
        case AccumulationType.SUM:
            return Accumulator(
                _wide_zeros, lambda carry, value, _: carry + value, lambda carry: carry, _sum_over
            )
        case AccumulationType.MEAN:
            return Accumulator(
                _only_inexact,
                lambda carry, value, _: carry + value,
                lambda carry: carry / microbatches,
                _mean_over,
            )
        case AccumulationType.RUNNING_MEAN:
            return Accumulator(
                _only_inexact,
                lambda carry, value, index: carry + (value - carry) / (index + 1),
                lambda carry: carry,
                _mean_over,
            )
        case AccumulationType.CONCAT:
            return Accumulator(
                lambda value: jnp.zeros((microbatches, *value.shape), value.dtype),
                lambda carry, value, index: lax.dynamic_update_index_in_dim(carry, value, index, 0),
                _joined,
                lambda values: values,
            )
    raise TypeError(f"microbatch: accumulator must be an AccumulationType or an Accumulator, got {kind!r}")


def _sum_over(values: Any) -> Any:
    return jnp.sum(values, axis=0, dtype=values.dtype)


def _joined(carry: Any) -> Any:
    if carry.ndim < 2:
        raise ValueError("microbatch: CONCAT needs results with an axis of examples, this one is a scalar")
    # The inverse of `reshape_batch_axis`.
    return jnp.swapaxes(carry, 0, 1).reshape(-1, *carry.shape[2:])


def reshape_batch_axis(tree: PyTree, microbatch_size: int, axis: int = 0) -> PyTree:
    """Split the axis of examples into two: the microbatches, and the examples of each.

    Of `n` microbatches the first has the examples 0, n, 2n, ...: a batch that is
    sharded over its examples has all its microbatches sharded alike.

    Args:
      tree: a pytree of arrays.
      microbatch_size: the number of examples in a microbatch; it divides the
        number of examples.
      axis: the axis of examples.

    Returns:
      The tree with shapes ``[..., n, microbatch_size, ...]``.

    Raises:
      ValueError: it does not divide the number of examples; the message names the leaf.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.microbatching.reshape_batch_axis(jnp.arange(6), 2).tolist()
      [[0, 3], [1, 4], [2, 5]]
    """
    leaves, treedef = flatten(tree)

    def split(index: int, leaf: Any) -> Any:
        if leaf is None:
            return None
        size = leaf.shape[axis]
        if microbatch_size < 1 or size % microbatch_size:
            raise ValueError(
                f"microbatch: {paths(tree, 'batch')[index]} has {size} examples, which are no whole "
                f"number of microbatches of {microbatch_size}"
            )
        place = axis % leaf.ndim
        shape = (*leaf.shape[:place], microbatch_size, size // microbatch_size, *leaf.shape[place + 1 :])
        return jnp.swapaxes(leaf.reshape(shape), place, place + 1)

    return treedef.unflatten(map(split, range(len(leaves)), leaves))


def microbatch(
    fun: Callable[..., Any],
    argnums: int | Sequence[int],
    microbatch_size: int | None,
    accumulator: Accumulation = AccumulationType.SUM,
    *,
    argnames: str | Sequence[str] = (),
    in_axes: int | Sequence[int] = 0,
    num_real_microbatches: int | jax.Array | None = None,
) -> Callable[..., Any]:
    """Run a function over slices of a batch, one after the other, in the memory that one of them needs.

    Around ``jax.value_and_grad(loss)`` it accumulates gradients within one
    compiled step. Sums and means of bfloat16 and float16 are taken in float32.

    Args:
      fun: a function of arrays.
      argnums: which positional arguments have an axis of examples.
      microbatch_size: the number of examples in a slice; it divides the number
        of examples. ``None`` leaves the function as it is.
      accumulator: how the results become one.
      argnames: which keyword arguments have an axis of examples.
      in_axes: that axis: one for all, or one each for `argnums` and then `argnames`.
      num_real_microbatches: how many to run, if not all; may be traced.

    Returns:
      A function with the same arguments and results.

    Raises:
      ValueError: the arguments have unequal numbers of examples, or no whole
        number of microbatches; the message names the leaf.
      TypeError: a mean of integers is asked for.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> loss = lambda w, x: jnp.mean((w * x - 1) ** 2)
      >>> gradient = gx.microbatch(jax.grad(loss), 1, 2, gx.microbatching.AccumulationType.MEAN)
      >>> x = jnp.arange(6.0)
      >>> round(float(gradient(0.5, x)), 4), round(float(jax.grad(loss)(0.5, x)), 4)
      (4.1667, 4.1667)
    """
    if microbatch_size is None:
        return fun
    size = microbatch_size
    places = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    names = (argnames,) if isinstance(argnames, str) else tuple(argnames)
    batched: tuple[int | str, ...] = (*places, *names)
    axes = (in_axes,) * len(batched) if isinstance(in_axes, int) else tuple(in_axes)
    if len(axes) != len(batched):
        raise ValueError(
            f"microbatch: in_axes has {len(axes)} axes for {len(batched)} arguments ({batched}); "
            "pass one for all, or one each"
        )

    def run(*args: Any, **kwargs: Any) -> Any:
        whole = {place: args[place] if isinstance(place, int) else kwargs[place] for place in batched}
        examples = {
            f"argument {place!r}{name}": leaf.shape[axis]
            for axis, (place, tree) in zip(axes, whole.items(), strict=True)
            for name, leaf in zip(paths(tree, ""), flatten(tree)[0], strict=True)
            if leaf is not None
        }
        if len(set(examples.values())) != 1:
            raise ValueError(f"microbatch: the arguments need as many examples each, they have {examples}")
        split = {
            place: reshape_batch_axis(tree, size, axis)
            for axis, (place, tree) in zip(axes, whole.items(), strict=True)
        }
        microbatches = next(iter(examples.values())) // size

        def of(index: Any) -> Any:
            taken = {
                place: jax.tree.map(
                    lambda leaf, axis=axis: lax.dynamic_index_in_dim(
                        leaf, index, axis % (leaf.ndim - 1), keepdims=False
                    ),
                    tree,
                )
                for axis, (place, tree) in zip(axes, split.items(), strict=True)
            }
            positional = [taken.get(i, arg) for i, arg in enumerate(args)]
            return fun(*positional, **{name: taken.get(name, arg) for name, arg in kwargs.items()})

        values = jax.eval_shape(of, 0)
        leaves = jax.tree.leaves(values)
        treedef: Any = jax.tree.structure(values)
        kinds = broadcast_prefix(accumulator, values, root="accumulator", who="microbatch")
        kinds = [kind for kind, value in zip(kinds, flatten(values)[0], strict=True) if value is not None]
        each = [_accumulator(kind, microbatches) for kind in kinds]

        def step(index: Any, carries: list[Any]) -> list[Any]:
            results = treedef.flatten_up_to(of(index))
            return [
                jax.tree.map(
                    lambda new, old: jnp.asarray(new, old.dtype), a.update(carry, result, index), carry
                )
                for a, carry, result in zip(each, carries, results, strict=True)
            ]

        steps = microbatches if num_real_microbatches is None else num_real_microbatches
        start = [a.init(value) for a, value in zip(each, leaves, strict=True)]
        carries = lax.fori_loop(0, steps, step, start)
        return treedef.unflatten(
            jnp.asarray(a.finalize(carry), value.dtype)
            for a, carry, value in zip(each, carries, leaves, strict=True)
        )

    return run


def micro_vmap(
    fun: Callable[..., Any],
    in_axes: int | Sequence[int | None] = 0,
    out_axes: int = 0,
    *,
    microbatch_size: int | None = None,
    vmap_fn: Callable[..., Any] = jax.vmap,
    accumulator: Accumulation = AccumulationType.CONCAT,
    num_real_microbatches: int | jax.Array | None = None,
) -> Callable[..., Any]:
    """`jax.vmap` over slices of the batch, one after the other.

    Args:
      fun: a function of one example.
      in_axes: the axis of examples of each positional argument, ``None`` for
        those without. Keyword arguments have theirs in front.
      out_axes: 0.
      microbatch_size: the number of examples in a slice; ``None`` for all.
      vmap_fn: what to call in the place of `jax.vmap`.
      accumulator: how the results of the examples become one; by default they
        stand one after the other, as those of `jax.vmap`.
      num_real_microbatches: how many slices to run, if not all; may be traced.

    Returns:
      A function of a batch.

    Raises:
      ValueError: `out_axes` is not 0, or as `microbatch` does.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.microbatching.micro_vmap(lambda x: x**2, microbatch_size=2)(jnp.arange(4)).tolist()
      [0, 1, 4, 9]
    """
    if out_axes != 0:
        raise ValueError(f"micro_vmap: out_axes must be 0, got {out_axes!r}")
    axes = (in_axes,) if isinstance(in_axes, int) else tuple(in_axes)

    def reduced(*args: Any, kwargs: dict[str, Any]) -> Any:
        results = vmap_fn(fun, axes, out_axes)(*args, **kwargs)
        leaves, treedef = flatten(results)
        kinds = broadcast_prefix(accumulator, results, root="accumulator", who="micro_vmap")
        return treedef.unflatten(
            None if leaf is None else _accumulator(kind, 1).aggregate(leaf)
            for kind, leaf in zip(kinds, leaves, strict=True)
        )

    over = [i for i, axis in enumerate(axes) if axis is not None]
    sliced = microbatch(
        reduced,
        over,
        microbatch_size,
        accumulator,
        argnames="kwargs",
        in_axes=[*(axis for axis in axes if axis is not None), 0],
        num_real_microbatches=num_real_microbatches,
    )

    def run(*args: Any, **kwargs: Any) -> Any:
        return sliced(*args, kwargs=kwargs)

    return run


class PerExample(NamedTuple):
    """What `micro_grad` gives besides the gradient, each with a leading axis of examples.

    Attributes:
      values: the function's values.
      metrics: what `metrics_fn` made of the gradients.
      aux: the function's auxiliary output.
    """

    values: Any
    metrics: Any
    aux: Any


def micro_grad(
    fun: Callable[..., Any],
    has_aux: bool = False,
    argnums: int | Sequence[int] = 0,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = True,
    microbatch_size: int | None = None,
    accumulator: Accumulation = AccumulationType.SUM,
    transform_fn: Callable[[PyTree], PyTree] = lambda grads: grads,
    metrics_fn: Callable[[PyTree], PyTree] = lambda grads: None,
    num_real_microbatches: int | jax.Array | None = None,
) -> Callable[..., tuple[PyTree, PerExample]]:
    """The gradient of every example by itself, transformed, and then added up.

    Args:
      fun: a loss of parameters and a batch.
      has_aux: whether it returns ``(loss, aux)``.
      argnums: what to differentiate with respect to.
      batch_argnums: which positional arguments have a leading axis of examples.
      keep_batch_dim: whether `fun` is to see an example as a batch of one.
      microbatch_size: how many examples at a time; ``None`` for all.
      accumulator: how the transformed gradients become one.
      transform_fn: what to make of each example's gradient first, such as clipping it.
      metrics_fn: what to report of each example's gradient.
      num_real_microbatches: how many microbatches to run, if not all.

    Returns:
      A function with the arguments of `fun` that returns the accumulated
      gradient and a `PerExample`.

    Raises:
      ValueError: as `microbatch` does.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> loss = lambda w, x: jnp.mean((w - x) ** 2) / 2
      >>> grads, each = gx.microbatching.micro_grad(loss)(1.0, jnp.asarray([1.0, 3.0]))
      >>> float(grads), each.values.tolist()
      (-2.0, [0.0, 2.0])
    """
    places = (batch_argnums,) if isinstance(batch_argnums, int) else tuple(batch_argnums)
    with_aux = fun if has_aux else lambda *args, **kwargs: (fun(*args, **kwargs), None)
    value_and_grad = jax.value_and_grad(with_aux, argnums, has_aux=True)

    def of_one(*args: Any, **kwargs: Any) -> tuple[PyTree, PerExample]:
        if keep_batch_dim:
            args = tuple(
                jax.tree.map(lambda x: x[None], arg) if i in places else arg for i, arg in enumerate(args)
            )
        (value, aux), grads = value_and_grad(*args, **kwargs)
        return transform_fn(grads), PerExample(value, metrics_fn(grads), aux)

    def run(*args: Any, **kwargs: Any) -> tuple[PyTree, PerExample]:
        mapped = micro_vmap(
            of_one,
            [0 if i in places else None for i in range(len(args))],
            microbatch_size=microbatch_size,
            accumulator=(accumulator, AccumulationType.CONCAT),
            num_real_microbatches=num_real_microbatches,
        )
        result: tuple[PyTree, PerExample] = mapped(*args, **kwargs)
        return result

    return run
