"""Hyperparameters of a whole factory in one dictionary of the state, as Optax keeps them."""

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, ParamSpec, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import treedef_is_leaf

from gradxform.arithmetic import compute_dtype, next_count, real_dtype
from gradxform.hyperparams import Schedule, Tunable
from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.wrappers.wrapper import no_steps

FactoryArgs = ParamSpec("FactoryArgs")

__all__ = [
    "InjectHyperparamsState",
    "InjectStatefulHyperparamsState",
    "StatefulSchedule",
    "WrappedSchedule",
    "inject_hyperparams",
    "inject_stateful_hyperparams",
]


class InjectStatefulHyperparamsState(NamedTuple):
    """The state of `inject_hyperparams`.

    Attributes:
      count: steps taken, int32.
      hyperparams: the values that the last step used; those that follow no
        schedule are what the next step uses, and may be overwritten.
      hyperparams_states: the states of the schedules.
      inner_state: the state of the transformation that the factory makes.
    """

    count: jax.Array  # type: ignore[assignment]  # a tuple's own method, which no one calls on a state
    hyperparams: dict[str, jax.Array]
    hyperparams_states: dict[str, Any]
    inner_state: State


InjectHyperparamsState = InjectStatefulHyperparamsState


class StatefulSchedule(Protocol):
    """A schedule with a state of its own, which may look at the extra keyword arguments of `update`."""

    def init(self) -> Any:
        """The state at the start."""

    def update(self, state: Any, **extra_args: Any) -> Any:
        """The state for the next step."""

    def __call__(self, state: Any, **extra_args: Any) -> Any:
        """The value at this step."""


class WrappedSchedule:
    """A schedule of the count as a `StatefulSchedule`.

    Args:
      schedule_fn: ``count -> value``.

    Example:
      >>> import gradxform as gx
      >>> schedule = gx.WrappedSchedule(lambda count: 0.5 ** count)
      >>> float(schedule(schedule.update(schedule.init())))
      0.5
    """

    def __init__(self, schedule_fn: Schedule) -> None:
        self.schedule_fn = schedule_fn

    def init(self) -> jax.Array:
        """Count 0."""
        return no_steps()

    def update(self, state: jax.Array, **extra_args: Any) -> jax.Array:
        """The next count."""
        return next_count(state)

    def __call__(self, state: jax.Array, **extra_args: Any) -> Any:
        """The schedule's value."""
        return self.schedule_fn(state)


