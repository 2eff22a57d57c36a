"""Transformations for some of the leaves only.

A mask is a property of a rule, so masked and partitioned rules still merge
with their neighbours into one walk over the tree.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from gradxform.chain import chain, map_lifts
from gradxform.primitives.scaling import set_to_zero
from gradxform.rule import Lift, Mask, lift, of_params, resolve_mask
from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.trees import PyTree, broadcast_prefix, flatten, flatten_like, paths
from gradxform.wrappers.wrapper import Wrapper

Labels = PyTree | Callable[[Params], PyTree]

__all__ = ["Labels", "MaskedState", "freeze", "masked", "partition", "selective_transform"]


class MaskedState(NamedTuple):
    """The state of a masked transformation that is not made of rules.

    Attributes:
      inner_state: the inner transformation's state, which knows of the leaves that it sees only.
    """

    inner_state: State


def masked(
    inner: GradientTransformation, mask: Mask, *, mask_compatible_extra_args: bool = False
) -> GradientTransformation:
    r"""Apply a transformation to some leaves: :math:`u_i = T(g)_i` if :math:`m_i`, else :math:`g_i`.

    Rules stay rules: they merge with their neighbours in a `chain`, and a
    masked-off leaf has no slots. Masks of masks apply where both do. Parts of
    other libraries see ``None`` in the place of a masked-off leaf.

    Args:
      inner: any transformation.
      mask: a tree of booleans like the parameters, a prefix of one, or a
        function from the parameters to it. A pytree that can be called (a
        module, say) is a tree.
      mask_compatible_extra_args: whether to mask those extra keyword arguments
        of `update` too that have the structure of the parameters; for parts
        that are not made of rules.

    Returns:
      A `GradientTransformation`. Its `init` and `update` raise `ValueError` or
      `TypeError` if the mask does not fit the parameters, naming the path.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.masked(gx.sgd(0.5), {"w": True, "b": False})
      >>> params = {"w": 1.0, "b": 1.0}
      >>> {name: float(u) for name, u in tx.update(params, tx.init(params))[0].items()}
      {'b': 1.0, 'w': -0.5}
    """
    return _masked(inner, mask, "", mask_compatible_extra_args)


def _masked(
    inner: GradientTransformation, mask: Mask, group: str, mask_extra_args: bool
) -> GradientTransformation:
    def of_lift(inner: Lift) -> Lift:
        # One mask for all rules that had the same one, so that it is resolved once.
        both = {id(rule.mask): _both(rule.mask, mask) for rule in inner.rules}
        return lift(
            *(
                replace(
                    rule,
                    mask=both[id(rule.mask)],
                    group=".".join(name for name in (group, rule.group) if name),
                )
                for rule in inner.rules
            )
        )

    return map_lifts(inner, of_lift, lambda part: _masked_foreign(part, mask, mask_extra_args))


def _both(first: Mask | None, second: Mask) -> Mask:
    """The leaves that two masks have in common."""
    if first is None:
        return second

    def common(params: Params) -> PyTree:
        outer = resolve_mask(second, params, "the outer mask")
        # The inner mask has a say, and need have an answer, only on what the outer one shows.
        inner = resolve_mask(first, _hide(params, outer), "the inner mask")
        return jax.tree.map(lambda a, b: a and b, outer, inner)

    return common


def _hide(tree: PyTree, on: PyTree) -> PyTree:
    """The tree with ``None`` where the mask is off."""
    leaves, treedef = flatten(on)
    values = flatten_like(treedef, on, tree, root="the tree", like="its mask", who="masked")
    return treedef.unflatten(value if shown else None for value, shown in zip(values, leaves, strict=True))


def _masked_foreign(
    inner: GradientTransformation, mask: Mask, mask_extra_args: bool
) -> GradientTransformation:
    accepted = accepted_keywords(inner.update)

    def init(params: Params) -> MaskedState:
        return MaskedState(inner.init(_hide(params, resolve_mask(mask, params, "masked"))))

    def update(
        grads: Updates, state: MaskedState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, MaskedState]:
        on = resolve_mask(mask, grads if params is None else params, "masked")
        structure: Any = jax.tree.structure(on)

        def hide_extra(value: Any) -> Any:
            same = bool(structure == jax.tree.structure(value))
            return _hide(value, on) if same else value

        shown = None if params is None else _hide(params, on)
        known = {
            name: hide_extra(value) if mask_extra_args else value for name, value in accepted(extra).items()
        }
        updates, inner_state = inner.update(_hide(grads, on), state.inner_state, shown, **known)
        leaves, treedef = flatten(on)
        merged = (
            new if use else old
            for use, new, old in zip(
                leaves,
                flatten_like(treedef, on, updates, root="updates", like="its mask", who="masked"),
                treedef.flatten_up_to(grads),
                strict=True,
            )
        )
        return treedef.unflatten(merged), MaskedState(inner_state)

    return Wrapper("masked", inner, init, update, rows=True, passes=True)


def partition(
    transforms: Mapping[Hashable, GradientTransformation],
    param_labels: Labels,
    *,
    mask_compatible_extra_args: bool = False,
) -> GradientTransformation:
    r"""Apply to each leaf the transformation of its label: :math:`u_i = T_{l_i}(g)_i`.

    It is the `chain` of the transformations, each masked to its leaves. So
    those that are made of rules are one walk over the tree and one state, and
    an inner label or mask applies where the outer one does. Where labels share
    the name of a hyperparameter, `get_hyperparams` calls it
    ``label.learning_rate``.

    Args:
      transforms: label to transformation.
      param_labels: a tree of labels like the parameters, a prefix of one, or a
        function from the parameters to it. A pytree that can be called is a tree.
      mask_compatible_extra_args: as in `masked`.

    Returns:
      A `GradientTransformation`. Its `init` and `update` raise `ValueError` if
      a label has no transformation, or the labels do not fit the parameters,
      naming the path.

    Raises:
      ValueError: there are no transformations.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.partition({"fast": gx.sgd(1.0), "slow": gx.sgd(0.1)}, {"w": "slow", "b": "fast"})
      >>> params = {"w": 1.0, "b": 1.0}
      >>> {name: round(float(u), 6) for name, u in tx.update(params, tx.init(params))[0].items()}
      {'b': -1.0, 'w': -0.1}
    """
    transforms = dict(transforms)
    if not transforms:
        raise ValueError("partition: no transformations; pass a dictionary of label to transformation")

    def carries(label: Hashable) -> Mask:
        def mask(params: Params) -> PyTree:
            _, treedef = flatten(params)
            return treedef.unflatten(each == label for each in _labels(param_labels, params, transforms))

        return mask

    return chain(
        *(
            _masked(tx, carries(label), str(label), mask_compatible_extra_args)
            for label, tx in transforms.items()
        )
    )


def _labels(labels: Labels, params: Params, known: Mapping[Hashable, Any]) -> list[Any]:
    """The label of each leaf, every one of them known."""
    found = broadcast_prefix(of_params(labels, params), params, root="param_labels", who="partition")
    for index, (label, leaf) in enumerate(zip(found, flatten(params)[0], strict=True)):
        if leaf is not None and label not in known:
            raise ValueError(
                f"partition: {paths(params, 'params')[index]} has the label {label!r}, which has no "
                f"transformation; there are {', '.join(map(repr, known))}"
            )
    return found


def freeze(mask: Mask) -> GradientTransformation:
    r"""Keep some leaves as they are: :math:`u_i = 0` where :math:`m_i`, else :math:`g_i`.

    Args:
      mask: which leaves to freeze, as in `masked`.

    Returns:
      A `GradientTransformation`, without slots.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.chain(gx.sgd(0.5), gx.freeze({"w": True, "b": False}))
      >>> params = {"w": 1.0, "b": 1.0}
      >>> {name: float(u) for name, u in tx.update(params, tx.init(params))[0].items()}
      {'b': -0.5, 'w': 0.0}
    """
    return masked(set_to_zero(), mask)


def selective_transform(optimizer: GradientTransformation, *, freeze_mask: Mask) -> GradientTransformation:
    r"""Train some leaves, and keep the others as they are: without slots, and with update 0.

    Args:
      optimizer: the transformation for the leaves that are trained.
      freeze_mask: which leaves not to train, as in `masked`.

    Returns:
      A `GradientTransformation`.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.selective_transform(gx.sgd(0.5), freeze_mask={"w": True, "b": False})
      >>> params = {"w": 1.0, "b": 1.0}
      >>> {name: float(u) for name, u in tx.update(params, tx.init(params))[0].items()}
      {'b': -0.5, 'w': 0.0}
    """

    def trained(params: Params) -> PyTree:
        frozen = resolve_mask(freeze_mask, params, "selective_transform")
        return jax.tree.map(lambda off: not off, frozen)

    return chain(masked(optimizer, trained), freeze(freeze_mask))
