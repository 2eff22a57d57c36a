"""What the wrappers share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import register_static

from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.trees import PyTree, flatten, flatten_like

__all__ = ["Wrapper", "conform", "no_steps", "run_if", "sum_over", "zeros"]


class Wrapper(GradientTransformation):
    """A transformation around another one, which `describe` and `get_hyperparams` look into.

    Attributes:
      call: how one would write it, without the inner transformation.
      inner: the inner transformation.
      field: where its state stands in the wrapper's; empty if it is the whole of it.
    """

    call: str
    inner: GradientTransformation
    field: str

    def __new__(
        cls,
        call: str,
        inner: GradientTransformation,
        init: Callable[[Params], State],
        update: Callable[..., tuple[Updates, State]],
        field: str = "inner_state",
    ) -> "Wrapper":
        self = super().__new__(cls, init, update)
        self.call, self.inner, self.field = call, inner, field
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.call, self.inner, *self, self.field

    def constants(self) -> list[tuple[str, str, Any]]:
        """The hyperparameters that the state does not hold: where its part's state stands, name and value."""
        inner: list[tuple[str, str, Any]] = getattr(self.inner, "constants", list)()
        prefix = f".{self.field}" if self.field else ""
        return [(prefix + path, name, value) for path, name, value in inner]

    def inner_state(self, state: State) -> State:
        """The inner transformation's state."""
        return getattr(state, self.field) if self.field else state


register_static(Wrapper)


def conform(tree: PyTree, like: PyTree) -> PyTree:
    """The tree with the dtypes of another one, so that it can stand in its place in a loop."""

    def cast(leaf: Any, reference: Any) -> Any:
        dtype = jnp.result_type(reference)
        return leaf if jnp.result_type(leaf) == dtype else jnp.asarray(leaf, dtype)

    return jax.tree.map(cast, tree, like)


def run_if(
    condition: Any,
    inner: GradientTransformation,
    grads: Updates,
    state: State,
    params: Params | None,
    extra: dict[str, Any],
    otherwise: Callable[[Updates], Updates],
    dtypes: Updates = None,
) -> tuple[Updates, State]:
    """The inner update where the condition holds; else `otherwise(grads)` and the state as it was.

    Only one of the two is computed. Updates have the parameters' dtypes
    (without parameters those of the tree `dtypes`, or of the gradients) and
    the state keeps its own, whatever the inner transformation does.
    """
    like = (grads if dtypes is None else dtypes) if params is None else _beside(grads, params)
    known = accepted_keywords(inner.update)(extra)

    def run() -> tuple[Updates, State]:
        updates, new = inner.update(grads, state, params, **known)
        return conform(updates, like), conform(new, state)

    return lax.cond(  # type: ignore[no-any-return]
        condition, run, lambda: (conform(otherwise(grads), like), state)
    )


def _beside(grads: Updates, params: Params) -> Params:
    """The parameters that have a gradient."""
    leaves, treedef = flatten(grads)
    beside = flatten_like(treedef, grads, params, root="params", like="grads", who="update")
    return treedef.unflatten(
        None if grad is None else param for grad, param in zip(leaves, beside, strict=True)
    )


def no_steps() -> jax.Array:
    """A count of 0. Each place needs its own: a buffer can be donated once only."""
    return jnp.zeros((), jnp.int32)


def zeros(grads: Updates) -> Updates:
    """No update."""
    return jax.tree.map(jnp.zeros_like, grads)


def sum_over(tree: PyTree, term: Callable[[Any, Any], Any], start: Any) -> Any:
    """``term(total, leaf)`` over all leaves, where `term` is jitted: each shape is traced once."""
    for leaf in jax.tree.leaves(tree):
        start = term(start, leaf)
    return start
