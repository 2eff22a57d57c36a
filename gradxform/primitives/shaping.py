"""Rules that give the gradient another size, mean or sign; and transformations made of a function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradxform.arithmetic import safe_divide, safe_sqrt, sum_of_squares
from gradxform.hyperparams import Hyperparam, nonnegative
from gradxform.primitives.scaling import turns_round
from gradxform.rule import Lift, Rule, Slots, Step, lift, squared_norm
from gradxform.transformation import EmptyState, GradientTransformation, Params, Updates, init_empty_state

__all__ = [
    "ZeroNansState",
    "centralize",
    "keep_params_nonnegative",
    "normalize",
    "normalize_by_update_norm",
    "scale_by_param_block_norm",
    "scale_by_param_block_rms",
    "scale_by_trust_ratio",
    "stateless",
    "stateless_with_tree_map",
    "zero_nans",
]


class ZeroNansState(NamedTuple):
    """What `zero_nans` remembers: for each array, whether the last gradient had a NaN."""

    found_nan: jax.Array


def centralize() -> Lift:
    r"""Subtract the mean over all axes but the first: :math:`u_i = g_i - \bar g_i`.

    Vectors and scalars are left as they are.

    Returns:
      A `GradientTransformation` without slots.

    References:
      Yong et al., `Gradient centralization: a new optimization technique for
      deep neural networks <https://arxiv.org/abs/2004.01461>`_, 2020.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> grad = jnp.asarray([[1.0, 2.0, 3.0], [4.0, 6.0, 8.0]])
      >>> gx.centralize().update(grad, gx.centralize().init(grad))[0].tolist()
      [[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0]]
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        if grad.ndim < 2:
            return grad, slots
        return grad - grad.mean(axis=tuple(range(1, grad.ndim)), keepdims=True), slots

    return lift(Rule("centralize", update, equation="u = g − mean(g) row by row", scope="array"))


def normalize() -> Lift:
    r"""Give the whole gradient the norm 1: :math:`u = g / \lVert g \rVert`; 0 stays 0.

    The norm is taken over all leaves together.

    Returns:
      A `GradientTransformation` without slots.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.normalize()
      >>> [round(u.item(), 6) for u in tx.update([3.0, 4.0], tx.init([0.0, 0.0]))[0]]
      [0.6, 0.8]
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return safe_divide(grad, safe_sqrt(step.total)), slots

    return lift(Rule("normalize", update, equation="u = g / ‖g‖", total=squared_norm))


def normalize_by_update_norm(scale_factor: Hyperparam = 1.0, eps: Hyperparam = 1e-6) -> Lift:
    r"""Give the whole gradient one norm: :math:`u = s g / (\lVert g \rVert + \epsilon)`.

    The norm is taken over all leaves together.

    Args:
      scale_factor: the norm :math:`s`; below 0 it turns the gradient round.
      eps: :math:`\epsilon`, at least 0.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      ValueError: `eps` is negative.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.normalize_by_update_norm(-1.0)
      >>> [round(u.item(), 6) for u in tx.update([3.0, 4.0], tx.init([0.0, 0.0]))[0]]
      [-0.6, -0.8]
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return step.scale_factor * safe_divide(grad, safe_sqrt(step.total) + step.eps), slots

    return lift(
        Rule(
            "normalize_by_update_norm",
            update,
            hyperparams={"scale_factor": scale_factor, "eps": nonnegative(eps)},
            equation="u = scale_factor · g / (‖g‖ + eps)",
            total=squared_norm,
            turns=turns_round(scale_factor),
        )
    )


