"""Hyperparameters: constants, schedules and tunables, resolved once a step.

A hyperparameter may be given as

- a Python number: it is compiled into the program;
- an array: it is an input of the program (a tracer will do);
- a schedule, ``count -> value``, where the count starts at 0;
- `tunable(value)`: it lives in the state, where it can be read and set.
"""

import math
import numbers
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import keystr, tree_map_with_path

from gradxform.arithmetic import Scalar, bias_of, next_count
from gradxform.trees import PyTree

RESERVED = frozenset(
    {"count", "t", "biases", "total", "last", "shared", "option", "entered", "dtype", "extra", "leaf"}
)
"""What a rule knows of every step under these names, a hyperparameter cannot be called."""

Schedule: TypeAlias = Callable[[Any], Any]

__all__ = [
    "Checked",
    "Hyperparam",
    "Scalar",
    "Schedule",
    "Tunable",
    "debiased",
    "fraction",
    "get_hyperparams",
    "is_zero",
    "nonnegative",
    "positive",
    "set_hyperparams",
    "tunable",
    "unit",
]


@dataclass(frozen=True)
class Tunable:
    """A hyperparameter that lives in the state; made by `tunable`."""

    value: Any

    def __repr__(self) -> str:
        return f"tunable({show(self.value)})"


def tunable(value: Scalar) -> Tunable:
    """Let a hyperparameter live in the state instead of in the compiled program.

    It is read by `get_hyperparams`, set between steps by `set_hyperparams`
    without recompiling, and can differ along a `jax.vmap` axis.

    Args:
      value: the value that `init` puts into the state; a number or an array
        that broadcasts with every leaf.

    Returns:
      What to pass in the hyperparameter's place.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.sgd(gx.tunable(0.1))
      >>> state = gx.set_hyperparams(tx.init([1.0]), learning_rate=0.5)
      >>> tx.update([1.0], state)[0][0].item()
      -0.5
    """
    return Tunable(value)


Hyperparam: TypeAlias = Scalar | Schedule | Tunable
"""A number, an array, a schedule ``count -> value``, or `tunable(value)`."""


class Checked(NamedTuple):
    """A hyperparameter with the values it may take; the rule that holds it checks it when built.

    Numbers are checked, and the numbers that tunables start from; arrays and schedules may be
    traced, and are taken as they are. Of one that `debiases`, the rule gets a `Decay`.
    """

    value: Any
    allowed: str
    contains: Callable[[Any], bool]
    debiases: bool = False


def fraction(value: Hyperparam) -> Checked:
    """Declare a hyperparameter that must lie in [0, 1).

    Args:
      value: a number, array, schedule or tunable.

    Returns:
      What to give a `Rule` as the hyperparameter.

    Example:
      >>> import gradxform as gx
      >>> gx.Rule("halve", lambda g, slots, p, step: (g / 2, slots), hyperparams={"x": gx.fraction(1.5)})
      Traceback (most recent call last):
      ValueError: halve: x must be in [0, 1), got 1.5
    """
    return Checked(value, "in [0, 1)", lambda x: 0 <= x < 1)


def debiased(value: Hyperparam) -> Checked:
    r"""Declare the decay of a moving average, in [0, 1), that a rule which counts gives to `debias`.

    What `debias` divides by, :math:`1 - \beta^t`, is then computed once a step and not once for each leaf.
    The rule finds a number that knows it: it adds and multiplies as any, and functions take its ``value``.

    Args:
      value: :math:`\beta`: a number, array, schedule or tunable.

    Returns:
      What to give a `Rule` as the hyperparameter.

    Example:
      >>> import gradxform as gx
      >>> def update(grad, slots, param, step):
      ...     return gx.debias((1 - step.b) * grad, step.b, step.t), slots
      >>> tx = gx.lift(gx.Rule("first", update, hyperparams={"b": gx.debiased(0.9)}, counts=True))
      >>> round(tx.update([2.0], tx.init([0.0]))[0][0].item(), 5)
      2.0
    """
    return fraction(value)._replace(debiases=True)


def unit(value: Hyperparam) -> Checked:
    """Declare a hyperparameter that must lie in [0, 1].

    Args:
      value: a number, array, schedule or tunable.

    Returns:
      What to give a `Rule` as the hyperparameter.

    Example:
      >>> import gradxform as gx
      >>> gx.Rule("halve", lambda g, slots, p, step: (g / 2, slots), hyperparams={"x": gx.unit(1.5)})
      Traceback (most recent call last):
      ValueError: halve: x must be in [0, 1], got 1.5
    """
    return Checked(value, "in [0, 1]", lambda x: 0 <= x <= 1)


