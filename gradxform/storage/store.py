"""Any optimizer with its state in few bytes."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradxform.arithmetic import next_count
from gradxform.chain import map_lifts
from gradxform.rule import Mask, Rule, Slots, Step, lift, resolve_mask
from gradxform.slots import EXACT, MOMENT, Encoded, Kind, decode_stored, map_slots
from gradxform.storage.codecs import NEAREST, Codec, dithers, find_codec
from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.tree.mapping import map_params
from gradxform.trees import AnyParams
from gradxform.wrappers.wrapper import Wrapper, no_steps

__all__ = ["StoredState", "store"]


class StoredState(NamedTuple):
    """The state of a stored transformation that is not made of rules.

    Attributes:
      count: steps taken, int32.
      inner_state: the transformation's state, in which slots are `Encoded`.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple's own method, which no one calls on a state
    inner_state: State


def store(
    tx: GradientTransformation,
    codec: str | Codec = "int8",
    *,
    slots: str | tuple[str, ...] | None = None,
    leaves: Mask | None = None,
    min_size: int = 4096,
) -> GradientTransformation:
    r"""Keep an optimizer's state in few bytes.

    Between steps the slots are codes. A step decodes those of a leaf, computes in
    float32, and encodes what comes out. Adam's two take for each parameter:

    ===============  =====  =============================================================
    codec            bytes  what a number is kept as
    ===============  =====  =============================================================
    (float32)        8
    ``bfloat16+8``   6      a bfloat16 and eight bits more: sixteen binary digits
    ``bfloat16``     4      eight binary digits
    ``int8``         2.02   one of 256 levels, denser near 0, up to its block's largest
    ``int8-linear``  2.02   one of 256 evenly spaced levels; of second moments, their root
    ``float8``       2.02   an e4m3, as a part of its block's largest
    ``int4``         1.05   one of 16 levels, denser near 0, up to its block's largest
    ===============  =====  =============================================================

    The blocks lie along the last axis, equal parts of at most 256 numbers (128
    of ``int4``), and their largest magnitude takes three bytes; so Adam has 2.1
    where rows have 64 numbers. Codes and magnitudes have the parameter's other
    axes, and lie on devices as it does.

    What lies between two levels is rounded up in some steps and down in others,
    in the proportion that makes it right on average: so a moment follows changes
    that are much smaller than the distance of two levels. A second moment that
    is not 0 never becomes 0, and what is not finite stays so.

    Slots whose every digit counts stay as they are unless `slots` names them:
    averages and starting points of parameters, sums that the parameters are
    computed from, matrices that are decomposed. So do whole and complex numbers.
    Rules say what theirs hold by annotations, `NonNegative` and `Exact`.

    Args:
      tx: any transformation. Rules stay rules and merge with their neighbours
        in a `chain`. The state of a wrapper, or of a part of another library, is
        decoded as a whole in each step; better put `store` inside.
      codec: a name from the table, or a `Codec`.
      slots: the names of the slots to store, as `describe` lists them; by
        default all. For several codecs:
        ``store(store(tx, "int8", slots="nu"), "bfloat16", slots="mu")``.
      leaves: the leaves to store slots of, a mask as in `masked`; by default all.
      min_size: slots of fewer numbers stay as they are.

    Returns:
      A `GradientTransformation`; `decode_stored` shows its state in arrays.

    Raises:
      ValueError: there is no codec, or no slot, of such a name.
      TypeError: the codec is neither a name nor a `Codec`.

    References:
      Dettmers et al., `8-bit optimizers via block-wise quantization
      <https://arxiv.org/abs/2110.02861>`_, 2021; Li, Chen and Zhu, `Memory efficient optimizers
      with 4-bit states <https://arxiv.org/abs/2309.01507>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.store(gx.trace(0.9))
      >>> print(gx.describe(tx, {"w": jnp.zeros((64, 256)), "b": jnp.zeros(256)}))
      part                    update                    remembers  bytes
      ──────────────────────  ────────────────────────  ─────────  ──────
      trace[int8](decay=0.9)  v ← g + decay · v, u = v  trace      17,600
      state: 17,604 bytes, 1.06 a parameter
    """
    name, codec = find_codec(codec)
    names = (slots,) if isinstance(slots, str) else slots
    call = f"store({name!r}" + ("" if names is None else f", slots={names!r}")
    choice = _Choice(call + ")", name, codec, names, min_size)
    choice.check(tx)
    if leaves is None:
        return _stored(tx, choice, choice)
    # Whoever knows the leaves encodes the slots; the parts update what they find encoded.
    stored = _stored(tx, choice, None)

    def init(params: Params) -> State:
        state = stored.init(params)
        if isinstance(params, AnyParams):
            return state
        both = map_slots(partial(choice.encode, make=_Either), state, EXACT)
        mask = resolve_mask(leaves, params, "store")
        return map_params(stored, _Either.chosen, both, mask, is_leaf=Encoded.here)

    return Wrapper(f"{call}, leaves=...)", stored, init, stored.update, field="", rows=True, passes=True)