def zero_nans() -> Lift:
    r"""Replace what is not a number: :math:`u = g`, and 0 where :math:`g` is NaN.

    Infinite numbers pass. It hides a fault that is worth finding;
    `apply_if_finite` leaves the whole step out instead.

    Returns:
      A `GradientTransformation` with a `ZeroNansState` of one boolean an
      array: whether the last gradient had a NaN.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.zero_nans()
      >>> updates, state = tx.update([float("nan"), 2.0], tx.init([0.0, 0.0]))
      >>> [u.item() for u in updates], [found.item() for found in state.slots[0].found_nan]
      ([0.0, 2.0], [True, False])
    """

    def init(param: Any) -> ZeroNansState:
        return ZeroNansState(jnp.zeros((), bool))

    def update(grad: Any, slots: ZeroNansState, param: Any, step: Step) -> tuple[Any, ZeroNansState]:
        missing = jnp.isnan(grad)
        return jnp.where(missing, 0, grad), ZeroNansState(missing.any())

    return lift(Rule("zero_nans", update, init, equation="u = 0 where g is NaN, else g", scope="array"))


def keep_params_nonnegative() -> Lift:
    r"""Stop parameters at 0: :math:`u = \max(g, -w)`, so that :math:`w + u \ge 0`.

    Of a chain it should be the last part. A parameter that is negative already goes to 0.

    Returns:
      A `GradientTransformation` without slots; its update needs the parameters.

    Raises:
      TypeError: `init` was given a complex parameter.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.chain(gx.sgd(1.0), gx.keep_params_nonnegative())
      >>> params = [1.0, 1.0]
      >>> updates, _ = tx.update([0.25, 3.0], tx.init(params), params)
      >>> [u.item() for u in updates]
      [-0.25, -1.0]
    """

    def init(param: Any) -> Slots:
        if jnp.issubdtype(jnp.result_type(param), jnp.complexfloating):
            raise TypeError(
                f"keep_params_nonnegative: complex numbers ({jnp.result_type(param)}) are not ordered; "
                "leave the parameter out with masked"
            )
        return ()

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return jnp.where(grad < -param, -param, grad), slots

    return lift(Rule("keep_params_nonnegative", update, init, equation="u = max(g, −w)", needs_params=True))


def scale_by_param_block_norm(min_scale: Hyperparam = 1e-3) -> Lift:
    r"""Multiply by the norm of the parameters: :math:`u = g \max(\lVert w \rVert, s)`.

    The norm is taken over each array by itself.

    Args:
      min_scale: the least factor :math:`s`, at least 0.

    Returns:
      A `GradientTransformation` without slots; its update needs the parameters.

    Raises:
      ValueError: `min_scale` is negative.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx, params = gx.scale_by_param_block_norm(), jnp.asarray([3.0, 4.0])
      >>> tx.update(jnp.ones(2), tx.init(params), params)[0].tolist()
      [5.0, 5.0]
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return grad * jnp.maximum(_norm(param), step.min_scale), slots

    return lift(
        Rule(
            "scale_by_param_block_norm",
            update,
            hyperparams={"min_scale": nonnegative(min_scale)},
            equation="u = g · max(‖w‖, min_scale)",
            scope="array",
            needs_params=True,
        )
    )


def scale_by_param_block_rms(min_scale: Hyperparam = 1e-3) -> Lift:
    r"""Multiply by the root mean square of the parameters: :math:`u = g \max(\mathrm{rms}(w), s)`.

    It is taken over each array by itself.

    Args:
      min_scale: the least factor :math:`s`, at least 0, so that parameters
        that start at 0 can move.

    Returns:
      A `GradientTransformation` without slots; its update needs the parameters.

    Raises:
      ValueError: `min_scale` is negative.

    References:
      Shazeer and Stern, `Adafactor: adaptive learning rates with sublinear
      memory cost <https://arxiv.org/abs/1804.04235>`_, 2018, section 8.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx, params = gx.scale_by_param_block_rms(), jnp.asarray([2.0, -2.0])
      >>> tx.update(jnp.ones(2), tx.init(params), params)[0].tolist()
      [2.0, 2.0]
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        rms = safe_sqrt(sum_of_squares(param) / max(param.size, 1))
        return grad * jnp.maximum(rms, step.min_scale), slots

    return lift(
        Rule(
            "scale_by_param_block_rms",
            update,
            hyperparams={"min_scale": nonnegative(min_scale)},
            equation="u = g · max(rms(w), min_scale)",
            scope="array",
            needs_params=True,
        )
    )


