"""Two copies of the parameters: one explores, the other follows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradxform.arguments import whole
from gradxform.hyperparams import Scalar
from gradxform.transformation import GradientTransformation, Params, State, Updates, accepted_keywords
from gradxform.trees import map_leaves
from gradxform.wrappers.wrapper import Wrapper, conform, no_steps

__all__ = ["LookaheadParams", "LookaheadState", "lookahead"]


class LookaheadState(NamedTuple):
    """The state of `lookahead`.

    Attributes:
      fast_state: the fast optimizer's state.
      steps_since_sync: its steps since the copies were brought together, int32.
    """

    fast_state: State
    steps_since_sync: jax.Array


class LookaheadParams(NamedTuple):
    """The parameters that `lookahead` trains.

    Attributes:
      fast: those that gradients are taken at.
      slow: those to evaluate with.

    Example:
      >>> import gradxform as gx
      >>> gx.LookaheadParams.init_synced(1.0).slow.item()
      1.0
    """

    fast: Params
    slow: Params

    @classmethod
    def init_synced(cls, params: Params) -> "LookaheadParams":
        """Both copies alike, each in buffers of its own."""
        return cls(params, jax.tree.map(jnp.array, params))


def lookahead(
    fast_optimizer: GradientTransformation,
    sync_period: int,
    slow_step_size: Scalar,
    reset_state: bool = False,
) -> Wrapper:
    r"""Let an optimizer run ahead, then go a part of its way, again and again.

    After every `sync_period` steps of the fast parameters :math:`\theta`

    .. math::
      \phi \leftarrow \phi + \alpha (\theta - \phi), \quad \theta \leftarrow \phi

    Gradients are taken with respect to ``params.fast``; `update` takes the
    `LookaheadParams` and returns updates for both copies.

    Args:
      fast_optimizer: any optimizer.
      sync_period: how many steps it runs ahead, at least 1.
      slow_step_size: :math:`\alpha`.
      reset_state: whether it starts anew after each time.

    Returns:
      A `GradientTransformation` over `LookaheadParams` with a `LookaheadState`.

    Raises:
      ValueError: `sync_period` is below 1.
      TypeError: `sync_period` is no integer; in `update`, the parameters are no `LookaheadParams`.

    References:
      Zhang et al., `Lookahead optimizer: k steps forward, 1 step back
      <https://arxiv.org/abs/1907.08610>`_, 2019.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.lookahead(gx.sgd(1.0), sync_period=1, slow_step_size=0.5)
      >>> params = gx.LookaheadParams.init_synced(2.0)
      >>> updates, state = tx.update(1.0, tx.init(params), params)
      >>> [copy.item() for copy in gx.apply_updates(params, updates)]
      [1.5, 1.5]
    """
    whole("lookahead", sync_period=sync_period)
    accepted = accepted_keywords(fast_optimizer.update)

    def init(params: Params) -> LookaheadState:
        return LookaheadState(fast_optimizer.init(getattr(params, "fast", params)), no_steps())

    def update(
        grads: Updates, state: LookaheadState, params: LookaheadParams | None = None, **extra: Any
    ) -> tuple[LookaheadParams, LookaheadState]:
        if not isinstance(params, LookaheadParams):
            raise TypeError(
                f"lookahead trains two copies of the parameters, got {type(params).__name__}: call "
                "update(grads, state, params) with LookaheadParams.init_synced(params)"
            )
        updates, fast_state = fast_optimizer.update(grads, state.fast_state, params.fast, **accepted(extra))
        sync = state.steps_since_sync == sync_period - 1

        def at(f: Any) -> Updates:
            def one(update: Any, fast: Any, slow: Any) -> Any:
                return f(update, fast, slow, sync, slow_step_size)

            names = "updates", "params.fast", "params.slow"
            return map_leaves(one, updates, params.fast, params.slow, who="lookahead", names=names)

        if reset_state:
            first = conform(fast_optimizer.init(params.fast), fast_state)
            fast_state = jax.tree.map(lambda new, old: jnp.where(sync, new, old), first, fast_state)
        since = (state.steps_since_sync + 1) % sync_period
        return LookaheadParams(at(_fast), at(_slow)), LookaheadState(fast_state, since)

    return Wrapper(f"lookahead({sync_period}, {slow_step_size})", fast_optimizer, init, update, "fast_state")


@jax.jit
def _fast(update: Any, fast: Any, slow: Any, sync: Any, size: Any) -> Any:
    moved = update - (1 - size) * (fast + update - slow)
    return jnp.where(sync, moved, update).astype(jnp.result_type(fast))


@jax.jit
def _slow(update: Any, fast: Any, slow: Any, sync: Any, size: Any) -> Any:
    return jnp.where(sync, size * (fast + update - slow), 0).astype(jnp.result_type(slow))
