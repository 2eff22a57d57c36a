"""Rules that find the length of the step themselves, from how far the parameters have come."""

import numbers
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradxform.arguments import check_number
from gradxform.arithmetic import (
    abs_squared,
    copy_of,
    safe_divide,
    safe_sqrt,
    slot_like,
    sum_of_squares,
    totals_of,
)
from gradxform.hyperparams import Hyperparam, Scalar, nonnegative, positive
from gradxform.primitives.sign import check_real
from gradxform.rule import Lift, Rule, Step, lift
from gradxform.slots import Exact

__all__ = [
    "CocobSlots",
    "DistanceOverGradientsSlots",
    "StartSlots",
    "scale_by_cocob",
    "scale_by_distance_over_gradients",
    "scale_by_dog",
    "scale_by_dowg",
]


class StartSlots(NamedTuple):
    """What `scale_by_dog` and `scale_by_dowg` remember: where the parameters started."""

    init_params: Exact


class DoGNumbers(NamedTuple):
    """What `scale_by_dog` keeps for the whole tree: the farthest distance, and the sum of squared norms."""

    max_dist: Any
    sum_sq_norm_grads: Any


class DoWGNumbers(NamedTuple):
    """What `scale_by_dowg` keeps for the whole tree: a weighted sum of squared norms, and the distance."""

    weighted_sq_norm_grads: Any
    estim_sq_dist: Any


class DistanceOverGradientsSlots(NamedTuple):
    """What `scale_by_distance_over_gradients` remembers of each array: two numbers, and where it started."""

    max_dist: Exact
    grad_sum_of_squares: Exact
    init_params: Exact


class CocobSlots(NamedTuple):
    """What `scale_by_cocob` remembers: the start, and of the gradients sum, maximum, absolute sum, reward."""

    init_particles: Exact
    cumulative_gradients: Exact
    scale: Exact
    subgradients: Exact
    reward: Exact


def scale_by_dog(
    init_step: tuple[Literal["distance", "learning_rate", "heuristic"], Scalar] = ("heuristic", 1e-6),
    eps: Hyperparam = 1e-8,
) -> Lift:
    r"""Distance over gradients: the farthest that the parameters have been, by the gradients so far.

    .. math::
      \bar r \leftarrow \max(\bar r, \lVert w - w_0 \rVert), \quad
      G \leftarrow G + \lVert g \rVert^2, \quad u = \frac{\bar r}{\sqrt{G + \epsilon}} g

    The norms are taken over all leaves together.

    Args:
      init_step: what the first step is taken by: ``("distance", r)``, a first :math:`\bar r`;
        ``("heuristic", c)``, which is :math:`c (1 + \lVert w_0 \rVert)`; or
        ``("learning_rate", a)``, a learning rate.
      eps: :math:`\epsilon`, at least 0.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters and
      two numbers; its update needs the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds, or `init_step` unknown.

    References:
      Ivgi, Hinder and Carmon, `DoG is SGD's best friend
      <https://arxiv.org/abs/2302.12022>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.scale_by_dog(("distance", 0.5)), {"w": 1.0}
      >>> tx.update({"w": 4.0}, tx.init(params), params)[0]["w"].item()
      0.5
    """
    kind, first = init_step
    if kind not in ("distance", "learning_rate", "heuristic"):
        raise ValueError(
            "scale_by_dog: init_step must be ('distance', r), ('heuristic', c) or "
            f"('learning_rate', a), got {init_step!r}"
        )

    def total(grad: Any, slots: StartSlots, param: Any, step: Step) -> Any:
        # At the first step nothing has moved, and the heuristic asks for the length of the start itself.
        moving = step.count > 0 if kind == "heuristic" else 1
        return totals_of(abs_squared(param - moving * slots.init_params), abs_squared(grad))

    def advance(total: Any, step: Step) -> DoGNumbers:
        moved, squares = total
        length = safe_sqrt(moved)
        relative = step.init_step * (1 + length)
        distance = {"distance": step.init_step, "learning_rate": 0.0, "heuristic": relative}[kind]
        farthest = jnp.where(step.count == 0, distance, jnp.maximum(step.last.max_dist, length))
        return DoGNumbers(farthest, step.last.sum_sq_norm_grads + squares)

    def update(grad: Any, slots: StartSlots, param: Any, step: Step) -> tuple[Any, StartSlots]:
        rate = safe_divide(step.shared.max_dist, safe_sqrt(step.shared.sum_sq_norm_grads + step.eps))
        if kind == "learning_rate":
            rate = jnp.where(step.count == 0, step.init_step, rate)
        return rate * grad, slots

    return lift(
        Rule(
            "scale_by_dog",
            update,
            _start,
            {"init_step": nonnegative(first), "eps": nonnegative(eps)},
            "r ← max(r, ‖w − w₀‖), G ← G + ‖g‖², u = r / √(G + eps) · g",
            scope="array",  # of some rows alone the distance would be too short
            needs_params=True,
            total=total,
            shared=DoGNumbers(0.0, 0.0),
            advance=advance,
            counts=True,
        )
    )


