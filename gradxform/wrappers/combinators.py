"""What can be done to any optimizer: one call around it, no second walk over the tree."""

import fnmatch
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradxform.arithmetic import Decay, safe_divide, safe_sqrt, slot_like, sum_of_squares
from gradxform.chain import chain, map_rules
from gradxform.hyperparams import (
    Hyperparam,
    Schedule,
    Tunable,
    fraction,
    nonnegative,
    positive,
    replaced,
    show,
    unit,
)
from gradxform.primitives.decay import add_decayed_weights
from gradxform.rule import Lift, Mask, Rule, Slots, Step, lift
from gradxform.transformation import GradientTransformation, Params
from gradxform.trees import flatten, paths

__all__ = [
    "DecayProducts",
    "PreviousGradientSlots",
    "cautious",
    "decay_schedule",
    "decoupled_weight_decay",
    "leaves_named",
    "leaves_of_rank",
    "mars",
    "nesterov",
]


class PreviousGradientSlots(NamedTuple):
    """What `mars` and `nesterov` remember: the last gradient."""

    previous_gradient: jax.Array


class DecayProducts(NamedTuple):
    """What `decay_schedule` keeps for the whole tree.

    Attributes:
      own: what the rule itself keeps.
      products: the product of each decay so far.
    """

    own: Any
    products: tuple[Any, ...]


def cautious(tx: GradientTransformation, *, rescale: bool = True, floor: Hyperparam = 1e-3) -> Lift:
    r"""Move only where the update and the gradient agree.

    .. math::
      u' = \frac{\varphi}{\max(\bar\varphi, \xi)} u, \qquad \varphi = [u g > 0]

    :math:`g` is the gradient that `tx` was given, :math:`u` what it makes of it
    before weight decay and the learning rate, which stay as they are;
    :math:`\bar\varphi` is the share of the leaf's elements that agree. Where
    :math:`u` already points downhill, as a rule says by its `turns`, agreeing
    is :math:`u g < 0`.

    Args:
      tx: an optimizer made of rules.
      rescale: whether to divide by :math:`\bar\varphi`, so that the leaf moves
        as far as it would.
      floor: :math:`\xi`, above 0.

    Returns:
      A `GradientTransformation` with the state of `tx`.

    Raises:
      TypeError: `tx` is not made of rules alone, or has several optimizers for
        several leaves.
      ValueError: `floor` is out of its bounds; or a factor before the end of `tx`
        is no number, and may turn the gradient round unseen.

    References:
      Liang et al., `Cautious optimizers: improving training with one line of
      code <https://arxiv.org/abs/2411.16085>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.cautious(gx.sgd(1.0, momentum=0.9))
      >>> _, state = tx.update([-1.0], tx.init([0.0]))
      >>> abs(tx.update([0.5], state)[0][0].item())  # the momentum says up, the gradient says down
      0.0
    """
    rules, start = _direction("cautious", tx)
    for rule in rules[:start]:
        name = _FACTORS.get(rule.name)
        factor = rule.hyperparams[name] if name and not rule.turns else 1
        if not isinstance(factor, int | float) or factor < 0:
            raise ValueError(
                f"cautious: {rule.name} stands before {rules[start - 1].name} with {name} = {show(factor)}, "
                "which may turn the gradient round unseen; put it last, where the direction is known, or "
                "give it a number that is at least 0"
            )
    downhill = sum(rule.turns for rule in rules[:start]) % 2 == 1

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        along = (grad * jnp.conj(step.entered)).real
        agrees = ((along < 0) if downhill else (along > 0)).astype(grad.real.dtype)
        share = jnp.maximum(agrees.mean(), step.floor) if rescale and agrees.size else 1
        return grad * (agrees / share), slots

    masked = Rule(
        "cautious",
        update,
        hyperparams={"floor": positive(floor)},
        equation="u = g where it agrees with the gradient, else 0" + (", as long as before" * rescale),
        scope="array" if rescale else "element",
        encloses=start,
    )
    return lift(*rules[:start], masked, *rules[start:])


