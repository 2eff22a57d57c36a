"""Loss scaling: gradients in float16 that neither vanish nor overflow."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradxform.arithmetic import compute_dtype, next_count
from gradxform.hyperparams import Scalar
from gradxform.sparse import map_values
from gradxform.transformation import GradientTransformation, Params, State, Updates
from gradxform.trees import PyTree, check_gradients
from gradxform.wrappers.wrapper import Wrapper, no_steps, run_if, zeros

__all__ = ["LossScaleState", "dynamic_loss_scale", "scale_loss", "static_loss_scale"]


class LossScaleState(NamedTuple):
    """The state of `dynamic_loss_scale` and `static_loss_scale`.

    Attributes:
      tunables: the ``loss_scale`` that the next gradients have to come with.
      scheduled: empty.
      finite_steps: how many steps in a row, since the scale last changed, were finite.
      skipped_steps: how many were not, in all.
      inner_state: the inner transformation's state.
    """

    tunables: dict[str, jax.Array]
    scheduled: dict[str, jax.Array]
    finite_steps: jax.Array
    skipped_steps: jax.Array
    inner_state: State


def dynamic_loss_scale(
    inner: GradientTransformation,
    initial_scale: Scalar = 2.0**15,
    factor: float = 2.0,
    period: int = 2000,
    minimum_scale: float = 1.0,
) -> Wrapper:
    r"""Take gradients of the loss times a scale that is as large as it can be.

    The gradients come multiplied by :math:`S`, and the inner transformation is
    given :math:`g / S` in float32. Where one of them is not finite, the step is
    skipped and :math:`S \leftarrow \max(S / f, S_{\min})`; after `period` finite
    steps in a row, :math:`S \leftarrow f S`.

    In a training step of one's own, the loss is scaled by `scale_loss`; `fit`
    does so by itself. The scale stands in the state as ``loss_scale``, for
    `get_hyperparams` and `set_hyperparams`.

    Args:
      inner: any transformation.
      initial_scale: the first :math:`S`, above 0.
      factor: :math:`f`, above 1.
      period: how many finite steps it takes to raise the scale, at least 1.
      minimum_scale: :math:`S_{\min}`, above 0.

    Returns:
      A `GradientTransformation` with a `LossScaleState`.

    Raises:
      ValueError: an argument is out of its bounds.

    References:
      Micikevicius et al., `Mixed precision training
      <https://arxiv.org/abs/1710.03740>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.dynamic_loss_scale(gx.sgd(1.0), initial_scale=8.0)
      >>> updates, state = tx.update([4.0], tx.init([0.0]))
      >>> updates[0].item(), gx.scale_loss(1.0, state).item()
      (-0.5, 8.0)
      >>> updates, state = tx.update([float("inf")], state)
      >>> updates[0].item(), gx.scale_loss(1.0, state).item()
      (0.0, 4.0)
    """
    _above("dynamic_loss_scale", "initial_scale", initial_scale, 0)
    _above("dynamic_loss_scale", "factor", factor, 1)
    _above("dynamic_loss_scale", "period", period, 0)
    _above("dynamic_loss_scale", "minimum_scale", minimum_scale, 0)

    def adapt(scale: Any, steps: Any, finite: Any) -> tuple[Any, Any]:
        raised = jnp.where(steps >= period, scale * factor, scale)
        lowered = jnp.maximum(scale / factor, minimum_scale)
        # A scale that has itself overflowed would never come down again.
        raised = jnp.where(jnp.isfinite(raised), raised, scale)
        return jnp.where(finite, raised, lowered), jnp.where(finite & (steps < period), steps, 0)

    return _scaled(f"dynamic_loss_scale(factor={factor:g}, period={period})", inner, initial_scale, adapt)


def static_loss_scale(inner: GradientTransformation, scale: Scalar = 2.0**15) -> Wrapper:
    r"""Take gradients of the loss times a fixed scale: the inner transformation is given :math:`g / S`.

    A step whose gradients are not finite is skipped. `scale_loss` scales the
    loss, and `set_hyperparams` sets ``loss_scale``.

    Args:
      inner: any transformation.
      scale: :math:`S`, above 0.

    Returns:
      A `GradientTransformation` with a `LossScaleState`.

    Raises:
      ValueError: `scale` is not above 0.

    References:
      Micikevicius et al., `Mixed precision training
      <https://arxiv.org/abs/1710.03740>`_, 2018.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.static_loss_scale(gx.sgd(1.0), scale=4.0)
      >>> tx.update([4.0], tx.init([0.0]))[0][0].item()
      -1.0
    """
    _above("static_loss_scale", "scale", scale, 0)
    return _scaled("static_loss_scale", inner, scale, lambda scale, steps, finite: (scale, steps))


def scale_loss(loss: Any, state: State) -> jax.Array:
    """The loss times the scale that a state asks for; the loss itself if it asks for none.

    Args:
      loss: a scalar.
      state: the state of any transformation.

    Returns:
      The scaled loss, in its own dtype, or in float32 where that is narrower.

    Raises:
      ValueError: two parts of the state ask for a scale.

    Example:
      >>> import gradxform as gx
      >>> import jax
      >>> tx = gx.dynamic_loss_scale(gx.sgd(1.0), initial_scale=4.0)
      >>> params = {"w": 3.0}
      >>> state = tx.init(params)
      >>> grads = jax.grad(lambda params: gx.scale_loss(params["w"] ** 2, state))(params)
      >>> grads["w"].item(), tx.update(grads, state)[0]["w"].item()
      (24.0, -6.0)
    """
    scales = loss_scales(state)
    if len(scales) > 1:
        raise ValueError(f"scale_loss: {len(scales)} parts of the state ask for a scale; keep one of them")
    unscaled: jax.Array = jnp.asarray(loss)
    if not scales:
        return unscaled
    dtype = compute_dtype(unscaled.dtype)
    return jnp.asarray(unscaled, dtype) * jnp.asarray(scales[0], dtype)


def loss_scales(state: State) -> list[jax.Array]:
    """The scales that a state asks for."""

    def asks(node: Any) -> bool:
        return isinstance(node, LossScaleState)

    return [node.tunables["loss_scale"] for node in jax.tree.leaves(state, is_leaf=asks) if asks(node)]


def _scaled(call: str, inner: GradientTransformation, initial_scale: Scalar, adapt: Any) -> Wrapper:
    def init(params: Params) -> LossScaleState:
        scale = jnp.asarray(initial_scale, jnp.float32)
        return LossScaleState({"loss_scale": scale}, {}, no_steps(), no_steps(), inner.init(params))

    def update(
        grads: Updates, state: LossScaleState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, LossScaleState]:
        scale = state.tunables["loss_scale"]
        who = call.partition("(")[0]
        check_gradients(grads, grads if params is None else params, who=who)
        unscaled, finite = _unscale(grads, scale)
        updates, inner_state = run_if(
            who, finite, inner, unscaled, state.inner_state, params, extra, zeros, dtypes=grads
        )
        scale, steps = adapt(scale, next_count(state.finite_steps), finite)
        skipped = jnp.where(finite, state.skipped_steps, next_count(state.skipped_steps))
        return updates, LossScaleState({"loss_scale": scale}, {}, steps, skipped, inner_state)

    return Wrapper(call, inner, init, update, rows=True, passes=True)


@jax.jit
def _unscale(grads: PyTree, scale: Any) -> tuple[PyTree, Any]:
    """The gradients over the scale, in float32 or wider, and whether all of them are finite."""

    def over(leaf: Any) -> Any:
        wide = jnp.asarray(leaf, compute_dtype(jnp.result_type(leaf)))
        return wide / scale.astype(wide.real.dtype)

    unscaled = map_values(over, grads)
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(unscaled)]
    return unscaled, jnp.all(jnp.stack(finite)) if finite else jnp.bool_(True)


def _above(who: str, name: str, value: Any, bound: float) -> None:
    if isinstance(value, int | float) and not value > bound:
        raise ValueError(f"{who}: {name} must be above {bound}, got {value!r}")
