"""Optimizers without a schedule to set: averages of the parameters take the schedule's place."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradxform.arithmetic import abs_squared, copy_of, next_count, safe_cbrt, safe_divide, slot_like
from gradxform.chain import chain
from gradxform.hyperparams import Checked, Hyperparam, Scalar, nonnegative, positive, unit
from gradxform.optimizers.gradient_descent import sgd
from gradxform.optimizers.recipe import decay, descend
from gradxform.primitives.moments import scale_by_rms
from gradxform.rule import Lift, LiftState, Rule, Step, lift
from gradxform.schedules import warmup_constant_schedule
from gradxform.slots import Exact, decode_stored
from gradxform.transformation import GradientTransformation, Params, State
from gradxform.trees import flatten, flatten_like

__all__ = [
    "MadgradSlots",
    "ScheduleFreeNumbers",
    "ScheduleFreeSlots",
    "madgrad",
    "scale_by_madgrad",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
]


class ScheduleFreeSlots(NamedTuple):
    """What `schedule_free` remembers: where the base optimizer would be by itself."""

    z: Exact


class ScheduleFreeNumbers(NamedTuple):
    """What `schedule_free` keeps for the whole tree.

    Attributes:
      b1: how much of the average the parameters are.
      weight_sum: the sum of the steps' weights.
      max_lr: the largest learning rate so far.
    """

    b1: Any
    weight_sum: Any
    max_lr: Any


class MadgradSlots(NamedTuple):
    """What `scale_by_madgrad` remembers: weighted sums of squares and gradients; and the start."""

    grad_sum_sq: Exact
    s: Exact
    x0: Exact


def schedule_free(
    base_optimizer: GradientTransformation,
    learning_rate: Hyperparam,
    b1: Hyperparam = 0.9,
    weight_lr_power: Hyperparam = 2.0,
    state_dtype: Any = None,
) -> GradientTransformation:
    r"""Train between an optimizer's iterates and their average; evaluate at the average.

    .. math::
      z \leftarrow z + u, \quad x \leftarrow (1 - c) x + c z, \quad w \leftarrow \beta_1 x + (1 - \beta_1) z

    :math:`u` is the base optimizer's update with the gradient at :math:`w`, and :math:`c` the step's share,
    :math:`\gamma^p`, of the weights so far, where :math:`\gamma` is the largest learning rate so far.
    Only :math:`z` is kept; `schedule_free_eval_params` gives :math:`x`.

    Args:
      base_optimizer: any optimizer without momentum, its learning rate included; warm-up is
        welcome, decay is not.
      learning_rate: the base optimizer's, for the weights; a schedule is read one step ahead, as
        Optax does. It is a hyperparameter to itself, ``averaging_rate``: a tunable is to be set
        here and in the base optimizer.
      b1: :math:`\beta_1`, above 0 and at most 1.
      weight_lr_power: :math:`p`, at least 0.
      state_dtype: the dtype to keep :math:`z` in.

    Returns:
      A `GradientTransformation` with the base optimizer's slots, and one more
      the size of the parameters; its update needs the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Defazio et al., `The road less scheduled <https://arxiv.org/abs/2405.15682>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.schedule_free(gx.sgd(0.5), 0.5), {"w": 1.0}
      >>> updates, state = tx.update({"w": 1.0}, tx.init(params), params)
      >>> gx.apply_updates(params, updates)["w"].item()
      0.5
    """
    # Of no average nothing can be found again.
    some = Checked(b1, "above 0 and at most 1", lambda x: 0 < x <= 1)
    ahead = (lambda count: learning_rate(next_count(count))) if callable(learning_rate) else learning_rate

    def init(param: Any) -> ScheduleFreeSlots:
        return ScheduleFreeSlots(copy_of(param, state_dtype))

    def weight(step: Step, largest: Any) -> Any:
        return largest**step.weight_lr_power

    def advance(total: Any, step: Step) -> ScheduleFreeNumbers:
        largest = jnp.maximum(step.last.max_lr, step.averaging_rate)
        return ScheduleFreeNumbers(step.b1, step.last.weight_sum + weight(step, largest), largest)

    def update(grad: Any, slots: ScheduleFreeSlots, param: Any, step: Step) -> tuple[Any, ScheduleFreeSlots]:
        share = safe_divide(weight(step, step.shared.max_lr), step.shared.weight_sum)
        average = (param - (1 - step.b1) * slots.z) / step.b1
        z = slots.z + grad
        average = average + share * (z - average)
        return step.b1 * average + (1 - step.b1) * z - param, ScheduleFreeSlots(z)

    rule = Rule(
        "schedule_free",
        update,
        init,
        {"b1": some, "averaging_rate": ahead, "weight_lr_power": nonnegative(weight_lr_power)},
        "z ← z + u, x ← avg z, w ← b1 · x + (1 − b1) · z",
        needs_params=True,
        shared=ScheduleFreeNumbers(1.0, 0.0, 0.0),  # at first the parameters are their average
        advance=advance,
    )
    return chain(base_optimizer, lift(rule))


def schedule_free_eval_params(state: State, params: Params) -> Params:
    """The parameters to evaluate with: the average that `schedule_free` trains towards.

    Args:
      state: the state of a transformation with one `schedule_free` in it.
      params: the parameters that are trained.

    Returns:
      The averages in the parameters' dtypes; leaves that have none (masked
      off, say) as they are.

    Raises:
      ValueError: the state is not one of `schedule_free`, or of more than one.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.schedule_free_sgd()
      >>> gx.schedule_free_eval_params(tx.init([4.0]), [4.0])[0].item()
      4.0
    """
    lifts = [
        node
        for node in jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, LiftState))
        if isinstance(node, LiftState)
    ]
    found = [
        (slots.z, shared.b1)
        for node in lifts
        for slots, shared in zip(node.slots, node.shared, strict=True)
        if isinstance(slots, ScheduleFreeSlots)
    ]
    if len(found) != 1:
        raise ValueError(
            f"schedule_free_eval_params: the state is one of {len(found) or 'no'} schedule_free; "
            "pass the state of a transformation with one of them"
        )
    z, b1 = decode_stored(found[0])
    leaves, treedef = flatten(params)
    bases = flatten_like(treedef, params, z, root="z", like="params", who="schedule_free_eval_params")
    return treedef.unflatten(
        leaf if base is None else jnp.asarray((leaf - (1 - b1) * base) / b1, jnp.result_type(leaf))
        for leaf, base in zip(leaves, bases, strict=True)
    )


def schedule_free_sgd(
    learning_rate: Hyperparam = 1.0,
    warmup_steps: int | None = None,
    b1: Hyperparam = 0.9,
    weight_decay: Hyperparam | None = None,
    weight_lr_power: Hyperparam = 2.0,
    state_dtype: Any = None,
) -> GradientTransformation:
    r"""Gradient descent without a schedule.

    Args:
      learning_rate: after the warm-up. A tunable stands in the state twice, as ``learning_rate``
        and as the weights' ``averaging_rate``: set both.
      warmup_steps: over so many steps the learning rate grows from 0; by default none.
      b1, weight_lr_power, state_dtype: as in `schedule_free`.
      weight_decay: an L2 penalty, at least 0.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.
      TypeError: `learning_rate` is no number, and there are `warmup_steps`.

    References:
      Defazio et al., `The road less scheduled <https://arxiv.org/abs/2405.15682>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.schedule_free_sgd(0.5), {"w": 1.0}
      >>> tx.update({"w": 1.0}, tx.init(params), params)[0]["w"].item()
      -0.5
    """
    rate = _warming_up("schedule_free_sgd", learning_rate, warmup_steps)
    base = chain(decay(weight_decay), sgd(rate))
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


def schedule_free_adamw(
    learning_rate: Hyperparam = 0.0025,
    warmup_steps: int | None = None,
    b1: Hyperparam = 0.9,
    b2: Hyperparam = 0.999,
    eps: Hyperparam = 1e-8,
    weight_decay: Hyperparam = 0.0,
    weight_lr_power: Hyperparam = 2.0,
    state_dtype: Any = None,
) -> GradientTransformation:
    r"""AdamW without a schedule: the averages stand in the first moment's place.

    Args:
      learning_rate: after the warm-up. A tunable stands in the state twice, as ``learning_rate``
        and as the weights' ``averaging_rate``: set both.
      warmup_steps: over so many steps the learning rate grows from 0; by default none.
      b1, weight_lr_power, state_dtype: as in `schedule_free`.
      b2: the decay of the second moment, in [0, 1).
      eps: what is added to its root, at least 0.
      weight_decay: decoupled, at least 0.

    Returns:
      A `GradientTransformation` with two slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.
      TypeError: `learning_rate` is no number, and there are `warmup_steps`.

    References:
      Defazio et al., `The road less scheduled <https://arxiv.org/abs/2405.15682>`_, 2024.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.schedule_free_adamw(0.5), {"w": 1.0}
      >>> round(tx.update({"w": 1.0}, tx.init(params), params)[0]["w"].item(), 6)
      -0.5
    """
    rate = _warming_up("schedule_free_adamw", learning_rate, warmup_steps)
    direction = scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
    base = descend(direction, rate, weight_decay)
    return schedule_free(base, rate, b1, weight_lr_power, state_dtype)


def scale_by_madgrad(learning_rate: Hyperparam, momentum: Hyperparam = 0.9, eps: Scalar = 1e-6) -> Lift:
    r"""Dual averaging with AdaGrad's memory under a cube root.

    .. math::
      \lambda = (\alpha + \epsilon) \sqrt t, \quad s \leftarrow s + \lambda g, \quad
      \nu \leftarrow \nu + \lambda |g|^2, \quad
      u = (1 - c) \Bigl(w_0 - \frac{s}{\sqrt[3]{\nu} + \epsilon} - w\Bigr)

    Args:
      learning_rate: :math:`\alpha`.
      momentum: :math:`c`, in [0, 1].
      eps: :math:`\epsilon`, above 0.

    Returns:
      A `GradientTransformation` with three slots the size of the parameters;
      its update needs the parameters, and already goes downhill.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Defazio and Jelassi, `Adaptivity without compromise: a momentumized, adaptive, dual averaged
      gradient method <https://arxiv.org/abs/2101.11075>`_, 2021.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.scale_by_madgrad(1.0, momentum=0.0, eps=1e-20), {"w": 1.0}
      >>> round(tx.update({"w": 8.0}, tx.init(params), params)[0]["w"].item(), 5)
      -2.0
    """

    def init(param: Any) -> MadgradSlots:
        return MadgradSlots(slot_like(param, real=True), slot_like(param), copy_of(param))

    def update(grad: Any, slots: MadgradSlots, param: Any, step: Step) -> tuple[Any, MadgradSlots]:
        weight = (step.learning_rate + step.eps) * jnp.sqrt(step.t)
        squares, total = slots.grad_sum_sq + weight * abs_squared(grad), slots.s + weight * grad
        target = slots.x0 - total / (safe_cbrt(squares) + step.eps)
        return (1 - step.momentum) * (target - param), MadgradSlots(squares, total, slots.x0)

    equation = "s ← s + λ · g, ν ← ν + λ · g², u = (1 − momentum) · (w₀ − s / (∛ν + eps) − w)"
    hyperparams = {"learning_rate": learning_rate, "momentum": unit(momentum), "eps": positive(eps)}
    return lift(
        Rule(
            "scale_by_madgrad",
            update,
            init,
            hyperparams,
            equation,
            needs_params=True,
            turns=True,
            counts=True,
        )
    )


def madgrad(
    learning_rate: Hyperparam,
    momentum: Hyperparam = 0.9,
    weight_decay: Hyperparam = 0.0,
    eps: Scalar = 1e-6,
) -> GradientTransformation:
    r"""MADGRAD: steps from the start, not from the last point, over AdaGrad's memory.

    Args:
      learning_rate, momentum, eps: as in `scale_by_madgrad`.
      weight_decay: an L2 penalty, at least 0.

    Returns:
      A `GradientTransformation` with three slots the size of the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Defazio and Jelassi, `Adaptivity without compromise: a momentumized, adaptive, dual averaged
      gradient method <https://arxiv.org/abs/2101.11075>`_, 2021.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.madgrad(1.0, momentum=0.0, eps=1e-20), {"w": 1.0}
      >>> round(tx.update({"w": 8.0}, tx.init(params), params)[0]["w"].item(), 5)
      -2.0
    """
    return chain(decay(weight_decay), scale_by_madgrad(learning_rate, momentum, eps))


def _warming_up(who: str, learning_rate: Hyperparam, steps: int | None) -> Hyperparam:
    if steps is None:
        return learning_rate
    if not isinstance(learning_rate, numbers.Real):
        raise TypeError(
            f"{who}: warmup_steps needs a number for the learning rate, got {learning_rate!r}; "
            "leave it out and pass a schedule that warms up"
        )
    return warmup_constant_schedule(init_value=0.0, peak_value=learning_rate, warmup_steps=steps)
