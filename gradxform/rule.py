"""Rules: an update equation for one array; and `lift`, which applies rules to whole pytrees."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from operator import add, itemgetter
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import tree_util
from jax.tree_util import treedef_is_leaf

from gradxform.arithmetic import Decay, compute_dtype, real_dtype, sum_of_squares
from gradxform.hyperparams import Hyperparam, Resolver, check
from gradxform.sparse import RowSparse, on_values
from gradxform.transformation import GradientTransformation, Params, Updates
from gradxform.trees import (
    AnyParams,
    PyTree,
    broadcast_prefix,
    check_all_inexact,
    check_gradient,
    check_inexact,
    flatten,
    flatten_like,
    paths,
)

Slots: TypeAlias = Any
"""What a rule remembers for one array: a ``NamedTuple`` of arrays, or ``()``."""

Mask: TypeAlias = PyTree | Callable[[Params], PyTree]

__all__ = ["Lift", "LiftState", "Mask", "Rule", "Slots", "Step", "lift", "squared_norm"]


class Step:
    """What a rule may know of the step besides its array.

    The rule's hyperparameters are attributes under their own names: Python
    numbers where they are constants, otherwise scalars of the dtype that the
    rule computes in; those declared as `debiased` are a `Decay` of either.

    Attributes:
      count: steps taken before this one, int32, if the rule counts.
      t: the number of this step, counted from 1, in the dtype computed in, if the rule counts.
      total: the sum over all leaves of the rule's `total`.
      last: the numbers that the rule kept for the whole tree after the last step.
      shared: those that it keeps after this one; known to its `update` alone.
      option: what the rule's `options` say of this leaf.
      entered: the gradient as it was before the rules that this one encloses.
      dtype: the parameter's own dtype, which may be narrower than the one computed in.
      key: a random key of this rule, leaf and step, if the rule is random.
    """

    count: Any
    t: Any
    total: Any
    last: Any
    shared: Any
    option: Any
    entered: Any
    dtype: Any
    key: Any

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        if name in ("count", "t"):
            raise AttributeError(f"the rule reads step.{name}, so it must say Rule(..., counts=True)")
        raise AttributeError(f"the rule has no hyperparameter {name!r}; it has {sorted(self.__dict__)}")


def _no_slots(param: Any) -> Slots:
    return ()


@dataclass(frozen=True, eq=False)
class Rule:
    """An update equation for one array, and nothing about trees, dtypes or devices.

    Attributes:
      name: what errors and `describe` call it.
      update: ``update(grad, slots, param, step) -> (update, slots)``, on one
        array. Arrays come in float32 or wider; the slots go back into the
        dtypes that `init` gave them.
      init: ``init(param) -> slots``: a ``NamedTuple`` of arrays, or ``()``.
      hyperparams: name to constant, array, schedule or tunable, best wrapped
        in `fraction`, `debiased`, `unit`, `nonnegative` or `positive` to bound it.
      equation: the update in one line, for `describe`.
      scope: ``"element"`` if each element of the update depends only on the
        same element of the inputs, ``"array"`` if it needs the whole array.
      needs_params: whether `update` reads `param`.
      counts: whether the rule reads ``step.count`` or ``step.t``. Where no rule does,
        and nothing follows a schedule or is random, the state has no count.
      total: ``total(grad, slots, param, step)``: a number, or a tuple of
        numbers, taken of each leaf; their sums over all leaves are known to
        `update` as ``step.total`` (a global norm, say).
      shared: the numbers that the rule keeps for the whole tree, as they are
        at first: a ``NamedTuple``.
      advance: ``advance(total, step) -> shared``: those numbers after this
        step; it finds the last ones in ``step.last``.
      extra: keyword arguments of the transformation's `update` that the rule
        needs (the loss's ``value``, say); attributes of the step too.
      options: something to tell the leaves apart by, known to `update` as
        ``step.option``: a tree like a mask, but of any hashable objects that
        are no pytrees, or a function from the parameters to it.
      batched: whether leaves of equal shape are stacked, so that all of them
        are one call (of a matrix product, say).
      encloses: how many of the rules before it the rule goes with; its `update`
        finds the gradient that the first of them was given in ``step.entered``.
      exact: whether its update is left in the dtype that it was computed in, to
        be added to the parameter before anything is rounded. Nothing can come after it.
      turns: whether it turns the direction round, from that of the gradient to
        the one downhill, as the learning rate does.
      random: whether `update` draws from ``step.key``; then `hyperparams`
        has a ``key``.
      mask: which leaves the rule applies to: a tree of booleans, a prefix of
        one, or a function from the parameters to such a tree.
      group: what the rules that share the mask are called together; it stands
        before the name of a hyperparameter that another group has too.

    Raises:
      TypeError, ValueError: a hyperparameter is of no known kind or out of its
        bounds; the message names rule, hyperparameter and value.

    Example:
      >>> import gradxform as gx
      >>> sign = gx.Rule("sign", lambda grad, slots, param, step: (grad / abs(grad), slots))
      >>> tx = gx.chain(gx.lift(sign), gx.scale(-0.1))
      >>> tx.update([2.0], tx.init([1.0]))[0][0].item()
      -0.10000000149011612
    """

    name: str
    update: Callable[[Any, Any, Any, Any], tuple[Any, Slots]]
    init: Callable[[Any], Slots] = _no_slots
    hyperparams: Mapping[str, Hyperparam | Any] = field(default_factory=dict)
    equation: str = ""
    scope: Literal["element", "array"] = "element"
    needs_params: bool = False
    counts: bool = False
    total: Callable[[Any, Any, Any, Any], Any] | None = None
    shared: Any = ()
    advance: Callable[[Any, Any], Any] | None = None
    extra: tuple[str, ...] = ()
    options: Any = None
    batched: bool = False
    encloses: int = 0
    exact: bool = False
    turns: bool = False
    random: bool = False
    mask: Mask | None = None
    group: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hyperparams", check(self.name, self.hyperparams))

    @property
    def alone(self) -> bool:
        """Whether it has to wait until the rules before it are done with every leaf."""
        return self.total is not None or self.advance is not None or self.batched


class LiftState(NamedTuple):
    """The state of a lift.

    Attributes:
      count: steps taken, int32; at its maximum it stays there. None where nothing depends on it.
      tunables: the current value of each `tunable` by name.
      scheduled: the value of each schedule at the last step by name.
      slots: for each rule its slots, each field a tree like the parameters.
      shared: for each rule the numbers that it keeps for the whole tree.
    """

    count: jax.Array | None  # type: ignore[assignment]  # a tuple's own method, which no one calls on a state
    tunables: dict[str, jax.Array]
    scheduled: dict[str, jax.Array]
    slots: tuple[Slots, ...]
    shared: tuple[Any, ...] = ()


class Lift(GradientTransformation):
    """Rules applied to every leaf of a pytree; made by `lift`.

    Attributes:
      rules: the rules, in order.
    """

    rules: tuple[Rule, ...]

    def __new__(cls, rules: tuple[Rule, ...]) -> "Lift":
        walk = _Walk(rules)
        self = super().__new__(cls, walk.init, walk.update)
        self.rules = rules
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:  # to copy it, make it of its rules again
        return (self.rules,)

    @property
    def exact_end(self) -> str:
        """The name of its last rule, if that one's update must not be rounded."""
        return self.rules[-1].name if self.rules and self.rules[-1].exact else ""

    def constants(self) -> list[tuple[str, str, Any]]:
        """The hyperparameters that the state does not hold: where its state stands, name and value."""
        resolver = Resolver(self.rules)
        constants = [
            ("", names[local], value)
            for names, constants in zip(resolver.names, resolver.constants, strict=True)
            for local, value in constants.items()
        ]
        return [*constants, *(("", name, value) for name, value in resolver.arrays.items())]


# Functions that take trees apart (`equinox.filter_jit`, say) could not put a tuple with more to it together.
tree_util.register_static(Lift)


def lift(*rules: Rule) -> Lift:
    """Apply rules, one after the other, to every leaf of a pytree.

    The tree is walked once for all of them, and each distinct shape and dtype
    among its leaves is traced once, however many leaves share it.

    Args:
      *rules: the rules, in the order in which the gradient goes through them.

    Returns:
      A `GradientTransformation`. Its `update` raises `TypeError` for leaves
      that are not floating-point or complex, and `ValueError` where trees or
      shapes disagree, naming the leaf.

    Raises:
      TypeError: an argument is no `Rule`.
      ValueError: a rule comes after one that must be the last, being `exact`.

    Example:
      >>> import gradxform as gx
      >>> double = gx.Rule("double", lambda grad, slots, param, step: (2 * grad, slots))
      >>> tx = gx.lift(double, double)
      >>> tx.update({"w": 1.0}, tx.init({"w": 0.0}))[0]["w"].item()
      4.0
    """
    for rule in rules:
        if not isinstance(rule, Rule):
            raise TypeError(f"lift takes rules, got {rule!r}; transformations are composed with chain")
    return Lift(rules)


def squared_norm(grad: Any, slots: Slots, param: Any, step: Step) -> Any:
    """The `total` of a rule that needs the norm of the whole gradient."""
    return sum_of_squares(grad)


class _Walk:
    """The one place that walks a pytree for rules."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self.who = " + ".join(rule.name for rule in rules) or "identity"
        self.resolver = Resolver(rules)
        self.counts = bool(self.resolver.schedules) or any(rule.counts or rule.random for rule in rules)
        for rule in rules[:-1]:
            if rule.exact:
                raise ValueError(f"{rule.name} must be the last part: what comes after it would round again")
        # What follows a batched rule is not stacked with it.
        starts = {i for i, rule in enumerate(rules) if i == 0 or rule.alone or rules[i - 1].batched}
        self.kept = _kept(rules, starts)
        spans = [slice(i, j) for i, j in pairwise([*sorted(starts), len(rules)])]
        self.runs = [_Run(span, rules[span], self.resolver) for span in spans]

    def __reduce__(self) -> Any:  # its caches stay where they are
        return _Walk, (self.rules,)

    def init(self, params: Params) -> LiftState:
        check_all_inexact(params, root="params", who=self.who)
        leaves, treedef = flatten(params)

        def slots(rule: Rule, mask: list[bool]) -> Slots:
            entries = [None] * len(leaves)
            for i, (leaf, on) in enumerate(zip(leaves, mask, strict=True)):
                if on and leaf is not None:
                    with _noting(f"while {rule.name} made its slots for", params, i):
                        entries[i] = rule.init(leaf)
            kind: Slots = next((entry for entry in entries if entry is not None), ())
            absent = [None] * len(kind)
            columns = zip(*(absent if entry is None else entry for entry in entries), strict=True)
            return _refill(kind, map(treedef.unflatten, columns))

        masks = self.masks(params, lambda mask, _: flatten(mask)[0], len(leaves))
        tunables, scheduled = self.resolver.init()
        return LiftState(
            jnp.zeros((), jnp.int32) if self.counts else None,
            tunables,
            scheduled,
            tuple(map(slots, self.rules, masks)),
            # A buffer can be donated once only: every state gets its own.
            tuple(jax.tree.map(lambda number: jnp.array(number, float), rule.shared) for rule in self.rules),
        )

    def update(
        self, grads: Updates, state: LiftState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, LiftState]:
        leaves, treedef = flatten(grads)
        leaves = [_coalesce(leaf) if isinstance(leaf, RowSparse) else leaf for leaf in leaves]
        self.check_state(state)

        def align(tree: PyTree, root: str) -> list[Any]:
            return flatten_like(treedef, grads, tree, root=root, like="grads", who=self.who)

        originals = [None] * len(leaves) if params is None else align(params, "params")
        self.check_leaves(grads, leaves, params is None, originals)
        like = grads if params is None else params
        masks = self.masks(like, align, len(leaves))
        self.check_scopes(grads, leaves, masks)
        options = [_options(rule, like, align, len(leaves)) for rule in self.rules]
        columns = [
            [align(column, f"the slots of {rule.name}") for column in slots]
            for rule, slots in zip(self.rules, state.slots, strict=True)
        ]
        # rows[i][r]: what rule r remembers of leaf i
        rows = [
            [
                _refill(slots, (column[i] for column in of_rule))
                for slots, of_rule in zip(state.slots, columns, strict=True)
            ]
            for i in range(len(leaves))
        ]
        count: jax.Array | None = None
        scheduled: dict[str, jax.Array] = {}
        values = {**self.resolver.arrays, **state.tunables}
        if state.count is not None:
            count, scheduled, derived = self.resolver.advance(state.count, values)
            values.update(scheduled, count=state.count, **derived)
        places = np.arange(len(leaves), dtype=np.uint32)
        for rule, names in zip(self.rules, self.resolver.names, strict=True):
            if rule.random:  # the keys of all leaves at once: hashed one by one they cost a kernel each
                values[names["key"]] = _keys_of_leaves(values[names["key"]], state.count, places)
        dtypes = [
            None if grad is None else _dtype_of(grad if param is None else param)
            for grad, param in zip(leaves, originals, strict=True)
        ]
        # A leaf stays wide from its first run to its last one, which narrows it to the parameter's dtype.
        last = [
            max((run.span.start for run in self.runs if any(applies[run.span])), default=-1)
            for applies in zip(*masks, strict=True)
        ]
        for i, (leaf, run_last) in enumerate(zip(leaves, last, strict=False)):
            if leaf is not None and run_last < 0 and _dtype_of(leaf) != dtypes[i]:
                leaves[i] = on_values(partial(_narrow, dtype=dtypes[i]), leaf)
        if self.rules and self.rules[-1].exact:
            dtypes = [None if on else dtype for on, dtype in zip(masks[-1], dtypes, strict=True)]
        shared = list(state.shared)
        kept: dict[int, list[Any]] = {}
        for run in self.runs:
            first, inputs = run.span.start, {**values, "extra": run.arguments(extra)}
            if first in self.kept:
                kept[first] = list(leaves)
            entered = [{start: kept[start][i] for start in run.encloses} for i in range(len(leaves))]
            work = [
                _Work(i, grad, rows[i][run.span], originals[i], entered[i], applies, option, out)
                for i, (grad, applies, option, out) in enumerate(
                    zip(
                        leaves,
                        zip(*masks[run.span], strict=True),
                        zip(*options[run.span], strict=True),
                        [dtype if first == end else None for dtype, end in zip(dtypes, last, strict=True)],
                        strict=True,
                    )
                )
                if grad is not None and any(applies)
            ]
            inputs, shared[first] = run.gather(work, inputs, shared[first], grads)
            for group in run.groups(work):
                with _noting(f"while {self.who} updated", grads, group[0].place):
                    results = run.update(group, inputs)
                for item, (leaf, row) in zip(group, results, strict=True):
                    leaves[item.place], rows[item.place][run.span] = leaf, row
        slots = tuple(
            _refill(old, map(treedef.unflatten, zip(*(row[r] for row in rows), strict=True)))
            for r, old in enumerate(state.slots)
        )
        return treedef.unflatten(leaves), LiftState(count, state.tunables, scheduled, slots, tuple(shared))

    def check_state(self, state: Any) -> None:
        """Raise unless `init` of the same rules can have made it, saying what it lacks."""
        if not isinstance(state, LiftState):
            differs = f"it is a {type(state).__name__}"
        elif len(state.slots) != len(self.rules):
            differs = f"it has slots for {len(state.slots)} rules instead of {len(self.rules)}"
        elif state.tunables.keys() != self.resolver.tunables.keys():
            differs = f"its tunables are {sorted(state.tunables)} instead of {sorted(self.resolver.tunables)}"
        elif (state.count is not None) != self.counts:
            differs = "it does not count steps" if self.counts else "it counts steps, which is not needed"
        else:
            return
        raise ValueError(
            f"{self.who}: the state is not one that its init made: {differs}. "
            "Call init of the same transformation, and pass on the state of the last update."
        )

    def masks(
        self, params: Params, align: Callable[[PyTree, str], list[Any]], leaves: int
    ) -> list[list[bool]]:
        """For each rule, whether it applies to each leaf."""
        aligned: dict[int, list[bool]] = {id(None): [True] * leaves}
        for rule in self.rules:
            if id(rule.mask) not in aligned:  # rules often share one
                mask = resolve_mask(rule.mask, params, rule.name)
                aligned[id(rule.mask)] = align(mask, f"the mask of {rule.name}")
        return [aligned[id(rule.mask)] for rule in self.rules]

    def check_scopes(self, grads: Updates, leaves: list[Any], masks: list[list[bool]]) -> None:
        for index, leaf in enumerate(leaves):
            for rule, mask in zip(self.rules, masks, strict=True):
                if isinstance(leaf, RowSparse) and rule.scope == "array" and mask[index]:
                    raise TypeError(
                        f"{rule.name} needs whole arrays, but {paths(grads, 'grads')[index]} is row-sparse. "
                        "Put densify() before it in the chain, or keep the rule from this leaf by a mask."
                    )

    def check_leaves(
        self, grads: Updates, leaves: list[Any], without_params: bool, originals: list[Any]
    ) -> None:
        if without_params:
            for rule in self.rules:
                if rule.needs_params:
                    raise ValueError(f"{rule.name} needs the parameters: call update(grads, state, params)")
        for index, (grad, param) in enumerate(zip(leaves, originals, strict=True)):
            if grad is None:
                continue
            if without_params:
                check_inexact(grad, grads, index, root="grads", who=self.who)
            else:
                check_gradient(grad, param, grads, index, who=self.who)


class _Work(NamedTuple):
    """What a run has to do for one leaf."""

    place: int
    grad: Any
    slots: list[Slots]
    param: Any
    entered: dict[int, Any]
    applies: tuple[bool, ...]
    options: tuple[Any, ...]
    out: Any

    @property
    def arrays(self) -> tuple[Any, list[Slots], Any, dict[int, Any]]:
        """What the rules are run on."""
        return self.grad, self.slots, self.param, self.entered

    @property
    def kind(self) -> tuple[Any, ...]:
        """What is compiled in."""
        return self.applies, self.options, self.out

    def alike(self) -> Any:
        """Equal for leaves that can be stacked."""
        shapes = [(jnp.shape(x), jnp.result_type(x)) for x in jax.tree.leaves(self.arrays)]
        return (*shapes, self.param is None, *self.kind)


class _Run:
    """Rules that go over the leaves together: at most the first of them looks at the whole tree."""

    def __init__(self, span: slice, rules: tuple[Rule, ...], resolver: Resolver) -> None:
        self.span, self.rules = span, rules
        self.names, self.constants = resolver.names[span], resolver.constants[span]
        began = (i - rule.encloses for i, rule in enumerate(rules, span.start))
        self.encloses = [i for i in began if i < span.start]
        # Kept, so that each distinct shape and dtype is traced once, however many leaves share it.
        self.leaf = lru_cache(maxsize=None)(self._leaf)
        self.stack = lru_cache(maxsize=None)(self._stack)
        self._add = jax.jit(self._add_to_total)
        self._advance = jax.jit(self._advance_shared)

    def arguments(self, extra: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments of `update` that the rules need."""
        for rule in self.rules:
            for name in rule.extra:
                if extra.get(name) is None:
                    raise TypeError(
                        f"{rule.name} needs {name}: call update(grads, state, params, {name}=...)"
                    )
        return {name: extra[name] for rule in self.rules for name in rule.extra}

    def gather(
        self, work: list[_Work], inputs: dict[str, Any], last: Any, grads: Updates
    ) -> tuple[dict[str, Any], Any]:
        """The inputs with what the first rule knows of the whole tree; and what it keeps of it."""
        rule = self.rules[0]
        if rule.total is None and rule.advance is None:
            return inputs, last
        inputs = {**inputs, "last": last}
        total: Any = np.zeros((), np.float32)
        work = [item for item in work if item.applies[0]]
        if rule.total is not None:
            for item in work:
                with _noting(f"while {rule.name} took the total of", grads, item.place):
                    total = self._add(total, item.grad, item.slots[0], item.param, inputs)
        shared = self._advance(total, inputs) if rule.advance and work else last
        return {**inputs, "total": total, "shared": shared}, shared

    def groups(self, work: list[_Work]) -> list[list[_Work]]:
        """The leaves that are updated by one call."""
        if not self.rules[0].batched:
            return [[item] for item in work]
        groups: dict[Any, list[_Work]] = {}
        for item in work:
            groups.setdefault(item.alike(), []).append(item)
        return list(groups.values())

    def update(self, group: list[_Work], inputs: dict[str, Any]) -> list[tuple[Any, list[Slots]]]:
        """The leaves' updates and slots."""
        first, random = group[0], any(rule.random for rule in self.rules)
        if len(group) == 1:
            # Which leaf it is, a rule knows only to draw its random key from it.
            position: dict[str, Any] = {"leaf": np.uint32(first.place)} if random else {}
            leaf = self.leaf(*first.kind)
            return [leaf(*first.arrays, {**inputs, **position})]
        position = {"leaf": np.asarray([item.place for item in group], np.uint32)} if random else {}
        arrays = [item.arrays for item in group]
        result: list[tuple[Any, list[Slots]]] = self.stack(*first.kind)(arrays, inputs, position)
        return result

    def _add_to_total(self, total: Any, grad: Any, slots: Slots, param: Any, inputs: dict[str, Any]) -> Any:
        rule = self.rules[0]
        assert rule.total is not None
        if isinstance(grad, RowSparse):
            grad, slots, param = _touched(grad, slots, param, rule.name)
        dtype = _compute_dtype(grad, param)
        wide_param = None if param is None else _cast(param, dtype)
        step = self._step(0, inputs, real_dtype(dtype))
        of_leaf = rule.total(_cast(grad, dtype), jax.tree.map(_widen, slots), wide_param, step)
        if isinstance(of_leaf, tuple) and not isinstance(total, tuple):  # the first of several totals
            total = jax.tree.map(lambda _: total, of_leaf)
        return jax.tree.map(add, total, of_leaf)

    def _advance_shared(self, total: Any, inputs: dict[str, Any]) -> Any:
        rule, last = self.rules[0], inputs["last"]
        assert rule.advance is not None
        dtype = jnp.result_type(*jax.tree.leaves((total, last)), np.float32)
        new = rule.advance(total, self._step(0, inputs, real_dtype(dtype)))
        return jax.tree.map(partial(_restore, rule.name), last, new)

    def _stack(self, *kind: Any) -> Callable[..., Any]:
        """The rules on several leaves of one shape, compiled."""
        leaf = self.leaf(*kind)

        def update_leaves(arrays: list[Any], inputs: dict[str, Any], position: dict[str, Any]) -> Any:
            def one(arrays: list[Any], position: dict[str, Any]) -> Any:
                return leaf(*arrays, {**inputs, **position})

            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
            results = jax.vmap(one)(stacked, position)
            return [jax.tree.map(itemgetter(i), results) for i in range(len(arrays))]

        return jax.jit(update_leaves)

    def _leaf(
        self, applies: tuple[bool, ...], options: tuple[Any, ...], out: Any
    ) -> Callable[..., tuple[Any, list[Slots]]]:
        """The rules on one leaf, compiled; `out` is the dtype that the update is to have."""

        def update_leaf(
            grad: Any, slots: list[Slots], param: Any, entered: dict[int, Any], values: dict[str, Any]
        ) -> Any:
            if not isinstance(grad, RowSparse):
                return update_array(grad, slots, param, entered, values)
            touched = _touched(grad, slots, param, " + ".join(rule.name for rule in self.rules))
            before = {start: leaf.values for start, leaf in entered.items()}
            update, new = update_array(*touched, before, values)
            return grad.with_values(update), jax.tree.map(
                lambda old, rows: grad.put(old, rows) if jnp.ndim(old) else rows, slots, new
            )

        def update_array(
            grad: Any, slots: list[Slots], param: Any, entered: dict[int, Any], values: dict[str, Any]
        ) -> Any:
            dtype, own = _compute_dtype(grad, param), _dtype_of(grad if param is None else param)
            update = _cast(grad, dtype)
            inputs = {start: _cast(leaf, dtype) for start, leaf in entered.items()}
            wide_param = None if param is None else _cast(param, dtype)
            new_slots = []
            for r, rule in enumerate(self.rules):
                inputs[self.span.start + r] = update
                if not applies[r]:
                    new_slots.append(slots[r])
                    continue
                step = self._step(r, values, real_dtype(dtype), options[r])
                step.entered, step.dtype = inputs[self.span.start + r - rule.encloses], own
                update, new = rule.update(update, jax.tree.map(_widen, slots[r]), wide_param, step)
                if jnp.shape(update) != jnp.shape(grad):
                    raise ValueError(
                        f"{rule.name} turned a gradient of shape {jnp.shape(grad)} into an update of "
                        f"shape {jnp.shape(update)}: does a hyperparameter not fit it, or was the state "
                        "made for other parameters?"
                    )
                new_slots.append(jax.tree.map(partial(_restore, rule.name), slots[r], new))
            return update if out is None else _narrow(update, out), new_slots

        update_leaf.__name__ = "_".join(rule.name for rule in self.rules) or "identity"
        return jax.jit(update_leaf)

    def _step(self, r: int, values: dict[str, Any], dtype: Any, option: Any = None) -> Step:
        """What rule `r` may know of the step, its numbers in `dtype`."""
        rule = self.rules[r]

        def number(value: Any) -> Any:
            return _cast(value, dtype) if jnp.issubdtype(jnp.result_type(value), jnp.floating) else value

        step = {"option": option, **self.constants[r]}
        if rule.counts:
            step["count"], step["t"] = values["count"], number(values["t"])
        for local, name in self.names[r].items():
            if local not in self.constants[r]:
                step[local] = number(values[name])
            if rule.counts and name in values["biases"]:
                step[local] = Decay(step[local], number(values["biases"][name]), step["t"])
        for name in rule.extra:
            step[name] = jax.tree.map(number, values["extra"][name])
        if r == 0:
            for name in ("total", "last", "shared"):
                if name in values:
                    step[name] = jax.tree.map(number, values[name])
        if rule.random and "leaf" in values:
            step["key"] = step["key"][values["leaf"]]
        return Step(step)


def _options(rule: Rule, params: Params, align: Callable[[PyTree, str], list[Any]], leaves: int) -> list[Any]:
    """What the rule's options say of each leaf."""
    if rule.options is None or isinstance(params, AnyParams):
        return [None] * leaves
    given = of_params(rule.options, params)
    values = broadcast_prefix(given, params, root="its options", who=rule.name)
    tree = jax.tree.unflatten(flatten(params)[1], values)
    return align(tree, f"the options of {rule.name}")


def _kept(rules: tuple[Rule, ...], starts: set[int]) -> set[int]:
    """Where the gradient is kept for a rule of a later run; those places start a run, and join `starts`."""
    while True:
        began = {
            i - rule.encloses
            for i, rule in enumerate(rules)
            if i - rule.encloses < max(start for start in starts if start <= i)
        }
        if began <= starts:
            return began
        starts |= began


_coalesce = jax.jit(RowSparse.coalesce)


@jax.jit
def _keys_of_leaves(key: Any, count: Any, leaves: Any) -> Any:
    return jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(key, count)))(leaves)