def inject_hyperparams(
    inner_factory: Callable[FactoryArgs, GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: Any = None,
) -> Callable[FactoryArgs, GradientTransformation]:
    """Keep a factory's numbers in the state, under the names of its arguments.

    `tunable` does it for one hyperparameter, by the name that a rule gives it,
    and without making the transformation anew at every step; this is for
    factories of other libraries, and for programs that know it from Optax:
    ``state.hyperparams["learning_rate"] = 0.01`` between two steps.

    Args:
      inner_factory: a function that makes a transformation.
      static_args: the names of arguments to leave as they are. Booleans,
        strings, ``None`` and the like are left anyway.
      hyperparam_dtype: the dtype of the numbers; by default the parameters'
        widest, and at least float32.

    Returns:
      A function with the factory's arguments. Numbers and arrays go into the
      state; functions are schedules ``count -> value``, or `StatefulSchedule`.

    Raises:
      ValueError: `static_args` names what is no argument of the factory.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.inject_hyperparams(gx.sgd)(learning_rate=0.5)
      >>> state = tx.init([1.0])
      >>> state.hyperparams["learning_rate"] = 0.25
      >>> tx.update([1.0], state)[0][0].item()
      -0.25
    """
    static = {static_args} if isinstance(static_args, str) else set(static_args)
    signature = inspect.signature(inner_factory)
    unknown = static - signature.parameters.keys()
    if unknown:
        raise ValueError(
            f"inject_hyperparams: static_args has {', '.join(sorted(unknown))}; the factory's arguments are "
            f"{', '.join(signature.parameters)}"
        )

    @functools.wraps(inner_factory)
    def factory(*args: FactoryArgs.args, **kwargs: FactoryArgs.kwargs) -> GradientTransformation:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        numbers: dict[str, Any] = {}
        schedules: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if name in static or isinstance(value, bool | Tunable):
                continue
            if isinstance(value, int | float | jax.Array | np.ndarray | np.generic):
                numbers[name] = value
            elif callable(value) and all(hasattr(value, method) for method in ("init", "update")):
                schedules[name] = value
            elif callable(value) and treedef_is_leaf(jax.tree.structure(value)):
                schedules[name] = WrappedSchedule(value)

        def make(values: dict[str, Any]) -> GradientTransformation:
            bound.arguments.update(values)
            return inner_factory(*bound.args, **bound.kwargs)

        def dtype_for(params: Params) -> Any:
            dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
            return hyperparam_dtype or (real_dtype(compute_dtype(*dtypes)) if dtypes else jnp.float32)

        def array(value: Any, dtype: Any) -> jax.Array:
            whole = jnp.issubdtype(jnp.result_type(value), jnp.integer)
            strong = isinstance(value, jax.Array) and not getattr(value, "weak_type", False)
            # A copy: a buffer that stands in the state may be donated.
            return jnp.array(value, dtype=jnp.result_type(value) if strong or whole else dtype)

        def init(params: Params) -> InjectStatefulHyperparamsState:
            dtype = dtype_for(params)
            states = {name: schedule.init() for name, schedule in schedules.items()}
            values = {name: array(value, dtype) for name, value in numbers.items()}
            values |= {name: array(schedule(states[name]), dtype) for name, schedule in schedules.items()}
            return InjectStatefulHyperparamsState(no_steps(), values, states, make(values).init(params))

        def step(
            grads: Updates,
            state: InjectStatefulHyperparamsState,
            params: Params | None,
            extra: dict[str, Any],
        ) -> tuple[Updates, InjectStatefulHyperparamsState]:
            dtype = dtype_for(grads if params is None else params)
            before = state.hyperparams_states
            values = {name: array(value, dtype) for name, value in state.hyperparams.items()}
            values |= {
                name: array(schedule(before[name], **extra), dtype) for name, schedule in schedules.items()
            }
            after = {name: schedule.update(before[name], **extra) for name, schedule in schedules.items()}
            tx = make(values)
            updates, inner = tx.update(
                grads, state.inner_state, params, **accepted_keywords(tx.update)(extra)
            )
            return updates, InjectStatefulHyperparamsState(next_count(state.count), values, after, inner)

        # The transformation is made anew at every step; so outside jit the step is compiled, once.
        compiled = jax.jit(lambda grads, state, params: step(grads, state, params, {}))

        def update(
            grads: Updates,
            state: InjectStatefulHyperparamsState,
            params: Params | None = None,
            **extra: Any,
        ) -> tuple[Updates, InjectStatefulHyperparamsState]:
            return step(grads, state, params, extra) if extra else compiled(grads, state, params)

        return GradientTransformation(init, update)

    return factory


def inject_stateful_hyperparams(
    inner_factory: Callable[FactoryArgs, GradientTransformation],
    static_args: str | Iterable[str] = (),
    hyperparam_dtype: Any = None,
) -> Callable[FactoryArgs, GradientTransformation]:
    """The former name of `inject_hyperparams`, which does the same.

    Args:
      inner_factory: see there.
      static_args: see there.
      hyperparam_dtype: see there.

    Returns:
      See there.

    Example:
      >>> import warnings
      >>> import gradxform as gx
      >>> with warnings.catch_warnings(action="ignore"):
      ...     tx = gx.inject_stateful_hyperparams(gx.sgd)(0.5)
      >>> tx.init([1.0]).hyperparams["learning_rate"].item()
      0.5
    """
    warnings.warn("inject_stateful_hyperparams is now inject_hyperparams", DeprecationWarning, stacklevel=2)
    return inject_hyperparams(inner_factory, static_args, hyperparam_dtype)
