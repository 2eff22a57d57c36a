"""Where a training run lies: on one device, or on the devices of a mesh."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import tree_flatten

from gradxform.parallel.sharding import automatic, axis_names, axis_size, constrain, state_sharding
from gradxform.training.batches import Batches
from gradxform.training.history import owned
from gradxform.training.sources import Drawn
from gradxform.transformation import GradientTransformation, Params, State
from gradxform.trees import PyTree, flatten, paths

_LOST = re.compile("gloo|nccl|barrier|heartbeat|coordination|connection|peer|collective", re.IGNORECASE)
"""What an error speaks of that comes from another process."""

__all__ = ["Layout", "OnMesh", "OneDevice"]


@dataclass(frozen=True)
class Layout:
    """How the arrays of a compiled loop lie on the devices; equal ones make the same program.

    Attributes:
      rows: how a batch lies that can be cut into as many parts as there are devices.
      carry: how each array lies that goes from step to step.
      structure: their tree.
    """

    rows: NamedSharding
    carry: tuple[NamedSharding, ...]
    structure: Any

    @property
    def outputs(self) -> Any:
        """The layouts of what a call returns: the carry, and its report on every device."""
        return self.structure.unflatten(self.carry), _whole(self.rows)

    def split(self, batch: PyTree) -> PyTree:
        """The batch, a part on each device; one that cannot be cut is whole on each."""

        def place(leaf: Any) -> Any:
            cut = jnp.ndim(leaf) and leaf.shape[0] % _parts(self.rows) == 0
            return constrain(leaf, self.rows if cut else _whole(self.rows))

        return jax.tree.map(place, batch)

    def keep(self, params: Params, state: State) -> tuple[Params, State]:
        """Parameters and state, lying as they did before the step."""
        carry = self.structure.unflatten(self.carry)
        kept: tuple[Params, State] = jax.tree.map(constrain, (params, state), (carry.params, carry.state))
        return kept


class OneDevice:
    """All stays where JAX puts it.

    Attributes:
      together: whether several processes train together, and so have to do the same.
    """

    together = False

    def like(self, params: Params) -> Params:
        """What restored parameters are to look like."""
        return params

    def params(self, params: Params) -> Params:
        """A copy of the parameters, where they are trained."""
        return owned(params)

    def state(self, tx: GradientTransformation, params: Params, state: State | None) -> State:
        """A copy of the state, or a new one."""
        return owned(tx.init(params) if state is None else state)

    def whole(self, tree: PyTree) -> PyTree:
        """What every device has all of."""
        return tree

    def data(self, data: PyTree, plan: Batches) -> PyTree:
        """A data set."""
        return data

    def drawn(self, drawn: Drawn | None) -> Drawn | None:
        """Batches of a stream, or that there are none left."""
        return drawn

    def layout(self, carry: PyTree) -> Layout | None:
        """How the compiled loop's arrays lie, if that is to be said."""
        return None

    @contextmanager
    def watching(self, step: Callable[[], int]) -> Iterator[None]:
        """Say what it means when devices no longer answer one another, and after which step."""
        yield


