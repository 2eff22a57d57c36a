"""What the wrappers share."""

from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import register_static

from gradxform.arithmetic import compute_dtype
from gradxform.sparse import RowSparse, is_row_sparse, map_values, on_values
from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.trees import PyTree, flatten, flatten_like, refuse_rows

__all__ = [
    "Wrapper",
    "beside",
    "conform",
    "no_steps",
    "run_if",
    "sum_over",
    "zeros",
]


class Wrapper(GradientTransformation):
    """A transformation around another one, which `describe` and `get_hyperparams` look into.

    Attributes:
      call: how one would write it, without the inner transformation.
      inner: the inner transformation.
      field: where its state stands in the wrapper's; empty if it is the whole of it.

    Args:
      call, inner, field: the attributes.
      init, update: the pair.
      rows: whether it takes row-sparse gradients; otherwise they are refused by name.
      passes: whether the inner updates are passed on as they are; otherwise none
        can be exact, as those of `master_copy` are.
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
        rows: bool = False,
        passes: bool = False,
    ) -> Self:
        if not passes and (exact := getattr(inner, "exact_end", "")):
            raise ValueError(f"{call}: {exact} must be the last part of all; chain it after the {call}")
        self = super().__new__(cls, init, update if rows else _of_arrays(call, update))
        self.call, self.inner, self.field = call, inner, field
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.call, self.inner, *self, self.field, True, True

    @property
    def exact_end(self) -> str:
        """The name of the last rule within, if that one's update must not be rounded."""
        return str(getattr(self.inner, "exact_end", ""))

    def constants(self) -> list[tuple[str, str, Any]]:
        """The hyperparameters that the state does not hold: where its part's state stands, name and value."""
        inner: list[tuple[str, str, Any]] = getattr(self.inner, "constants", list)()
        prefix = f".{self.field}" if self.field else ""
        return [(prefix + path, name, value) for path, name, value in inner]

    def inner_state(self, state: State) -> State:
        """The inner transformation's state."""
        return getattr(state, self.field) if self.field else state


register_static(Wrapper)


def _of_arrays(who: str, update: Callable[..., tuple[Updates, State]]) -> Callable[..., Any]:
    """The update, which refuses row-sparse gradients."""

    def checked(
        grads: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        for index, leaf in enumerate(flatten(grads)[0]):
            refuse_rows(leaf, grads, index, root="grads", who=who)
        return update(grads, state, params, **extra)

    return checked


def conform(tree: PyTree, like: PyTree) -> PyTree:
    """The tree with the dtypes of another one, so that it can stand in its place in a loop."""

    def cast(leaf: Any, reference: Any) -> Any:
        dtype = _dtype(reference)
        return leaf if _dtype(leaf) == dtype else on_values(lambda array: jnp.asarray(array, dtype), leaf)

    return jax.tree.map(cast, tree, like, is_leaf=is_row_sparse)


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if isinstance(leaf, RowSparse) else jnp.result_type(leaf)


def run_if(
    who: str,
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
    the state keeps its own, whatever the inner transformation does; exact
    updates stay as wide as they are.
    """
    grads = jax.tree.map(
        lambda leaf: leaf.coalesce() if isinstance(leaf, RowSparse) else leaf, grads, is_leaf=is_row_sparse
    )
    like = (grads if dtypes is None else dtypes) if params is None else beside(grads, params, who)
    if getattr(inner, "exact_end", ""):
        like = map_values(lambda array: jnp.zeros((), compute_dtype(jnp.result_type(array))), like)
    known = accepted_keywords(inner.update)(extra)

    def run() -> tuple[Updates, State]:
        updates, new = inner.update(grads, state, params, **known)
        return conform(updates, like), conform(new, state)

    return lax.cond(  # type: ignore[no-any-return]
        condition, run, lambda: (conform(otherwise(grads), like), state)
    )


def beside(grads: Updates, params: Params, who: str) -> Params:
    """The parameters that have a gradient.

    Raises:
      ValueError: the structures differ; the message names `who` and the path.
    """
    leaves, treedef = flatten(grads)
    params = flatten_like(treedef, grads, params, root="params", like="grads", who=who)
    return treedef.unflatten(
        None if grad is None else param for grad, param in zip(leaves, params, strict=True)
    )


def no_steps() -> jax.Array:
    """A count of 0. Each place needs its own: a buffer can be donated once only."""
    return jnp.zeros((), jnp.int32)


def zeros(grads: Updates) -> Updates:
    """No update."""
    return map_values(jnp.zeros_like, grads)


def sum_over(tree: PyTree, term: Callable[[Any, Any], Any], start: Any) -> Any:
    """``term(total, leaf)`` over all leaves, where `term` is jitted: each shape is traced once."""
    for leaf in jax.tree.leaves(tree):
        start = term(start, leaf)
    return start