def mars(
    tx: GradientTransformation,
    gamma: Hyperparam = 0.025,
    b1: Hyperparam = 0.95,
    max_norm: Hyperparam = 1.0,
) -> GradientTransformation:
    r"""Make use of how the gradient has changed, to lower its variance.

    .. math::
      c = g + \gamma \frac{\beta_1}{1 - \beta_1} (g - g_{\text{last}}), \qquad
      u = c \min(1, C / \lVert c \rVert)

    This is what `tx` is given in the gradient's place. In the first step there
    is no last gradient, and :math:`c = g`. The norm is that of the leaf.

    Args:
      tx: any transformation.
      gamma: :math:`\gamma`, at least 0.
      b1: :math:`\beta_1`, in [0, 1): the decay of the first moment of `tx`.
      max_norm: :math:`C`, above 0.

    Returns:
      A `GradientTransformation` with one slot more, the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Yuan et al., `MARS: unleashing the power of variance reduction for training
      large models <https://arxiv.org/abs/2411.10438>`_, 2024; its form with the last
      step's gradient.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.mars(gx.sgd(1.0), gamma=1.0, b1=0.5, max_norm=10.0)
      >>> _, state = tx.update([1.0], tx.init([0.0]))
      >>> tx.update([2.0], state)[0][0].item()
      -3.0
    """

    def update(
        grad: Any, slots: PreviousGradientSlots, param: Any, step: Step
    ) -> tuple[Any, PreviousGradientSlots]:
        weight = (step.count > 0) * (step.gamma * step.b1 / (1 - step.b1))
        corrected = grad + weight * (grad - slots.previous_gradient)
        norm = safe_sqrt(sum_of_squares(corrected))
        return safe_divide(step.max_norm, jnp.maximum(norm, step.max_norm)) * corrected, type(slots)(grad)

    return chain(
        lift(
            Rule(
                "mars",
                update,
                _last_gradient,
                {"gamma": nonnegative(gamma), "b1": fraction(b1), "max_norm": positive(max_norm)},
                "c = g + gamma · b1 / (1 − b1) · (g − last g), u = c · min(1, max_norm / ‖c‖)",
                scope="array",
                counts=True,
            )
        ),
        tx,
    )


def nesterov(tx: GradientTransformation, decay: Hyperparam = 0.9) -> GradientTransformation:
    r"""Look ahead by the change of the gradient: `tx` is given :math:`g + \mu (g - g_{\text{last}})`.

    Around the heavy ball of the same :math:`\mu` it is Nesterov's method. The
    first :math:`g_{\text{last}}` is 0.

    Args:
      tx: any transformation.
      decay: :math:`\mu`, in [0, 1]: the decay of the momentum of `tx`.

    Returns:
      A `GradientTransformation` with one slot more, the size of the parameters.

    Raises:
      ValueError: `decay` is not in [0, 1].

    References:
      Nesterov, `A method for solving the convex programming problem with convergence
      rate O(1/k²) <https://www.mathnet.ru/eng/dan46009>`_, 1983; Xie et al., `Adan
      <https://arxiv.org/abs/2208.06677>`_, 2022, in this form.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.nesterov(gx.sgd(1.0, momentum=0.5), decay=0.5)
      >>> tx.update([1.0], tx.init([0.0]))[0][0].item()
      -1.5
    """

    def update(
        grad: Any, slots: PreviousGradientSlots, param: Any, step: Step
    ) -> tuple[Any, PreviousGradientSlots]:
        return grad + step.decay * (grad - slots.previous_gradient), type(slots)(grad)

    equation = "u = g + decay · (g − last g)"
    return chain(lift(Rule("nesterov", update, _last_gradient, {"decay": unit(decay)}, equation)), tx)


