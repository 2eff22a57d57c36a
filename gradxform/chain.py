"""Composing transformations: `chain`, `named_chain` and `identity`."""

from collections.abc import Callable, Iterable
from typing import Any

from jax.tree_util import register_static

from gradxform.rule import Lift, Rule, lift
from gradxform.transformation import (
    GradientTransformation,
    Params,
    State,
    Updates,
    accepted_keywords,
)

__all__ = ["Chain", "NamedChain", "chain", "identity", "map_lifts", "named_chain"]


class Chain(GradientTransformation):
    """Transformations applied one after the other; made by `chain`.

    Attributes:
      parts: the parts, adjacent rules already merged.
    """

    parts: tuple[GradientTransformation, ...]

    def __new__(cls, parts: tuple[GradientTransformation, ...]) -> "Chain":
        accepted = [accepted_keywords(part.update) for part in parts]
        for part in parts[:-1]:
            if exact := getattr(part, "exact_end", ""):
                raise ValueError(f"{exact} must be the last part: what comes after it would round again")

        def init(params: Params) -> State:
            return tuple(part.init(params) for part in parts)

        def update(
            grads: Updates, state: State, params: Params | None = None, **extra: Any
        ) -> tuple[Updates, State]:
            if not isinstance(state, tuple) or len(state) != len(parts):
                raise ValueError(
                    f"chain: the state is not one that its init made: it needs a tuple of {len(parts)} "
                    f"states, got {type(state).__name__}. Pass on the state of the last update."
                )
            states = []
            for part, part_state, keywords in zip(parts, state, accepted, strict=True):
                grads, new = part.update(grads, part_state, params, **keywords(extra))
                states.append(new)
            return grads, tuple(states)

        self = super().__new__(cls, init, update)
        self.parts = parts
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.parts,)

    @property
    def exact_end(self) -> str:
        """The name of its last rule, if that one's update must not be rounded."""
        return str(getattr(self.parts[-1], "exact_end", ""))

    def constants(self) -> list[tuple[str, str, Any]]:
        """The hyperparameters that the state does not hold: where its part's state stands, name and value."""
        return _constants(enumerate(self.parts))


class NamedChain(GradientTransformation):
    """Transformations applied one after the other, each state under its name; made by `named_chain`.

    Attributes:
      parts: name to part.
    """

    parts: dict[str, GradientTransformation]

    def __new__(cls, parts: dict[str, GradientTransformation]) -> "NamedChain":
        together = Chain(tuple(parts.values()))

        def init(params: Params) -> State:
            return dict(zip(parts, together.init(params), strict=True))

        def update(
            grads: Updates, state: State, params: Params | None = None, **extra: Any
        ) -> tuple[Updates, State]:
            if not isinstance(state, dict) or state.keys() != parts.keys():
                raise ValueError(
                    f"named_chain: the state must have the names {list(parts)}, "
                    f"got {list(state) if isinstance(state, dict) else type(state).__name__}"
                )
            in_order = tuple(state[name] for name in parts)
            grads, states = together.update(grads, in_order, params, **extra)
            return grads, dict(zip(parts, states, strict=True))

        self = super().__new__(cls, init, update)
        self.parts = parts
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.parts,)

    @property
    def exact_end(self) -> str:
        """The name of its last rule, if that one's update must not be rounded."""
        *_, last = None, *self.parts.values()
        return str(getattr(last, "exact_end", ""))

    def constants(self) -> list[tuple[str, str, Any]]:
        """The hyperparameters that the state does not hold: where its part's state stands, name and value."""
        return _constants(self.parts.items())


register_static(Chain)
register_static(NamedChain)


def identity() -> Lift:
    """The transformation that leaves the gradients as they are: :math:`u = g`.

    Returns:
      A `GradientTransformation`; in a `chain` it disappears.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.identity()
      >>> tx.update([3.0], tx.init([1.0]))[0]
      [3.0]
    """
    return lift()