def scale_by_trust_ratio(
    min_norm: Hyperparam = 0.0, trust_coefficient: Hyperparam = 1.0, eps: Hyperparam = 0.0
) -> Lift:
    r"""Make the update as long, array by array, as the parameters are.

    .. math::
      u = g \, \eta \frac{\max(\lVert w \rVert, m)}{\max(\lVert g \rVert, m) + \epsilon}

    Where one of the two norms is 0, :math:`u = g`.

    Args:
      min_norm: :math:`m`, the least that a norm counts as, at least 0.
      trust_coefficient: :math:`\eta`, at least 0.
      eps: :math:`\epsilon`, at least 0.

    Returns:
      A `GradientTransformation` without slots; its update needs the parameters.

    Raises:
      ValueError: a hyperparameter is negative.

    References:
      You, Gitman and Ginsburg, `Large batch training of convolutional networks
      <https://arxiv.org/abs/1708.03888>`_, 2017.

    Example:
      >>> import gradxform as gx
      >>> import jax.numpy as jnp
      >>> tx, params = gx.scale_by_trust_ratio(), jnp.asarray([3.0, 4.0])
      >>> tx.update(jnp.asarray([0.0, 2.0]), tx.init(params), params)[0].tolist()
      [0.0, 5.0]
    """

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        param_norm, grad_norm = (jnp.maximum(_norm(x), step.min_norm) for x in (param, grad))
        ratio = step.trust_coefficient * safe_divide(param_norm, grad_norm + step.eps)
        return jnp.where((param_norm == 0) | (grad_norm == 0), 1, ratio) * grad, slots

    return lift(
        Rule(
            "scale_by_trust_ratio",
            update,
            hyperparams={
                "min_norm": nonnegative(min_norm),
                "trust_coefficient": nonnegative(trust_coefficient),
                "eps": nonnegative(eps),
            },
            equation="u = g · trust_coefficient · max(‖w‖, min_norm) / (max(‖g‖, min_norm) + eps)",
            scope="array",
            needs_params=True,
        )
    )


def stateless(f: Callable[[Updates, Params | None], Updates]) -> GradientTransformation:
    r"""A function of whole trees as a transformation: :math:`u = f(g, w)`.

    A function of one array is better written as a `Rule`, which merges with
    the rules beside it.

    Args:
      f: ``f(grads, params) -> updates``; the parameters are None if `update`
        was not given them.

    Returns:
      A `GradientTransformation` with an `EmptyState`. What `f` returns is passed on as it is.

    Raises:
      TypeError: `f` cannot be called.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.stateless(lambda grads, params: [g + w for g, w in zip(grads, params)])
      >>> tx.update([1.0], tx.init([2.0]), [2.0])
      ([3.0], EmptyState())
    """
    _check_function("stateless", f)

    def update(grads: Updates, state: EmptyState, params: Params | None = None) -> tuple[Updates, EmptyState]:
        return f(grads, params), EmptyState()

    return GradientTransformation(init_empty_state, update)


def stateless_with_tree_map(f: Callable[[Any, Any], Any]) -> Lift:
    r"""A function of one array as a transformation: :math:`u = f(g, w)`.

    Args:
      f: ``f(grad, param) -> update``, on one array in float32 or wider, in the
        gradient's shape and traced as under `jax.jit`; `param` is None if
        `update` was not given the parameters.

    Returns:
      A `GradientTransformation` without slots.

    Raises:
      TypeError: `f` cannot be called.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.stateless_with_tree_map(lambda grad, param: grad + 0.5 * param)
      >>> tx.update([1.0], tx.init([2.0]), [2.0])[0][0].item()
      2.0
    """
    _check_function("stateless_with_tree_map", f)

    def update(grad: Any, slots: Slots, param: Any, step: Step) -> tuple[Any, Slots]:
        return f(grad, param), slots

    return lift(Rule("stateless_with_tree_map", update, equation="u = f(g, w)", scope="array"))


def _check_function(who: str, f: Any) -> None:
    if not callable(f):
        raise TypeError(f"{who} takes a function (grads, params) -> updates, got {f!r}")


def _norm(x: Any) -> Any:
    return safe_sqrt(sum_of_squares(x))
