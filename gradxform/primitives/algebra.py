"""Arithmetic on rules: what an adaptive optimizer's numerator and denominator are written with."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax

from gradxform.arithmetic import abs_squared, safe_divide, safe_sqrt, sum_of_squares
from gradxform.hyperparams import Hyperparam, distinct_names, nonnegative, replaced
from gradxform.rule import Lift, Rule, Slots, Step, lift
from gradxform.slots import DIVISOR

__all__ = ["GraftSlots", "RatioSlots", "graft", "ratio", "root", "square"]


class RatioSlots(NamedTuple):
    """What `ratio` remembers: the slots of the rules above and below the line."""

    numerator: tuple[Slots, ...]
    denominator: Annotated[tuple[Slots, ...], DIVISOR]


class GraftSlots(NamedTuple):
    """What `graft` remembers: the slots of the rules that say where to, and of those that say how far."""

    direction: tuple[Slots, ...]
    magnitude: tuple[Slots, ...]


def square() -> Lift:
    r"""The squared magnitude: :math:`u = |g|^2`.

    Returns:
      A `GradientTransformation` without slots.

    Example:
      >>> import gradxform as gx
      >>> gx.square().update([3.0], gx.square().init([0.0]))[0][0].item()
      9.0
    """
    return lift(
        Rule("square", lambda grad, slots, param, step: (abs_squared(grad), slots), equation="u = g²")
    )


def root(eps: Hyperparam = 0.0, eps_root: Hyperparam = 0.0) -> Lift:
    r"""The square root: :math:`u = \sqrt{g + \bar\epsilon} + \epsilon`.

    Args:
      eps: :math:`\epsilon`, at least 0.
      eps_root: :math:`\bar\epsilon`, at least 0.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: a hyperparameter is negative.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.root()
      >>> tx.update([9.0], tx.init([0.0]))[0][0].item()
      3.0
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return safe_sqrt(grad + step.eps_root) + step.eps, slots

    hyperparams = {"eps": nonnegative(eps), "eps_root": nonnegative(eps_root)}
    return lift(Rule("root", update, hyperparams=hyperparams, equation="u = √(g + eps_root) + eps"))


def ratio(numerator: Lift, denominator: Lift) -> Lift:
    r"""One chain of rules over another: :math:`u = a(g) / b(g)`; 0 where the whole history was 0.

    Most adaptive optimizers are such a ratio: Adam is
    ``ratio(ema(b1), chain(square(), ema(b2), root(eps)))``.

    Args:
      numerator: a rule or a chain of rules; `identity()` for the gradient itself.
      denominator: a rule or a chain of rules.

    Returns:
      A `GradientTransformation` with the slots and hyperparameters of both.

    Raises:
      TypeError: a part is not made of rules that work on one array.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.ratio(gx.identity(), gx.chain(gx.accumulate_squares(), gx.root()))
      >>> _, state = tx.update([3.0], tx.init([0.0]))
      >>> round(tx.update([4.0], state)[0][0].item(), 6)
      0.8
    """
    return _join("ratio", RatioSlots, (numerator, denominator), safe_divide, " over ")


def graft(direction: Lift, magnitude: Lift) -> Lift:
    r"""The direction of one chain of rules, as long as another's.

    .. math:: u = \lVert b(g) \rVert \frac{a(g)}{\lVert a(g) \rVert}

    The norms are those of each leaf. So a preconditioner can be tried with the
    learning rate of a method that is already tuned.

    Args:
      direction: a rule or a chain of rules.
      magnitude: a rule or a chain of rules; `identity()` for the gradient's own length.

    Returns:
      A `GradientTransformation` with the slots and hyperparameters of both.

    Raises:
      TypeError: a part is not made of rules that work on one array.

    References:
      Agarwal et al., `Disentangling adaptive gradient methods from learning
      rates <https://arxiv.org/abs/2002.11803>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx, grads = gx.graft(gx.scale_by_sign(), gx.identity()), jnp.asarray([0.0, 5.0])
      >>> tx.update(grads, tx.init(grads))[0].tolist()
      [0.0, 5.0]
    """

    def rescale(direction: jax.Array, magnitude: jax.Array) -> jax.Array:
        lengths = [safe_sqrt(sum_of_squares(x)) for x in (magnitude, direction)]
        return safe_divide(*lengths) * direction

    return _join("graft", GraftSlots, (direction, magnitude), rescale, " as long as ")


def _join(
    name: str,
    kind: type[RatioSlots] | type[GraftSlots],
    parts: tuple[Lift, Lift],
    function: Callable[[jax.Array, jax.Array], jax.Array],
    word: str,
) -> Lift:
    """One rule that gives the same gradient to two chains and makes one update of theirs."""
    sides = [_rules(name, part, side) for part, side in zip(parts, kind._fields, strict=True)]
    rules = [rule for side in sides for rule in side]
    names = distinct_names(rules)
    split = len(sides[0])

    def init(param: Any) -> Slots:
        return kind(*(tuple(rule.init(param) for rule in side) for side in sides))

    def through(
        side: slice, grad: Any, slots: tuple[Slots, ...], param: Any, step: Step
    ) -> tuple[Any, tuple[Slots, ...]]:
        new = []
        for rule, known, remembered in zip(rules[side], names[side], slots, strict=True):
            own = {local: getattr(step, name) for local, name in known.items()}
            grad, kept = rule.update(grad, remembered, param, Step({**vars(step), **own}))
            new.append(kept)
        return grad, tuple(new)

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        first, new_first = through(slice(0, split), grad, slots[0], param, step)
        second, new_second = through(slice(split, None), grad, slots[1], param, step)
        return function(first, second), kind(new_first, new_second)

    return lift(
        Rule(
            name,
            update,
            init,
            {
                names_of_rule[local]: hyperparam
                for rule, names_of_rule in zip(rules, names, strict=True)
                for local, hyperparam in replaced(rule.hyperparams, {}).items()
            },
            equation=word.join(" → ".join(rule.name for rule in side) or "g" for side in sides),
            scope="array" if name == "graft" or any(rule.scope == "array" for rule in rules) else "element",
            batched=any(rule.batched for rule in rules),
            needs_params=any(rule.needs_params for rule in rules),
            counts=any(rule.counts for rule in rules),
            turns=sum(rule.turns for rule in sides[0]) % 2 == 1,
        )
    )


def _rules(who: str, part: Any, where: str) -> tuple[Rule, ...]:
    if not isinstance(part, Lift):
        raise TypeError(f"{who}: the {where} must be a rule or a chain of rules, got {part!r}")
    for rule in part.rules:
        beyond = (rule.total, rule.advance, rule.options, rule.mask)
        if (
            rule.random
            or rule.extra
            or rule.exact
            or rule.encloses
            or any(given is not None for given in beyond)
        ):
            raise TypeError(
                f"{who}: {rule.name} in the {where} needs more than one array (a total over the tree, a "
                f"random key, a mask, options or arguments of update); chain it before the {who}"
            )
    return part.rules