def scale_by_dowg(init_estim_sq_dist: Scalar | None = None, eps: Hyperparam = 1e-4) -> Lift:
    r"""Distance over weighted gradients: gradients far from the start count for more.

    .. math::
      \bar r^2 \leftarrow \max(\bar r^2, \lVert w - w_0 \rVert^2), \quad
      G \leftarrow G + \bar r^2 \lVert g \rVert^2, \quad u = \frac{\bar r^2}{\sqrt G + \epsilon} g

    The norms are taken over all leaves together.

    Args:
      init_estim_sq_dist: the first :math:`\bar r^2`, above 0; by default `eps`, which
        then has to be a number.
      eps: :math:`\epsilon`, at least 0.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters and
      two numbers; its update needs the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.
      TypeError: there is nothing to start from.

    References:
      Khaled, Mishchenko and Jin, `DoWG unleashed: an efficient universal parameter-free gradient
      descent method <https://arxiv.org/abs/2305.16284>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.scale_by_dowg(0.25, eps=0.0), {"w": 1.0}
      >>> tx.update({"w": 4.0}, tx.init(params), params)[0]["w"].item()
      0.5
    """
    if init_estim_sq_dist is not None:
        check_number("scale_by_dowg", "init_estim_sq_dist", positive(init_estim_sq_dist))
    elif not isinstance(eps, numbers.Number | jax.Array | np.ndarray):
        raise TypeError(f"scale_by_dowg: eps is {eps!r}, so init_estim_sq_dist must be given")
    first = eps if init_estim_sq_dist is None else init_estim_sq_dist

    def total(grad: Any, slots: StartSlots, param: Any, step: Step) -> Any:
        return totals_of(abs_squared(param - slots.init_params), abs_squared(grad))

    def advance(total: Any, step: Step) -> DoWGNumbers:
        moved, squares = total
        farthest = jnp.maximum(step.last.estim_sq_dist, moved)
        return DoWGNumbers(step.last.weighted_sq_norm_grads + farthest * squares, farthest)

    def update(grad: Any, slots: StartSlots, param: Any, step: Step) -> tuple[Any, StartSlots]:
        distance, weighted = step.shared.estim_sq_dist, step.shared.weighted_sq_norm_grads
        return safe_divide(distance, safe_sqrt(weighted) + step.eps) * grad, slots

    return lift(
        Rule(
            "scale_by_dowg",
            update,
            _start,
            {"eps": nonnegative(eps)},
            "r² ← max(r², ‖w − w₀‖²), G ← G + r² · ‖g‖², u = r² / (√G + eps) · g",
            scope="array",  # as in DoG
            needs_params=True,
            total=total,
            shared=DoWGNumbers(0.0, first),
            advance=advance,
        )
    )