def _touched(grad: RowSparse, slots: Any, param: Any, who: str) -> tuple[Any, Any, Any]:
    """The rows that a row-sparse gradient touches: its own, the slots' and the parameter's."""

    def rows(array: Any) -> Any:
        if jnp.ndim(array) and array.shape[0] != grad.shape[0]:
            raise TypeError(
                f"{who}: a slot of shape {array.shape} has no rows that go with the {grad.shape[0]} of a "
                "row-sparse gradient; put densify() before it in the chain"
            )
        return grad.take(array) if jnp.ndim(array) else array  # a single number is for all rows

    return grad.values, jax.tree.map(rows, slots), None if param is None else grad.take(param)


@contextmanager
def _noting(doing: str, tree: PyTree, index: int) -> Iterator[None]:
    """Let an exception of a rule name the leaf that it was raised for."""
    try:
        yield
    except Exception as error:
        error.add_note(f"{doing} {paths(tree, 'params')[index]}")
        raise


def _refill(kind: Any, fields: Iterable[Any]) -> Any:
    """The same kind of slots with other contents."""
    return type(kind)(*fields) if kind else ()


def _compute_dtype(grad: Any, param: Any) -> Any:
    return compute_dtype(*(jnp.result_type(x) for x in (grad, param) if x is not None))


