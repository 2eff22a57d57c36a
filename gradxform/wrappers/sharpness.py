"""Descent by the gradient of a worse point nearby, which leads to flat minima."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradxform.arguments import whole
from gradxform.transformation import (
    GradientTransformation,
    Params,
    State,
    Updates,
    accepted_keywords,
    apply_updates,
)
from gradxform.trees import map_leaves
from gradxform.wrappers.wrapper import Wrapper, beside, conform, no_steps

__all__ = ["SAMState", "sam"]


class SAMState(NamedTuple):
    """The state of `sam`.

    Attributes:
      steps_since_sync: how many steps were taken away from the parameters, int32.
      opt_state: the optimizer's state.
      adv_state: the adversary's state.
      cache: the parameters that the adversary went away from; ``None`` in opaque mode.
    """

    steps_since_sync: jax.Array
    opt_state: State
    adv_state: State
    cache: Params | None


def sam(
    optimizer: GradientTransformation,
    adv_optimizer: GradientTransformation,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> Wrapper:
    r"""Sharpness-aware minimization: step by the gradient that an adversary's steps uphill lead to.

    .. math::
      w \leftarrow w - \alpha \nabla f\Bigl(w + \rho \frac{\nabla f(w)}{\lVert \nabla f(w) \rVert}\Bigr)

    with ``optimizer=sgd(alpha)`` and ``adv_optimizer=chain(normalize(), sgd(rho))``.

    In transparent mode each call of `update` is one gradient: for ``sync_period - 1`` calls the parameters
    themselves go uphill, and the last call takes them back and down. In opaque mode one call does it all,
    and takes the gradients it needs from ``grad_fn(params, i)``.

    Args:
      optimizer: goes downhill.
      adv_optimizer: the adversary, whose updates are turned round.
      sync_period: gradients for each step downhill, at least 1.
      reset_state: whether the adversary starts anew after each.
      opaque_mode: whether one call of `update` is one step downhill.
      batch_axis_name: in opaque mode, the axis to average the adversary's gradients over.

    Returns:
      A `GradientTransformation` with a `SAMState`.

    Raises:
      TypeError: `sync_period` is no integer.
      ValueError: `sync_period` is below 1; in `update`, parameters or `grad_fn` are missing.

    References:
      Foret et al., `Sharpness-aware minimization for efficiently improving generalization
      <https://arxiv.org/abs/2010.01412>`_, 2021.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.sam(gx.sgd(0.5), gx.sgd(1.0), opaque_mode=True)
      >>> updates, _ = tx.update(1.0, tx.init(1.0), 1.0, grad_fn=lambda w, i: w)
      >>> updates.item()
      -1.0
    """
    whole("sam", sync_period=sync_period)
    accepted = accepted_keywords(optimizer.update)

    def init(params: Params) -> SAMState:
        cache = None if opaque_mode else jax.tree.map(jnp.array, params)
        return SAMState(no_steps(), optimizer.init(params), adv_optimizer.init(params), cache)

    def away(grads: Updates, state: State, params: Params) -> tuple[Updates, State]:
        updates, new = adv_optimizer.update(grads, state, params)
        return jax.tree.map(jnp.negative, updates), conform(new, state)

    def transparent(
        grads: Updates, state: SAMState, params: Params, **extra: Any
    ) -> tuple[Updates, SAMState]:
        last, first = state.steps_since_sync == sync_period - 1, state.steps_since_sync == 0
        given = beside(grads, params, "sam")
        cache = jax.tree.map(lambda new, old: jnp.where(first, new, old), params, state.cache)

        def climb() -> tuple[Updates, State, State]:
            updates, adv_state = away(grads, state.adv_state, params)
            return conform(updates, given), state.opt_state, adv_state

        def descend() -> tuple[Updates, State, State]:
            updates, opt_state = optimizer.update(grads, state.opt_state, cache, **accepted(extra))
            back = map_leaves(
                lambda update, old, now: old - now + update,
                *(updates, cache, params),
                who="sam",
                names=("updates", "cache", "params"),
            )
            adv_state = adv_optimizer.init(params) if reset_state else state.adv_state
            return (
                conform(back, given),
                conform(opt_state, state.opt_state),
                conform(adv_state, state.adv_state),
            )

        updates, opt_state, adv_state = lax.cond(last, descend, climb)
        since = (state.steps_since_sync + 1) % sync_period
        return updates, SAMState(since, opt_state, adv_state, cache)

    def opaque(
        grads: Updates, state: SAMState, params: Params, *, grad_fn: Callable[..., Updates], **extra: Any
    ) -> tuple[Updates, SAMState]:
        adversary, adv_state = params, state.adv_state
        for i in range(sync_period - 1):
            updates, adv_state = away(grads, adv_state, adversary)
            adversary = apply_updates(adversary, updates)
            grads = grad_fn(adversary, i)
            if batch_axis_name is not None:
                grads = lax.pmean(grads, batch_axis_name)
        adv_state = adv_optimizer.init(params) if reset_state else adv_state
        updates, opt_state = optimizer.update(grads, state.opt_state, params, **accepted(extra))
        return updates, SAMState(no_steps(), opt_state, adv_state, None)

    def update(
        grads: Updates,
        state: SAMState,
        params: Params | None = None,
        *,
        grad_fn: Callable[..., Updates] | None = None,
        **extra: Any,
    ) -> tuple[Updates, SAMState]:
        if params is None:
            raise ValueError("sam needs the parameters: call update(grads, state, params)")
        if not opaque_mode:
            return transparent(grads, state, params, **extra)
        if grad_fn is None:
            raise ValueError("sam in opaque mode needs grad_fn: call update(grads, state, params, grad_fn=f)")
        return opaque(grads, state, params, grad_fn=grad_fn, **extra)

    return Wrapper(f"sam({sync_period})", optimizer, init, update, "opt_state")