def chain(*parts: GradientTransformation) -> GradientTransformation:
    """Compose transformations: the gradient goes through `parts` from left to right.

    Adjacent rules, also those of nested chains, merge into one walk over the
    tree and one trace; their state is then one state. Parts may come from any
    library that has the same interface; extra keyword arguments of `update`
    reach the parts that take them.

    Args:
      *parts: transformations.

    Returns:
      Their composition: a lift where all parts are rules, otherwise a chain
      whose state is a tuple with a state for each merged part.

    Raises:
      TypeError: a part is no transformation; the message says which.
      ValueError: a part comes after one whose last rule must be the last, being `exact`.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.chain(gx.clip(1.0), gx.scale(-0.5))
      >>> tx.update([3.0], tx.init([0.0]))[0][0].item()
      -0.5
    """
    merged: list[GradientTransformation] = []
    for part in _flat(parts):
        if isinstance(part, Lift) and merged and isinstance(merged[-1], Lift):
            merged[-1] = lift(*merged[-1].rules, *part.rules)
        else:
            merged.append(part)
    # The identity is a lift of no rules: beside a foreign part it has nothing to merge with.
    merged = [part for part in merged if not (isinstance(part, Lift) and not part.rules)]
    if not merged:
        return identity()
    return merged[0] if len(merged) == 1 else Chain(tuple(merged))


def named_chain(*parts: tuple[str, GradientTransformation]) -> NamedChain:
    """Compose transformations whose states are to be found by name.

    It is `chain`, except that the parts are not merged with each other: the
    state is a dictionary with the state of each part under its name.

    Args:
      *parts: pairs of a name and a transformation.

    Returns:
      Their composition.

    Raises:
      TypeError: a part is no pair of name and transformation.
      ValueError: a name comes twice, or a part comes after one whose last rule must be the last,
        being `exact`.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.named_chain(("clip", gx.clip(1.0)), ("step", gx.sgd(0.1)))
      >>> list(tx.init([0.0]))
      ['clip', 'step']
    """
    named: dict[str, GradientTransformation] = {}
    for part in parts:
        if not (isinstance(part, tuple) and len(part) == 2 and isinstance(part[0], str)):
            raise TypeError(f"named_chain takes pairs (name, transformation), got {part!r}")
        if part[0] in named:
            raise ValueError(f"named_chain: the name {part[0]!r} comes twice")
        named[part[0]] = _check_part(part[0], part[1], "named_chain")
    return NamedChain(named)


def map_lifts(
    tx: GradientTransformation,
    of_lift: Callable[[Lift], GradientTransformation],
    of_other: Callable[[GradientTransformation], GradientTransformation],
) -> GradientTransformation:
    """The transformation with others in the place of its lifts, and of its parts that are none."""
    if isinstance(tx, Lift):
        return of_lift(tx)
    if isinstance(tx, Chain):
        return chain(*(map_lifts(part, of_lift, of_other) for part in tx.parts))
    if isinstance(tx, NamedChain):
        return NamedChain({name: map_lifts(part, of_lift, of_other) for name, part in tx.parts.items()})
    return of_other(tx)


def map_rules(tx: GradientTransformation, of_rule: Callable[[Rule], Rule]) -> GradientTransformation:
    """The transformation with others in the place of its rules."""
    return map_lifts(tx, lambda part: lift(*map(of_rule, part.rules)), lambda part: part)


def _flat(parts: tuple[Any, ...]) -> list[GradientTransformation]:
    flat: list[GradientTransformation] = []
    for place, part in enumerate(parts):
        flat.extend(part.parts if isinstance(part, Chain) else [_check_part(place, part, "chain")])
    return flat


def _check_part(place: int | str, part: Any, who: str) -> GradientTransformation:
    if callable(getattr(part, "init", None)) and callable(getattr(part, "update", None)):
        known: GradientTransformation = part
        return known
    name = getattr(part, "__name__", None)
    hint = f"; did you mean {name}(...)?" if callable(part) and name else ""
    raise TypeError(f"{who}: part {place!r} is no transformation (init, update) but {part!r}{hint}")


def _constants(parts: Iterable[tuple[int | str, GradientTransformation]]) -> list[tuple[str, str, Any]]:
    return [
        (f"[{place!r}]{path}", name, value)
        for place, part in parts
        for path, name, value in getattr(part, "constants", list)()
    ]
