"""The interface that everything in the library has, and how updates are applied."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp

from gradxform.sparse import RowSparse, shape_of
from gradxform.trees import PyTree, flatten, flatten_like, paths

Params: TypeAlias = PyTree
Updates: TypeAlias = PyTree
State: TypeAlias = PyTree

TransformInitFn: TypeAlias = Callable[[Params], State]
TransformUpdateFn: TypeAlias = Callable[..., tuple[Updates, State]]

__all__ = [
    "EmptyState",
    "GradientTransformation",
    "Params",
    "State",
    "TransformInitFn",
    "TransformUpdateFn",
    "Updates",
    "apply_updates",
    "init_empty_state",
    "with_extra_args_support",
]


class GradientTransformation(NamedTuple):
    """A pair of pure functions over pytrees.

    It is the interface that Optax, Flax, Equinox, Haiku and others call, so
    any such pair, from whichever library, can stand in a `gradxform.chain`.

    Attributes:
      init: ``init(params) -> state``.
      update: ``update(grads, state, params=None, **extra) -> (updates, state)``.
        `updates` has the structure of `grads`; they are to be added to the
        parameters by `apply_updates`.

    Example:
      >>> import gradxform as gx
      >>> halve = gx.GradientTransformation(
      ...     init=lambda params: (),
      ...     update=lambda grads, state, params=None: ([g / 2 for g in grads], state))
      >>> halve.update([4.0], halve.init([1.0]))
      ([2.0], ())
    """

    init: TransformInitFn
    update: TransformUpdateFn

    def __repr__(self) -> str:
        from gradxform.describe import one_line  # it stands above the core

        return one_line(self)


def accepted_keywords(update: Callable[..., Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What `update` can take of a dictionary of extra keyword arguments."""
    parameters = inspect.signature(update).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return lambda extra: extra
    names = frozenset(p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY)
    return lambda extra: {name: value for name, value in extra.items() if name in names}


class EmptyState(NamedTuple):
    """The state of a transformation that remembers nothing."""


def init_empty_state(params: Params) -> EmptyState:
    """The `init` of a transformation that remembers nothing.

    Args:
      params: not used.

    Returns:
      An `EmptyState`.

    Example:
      >>> import gradxform as gx
      >>> gx.init_empty_state([1.0])
      EmptyState()
    """
    return EmptyState()


def with_extra_args_support(tx: GradientTransformation) -> GradientTransformation:
    """The transformation, with an `update` that drops the extra keyword arguments it does not know.

    Inside a `chain` or a wrapper there is no need for it.

    Args:
      tx: any transformation.

    Returns:
      The transformation, as it is if it takes them anyway.

    Example:
      >>> import gradxform as gx
      >>> halve = gx.GradientTransformation(
      ...     init=gx.init_empty_state,
      ...     update=lambda grads, state, params=None: ([g / 2 for g in grads], state))
      >>> gx.with_extra_args_support(halve).update([4.0], gx.EmptyState(), value=1.0)
      ([2.0], EmptyState())
    """
    accepted = accepted_keywords(tx.update)
    if accepted({"any": None}):
        return tx

    def update(
        grads: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        return tx.update(grads, state, params, **accepted(extra))

    return GradientTransformation(tx.init, update)


def apply_updates(params: Params, updates: Updates) -> Params:
    r"""Add the updates to the parameters: :math:`w \leftarrow w + u`.

    Args:
      params: a pytree of arrays.
      updates: a pytree of the same structure and shapes; where it holds
        ``None``, the parameter stays as it is. Those that are row-sparse are
        added in place where the parameters are donated.

    Returns:
      The new parameters, each in its own dtype.

    Raises:
      ValueError: a leaf is missing, or its shape is not the parameter's.

    Example:
      >>> import gradxform as gx
      >>> gx.apply_updates({"w": 1.0}, {"w": -0.25})["w"].item()
      0.75
    """
    leaves, treedef = flatten(params)
    update_leaves = flatten_like(treedef, params, updates, root="updates", like="params", who="apply_updates")

    def add(index: int, param: Any, update: Any) -> Any:
        if param is None or update is None:
            return param
        if jnp.shape(param) != shape_of(update):
            raise ValueError(
                f"apply_updates: {paths(params, 'params')[index]} has shape {jnp.shape(param)}, "
                f"its update has shape {shape_of(update)}. Updates must have the shapes of the "
                "parameters; were the gradients taken with respect to these parameters?"
            )
        dtype = jnp.result_type(param)
        if isinstance(update, RowSparse):
            rows = update.coalesce()
            return rows.put(param, jnp.asarray(rows.take(param) + rows.values, dtype=dtype))
        return jnp.asarray(param + update, dtype=dtype)

    return treedef.unflatten(map(add, range(len(leaves)), leaves, update_leaves))
