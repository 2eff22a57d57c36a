"""Arithmetic on rules: what an adaptive optimizer's numerator and denominator are written with."""

from typing import Any, NamedTuple

from gradxform.arithmetic import abs_squared, safe_divide, safe_sqrt
from gradxform.hyperparams import Hyperparam, distinct_names, nonnegative
from gradxform.rule import Lift, Rule, Slots, Step, lift

__all__ = ["RatioSlots", "ratio", "root", "square"]


class RatioSlots(NamedTuple):
    """What `ratio` remembers: the slots of the rules above and below the line."""

    numerator: tuple[Slots, ...]
    denominator: tuple[Slots, ...]


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
    sides = [_rules(numerator, "numerator"), _rules(denominator, "denominator")]
    rules = [rule for side in sides for rule in side]
    names = distinct_names(rules)
    split = len(sides[0])

    def init(param: Any) -> RatioSlots:
        above, below = (tuple(rule.init(param) for rule in side) for side in sides)
        return RatioSlots(above, below)

    def through(
        side: slice, grad: Any, slots: tuple[Slots, ...], param: Any, step: Step
    ) -> tuple[Any, tuple[Slots, ...]]:
        new = []
        for rule, known, remembered in zip(rules[side], names[side], slots, strict=True):
            own = {local: getattr(step, name) for local, name in known.items()}
            grad, kept = rule.update(grad, remembered, param, Step({**vars(step), **own}))
            new.append(kept)
        return grad, tuple(new)

    def update(grad: Any, slots: RatioSlots, param: Any, step: Step) -> tuple[Any, RatioSlots]:
        above, new_above = through(slice(0, split), grad, slots.numerator, param, step)
        below, new_below = through(slice(split, None), grad, slots.denominator, param, step)
        return safe_divide(above, below), RatioSlots(new_above, new_below)

    return lift(
        Rule(
            "ratio",
            update,
            init,
            {
                name: rule.hyperparams[local]
                for rule, known in zip(rules, names, strict=True)
                for local, name in known.items()
            },
            equation=" over ".join(" → ".join(rule.name for rule in side) or "g" for side in sides),
            scope="array" if any(rule.scope == "array" for rule in rules) else "element",
            needs_params=any(rule.needs_params for rule in rules),
        )
    )


def _rules(part: Any, where: str) -> tuple[Rule, ...]:
    if not isinstance(part, Lift):
        raise TypeError(f"ratio: the {where} must be a rule or a chain of rules, got {part!r}")
    for rule in part.rules:
        if rule.total is not None or rule.random or rule.mask is not None:
            raise TypeError(
                f"ratio: {rule.name} in the {where} needs more than one array (a total over the tree, "
                "a random key or a mask); chain it before the ratio"
            )
    return part.rules
