"""Mapping all that a state keeps for each parameter."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import tree_flatten

from gradxform.rule import LiftState
from gradxform.transformation import State
from gradxform.trees import AnyParams, PyTree, flatten_like


def map_params(
    initable: Any,
    f: Callable[..., Any],
    state: State,
    /,
    *rest: Any,
    transform_non_params: Callable[[Any], Any] | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> State:
    """Apply a function to all that a state keeps for each parameter.

    With it the layout of a state over devices follows from that of the
    parameters: ``map_params(tx, lambda _, spec: spec, state, specs)``.

    Args:
      initable: the transformation, or its `init`.
      f: ``f(slot, *beside)``: called for each leaf of every tree in the state
        that is like the parameters, with what `rest` has in its place. A slot
        need not have its parameter's shape.
      state: the transformation's state.
      *rest: trees like the parameters.
      transform_non_params: applied to all other leaves, such as the count,
        tunables and scheduled values; by default they stay.
      is_leaf: nodes to take for leaves. What keeps nothing (a masked-off
        leaf) stays as it is, unless `is_leaf` says that it is one.

    Returns:
      A tree like the state.

    Raises:
      ValueError: the state is not one of this transformation, or `rest` is not
        like the parameters; the message names the path.

    Example:
      >>> import gradxform as gx
      >>> from gradxform import tree
      >>> tx = gx.adam(0.1)
      >>> state = tree.map_params(tx, lambda slot, name: name, tx.init([1.0, 2.0]), ["w", "b"])
      >>> tree.get(state, "mu"), tree.get(state, "count").item()
      (['w', 'b'], 0)
    """
    init = getattr(initable, "init", initable)

    def stays(node: Any) -> bool:
        return not jax.tree.leaves(node)

    def is_slot(node: Any) -> bool:
        return stays(node) or (is_leaf is not None and is_leaf(node))

    def like_params(tree: PyTree) -> PyTree:
        leaves, treedef = tree_flatten(tree, is_leaf=is_slot)
        beside = [
            flatten_like(
                treedef,
                tree,
                other,
                root=f"rest[{index}]",
                like="what the state keeps",
                who="tree.map_params",
                remedy="Pass trees like the parameters.",
            )
            for index, other in enumerate(rest)
        ]
        mapped = (
            leaf if stays(leaf) and not (is_leaf and is_leaf(leaf)) else f(leaf, *others)
            for leaf, *others in zip(leaves, *beside, strict=True)
        )
        return jax.tree.unflatten(treedef, mapped)

    def walk(reference: Any, tree: Any) -> Any:
        known, treedef = tree_flatten(
            reference, is_leaf=lambda node: node is None or isinstance(node, AnyParams | LiftState)
        )
        parts = flatten_like(
            treedef,
            jax.tree.unflatten(treedef, range(len(known))),
            tree,
            root="state",
            like="init(params)",
            who="tree.map_params",
            remedy="Pass the transformation that the state belongs to.",
        )
        return jax.tree.unflatten(treedef, map(one, known, parts))

    def one(reference: Any, part: Any) -> Any:
        if isinstance(reference, AnyParams):
            return like_params(part)
        if isinstance(reference, LiftState):
            if not isinstance(part, LiftState) or len(part.slots) != len(reference.slots):
                kind = type(part).__name__
                found = f"{kind} of {len(part.slots)}" if isinstance(part, LiftState) else kind
                raise ValueError(
                    "tree.map_params: the state is not one of this transformation, which has a LiftState of "
                    f"{len(reference.slots)} rules where the state has {found}. "
                    "Pass the transformation that the state belongs to."
                )
            # A rule that no parameter passes has no slots.
            slots = tuple(
                walk(rule, now) if now else now for rule, now in zip(reference.slots, part.slots, strict=True)
            )
            known, given = (tuple(state._replace(slots=())) for state in (reference, part))
            count, tunables, scheduled, _, shared = walk(known, given)
            return LiftState(count, tunables, scheduled, slots, shared)
        if part is None or transform_non_params is None:
            return part
        return transform_non_params(part)

    try:
        reference = init(AnyParams(jnp.zeros(())))
    except Exception as error:
        error.add_note(
            "while tree.map_params called init with a stand-in for parameters of any structure; if a part "
            "of another library has a tree of masks or labels, give it a function from the parameters to it"
        )
        raise
    return walk(reference, state)