class OnMesh(OneDevice):
    """Batches are split over an axis of a mesh; parameters lie on it as they come, or whole on each device.

    Args:
      mesh: the devices.
      data_axis: the axis to split batches over, or axes; by default the first.

    Raises:
      TypeError: `mesh` is none.
      ValueError: it has no such axis.
    """

    def __init__(self, mesh: Mesh, data_axis: str | Sequence[str] | None) -> None:
        if not isinstance(mesh, Mesh):
            raise TypeError(f"fit: mesh must be a jax.sharding.Mesh, as jax.make_mesh makes it, got {mesh!r}")
        chosen = mesh.axis_names[0] if data_axis is None else data_axis
        names = (chosen,) if isinstance(chosen, str) else tuple(chosen)
        axis_size(mesh, names, "fit")
        self.rows = NamedSharding(automatic(mesh), PartitionSpec(names))
        self.together = mesh.is_multi_process
        self._checked = False

    def like(self, params: Params) -> Params:
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(
                jnp.shape(leaf), jnp.result_type(leaf), sharding=sharding
            ),
            params,
            self._own(params),
        )

    def params(self, params: Params) -> Params:
        return self._put(params, self._own(params))

    def state(self, tx: GradientTransformation, params: Params, state: State | None) -> State:
        shardings = state_sharding(tx, params)
        if state is not None:
            return self._put(state, shardings)
        layout = tuple(jax.tree.leaves(shardings)), jax.tree.structure(shardings)
        try:
            init = _init(tx, *layout)
        except TypeError:  # a transformation that cannot be hashed
            init = _init.__wrapped__(tx, *layout)
        made: State = init(params)
        return made

    def whole(self, tree: PyTree) -> PyTree:
        return self._put(tree, jax.tree.map(lambda _: _whole(self.rows), tree))

    def data(self, data: PyTree, plan: Batches) -> PyTree:
        parts = _parts(self.rows)
        if plan.batch_size % parts:
            what = "all of the data set" if plan.whole else "the batch_size"
            raise ValueError(
                f"fit: {what}, {plan.batch_size} examples, cannot be cut into equal parts for the {parts} "
                f"devices along {self._axes()}; pass a batch_size that {parts} divides"
            )
        return self._put(data, jax.tree.map(lambda _: self.rows if plan.whole else _whole(self.rows), data))

    def drawn(self, drawn: Drawn | None) -> Drawn | None:
        if drawn is not None and drawn.signature is None:  # a data set, which lies on the devices already
            return drawn
        if self.together:
            _check_agreement(drawn)
        if drawn is None:
            return None
        rows = NamedSharding(self.rows.mesh, PartitionSpec(None, *self.rows.spec))
        parts = _parts(self.rows)

        def place(leaf: Any) -> Any:
            if self.together:  # each process brings the rows of its own devices
                return jax.make_array_from_process_local_data(rows, np.asarray(leaf))
            cut = jnp.ndim(leaf) > 1 and leaf.shape[1] % parts == 0
            if not cut and not self._checked and jnp.ndim(leaf) > 1:
                raise ValueError(
                    f"fit: a batch of {leaf.shape[1]} examples cannot be cut into equal parts for the "
                    f"{parts} devices along {self._axes()}; make batches of a size that {parts} divides"
                )
            return jax.device_put(leaf, rows if cut else _whole(rows))

        placed = drawn._replace(data=jax.tree.map(place, drawn.data))
        self._checked = True  # a short one at the end is taken whole
        return placed

    def layout(self, carry: PyTree) -> Layout:
        leaves, structure = tree_flatten(carry)
        return Layout(self.rows, tuple(leaf.sharding for leaf in leaves), structure)

    @contextmanager
    def watching(self, step: Callable[[], int]) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if not self.together or not _LOST.search(str(error)):
                raise
            raise RuntimeError(
                f"fit: process {jax.process_index()} of {jax.process_count()} lost touch with another one "
                f"after step {step()}; the other's own output says why. Start them again with resume=True, "
                "as many as there are now, to go on from the last checkpoint."
            ) from error

    def _axes(self) -> str:
        return " and ".join(map(repr, axis_names(self.rows.spec[0])))

    def _is_here(self, leaf: Any) -> bool:
        """Whether an array lies on the mesh's devices already."""
        return isinstance(leaf, jax.Array) and leaf.sharding.device_set == self.rows.device_set

    def _own(self, params: Params) -> PyTree:
        """How the parameters lie: as they come, if that is on the mesh."""
        leaves, treedef = flatten(params)

        def own(index: int, leaf: Any) -> NamedSharding | None:
            if leaf is None:
                return None
            if not self._is_here(leaf) or not isinstance(leaf.sharding, NamedSharding):
                return _whole(self.rows)
            if leaf.sharding.mesh.axis_names != self.rows.mesh.axis_names:
                raise ValueError(
                    f"fit: {paths(params, 'params')[index]} lies on a mesh with the axes "
                    f"{leaf.sharding.mesh.axis_names}, and fit is to train on one with "
                    f"{self.rows.mesh.axis_names}; put the parameters on that one"
                )
            return NamedSharding(self.rows.mesh, leaf.sharding.spec)

        return treedef.unflatten(map(own, range(len(leaves)), leaves))

    def _put(self, tree: PyTree, shardings: PyTree) -> PyTree:
        """A copy of a tree, laid out so; what lies on the mesh moves from device to device."""
        leaves, targets = jax.tree.leaves(tree), jax.tree.leaves(shardings)
        here = [i for i, leaf in enumerate(leaves) if self._is_here(leaf)]
        move = jax.jit(lambda arrays: list(map(jnp.copy, arrays)), out_shardings=[targets[i] for i in here])
        moved = dict(zip(here, move([leaves[i] for i in here]) if here else [], strict=True))
        placed = [
            moved[i] if i in moved else _from_host(leaf, target)
            for i, (leaf, target) in enumerate(zip(leaves, targets, strict=True))
        ]
        return jax.tree.unflatten(jax.tree.structure(tree), placed)


@lru_cache(maxsize=64)
def _init(
    tx: GradientTransformation, shardings: tuple[NamedSharding, ...], structure: Any
) -> Callable[[Params], State]:
    """The compiled `init`; each array in a buffer of its own, as `owned` makes them."""

    def init(params: Params) -> State:
        return jax.tree.map(jnp.copy, tx.init(params))

    return jax.jit(init, out_shardings=jax.tree.unflatten(structure, shardings))


def _check_agreement(drawn: Drawn | None) -> None:
    """Raise, in every process, if one has other batches than the others: they would wait for ever."""
    from jax.experimental.multihost_utils import process_allgather

    here = [0, 0] if drawn is None else [drawn.steps, crc32(repr(drawn.signature).encode()) >> 1]
    steps, kinds = np.asarray(process_allgather(np.asarray(here, np.int32))).reshape(-1, 2).T
    if len(set(steps)) > 1 or len(set(kinds)) > 1:
        counts = ", ".join(f"process {number} has {count}" for number, count in enumerate(steps))
        what = "of one shape in each" if len(set(kinds)) == 1 else "but not of one shape in all"
        raise ValueError(
            f"fit: the processes' iterators do not agree: of the next batches {counts}, {what}. Give every "
            "process as many batches, of equal shapes; leave out a short one at the end"
        )


def _from_host(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        numbers = _from_host(jax.random.key_data(leaf), sharding)
        key: jax.Array = jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        return key
    array = np.asarray(leaf, jnp.result_type(leaf))
    placed: jax.Array = jax.device_put(array, sharding, may_alias=False)
    return placed


def _whole(sharding: NamedSharding) -> NamedSharding:
    return NamedSharding(sharding.mesh, PartitionSpec())


def _parts(rows: NamedSharding) -> int:
    """Into how many parts the rows are cut."""
    return axis_size(rows.mesh, axis_names(rows.spec[0]), "fit")
