"""What kind of numbers a slot holds, which its annotation says; and slots that are kept in few bytes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Annotated, Any, TypeAlias, get_args, get_type_hints

import jax
from jax.tree_util import register_dataclass

from gradxform.arithmetic import compute_dtype
from gradxform.rule import LiftState
from gradxform.transformation import State

__all__ = [
    "DIVISOR",
    "EXACT",
    "MOMENT",
    "Encoded",
    "Exact",
    "Kind",
    "NonNegative",
    "decode_stored",
    "map_slots",
]


@dataclass(frozen=True)
class Kind:
    """What the numbers of a slot are like.

    Attributes:
      signed: whether they can be negative.
      nonzero: whether one that is not 0 must never be rounded to 0, because something is divided by it.
      exact: whether every digit counts, as in a copy of the parameters.
    """

    signed: bool = True
    nonzero: bool = False
    exact: bool = False


MOMENT = Kind()
DIVISOR = Kind(nonzero=True)
EXACT = Kind(exact=True)

NonNegative: TypeAlias = Annotated[jax.Array, Kind(signed=False, nonzero=True)]
"""The annotation of a slot that is never negative and divides something, such as a second moment."""

Exact: TypeAlias = Annotated[jax.Array, EXACT]
"""The annotation of a slot that must not lose digits, such as the place where the parameters started."""

# What other libraries call theirs; their second moments may have signs, as the momentum nu of Optax's SM3.
_FAMILIAR = {
    **dict.fromkeys(("mu", "trace", "ema"), MOMENT),
    **dict.fromkeys(("nu", "nu_max", "sum_of_squares", "e_g", "e_x", "v_row", "v_col"), DIVISOR),
}


@partial(register_dataclass, data_fields=["arrays"], meta_fields=["codec", "size", "dtype"])
@dataclass(frozen=True)
class Encoded:
    """A slot in few bytes; it stands in the slot's place in a state.

    Attributes:
      arrays: what its codec makes of it.
      codec: the `Codec`.
      size: how long the slot's last axis is.
      dtype: the slot's own dtype.
    """

    arrays: tuple[jax.Array, ...]
    codec: Any
    size: int
    dtype: Any

    def encode(self, x: jax.Array, dither: Any) -> "Encoded":
        """Other numbers in the same way."""
        return replace(self, arrays=self.codec.encode(x.astype("float32"), dither))

    def decode(self) -> jax.Array:
        """The slot as an array, in float32 or wider."""
        slot: jax.Array = self.codec.decode(self.arrays, self.size)
        return slot.astype(compute_dtype(self.dtype))

    @staticmethod
    def here(node: Any) -> bool:
        """Whether a node is one."""
        return isinstance(node, Encoded)


def decode_stored(state: State) -> State:
    """A state with its stored slots as arrays, to look at.

    Args:
      state: the state of a transformation made by `store`, or a part of one.

    Returns:
      A tree like it. `update` wants the state as it is.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.store(gx.trace(0.9), min_size=1)
      >>> _, state = tx.update(jnp.asarray([1.0, -0.5]), tx.init(jnp.zeros(2)))
      >>> gx.decode_stored(state).slots[0].trace.round(2).tolist()
      [1.0, -0.5]
    """
    return jax.tree.map(lambda x: x.decode() if Encoded.here(x) else x, state, is_leaf=Encoded.here)


def map_slots(function: Callable[[str, Kind, Any], Any], tree: State, unmarked: Kind = MOMENT) -> State:
    """Put something in the place of every slot.

    Args:
      function: ``function(name, kind, arrays)``, given the name of a field, the
        kind of numbers in it, and the array or tree of arrays that it holds.
      tree: the slots of a rule, or any state.
      unmarked: the kind of what has no mark. The slots of rules within a state
        are moments where they have none.

    Returns:
      A tree of the same containers.
    """

    def walk(node: Any, name: str, mark: Kind | None) -> Any:
        if mark is not None and mark.exact:
            return function(name, mark, node)
        if isinstance(node, LiftState):
            return node._replace(slots=tuple(map_slots(function, slots) for slots in node.slots))
        if isinstance(node, tuple) and hasattr(node, "_fields"):
            fields = _fields(type(node))
            return type(node)(
                *(
                    walk(child, field, fields[field].mark or mark)
                    if fields[field].nested
                    else function(field, fields[field].mark or mark or unmarked, child)
                    for field, child in zip(node._fields, node, strict=True)
                )
            )
        if type(node) in (tuple, list):
            return type(node)(walk(child, name, mark) for child in node)
        if type(node) is dict:
            return {key: walk(child, name, mark) for key, child in node.items()}
        return node if node is None else function(name, mark or unmarked, node)

    return walk(tree, "", None)


@dataclass(frozen=True)
class _Field:
    """What an annotation says: the kind, if it does, and whether slots of other rules may be inside."""

    mark: Kind | None
    nested: bool


@cache
def _fields(slots: type[Any]) -> dict[str, _Field]:
    fields = {name: _field(_hint(slots, name)) for name in slots._fields}
    if not slots.__module__.startswith("gradxform."):
        familiar = {name: _Field(kind, False) for name, kind in _FAMILIAR.items() if name in fields}
        fields |= {name: field for name, field in familiar.items() if fields[name].mark is None}
    return fields


def _hint(slots: type[Any], name: str) -> Any:
    """The annotation of a field; where only type checkers know its names, none."""
    alone = SimpleNamespace(__annotations__={name: slots.__annotations__.get(name, Any)})
    try:
        return get_type_hints(alone, vars(sys.modules[slots.__module__]), include_extras=True)[name]
    except NameError:
        return Any


def _field(hint: Any) -> _Field:
    within = [_field(argument) for argument in get_args(hint)]
    marks = [argument for argument in get_args(hint) if isinstance(argument, Kind)]
    marks += [field.mark for field in within if field.mark is not None]
    slots = hint is Any or (isinstance(hint, type) and hasattr(hint, "_fields"))
    return _Field(marks[0] if marks else None, slots or any(field.nested for field in within))