def nonnegative(value: Hyperparam) -> Checked:
    """Declare a hyperparameter that must be at least 0.

    Args:
      value: a number, array, schedule or tunable.

    Returns:
      What to give a `Rule` as the hyperparameter.

    Example:
      >>> import gradxform as gx
      >>> gx.Rule("halve", lambda g, slots, p, step: (g / 2, slots), hyperparams={"x": gx.nonnegative(-1.0)})
      Traceback (most recent call last):
      ValueError: halve: x must be at least 0, got -1.0
    """
    return Checked(value, "at least 0", lambda x: x >= 0)


def positive(value: Hyperparam) -> Checked:
    """Declare a hyperparameter that must be above 0.

    Args:
      value: a number, array, schedule or tunable.

    Returns:
      What to give a `Rule` as the hyperparameter.

    Example:
      >>> import gradxform as gx
      >>> gx.Rule("halve", lambda g, slots, p, step: (g / 2, slots), hyperparams={"x": gx.positive(0.0)})
      Traceback (most recent call last):
      ValueError: halve: x must be above 0, got 0.0
    """
    return Checked(value, "above 0", lambda x: x > 0)


def is_zero(value: Hyperparam | None) -> bool:
    """Whether a hyperparameter is the number 0, or left out: then what it scales need not be there."""
    return value is None or (isinstance(value, int | float) and value == 0)


class Plain(dict[str, Any]):
    """The hyperparameters of a rule as they are used.

    Attributes:
      bounds: how those that are bounded were declared, by name.
    """

    def __init__(self) -> None:
        self.bounds: dict[str, Checked] = {}