def _dtype_of(x: Any) -> Any:
    return x.dtype if isinstance(x, jax.Array | RowSparse) else jnp.result_type(x)


def _cast(x: Any, dtype: Any) -> jax.Array:
    return jnp.asarray(x, dtype=dtype)


def _widen(slot: Any) -> Any:
    return _cast(slot, compute_dtype(slot.dtype)) if jnp.issubdtype(slot.dtype, jnp.inexact) else slot


def _narrow(update: Any, dtype: Any) -> jax.Array:
    if jnp.iscomplexobj(update) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"a complex gradient for a parameter of dtype {dtype}; take its real part first")
    return _cast(update, dtype)


def _restore(who: str, old: Any, new: Any) -> jax.Array:
    """The new slot in the old one's dtype; the state never changes its types."""
    if jnp.shape(old) != jnp.shape(new):
        raise ValueError(
            f"{who} turned a slot of shape {jnp.shape(old)} into one of shape {jnp.shape(new)}: was the "
            "state made for other parameters?"
        )
    if jnp.iscomplexobj(new) and not jnp.iscomplexobj(old):
        raise TypeError(f"{who} cannot keep complex numbers in a slot of dtype {old.dtype}")
    return _cast(new, old.dtype)


def of_params(given: Any, params: Params) -> Any:
    """What a function makes of the parameters, or what is given itself if it is no function."""
    # A function is a leaf of its own tree; a callable pytree (a module, say) is not, and is never called.
    is_function = callable(given) and treedef_is_leaf(jax.tree.structure(given))
    return given(params) if is_function else given


def resolve_mask(mask: Mask, params: Params, who: str) -> PyTree:
    """The mask as a tree of booleans like the parameters.

    Raises:
      ValueError, TypeError: it does not fit them; the message names the path.
    """
    if isinstance(params, AnyParams):  # no mask fits it, and any leaf of it may be on
        return jax.tree.map(lambda _: True, params)
    mask = of_params(mask, params)
    leaves, treedef = flatten(params)
    values = broadcast_prefix(mask, params, root="its mask", who=who)
    for index, (value, leaf) in enumerate(zip(values, leaves, strict=True)):
        if not isinstance(value, bool | np.bool_) and not (value is None and leaf is None):
            raise TypeError(
                f"{who}: its mask has {value!r} for {paths(params, 'params')[index]}; "
                "a mask holds True and False"
            )
    return treedef.unflatten(map(bool, values))