def decay_schedule(tx: GradientTransformation, **schedules: Schedule | Tunable) -> GradientTransformation:
    r"""Let the decay of a moment change over the steps, and correct its bias exactly.

    .. math::
      m_t = \beta_t m_{t-1} + (1 - \beta_t) x_t, \qquad \hat m_t = m_t / (1 - \prod_{i \le t} \beta_i)

    A schedule given to the optimizer itself is corrected by
    :math:`1 - \beta_t^t`, as in Optax, which is exact for constants alone. PaLM's
    second moment is ``b2=lambda count: 1 - (count + 1.0) ** -0.8``.

    Args:
      tx: an optimizer made of rules, or a chain that has some.
      **schedules: the decay's name in the rule to count -> decay, in [0, 1).

    Returns:
      A `GradientTransformation`, with a number more for each leaf and decay.

    Raises:
      ValueError: no rule of `tx` has a hyperparameter of that name, or a tunable is out of its bounds.
      TypeError: it is neither a schedule nor a tunable.

    References:
      Chowdhery et al., `PaLM: scaling language modeling with pathways
      <https://arxiv.org/abs/2204.02311>`_, 2022.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.decay_schedule(gx.adam(1.0, b1=0.0), b2=lambda count: 1 - (count + 1.0) ** -0.8)
      >>> round(tx.update([3.0], tx.init([0.0]))[0][0].item(), 6)
      -1.0
    """
    for name, value in schedules.items():
        if not callable(value) and not isinstance(value, Tunable):
            raise TypeError(
                f"decay_schedule: {name} must be a schedule (count -> value) or tunable(value), got {value!r}"
            )
    found: set[str] = set()

    def scheduled(rule: Rule) -> Rule:
        own = {name: value for name, value in schedules.items() if name in rule.hyperparams}
        found.update(own)
        return _with_products(rule, own) if own else rule

    changed = map_rules(tx, scheduled)
    for name in schedules:
        if name not in found:
            raise ValueError(f"decay_schedule: no rule has a hyperparameter {name!r} in {tx!r}")
    return changed


def decoupled_weight_decay(
    tx: GradientTransformation, weight_decay: Hyperparam, mask: Mask | None = None
) -> Lift:
    r"""Decay the weights at the optimizer's own learning rate: :math:`u' = u - \alpha \lambda w`.

    Around `adam` it is `adamw`.

    Args:
      tx: an optimizer made of rules, with a learning rate at its end.
      weight_decay: :math:`\lambda`, at least 0.
      mask: which leaves to decay, as for `add_decayed_weights`: a tree of
        booleans, or a function such as ``leaves_of_rank(2)`` or
        ``leaves_named("*kernel*")``.

    Returns:
      A `GradientTransformation` with the state of `tx`; its update needs the parameters.

    Raises:
      TypeError: `tx` is not made of rules alone, or does not end with a learning rate.
      ValueError: `weight_decay` is negative.

    References:
      Loshchilov and Hutter, `Decoupled weight decay regularization
      <https://arxiv.org/abs/1711.05101>`_, 2019.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.decoupled_weight_decay(gx.sgd(0.5), 0.5, mask=gx.leaves_named("*w*"))
      >>> params = {"w": 2.0, "b": 2.0}
      >>> updates, _ = tx.update({"w": 0.0, "b": 0.0}, tx.init(params), params)
      >>> float(updates["w"]), float(updates["b"])
      (-0.5, -0.0)
    """
    rules, start = _direction("decoupled_weight_decay", tx)
    if not any(rule.name == "scale_by_learning_rate" for rule in rules[start:]):
        elsewhere = any(rule.name == "scale_by_learning_rate" for rule in rules)
        before = f"its learning rate before {rules[-1].name}, and none at its end"
        raise TypeError(
            f"decoupled_weight_decay: {tx!r} has {before if elsewhere else 'no learning rate'} to decay the "
            "weights at; chain add_decayed_weights where it is to decay them"
        )
    return lift(*rules[:start], *add_decayed_weights(weight_decay, mask).rules, *rules[start:])


