"""Where parameters and states lie on the devices."""

from collections.abc import Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jax.tree_util import tree_flatten

from gradxform.chain import Chain, NamedChain
from gradxform.parallel.averaging import PerDevice
from gradxform.sparse import RowSparse
from gradxform.transformation import GradientTransformation, Params, State
from gradxform.tree.mapping import map_params
from gradxform.trees import PyTree, broadcast_prefix, flatten, flatten_like, paths
from gradxform.wrappers.wrapper import Wrapper

__all__ = [
    "automatic",
    "axis_names",
    "axis_size",
    "constrain",
    "given_layouts",
    "is_explicit",
    "mesh_of",
    "shard_over",
    "state_sharding",
]


def shard_over(
    params: Params, mesh: Mesh, axis: str | Sequence[str], params_sharding: PyTree | None = None
) -> PyTree:
    """Split every array over the devices along an axis of the mesh.

    Each is cut along the longest axis, but for the last, that can be cut into as
    many equal parts as there are devices; failing that along the last. One that
    cannot be cut is whole on each device, and one of whole numbers stays as it
    is. For parameters this is the layout of FSDP (ZeRO-3); `shard_state` lays
    states out so.

    Args:
      params: the parameters, or their shapes.
      mesh: the devices.
      axis: the name of the mesh's axis to split over, or names.
      params_sharding: how they lie along the mesh's other axes: a tree like
        them, or a prefix of one, of `jax.sharding.NamedSharding` or
        `jax.sharding.PartitionSpec`. What is split over `axis` there already
        stays as it is.

    Returns:
      A tree like the parameters of `jax.sharding.NamedSharding`, which
      `jax.device_put` and `jax.jit` take.

    Raises:
      ValueError: the mesh has no such axis, or the shardings do not fit the parameters.
      TypeError: they are of another kind.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> mesh = jax.make_mesh((1,), ("data",))
      >>> tuple(gx.shard_over({"w": jnp.ones((8, 64))}, mesh, "data")["w"].spec)
      ('data', None)
    """
    names = (axis,) if isinstance(axis, str) else tuple(axis)
    size = axis_size(mesh, names, "shard_over")
    leaves, treedef = flatten(abstract(params))
    given = flatten(given_layouts(params_sharding, params, mesh, "shard_over"))[0]

    def split(leaf: Any, sharding: Any) -> Any:
        if leaf is None:
            return None
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return sharding
        spec, shape = _entries(sharding, len(leaf.shape)), leaf.shape
        if set(names) & {name for entry in spec for name in axis_names(entry)}:
            return sharding
        fitting = [
            i for i, entry in enumerate(spec) if shape[i] and shape[i] % (_parts(mesh, entry) * size) == 0
        ]
        if not fitting:
            return sharding
        # The last axis is the one that blocks of numbers in few bytes lie along.
        best = max(fitting, key=lambda i: (spec[i] is None, i < len(shape) - 1, shape[i]))
        spec[best] = _joined((*axis_names(spec[best]), *names))
        return _with_spec(sharding, spec)

    return treedef.unflatten(map(split, leaves, given))


def state_sharding(
    tx: GradientTransformation, params: Params, params_sharding: PyTree | None = None
) -> PyTree:
    """How a transformation's state lies on the devices when every slot lies with its parameter.

    It is what `jax.jit` takes as the shardings of the state, at `init` too: so no
    device ever holds a whole one. Nothing is computed here. A slot of its
    parameter's shape lies like it. In one of another shape (factored moments,
    bytes' scales, the history of L-BFGS) an axis lies like that axis of the
    parameter which it comes from. All others are whole on each device, and so
    are the count and the hyperparameters.

    Args:
      tx: the transformation, of any library.
      params: the parameters, or their shapes and dtypes.
      params_sharding: how they lie: a tree like them, or a prefix of one, of
        `jax.sharding.NamedSharding`; or of `jax.sharding.PartitionSpec`, as
        `jax.shard_map` takes them, which is then what is returned. By default
        the parameters' own.

    Returns:
      A tree like the state, with a sharding in each array's place.

    Raises:
      ValueError: the shardings do not fit the parameters, or there are none.
      TypeError: they are of another kind, or of several.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jax.sharding import PartitionSpec as P
      >>> shapes = {"w": jax.ShapeDtypeStruct((64, 8), jnp.float32)}
      >>> specs = gx.state_sharding(gx.adam(0.1), shapes, P("model"))
      >>> tuple(specs.slots[0].mu["w"]), tuple(specs.count)
      (('model',), ())
    """
    layouts = _given(params_sharding, params, "state_sharding")
    shapes = abstract(params)
    leaves, treedef = flatten(shapes)
    whole = _whole(layouts)
    state = jax.eval_shape(tx.init, shapes)
    slots, structure = tree_flatten(state, is_leaf=_is_per_device)
    if not any(any(_entries(each, 0)) for each in layouts if each is not None):
        owners = [-1] * len(slots)  # all is whole
    else:
        owners = jax.tree.leaves(_owners(tx, state, shapes))
    # Which axis of a slot comes from which of its parameter's is seen by which changes with which.
    longer = list(map(_longer, leaves))
    others = _slots_of_others(tx, treedef.unflatten(longer), slots, structure)

    def layout(owner: int, slot: Any, other: Any) -> Any:
        if isinstance(slot, PerDevice):
            return PerDevice(_with_spec(whole, [_joined(slot.axis_name)]), slot.axis_name)
        if owner < 0:
            return whole
        if slot.shape == leaves[owner].shape:
            return layouts[owner]
        # Where the other state says nothing, the sizes do.
        before, after = (leaves[owner], slot) if other is None else (longer[owner], other)
        origins = _origins(leaves[owner].shape, slot.shape, before.shape, after.shape)
        return _along(layouts[owner], slot.shape, origins)

    return _with_own(tx, params, jax.tree.unflatten(structure, map(layout, owners, slots, others)))


