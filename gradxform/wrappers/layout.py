"""Transformations that show their inner one another tree than they are given."""

from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten

from gradxform.sparse import RowSparse, is_row_sparse
from gradxform.transformation import (
    EmptyState,
    GradientTransformation,
    Params,
    State,
    Updates,
    accepted_keywords,
    init_empty_state,
)
from gradxform.trees import PyTree, check_all_inexact, check_gradients
from gradxform.wrappers.wrapper import Wrapper, conform

__all__ = [
    "SplitRealAndImaginaryArrays",
    "SplitRealAndImaginaryState",
    "densify",
    "flatten",
    "split_real_and_imaginary",
]


def densify() -> GradientTransformation:
    """Make whole arrays of row-sparse gradients, for what needs them.

    Returns:
      A `GradientTransformation` without state.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> grad = gx.RowSparse(jnp.asarray([1]), jnp.asarray([2.0]), (3,))
      >>> gx.densify().update({"table": grad}, gx.EmptyState())[0]["table"].tolist()
      [0.0, 2.0, 0.0]
    """

    def update(grads: Updates, state: EmptyState, params: Params | None = None) -> tuple[Updates, EmptyState]:
        def whole(leaf: Any) -> Any:
            return leaf.to_dense() if isinstance(leaf, RowSparse) else leaf

        return jax.tree.map(whole, grads, is_leaf=is_row_sparse), state

    return GradientTransformation(init_empty_state, update)


def flatten(inner: GradientTransformation) -> Wrapper:
    r"""Transform all leaves as one vector: :math:`u = T(\mathrm{vec}(g))`, taken apart again.

    For many small leaves on an accelerator this saves kernels, at the cost of
    two copies. What depends on shapes, labels or masks depends on the vector.

    Args:
      inner: any transformation.

    Returns:
      A `GradientTransformation` with the inner one's state for the vector.
      Its `init` and `update` raise `TypeError` where real and complex leaves
      meet, or a leaf is no floating-point array.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.flatten(gx.trace(0.9))
      >>> tx.init({"w": jnp.ones((2, 3)), "b": jnp.ones(3)}).slots[0].trace.shape
      (9,)
    """
    accepted = accepted_keywords(inner.update)

    def vector(tree: PyTree, root: str) -> jax.Array:
        check_all_inexact(tree, root=root, who="flatten")
        leaves = jax.tree.leaves(tree)
        if len({jnp.iscomplexobj(leaf) for leaf in leaves}) > 1:
            raise TypeError(
                "flatten: some leaves are real and some are complex, and they have to share a vector; "
                "flatten(split_real_and_imaginary(...)) takes them apart"
            )
        return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves] or [jnp.zeros(0)])

    def init(params: Params) -> State:
        abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))
        of_params = partial(vector, root="params")
        return inner.init(jax.eval_shape(of_params, params) if abstract else of_params(params))

    def update(
        grads: Updates, state: State, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, State]:
        if params is not None:
            check_gradients(grads, params, who="flatten")
        known = None if params is None else vector(params, "params")
        flat, state = inner.update(vector(grads, "grads"), state, known, **accepted(extra))
        leaves, treedef = tree_flatten(grads)
        parts = jnp.split(flat, list(accumulate(np.size(leaf) for leaf in leaves[:-1])))
        updates = [jnp.reshape(part, np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=False)]
        like = grads if params is None else params
        return conform(jax.tree.unflatten(treedef, updates), like), state

    return Wrapper("flatten", inner, init, update, field="")


class SplitRealAndImaginaryArrays(NamedTuple):
    """The parts of a complex array."""

    real: Any
    imaginary: Any


class SplitRealAndImaginaryState(NamedTuple):
    """The state of `split_real_and_imaginary`.

    Attributes:
      inner_state: the inner transformation's state, for the parts.
    """

    inner_state: State


def _split(tree: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x: SplitRealAndImaginaryArrays(x.real, x.imag) if jnp.iscomplexobj(x) else x, tree
    )


def _join(tree: PyTree) -> PyTree:
    def is_pair(node: Any) -> bool:
        return isinstance(node, SplitRealAndImaginaryArrays)

    return jax.tree.map(lambda x: jax.lax.complex(*x) if is_pair(x) else x, tree, is_leaf=is_pair)


def split_real_and_imaginary(inner: GradientTransformation) -> Wrapper:
    r"""Transform real and imaginary parts each by itself: :math:`u = T(\Re g) + i\,T(\Im g)`.

    Without it a rule that divides by moments takes :math:`|g|^2` for the
    square, so that both parts share a step size.

    Args:
      inner: any transformation.

    Returns:
      A `GradientTransformation`; real leaves go through the inner one as they are.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx = gx.split_real_and_imaginary(gx.clip(1.0))
      >>> params = [jnp.asarray(3.0 - 0.5j)]
      >>> tx.update(params, tx.init(params))[0][0].item()
      (1-0.5j)
    """
    accepted = accepted_keywords(inner.update)

    def init(params: Params) -> SplitRealAndImaginaryState:
        return SplitRealAndImaginaryState(inner.init(_split(params)))

    def update(
        grads: Updates, state: SplitRealAndImaginaryState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, SplitRealAndImaginaryState]:
        parts = None if params is None else _split(params)
        updates, inner_state = inner.update(_split(grads), state.inner_state, parts, **accepted(extra))
        return _join(updates), SplitRealAndImaginaryState(inner_state)

    return Wrapper("split_real_and_imaginary", inner, init, update)