@dataclass(frozen=True)
class _Either:
    """A slot, stored or as it is: a leaf."""

    stored: Encoded
    plain: jax.Array

    @staticmethod
    def chosen(slot: Any, on: bool) -> Any:
        if not isinstance(slot, _Either):
            return slot
        return slot.stored if on else slot.plain


@dataclass(frozen=True)
class _Choice:
    """What `store` was told."""

    call: str
    name: str
    codec: Codec
    names: tuple[str, ...] | None
    min_size: int

    def takes(self, name: str, kind: Kind) -> bool:
        return not kind.exact if self.names is None else name in self.names

    def check(self, tx: GradientTransformation) -> None:
        """Raise if a name is not that of a slot."""
        if self.names is None:
            return
        known: dict[str, None] = {}
        map_slots(lambda name, kind, arrays: known.setdefault(name), tx.init(AnyParams(jnp.zeros(()))), EXACT)
        for name in self.names:
            if name not in known:
                raise ValueError(
                    f"store: {tx!r} has no slot {name!r}; it has {', '.join(map(repr, known)) or 'none'}"
                )

    def encode(self, name: str, kind: Kind, arrays: Any, make: Any = lambda encoded, array: encoded) -> Any:
        """The slot with those of its arrays encoded that are large enough."""
        if not self.takes(name, kind):
            return arrays
        codec = self.codec.of(MOMENT if kind.exact else kind)

        def one(array: Any) -> Any:
            if Encoded.here(array) or not jnp.issubdtype(array.dtype, jnp.floating):
                return array
            if not array.ndim or array.size < max(self.min_size, 1):
                return array
            return make(Encoded(_encode(codec, array), codec, array.shape[-1], array.dtype), array)

        return jax.tree.map(one, arrays, is_leaf=Encoded.here)


@partial(jax.jit, static_argnums=0)
def _encode(codec: Codec, array: jax.Array) -> tuple[jax.Array, ...]:
    return codec.encode(array.astype(jnp.float32), NEAREST)


def _encode_again(old: Any, new: Any, step_count: Any) -> Any:
    """What was encoded in the old state or slots, encoded in the new ones."""
    numbers = count()

    def one(was: Any, now: Any) -> Any:
        if not Encoded.here(was):
            return now
        return was.encode(now, dithers(now.shape, step_count, next(numbers)))

    return jax.tree.map(one, old, new, is_leaf=Encoded.here)


def _stored(tx: Any, choice: _Choice, at_init: _Choice | None) -> GradientTransformation:
    """The transformation, whose parts update what is encoded; `at_init` says what they encode first."""
    return map_lifts(
        tx,
        lambda part: lift(*(_stored_rule(rule, choice, at_init) for rule in part.rules)),
        lambda part: _stored_whole(part, choice, at_init),
    )


def _stored_rule(rule: Rule, choice: _Choice, at_init: _Choice | None) -> Rule:
    taken: dict[str, None] = {}
    map_slots(
        lambda name, kind, arrays: taken.setdefault(name) if choice.takes(name, kind) else None,
        jax.eval_shape(rule.init, jax.ShapeDtypeStruct((1, 1), jnp.float32)),
    )
    if not taken:
        return rule

    def init(param: Any) -> Slots:
        slots = rule.init(param)
        return map_slots(at_init.encode, slots) if at_init else slots

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        update, new = rule.update(grad, decode_stored(slots), param, step)
        return update, _encode_again(slots, new, step.count)

    def total(grad: Any, slots: Slots, param: Any, step: Step) -> Any:
        assert rule.total is not None
        return rule.total(grad, decode_stored(slots), param, step)

    names = "" if choice.names is None else f"{', '.join(taken)}: "
    return replace(
        rule,
        name=f"{rule.name}[{names}{choice.name}]",
        init=init,
        update=update,
        total=total if rule.total else None,
        counts=True,
    )


def _stored_whole(tx: GradientTransformation, choice: _Choice, at_init: _Choice | None) -> Wrapper:
    accepted = accepted_keywords(tx.update)

    def init(params: Params) -> StoredState:
        state = tx.init(params)
        return StoredState(no_steps(), map_slots(at_init.encode, state, EXACT) if at_init else state)

    def update(
        grads: Updates, state: StoredState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, StoredState]:
        known = jax.tree.map(_as_it_was, state.inner_state, is_leaf=Encoded.here)
        updates, new = tx.update(grads, known, params, **accepted(extra))
        return updates, StoredState(
            next_count(state.count), _encode_again(state.inner_state, new, state.count)
        )

    return Wrapper(choice.call, tx, init, update, rows=True, passes=True)


def _as_it_was(node: Any) -> Any:
    return node.decode().astype(node.dtype) if Encoded.here(node) else node
