"""ZeRO-1: every device keeps and updates a part of the state."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import register_static, tree_flatten

from gradxform.chain import map_rules
from gradxform.parallel.sharding import (
    automatic,
    axis_size,
    constrain,
    given_layouts,
    is_explicit,
    mesh_of,
    shard_over,
    state_sharding,
)
from gradxform.rule import Rule, Slots, Step
from gradxform.sparse import RowSparse, shape_of
from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.trees import AnyParams, PyTree, flatten, flatten_like
from gradxform.wrappers.wrapper import Wrapper

__all__ = ["ShardedState", "shard_state"]


class _Layouts(NamedTuple):
    """How the parameters lie, how their gradients and the state are split, and whether types tell."""

    params: PyTree
    grads: PyTree
    state: PyTree
    explicit: bool


class ShardedState(Wrapper):
    """A transformation that lays its state out by itself; made by `shard_state`.

    Attributes:
      state_layout: how, for given parameters.
    """

    state_layout: Callable[[Params], PyTree]


register_static(ShardedState)


def shard_state(
    tx: GradientTransformation,
    mesh: Mesh,
    axis: str | Sequence[str],
    params_sharding: PyTree | None = None,
) -> "ShardedState":
    r"""Split state and update over devices that all have the parameters: ZeRO-1.

    On each of the :math:`N` devices along the axis there is an
    :math:`N`-th of the state. It gets that part of the gradients, summed over
    the devices (reduce-scatter), updates it, and all get all of the updates
    (all-gather): together as many bytes as the sum of whole gradients alone
    (all-reduce). It is for `jax.jit`, where gradients are those of the whole batch.

    Arrays are cut as `shard_over` does. Rules that take matrices of one shape
    together (Muon, Shampoo, SOAP) get whole ones, each on one device.

    On GPUs and TPUs XLA makes one reduce-scatter of the sum and the cut. On
    CPUs it does not; `scatter_gradients` does on all.

    Args:
      tx: the transformation, of any library.
      mesh: the devices. Its axes may be automatic or explicit ones.
      axis: the name of the mesh's axis to split over, or names.
      params_sharding: how the parameters lie along the mesh's other axes, as in
        `shard_over`; by default they are whole on each device.

    Returns:
      A `GradientTransformation` with the state of `tx`, the same numbers laid out
      otherwise.

    Raises:
      ValueError: the mesh has no such axis.

    References:
      Rajbhandari et al., `ZeRO: memory optimizations toward training trillion
      parameter models <https://arxiv.org/abs/1910.02054>`_, 2020; Xu et al., `Automatic
      cross-replica sharding of weight update in data-parallel training
      <https://arxiv.org/abs/2004.13336>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
      >>> tx = gx.shard_state(gx.sgd(0.1, momentum=0.9), mesh, "data")
      >>> state = jax.jit(tx.init)({"w": jnp.ones((64, 8))})
      >>> state.slots[0].trace["w"].addressable_shards[0].data.size * jax.device_count()
      512
    """
    names = (axis,) if isinstance(axis, str) else tuple(axis)
    size = axis_size(mesh, names, "shard_state")
    inner = map_rules(tx, partial(_spread, mesh=automatic(mesh), names=names, size=size))
    accepted = accepted_keywords(inner.update)

    @lru_cache(maxsize=16)
    def layouts(mesh: Mesh, treedef: Any, kinds: tuple[Any, ...]) -> _Layouts:
        params = treedef.unflatten(None if kind is None else jax.ShapeDtypeStruct(*kind) for kind in kinds)
        together = given_layouts(params_sharding, params, mesh, "shard_state")
        split = shard_over(params, mesh, names, together)
        state = jax.eval_shape(tx.init, params)
        # What has none of its parameter's axes, such as a matrix of moments, is cut along its own.
        of_state = shard_over(state, mesh, names, state_sharding(tx, params, split))
        return _Layouts(together, split, of_state, is_explicit(mesh))

    def layouts_for(params: Params, mesh: Mesh) -> _Layouts:
        leaves, treedef = flatten(params)
        kinds = (None if leaf is None else (shape_of(leaf), _dtype_of(leaf)) for leaf in leaves)
        return layouts(mesh, treedef, tuple(kinds))

    def state_layout(params: Params) -> PyTree:
        return layouts_for(params, mesh_of(params, mesh)).state

    def init(params: Params) -> State:
        if isinstance(params, AnyParams):  # which lie nowhere
            return tx.init(params)
        known = layouts_for(params, mesh_of(params, mesh))
        if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
            return jax.jit(lambda: tx.init(params), out_shardings=known.state)()
        # Slots take their parameters' types, and within another jit these win over out_shardings.
        make = jax.sharding.auto_axes(tx.init, out_sharding=known.state) if known.explicit else tx.init
        return jax.jit(make, out_shardings=known.state)(params)

    def update(
        grads: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        leaves, treedef = flatten(grads)
        here = mesh_of((grads, state, params), automatic(mesh))
        of_params, of_grads, of_state, explicit = layouts_for(grads if params is None else params, here)

        def beside(layout: PyTree) -> list[Any]:
            return flatten_like(treedef, grads, layout, root="params", like="grads", who="shard_state")

        split, together = beside(of_grads), beside(of_params)
        values, rest = _arrays_of(accepted(extra))

        def run(grads: Updates, state: State, params: Params | None, values: Any) -> tuple[Updates, State]:
            parts = treedef.unflatten(map(constrain, flatten(grads)[0], split))
            # First as they lie: in a loop, XLA takes the first layout that is asked for as the whole loop's.
            state = jax.tree.map(constrain, state, of_state)
            if params is not None:
                params = jax.tree.map(constrain, jax.tree.map(constrain, params, of_params), of_grads)
            updates, new = inner.update(parts, state, params, **rest(values))
            updates = treedef.unflatten(map(constrain, treedef.flatten_up_to(updates), together))
            return updates, jax.tree.map(constrain, new, of_state)

        if explicit:  # types say how all lies; within the update XLA is to choose all the same
            out = treedef.unflatten(
                None if leaf is None else to for leaf, to in zip(leaves, together, strict=True)
            )
            run = jax.sharding.auto_axes(run, out_sharding=(out, of_state))
        return run(grads, state, params, values)

    call = f"shard_state(over {', '.join(map(repr, names))})"
    wrapper = ShardedState(call, inner, init, update, field="", rows=True, passes=True)
    wrapper.state_layout = state_layout
    return wrapper


def _dtype_of(leaf: Any) -> Any:
    return leaf.dtype if isinstance(leaf, RowSparse) else jnp.result_type(leaf)


def _arrays_of(tree: PyTree) -> tuple[list[Any], Callable[[list[Any]], PyTree]]:
    """The arrays in a tree, and the tree with others in their place."""
    leaves, treedef = tree_flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]

    def rebuild(arrays: list[Any]) -> PyTree:
        filled = list(leaves)
        for place, array in zip(places, arrays, strict=True):
            filled[place] = array
        return jax.tree.unflatten(treedef, filled)

    return [leaves[place] for place in places], rebuild


def _spread(rule: Rule, *, mesh: Mesh, names: tuple[str, ...], size: int) -> Rule:
    """A rule for stacks of matrices, each device with a part of the stack."""
    if not rule.batched:
        return rule
    whole = NamedSharding(mesh, PartitionSpec())

    def across(stack: Any) -> NamedSharding:
        """Every matrix of the stack cut in the same way."""
        each: NamedSharding = shard_over(jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype), mesh, names)
        return NamedSharding(mesh, PartitionSpec(None, *each.spec))

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        values, rebuild = _arrays_of(vars(step))

        def plain(grad: Any, slots: Slots, param: Any, values: list[Any]) -> tuple[Any, Slots]:
            return rule.update(grad, slots, param, Step(rebuild(values)))

        @custom_vmap
        def one(*arrays: Any) -> tuple[Any, Slots]:
            grad, slots, *others = arrays
            # Without slots it is cheapest to have the matrix on every device, where its update is needed.
            return plain(grad if jax.tree.leaves(slots) else constrain(grad, whole), slots, *others)

        @one.def_vmap
        def stack(number: int, batched: Any, *arrays: Any) -> Any:
            filling = -number % size

            def filled(array: Any, stacked: bool) -> Any:
                return jnp.pad(array, [(0, filling)] + [(0, 0)] * (array.ndim - 1)) if stacked else array

            axes = jax.tree.map(lambda stacked: 0 if stacked else None, batched)
            specs = jax.tree.map(
                lambda stacked: PartitionSpec(names) if stacked else PartitionSpec(), batched
            )
            on_each = jax.shard_map(
                jax.vmap(plain, axes),
                mesh=None if jax.sharding.get_abstract_mesh().axis_names else mesh,
                in_specs=tuple(specs),
                out_specs=PartitionSpec(names),
                axis_names=set(names),
                check_vma=False,
            )
            results = on_each(*jax.tree.map(filled, list(arrays), batched))
            # Cut otherwise before the stack is taken apart, or all of it would pass through one device.
            results = jax.tree.map(lambda array: constrain(array, across(array))[:number], results)
            return results, jax.tree.map(lambda _: True, results)

        result: tuple[Any, Slots] = one(grad, slots, param, values)
        return result

    return replace(rule, update=update)