def replaced(hyperparams: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A rule's hyperparameters, some with other values, each declared with the bounds that it had."""
    bounds: dict[str, Checked] = getattr(hyperparams, "bounds", {})
    return {
        name: bounds[name]._replace(value=value) if name in bounds else value
        for name, value in {**hyperparams, **values}.items()
    }


def check(who: str, hyperparams: Mapping[str, Any]) -> Plain:
    """The plain hyperparameters of a rule, each of a known kind and within its bounds.

    Raises:
      TypeError, ValueError: naming the rule, the hyperparameter and the value.
    """
    plain = Plain()
    for name, value in replaced(hyperparams, {}).items():
        allowed, contains = "a finite number", lambda x: abs(x) < math.inf
        if name in RESERVED:
            raise ValueError(f"{who}: no hyperparameter can be called {name!r}, every step has its own")
        bounded = isinstance(value, Checked)
        if bounded:
            plain.bounds[name] = value
            value, allowed, contains, _ = value
        if isinstance(value, np.generic):
            value = value.item()
        inner = value.value if isinstance(value, Tunable) else value
        if not (
            (isinstance(inner, numbers.Number) and not isinstance(inner, bool))
            or isinstance(inner, jax.Array | np.ndarray)
            or (callable(inner) and inner is value)
        ):
            raise TypeError(
                f"{who}: {name} must be a number, an array, a schedule (count -> value) or "
                f"tunable(value), got {value!r}"
            )
        if isinstance(inner, numbers.Number) and (
            (bounded and isinstance(inner, complex)) or not contains(inner)
        ):
            raise ValueError(f"{who}: {name} must be {allowed}, got {inner!r}")
        plain[name] = value
    return plain


class Owner(Protocol):
    """What has hyperparameters: a rule.

    Attributes:
      name: its name.
      group: the name of those that it belongs to, if any.
      hyperparams: their names and values.
    """

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def hyperparams(self) -> Mapping[str, Any]: ...


class Resolver:
    """The hyperparameters of several rules: which are compiled in, which change, and their values.

    Every hyperparameter that is not a compiled-in constant goes by one name in
    the state: its own, or with its group or rule before it where two rules share it.

    Args:
      owners: the rules.
    """

    def __init__(self, owners: Sequence[Owner]) -> None:
        self.names = distinct_names(owners)
        self.constants: list[dict[str, Any]] = []
        self.arrays: dict[str, Any] = {}
        self.schedules: dict[str, Schedule] = {}
        self.tunables: dict[str, Any] = {}
        self.decays: dict[str, Any] = {}
        for owner, names in zip(owners, self.names, strict=True):
            constants = {}
            bounds: dict[str, Checked] = getattr(owner.hyperparams, "bounds", {})
            self.decays |= {
                names[local]: owner.hyperparams[local] for local in bounds if bounds[local].debiases
            }
            for local, value in owner.hyperparams.items():
                if isinstance(value, Tunable):
                    self.tunables[names[local]] = value.value
                elif isinstance(value, jax.Array | np.ndarray):
                    self.arrays[names[local]] = value
                elif callable(value):
                    self.schedules[names[local]] = value
                else:
                    constants[local] = value
            self.constants.append(constants)
        # One compiled call, so that an un-jitted update pays for one dispatch, not for every operation.
        self._advance = jax.jit(self._next)

    def init(self) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """The tunables' values and the schedules' first ones, as they stand in the state."""
        tunables = {name: _as_array(value) for name, value in self.tunables.items()}
        return tunables, self._scheduled(jnp.zeros((), jnp.int32))

    def advance(
        self, count: jax.Array, values: dict[str, Any]
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        """The next count, saturated; the schedules' values at this one; and what else all leaves share.

        That is the number of the step, ``t``, and the ``biases`` of the decays.
        """
        result: tuple[jax.Array, dict[str, jax.Array], dict[str, Any]] = self._advance(count, values)
        return result

    def _next(
        self, count: jax.Array, values: dict[str, Any]
    ) -> tuple[jax.Array, dict[str, jax.Array], dict[str, Any]]:
        scheduled = self._scheduled(count)
        values = {**values, **scheduled}
        dtype = jnp.result_type(float)
        t = lax.add(lax.convert_element_type(count, dtype), np.ones((), dtype))
        biases = {name: bias_of(values.get(name, value), t) for name, value in self.decays.items()}
        return next_count(count), scheduled, {"t": t, "biases": biases}

    def _scheduled(self, count: jax.Array) -> dict[str, jax.Array]:
        return {name: _as_array(schedule(count)) for name, schedule in self.schedules.items()}


def _as_array(value: Any) -> jax.Array:
    if isinstance(value, jax.Array) and not getattr(value, "weak_type", False):  # keys have none
        return jnp.copy(value)  # the state may be donated, and the next one is made of the same value
    if jnp.issubdtype(jnp.result_type(value), jnp.integer) and jnp.ndim(value) == 0:
        value = jnp.asarray(value, dtype=float)
    # An explicit dtype makes it strongly typed, so that the state is the same type at every step.
    return jnp.asarray(value, dtype=jnp.result_type(value))


def distinct_names(owners: Sequence[Owner]) -> list[dict[str, str]]:
    """For each owner, its own name of a hyperparameter -> a name that no other owner uses."""

    def candidates(index: int, owner: Owner, local: str) -> tuple[str, ...]:
        """From short to unmistakable."""
        group = f"{owner.group}." if owner.group else ""
        return (
            local,
            f"{group}{local}",
            f"{group}{owner.name}.{local}",
            f"{group}{owner.name}_{index}.{local}",
        )

    named = [
        {local: candidates(index, owner, local) for local in owner.hyperparams}
        for index, owner in enumerate(owners)
    ]
    taken = Counter(name for names in named for options in names.values() for name in set(options))
    return [
        {local: next(name for name in options if taken[name] == 1) for local, options in names.items()}
        for names in named
    ]


_OWN = frozenset({"count", "tunables", "scheduled", "hyperparams", "hyperparams_states", "slots", "shared"})
"""The fields of a state with hyperparameters that can hold no other such state."""


def _holds(node: Any) -> bool:
    return isinstance(getattr(node, "tunables", None), dict) or isinstance(
        getattr(node, "hyperparams", None), dict
    )


def _map_holders(function: Callable[[str, Any], Any], state: PyTree, root: str = "") -> PyTree:
    """The state with ``function(path, node)`` in the place of each state that has hyperparameters.

    Such states can stand within each other, the outer one comes first. Slots are not walked through.
    """

    def one(keys: Any, node: Any) -> Any:
        if not _holds(node):
            return node
        path = root + keystr(keys)
        within = {
            name: _map_holders(function, getattr(node, name), f"{path}.{name}")
            for name in getattr(node, "_fields", ())
            if name not in _OWN
        }
        new = function(path, node)
        return new._replace(**within) if within else new

    return tree_map_with_path(one, state, is_leaf=_holds)


def _holders(state: PyTree) -> list[tuple[str, Any]]:
    """The states within `state` that hold hyperparameters, each with its path."""
    found: dict[str, Any] = {}
    _map_holders(lambda path, node: found.setdefault(path, node), state)
    return list(found.items())


def _values(node: Any) -> dict[str, Any]:
    # `hyperparams` is where other libraries' injected hyperparameters stand.
    if hasattr(node, "tunables"):
        return {**node.tunables, **node.scheduled}
    return dict(node.hyperparams)


def _public_names(holders: list[tuple[str, Any]]) -> list[dict[str, str]]:
    """For each holder, hyperparameter name -> the name it goes by in the whole state."""
    every = [name for _, node in holders for name in _values(node)]
    return [
        {name: name if every.count(name) == 1 else f"{path}.{name}" for name in _values(node)}
        for path, node in holders
    ]


def get_hyperparams(state: PyTree, tx: Any = None) -> dict[str, Any]:
    """The current value of every hyperparameter that is not a constant.

    Args:
      state: the state of any transformation, Optax's injected ones included.
      tx: the transformation; given, its constants are in the result too.

    Returns:
      Name to value. A scheduled value is the one that the last update used
      (before the first, the one it will use). Where two parts of a chain share
      a name, it is preceded by where it stands in the state.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.adam(lambda count: 0.1 / (count + 1))
      >>> float(gx.get_hyperparams(tx.init([1.0]))["learning_rate"])
      0.10000000149011612
      >>> gx.get_hyperparams(tx.init([1.0]), tx)["b2"]
      0.999
    """
    holders = _holders(state)
    found = {
        public[name]: value
        for (_, node), public in zip(holders, _public_names(holders), strict=True)
        for name, value in _values(node).items()
    }
    constants: list[tuple[str, str, Any]] = getattr(tx, "constants", list)()
    every = [*found, *(name for _, name, _ in constants)]
    qualified = {
        name if every.count(name) == 1 else f"{path}.{name}": value for path, name, value in constants
    }
    return {**found, **qualified}


def set_hyperparams(state: PyTree, /, **values: Scalar) -> PyTree:
    """A state with other values of its tunables; nothing is recompiled.

    Args:
      state: the state of a transformation.
      **values: the tunables' new values by name, as `get_hyperparams` calls
        them. A value keeps the old one's dtype. It may be traced, so the bounds
        that the factory checks are not checked again: a decay set to 1.5 is taken.

    Returns:
      The new state; `state` is left as it was.

    Raises:
      KeyError: no hyperparameter of that name; the message lists those there are.
      ValueError: the hyperparameter follows a schedule, or the shape changes.

    Example:
      >>> import gradxform as gx
      >>> state = gx.sgd(gx.tunable(0.1)).init([1.0])
      >>> gx.get_hyperparams(gx.set_hyperparams(state, learning_rate=0.25))["learning_rate"].item()
      0.25
    """
    holders = _holders(state)
    public_names = _public_names(holders)
    known = [public for names in public_names for public in names.values()]
    for name in values:
        if name not in known:
            raise KeyError(
                f"set_hyperparams: no hyperparameter {name!r} in this state; it has "
                f"{', '.join(known) or 'none'}. Constants are compiled in: "
                f"pass tunable(value) to be able to set it."
            )

    names_at = {path: names for (path, _), names in zip(holders, public_names, strict=True)}

    def replace(path: str, node: Any) -> Any:
        names = names_at[path]
        if hasattr(node, "tunables"):
            return node._replace(tunables=_set(node.tunables, node.scheduled, names, values))
        scheduled = getattr(node, "hyperparams_states", {})
        free = {name: value for name, value in node.hyperparams.items() if name not in scheduled}
        return node._replace(hyperparams={**node.hyperparams, **_set(free, scheduled, names, values)})

    return _map_holders(replace, state)


def _set(
    tunables: dict[str, Any], scheduled: dict[str, Any], names: dict[str, str], values: dict[str, Any]
) -> dict[str, Any]:
    for name in scheduled:
        if names[name] in values:
            raise ValueError(
                f"set_hyperparams: {names[name]} follows a schedule, which would overwrite the value "
                "at the next step; pass tunable(value) in the schedule's place to set it by hand."
            )

    def new(name: str, old: Any) -> Any:
        if names[name] not in values:
            return old
        value = jnp.asarray(values[names[name]], dtype=jnp.result_type(old))
        if value.shape != jnp.shape(old):
            raise ValueError(
                f"set_hyperparams: {names[name]} has shape {jnp.shape(old)}, got {value.shape}; "
                "the state must keep its shapes."
            )
        return value

    return {name: new(name, old) for name, old in tunables.items()}


def show(value: Any) -> str:
    """A value as one would write it in code, short."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    if isinstance(value, jax.core.Tracer):
        return f"<traced {value.dtype}{list(value.shape)}>"
    if isinstance(value, jax.Array | np.ndarray):
        return f"{value:g}" if value.ndim == 0 and value.dtype.kind == "f" else f"array{list(value.shape)}"
    if isinstance(value, list | tuple):
        left, right = "[]" if isinstance(value, list) else "()"
        return f"{left}{', '.join(map(show, value))}{right}"
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__name__)).split(".<locals>")[0]
    return repr(value)