def scale_by_distance_over_gradients(
    reps_rel: Hyperparam = 1e-6,
    eps: Hyperparam = 1e-8,
    param_dtype: Any = jnp.float32,
    global_scale: Hyperparam = 1.0,
) -> Lift:
    r"""Distance over gradients, layer by layer: `scale_by_dog` with norms over each array by itself.

    Args:
      reps_rel: the first distance is this part of one plus the array's norm; at least 0.
      eps: what is added to the sum of squares, at least 0.
      param_dtype: the dtype to keep the first parameters in.
      global_scale: a factor on the update.

    Returns:
      A `GradientTransformation` with one slot the size of the parameters and
      two numbers for each array; its update needs the parameters.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Ivgi, Hinder and Carmon, `DoG is SGD's best friend
      <https://arxiv.org/abs/2302.12022>`_, 2023.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.scale_by_distance_over_gradients(0.25), {"w": 1.0}
      >>> tx.update({"w": 4.0}, tx.init(params), params)[0]["w"].item()
      0.5
    """

    def init(param: Any) -> DistanceOverGradientsSlots:
        zero = slot_like(jax.ShapeDtypeStruct((), jnp.result_type(param)), real=True)
        return DistanceOverGradientsSlots(zero, jnp.copy(zero), copy_of(param, param_dtype))

    def update(
        grad: Any, slots: DistanceOverGradientsSlots, param: Any, step: Step
    ) -> tuple[Any, DistanceOverGradientsSlots]:
        start, squares = slots.init_params, slots.grad_sum_of_squares + sum_of_squares(grad)
        first = step.reps_rel * (1 + safe_sqrt(sum_of_squares(start)))
        farthest = jnp.where(step.count == 0, first, slots.max_dist)
        farthest = jnp.maximum(farthest, safe_sqrt(sum_of_squares(param - start)))
        rate = step.global_scale * safe_divide(farthest, safe_sqrt(squares + step.eps))
        return rate * grad, DistanceOverGradientsSlots(farthest, squares, start)

    return lift(
        Rule(
            "scale_by_distance_over_gradients",
            update,
            init,
            {"reps_rel": nonnegative(reps_rel), "eps": nonnegative(eps), "global_scale": global_scale},
            "r ← max(r, ‖w − w₀‖), G ← G + ‖g‖², u = global_scale · r / √(G + eps) · g, array by array",
            scope="array",
            needs_params=True,
            counts=True,
        )
    )


def scale_by_cocob(alpha: Hyperparam = 100.0, eps: Scalar = 1e-8) -> Lift:
    r"""Bet on a coin for each number: the stake is a share of what earlier bets have won.

    .. math::
      L \leftarrow \max(L, |g|), \quad G \leftarrow G + |g|, \quad
      R \leftarrow \max(R - g (w - w_0), 0), \quad \theta \leftarrow \theta - g, \quad
      w \leftarrow w_0 + \frac{\theta (L + R)}{L \max(G + L, \alpha L)}

    Args:
      alpha: :math:`\alpha`, which keeps the first stakes small; above 0.
      eps: what :math:`L` starts at, at least 0. A coordinate whose gradients have
        all been zero is not moved, even with 0.

    Returns:
      A `GradientTransformation` with five slots the size of the parameters,
      which have to be real. Its update already goes downhill.

    Raises:
      ValueError: a hyperparameter is out of its bounds.

    References:
      Orabona and Tommasi, `Training deep networks without learning rates through coin betting
      <https://arxiv.org/abs/1705.07795>`_, 2017.

    Example:
      >>> import gradxform as gx
      >>> tx, params = gx.scale_by_cocob(alpha=2.0), {"w": 1.0}
      >>> tx.update({"w": 4.0}, tx.init(params), params)[0]["w"].item()
      -0.5
    """
    check_number("scale_by_cocob", "eps", nonnegative(eps))

    def init(param: Any) -> CocobSlots:
        check_real("scale_by_cocob", param)
        zeros = (slot_like(param) for _ in range(3))
        total, absolute, reward = zeros
        return CocobSlots(copy_of(param), total, slot_like(param, eps), absolute, reward)

    def update(grad: Any, slots: CocobSlots, param: Any, step: Step) -> tuple[Any, CocobSlots]:
        start, size = slots.init_particles, lax.abs(grad)
        scale, absolute = lax.max(slots.scale, size), slots.subgradients + size
        reward = jnp.maximum(slots.reward - grad * (param - start), 0)
        total = slots.cumulative_gradients - grad
        stake = safe_divide(total, scale * lax.max(absolute + scale, step.alpha * scale))
        update = start - param + stake * (scale + reward)
        return update, CocobSlots(start, total, scale, absolute, reward)

    equation = "w ← w₀ + θ · (L + R) / (L · max(G + L, alpha · L))"
    hyperparams = {"alpha": positive(alpha)}
    return lift(Rule("scale_by_cocob", update, init, hyperparams, equation, needs_params=True, turns=True))


def _start(param: Any) -> StartSlots:
    return StartSlots(copy_of(param))