def axis_size(mesh: Mesh | AbstractMesh, names: tuple[str, ...], who: str) -> int:
    """How many devices lie along axes of a mesh.

    Raises:
      ValueError: it has no such axis.
    """
    for name in names:
        if name not in mesh.shape:
            raise ValueError(
                f"{who}: the mesh has no axis {name!r}; it has {', '.join(map(repr, mesh.shape))}"
            )
    return prod(mesh.shape[name] for name in names)


def axis_names(entry: Any) -> tuple[Any, ...]:
    """The axes of the mesh that an array's axis is split over, as a `PartitionSpec` says of it."""
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return tuple(entry) if isinstance(entry, tuple) else (entry,)


def mesh_of(tree: PyTree, mesh: Mesh) -> Mesh:
    """The mesh, its axes automatic or explicit like those that the arrays lie on, if they lie on any."""
    for leaf in jax.tree.leaves(tree):
        known = (
            getattr(leaf, "sharding", None)
            if isinstance(leaf, jax.ShapeDtypeStruct)
            else jax.typeof(leaf).sharding
        )
        found = getattr(known, "mesh", None)
        if found is not None and found.axis_names == mesh.axis_names:
            return Mesh(mesh.devices, mesh.axis_names, axis_types=found.axis_types)
    return mesh


def automatic(mesh: Mesh) -> Mesh:
    """The mesh with automatic axes: XLA chooses how what is computed on it lies."""
    return Mesh(
        mesh.devices, mesh.axis_names, axis_types=(jax.sharding.AxisType.Auto,) * len(mesh.axis_names)
    )


def is_explicit(mesh: Mesh) -> bool:
    """Whether types say how arrays lie along some axis of the mesh."""
    return jax.sharding.AxisType.Explicit in mesh.axis_types


def given_layouts(params_sharding: PyTree | None, params: Params, mesh: Mesh, who: str) -> PyTree:
    """How each parameter lies on the mesh, by default whole on each device."""
    layouts = PartitionSpec() if params_sharding is None else params_sharding

    def on_mesh(leaf: Any, layout: Any) -> Any:
        if leaf is None:
            return None
        if isinstance(layout, NamedSharding):
            return NamedSharding(mesh, layout.spec, memory_kind=layout.memory_kind)
        return NamedSharding(mesh, layout)

    leaves, treedef = flatten(params)
    return treedef.unflatten(map(on_mesh, leaves, _given(layouts, params, who)))


def constrain(array: Any, sharding: NamedSharding | None) -> Any:
    """The array, which XLA is to lay out so; row-sparse ones and ``None`` as they are."""
    if sharding is None or array is None or isinstance(array, RowSparse):
        return array
    inside = jax.sharding.get_abstract_mesh()  # within `auto_axes` the mesh goes without saying
    return lax.with_sharding_constraint(array, sharding.spec if inside.axis_names else sharding)