def leaves_named(*patterns: str) -> Callable[[Params], Any]:
    """A mask: the leaves whose path matches one of the patterns.

    Args:
      *patterns: as the shell writes them (``*`` for anything), for the path as
        one would index it: ``"['dense']['kernel']"``. A bracket stands for itself.

    Returns:
      A function from the parameters to a tree of booleans.

    Example:
      >>> import gradxform as gx
      >>> gx.leaves_named("*kernel*")({"kernel": 1.0, "bias": 1.0})
      {'bias': False, 'kernel': True}
    """
    escaped = [pattern.replace("[", "[[]") for pattern in patterns]

    def mask(params: Params) -> Any:
        treedef = flatten(params)[1]
        return treedef.unflatten(
            any(fnmatch.fnmatchcase(path, pattern) for pattern in escaped) for path in paths(params, "")
        )

    return mask


def leaves_of_rank(minimum: int) -> Callable[[Params], Any]:
    """A mask: the leaves with at least so many axes; 2 leaves out biases and the scales of norms.

    Args:
      minimum: how many axes.

    Returns:
      A function from the parameters to a tree of booleans.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> gx.leaves_of_rank(2)({"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})
      {'bias': False, 'kernel': True}
    """

    def mask(params: Params) -> Any:
        leaves, treedef = flatten(params)
        return treedef.unflatten(leaf is not None and jnp.ndim(leaf) >= minimum for leaf in leaves)

    return mask


_STEP = frozenset({"scale_by_learning_rate", "scale", "add_decayed_weights"})

_FACTORS = {"scale": "step_size", "scale_by_learning_rate": "learning_rate"}
"""Rules that only multiply, and by which hyperparameter."""


def _direction(who: str, tx: GradientTransformation) -> tuple[tuple[Rule, ...], int]:
    """The rules of `tx`, and where those begin that only decay weights and say how far to go."""
    if not isinstance(tx, Lift):
        raise TypeError(
            f"{who}: {tx!r} is not made of rules alone; put {who} around the part that is, "
            "inside the wrappers"
        )
    for rule in tx.rules:
        if rule.mask is not None and rule.name not in _STEP:
            raise TypeError(
                f"{who}: {rule.name} is for some of the leaves only; put {who} around each optimizer, "
                "inside masked and partition"
            )
    start = len(tx.rules)
    while start and tx.rules[start - 1].name in _STEP:
        start -= 1
    return tx.rules, start


def _last_gradient(param: Any) -> PreviousGradientSlots:
    return PreviousGradientSlots(slot_like(param))


def _with_products(rule: Rule, schedules: dict[str, Any]) -> Rule:
    """The rule with these decays, each knowing the product of its values, which the whole tree shares."""

    def values(step: Step) -> list[Any]:
        """What the decays are at this step, each a number."""
        given = [getattr(step, name) for name in schedules]
        return [each.value if isinstance(each, Decay) else each for each in given]

    def products(step: Step) -> list[Any]:
        """Those of all steps so far, this one included."""
        pairs = zip(values(step), step.last.products, strict=True)
        return [jnp.asarray(product, value.dtype) * value for value, product in pairs]

    def known(step: Step) -> Step:
        given = vars(step)
        decays = {
            name: Decay(value, 1 - product, step.t)
            for name, value, product in zip(schedules, values(step), products(step), strict=True)
        }
        own: dict[str, Any] = {name: given[name].own for name in ("last", "shared") if name in given}
        return Step({**given, **decays, **own})

    def advance(total: Any, step: Step) -> DecayProducts:
        own = rule.advance(total, known(step)) if rule.advance else known(step).last
        numbers = jax.tree.map(lambda x: x.value if isinstance(x, Decay) else x, own)
        return DecayProducts(numbers, tuple(products(step)))

    def total(grad: Any, slots: Slots, param: Any, step: Step) -> Any:
        assert rule.total is not None
        return rule.total(grad, slots, param, known(step))

    return replace(
        rule,
        hyperparams=replaced(rule.hyperparams, schedules),
        counts=True,
        update=lambda grad, slots, param, step: rule.update(grad, slots, param, known(step)),
        total=total if rule.total else None,
        shared=DecayProducts(rule.shared, (1.0,) * len(schedules)),
        advance=advance,
    )