def abstract(params: Params) -> Params:
    """The shapes and dtypes of the parameters, and nothing of where they lie."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), jax.eval_shape(lambda: params)
    )


def _is_per_device(node: Any) -> bool:
    return isinstance(node, PerDevice)


def _given(params_sharding: PyTree | None, params: Params, who: str) -> list[Any]:
    """The layout of each parameter, or its own, all of one kind that is known."""
    leaves = flatten(params)[0]
    if params_sharding is None:
        layouts = [getattr(leaf, "sharding", None) for leaf in leaves]
    else:
        layouts = broadcast_prefix(params_sharding, params, root="params_sharding", who=who)
    known: dict[str, str] = {}
    for path, layout, leaf in zip(paths(params, "params"), layouts, leaves, strict=True):
        if leaf is None:
            continue
        if layout is None:
            raise ValueError(f"{who}: {path} does not say how it lies on the devices; pass params_sharding")
        if not isinstance(layout, NamedSharding | PartitionSpec | SingleDeviceSharding):
            raise TypeError(
                f"{who}: {path} lies as {layout!r}; give a jax.sharding.NamedSharding or a PartitionSpec"
            )
        kind = "PartitionSpec" if isinstance(layout, PartitionSpec) else type(layout).__name__
        known.setdefault(kind, path)
    if len(known) > 1:
        (first, one), (second, another), *_ = known.items()
        raise TypeError(f"{who}: {one} lies as a {first}, {another} as a {second}; put all on one mesh")
    return layouts


def _whole(layouts: list[Any]) -> Any:
    """The layout of what is whole on each device."""
    first = next((layout for layout in layouts if layout is not None), None)
    if first is None:
        raise ValueError("state_sharding: there are no parameters that could say where the state lies")
    return _with_spec(first, [])


def _with_spec(layout: Any, entries: Sequence[Any]) -> Any:
    """On the same devices, in the same kind of memory."""
    if isinstance(layout, NamedSharding):
        return NamedSharding(layout.mesh, PartitionSpec(*entries), memory_kind=layout.memory_kind)
    return PartitionSpec(*entries) if isinstance(layout, PartitionSpec) else layout


def _entries(layout: Any, ndim: int) -> list[Any]:
    """What the layout says of each axis."""
    spec = layout if isinstance(layout, PartitionSpec) else getattr(layout, "spec", ())
    return [*spec, *[None] * (ndim - len(spec))]


def _joined(names: Sequence[Any]) -> Any:
    return tuple(names) if len(names) > 1 else names[0]


def _parts(mesh: Any, entry: Any) -> int:
    return prod(mesh.shape[name] for name in axis_names(entry))


def _owners(tx: GradientTransformation, state: State, params: Params) -> PyTree:
    """For each array of the state the number of the parameter that it belongs to, -1 if to none."""
    treedef = flatten(params)[1]

    def numbered(part: PyTree, number: int) -> PyTree:
        return jax.tree.map(lambda _: number, part, is_leaf=_is_per_device)

    def of_params(part: PyTree) -> PyTree:
        if not jax.tree.leaves(part):
            return part
        slots = flatten_like(
            treedef, params, part, root="what the state keeps", like="params", who="state_sharding"
        )
        return treedef.unflatten(map(numbered, slots, range(len(slots))))

    return map_params(
        tx, of_params, state, transform_non_params=lambda part: numbered(part, -1), is_leaf=lambda _: True
    )


def _with_own(tx: Any, params: Params, layouts: PyTree) -> PyTree:
    """The layouts of a state, those of its parts that choose their own as they do."""
    if hasattr(tx, "state_layout"):
        return tx.state_layout(params)
    if isinstance(tx, Chain):
        return tuple(_with_own(part, params, layouts[i]) for i, part in enumerate(tx.parts))
    if isinstance(tx, NamedChain):
        return {name: _with_own(part, params, layouts[name]) for name, part in tx.parts.items()}
    if isinstance(tx, Wrapper) and tx.field:
        return layouts._replace(**{tx.field: _with_own(tx.inner, params, tx.inner_state(layouts))})
    return _with_own(tx.inner, params, layouts) if isinstance(tx, Wrapper) else layouts


def _longer(leaf: Any) -> Any:
    """The leaf with every axis of another length, and no two alike."""
    if leaf is None:
        return None
    taken, sizes = set(leaf.shape), []
    for size in leaf.shape:
        while size > 1 and size in taken:
            size += 1
        taken.add(size)
        sizes.append(size)
    return jax.ShapeDtypeStruct(tuple(sizes), leaf.dtype)


def _slots_of_others(
    tx: GradientTransformation, params: Params, slots: list[Any], structure: Any
) -> list[Any]:
    """What the state keeps for other parameters, or ``None`` for each if that is something else."""
    try:
        others, other_structure = tree_flatten(jax.eval_shape(tx.init, params), is_leaf=_is_per_device)
    except Exception:  # masks and labels may know the shapes that there are, and no others
        return [None] * len(slots)
    alike = structure == other_structure and all(
        _is_per_device(slot) or slot.ndim == other.ndim for slot, other in zip(slots, others, strict=True)
    )
    return others if alike else [None] * len(slots)


def _origins(
    param: tuple[int, ...], slot: tuple[int, ...], longer: tuple[int, ...], other: tuple[int, ...]
) -> list[int | None]:
    """For each axis of a slot the parameter's axis that it comes from; both in two sizes."""
    left = set(range(len(param)))
    origins: list[int | None] = []
    for axis, sizes in enumerate(zip(slot, other, strict=True)):
        found = [i for i in sorted(left) if (param[i], longer[i]) == sizes]
        # Bytes' scales have as many axes as the parameter, and a shorter one in a place.
        place = [axis] if len(slot) == len(param) and axis in left else []
        origin = axis if axis in found else next(iter(found + place), None)
        origins.append(origin)
        left.discard(origin)
    return origins


def _along(layout: Any, shape: tuple[int, ...], origins: list[int | None]) -> Any:
    """The layout of a slot whose axes come from those of a parameter that lies so."""
    entries = _entries(layout, 1 + max((origin for origin in origins if origin is not None), default=-1))
    chosen = [
        None if origin is None or size == 1 else entries[origin]
        for origin, size in zip(origins, shape, strict=True)
    ]
    if isinstance(layout, NamedSharding):
        chosen = [
            entry if size % _parts(layout.mesh, entry) == 0 else None
            for entry, size in zip(chosen, shape, strict=True)
        ]
    return _with_spec(layout, chosen)
