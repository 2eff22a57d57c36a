"""Transformations that are used only while a condition holds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradxform.arguments import whole
from gradxform.arithmetic import next_count, sum_of_squares
from gradxform.hyperparams import Scalar
from gradxform.transformation import GradientTransformation, Params, State, Updates
from gradxform.trees import PyTree
from gradxform.wrappers.wrapper import Wrapper, no_steps, run_if, sum_over, zeros

Condition = Callable[..., Any]
"""``step -> bool``, where the step is int32 and counts from 0."""

__all__ = [
    "ApplyIfFiniteState",
    "ConditionallyMaskState",
    "ConditionallyTransformState",
    "apply_if_finite",
    "conditionally_mask",
    "conditionally_transform",
    "skip_large_updates",
    "skip_not_finite",
]


class ApplyIfFiniteState(NamedTuple):
    """The state of `apply_if_finite`.

    Attributes:
      notfinite_count: how many updates in a row, up to the last one, were not finite.
      last_finite: whether the last one was.
      total_notfinite: how many were not, in all.
      inner_state: the inner transformation's state.
    """

    notfinite_count: jax.Array
    last_finite: jax.Array
    total_notfinite: jax.Array
    inner_state: State


class ConditionallyTransformState(NamedTuple):
    """The state of `conditionally_transform`.

    Attributes:
      inner_state: the inner transformation's state.
      step: how often `update` was called, int32.
    """

    inner_state: State
    step: jax.Array


class ConditionallyMaskState(NamedTuple):
    """The state of `conditionally_mask`.

    Attributes:
      step: how often `update` was called, int32.
      inner_state: the inner transformation's state.
    """

    step: jax.Array
    inner_state: State


@jax.jit
def _add_not_finite(total: Any, leaf: Any) -> Any:
    return total + jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32)


@jax.jit
def _add_squares(total: Any, leaf: Any) -> Any:
    return total + sum_of_squares(jnp.asarray(leaf))


def _not_finite(tree: PyTree) -> Any:
    """How many numbers are infinite or not a number."""
    return sum_over(tree, _add_not_finite, np.int32(0))


def apply_if_finite(inner: GradientTransformation, max_consecutive_errors: int) -> Wrapper:
    r"""Leave out steps with infinite or missing numbers: :math:`u = T(g)` if all of `g` is finite, else 0.

    A skipped step leaves the inner state as it was. When too many come in a
    row, they are let through, so that the trouble shows.

    Args:
      inner: any transformation.
      max_consecutive_errors: how many steps in a row to leave out at most.

    Returns:
      A `GradientTransformation` with an `ApplyIfFiniteState`.

    Raises:
      TypeError: `max_consecutive_errors` is no integer.
      ValueError: `max_consecutive_errors` is negative.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.apply_if_finite(gx.sgd(0.5), max_consecutive_errors=3)
      >>> updates, state = tx.update([float("nan")], tx.init([1.0]))
      >>> updates[0].item(), state.total_notfinite.item()
      (0.0, 1)
    """
    whole("apply_if_finite", least=0, max_consecutive_errors=max_consecutive_errors)

    def init(params: Params) -> ApplyIfFiniteState:
        return ApplyIfFiniteState(no_steps(), jnp.asarray(True), no_steps(), inner.init(params))

    def update(
        grads: Updates, state: ApplyIfFiniteState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ApplyIfFiniteState]:
        finite = _not_finite(grads) == 0
        count = jnp.where(finite, 0, next_count(state.notfinite_count))
        updates, inner_state = run_if(
            "apply_if_finite",
            finite | (count > max_consecutive_errors),
            inner,
            grads,
            state.inner_state,
            params,
            extra,
            zeros,
        )
        total = jnp.where(finite, state.total_notfinite, next_count(state.total_notfinite))
        return updates, ApplyIfFiniteState(count, finite, total, inner_state)

    return Wrapper(f"apply_if_finite({max_consecutive_errors})", inner, init, update, rows=True, passes=True)


def conditionally_transform(
    inner: GradientTransformation, should_transform_fn: Condition, forward_extra_args: bool = False
) -> Wrapper:
    r"""Transform only while a condition holds: :math:`u = T(g)` if :math:`c(t)`, else :math:`g`.

    Where it does not, the inner state stays as it was.

    Args:
      inner: any transformation.
      should_transform_fn: ``step -> bool``; the step counts from 0.
      forward_extra_args: whether it takes the extra keyword arguments of `update` too.

    Returns:
      A `GradientTransformation` with a `ConditionallyTransformState`.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.conditionally_transform(gx.scale(2.0), lambda step: step >= 1)
      >>> updates, state = tx.update([1.0], tx.init([0.0]))
      >>> updates[0].item(), tx.update([1.0], state)[0][0].item()
      (1.0, 2.0)
    """

    def init(params: Params) -> ConditionallyTransformState:
        return ConditionallyTransformState(inner.init(params), no_steps())

    def update(
        grads: Updates, state: ConditionallyTransformState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ConditionallyTransformState]:
        condition = should_transform_fn(state.step, **(extra if forward_extra_args else {}))
        updates, inner_state = run_if(
            "conditionally_transform",
            condition,
            inner,
            grads,
            state.inner_state,
            params,
            extra,
            lambda grads: grads,
        )
        return updates, ConditionallyTransformState(inner_state, next_count(state.step))

    return Wrapper("conditionally_transform", inner, init, update, rows=True, passes=True)


def conditionally_mask(
    inner: GradientTransformation, should_transform_fn: Condition, forward_extra_args: bool = False
) -> Wrapper:
    r"""Step only while a condition holds: :math:`u = T(g)` if :math:`c(t)`, else 0.

    Where it does not, the inner state stays as it was.

    Args:
      inner: any transformation.
      should_transform_fn: ``step -> bool``; the step counts from 0.
      forward_extra_args: whether it takes the extra keyword arguments of `update` too.

    Returns:
      A `GradientTransformation` with a `ConditionallyMaskState`.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.conditionally_mask(gx.scale(2.0), lambda step: step >= 1)
      >>> updates, state = tx.update([1.0], tx.init([0.0]))
      >>> updates[0].item(), tx.update([1.0], state)[0][0].item()
      (0.0, 2.0)
    """

    def init(params: Params) -> ConditionallyMaskState:
        return ConditionallyMaskState(no_steps(), inner.init(params))

    def update(
        grads: Updates, state: ConditionallyMaskState, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, ConditionallyMaskState]:
        condition = should_transform_fn(state.step, **(extra if forward_extra_args else {}))
        updates, inner_state = run_if(
            "conditionally_mask", condition, inner, grads, state.inner_state, params, extra, zeros
        )
        return updates, ConditionallyMaskState(next_count(state.step), inner_state)

    return Wrapper("conditionally_mask", inner, init, update, rows=True, passes=True)


def skip_not_finite(
    updates: Updates, gradient_step: Any, params: Params | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Tell `MultiSteps` to leave out gradients that are not finite.

    Args:
      updates: the gradients of one mini-step.
      gradient_step: not used.
      params: not used.

    Returns:
      Whether to skip, and a dictionary with ``should_skip`` and
      ``num_not_finite``, the number of elements that are not finite.

    Example:
      >>> import gradxform as gx
      >>> gx.skip_not_finite([1.0, float("inf")], 0, None)[1]["num_not_finite"].item()
      1
    """
    found = _not_finite(updates)
    skip = jnp.asarray(found > 0)
    return skip, {"should_skip": skip, "num_not_finite": jnp.asarray(found)}


def skip_large_updates(
    updates: Updates, gradient_step: Any, params: Params | None, max_squared_norm: Scalar
) -> tuple[jax.Array, dict[str, jax.Array]]:
    r"""Tell `MultiSteps` to leave out gradients with :math:`\lVert g \rVert^2 \geq c`, or without a norm.

    Args:
      updates: the gradients of one mini-step.
      gradient_step: not used.
      params: not used.
      max_squared_norm: :math:`c`; give it by `functools.partial`.

    Returns:
      Whether to skip, and a dictionary with ``should_skip`` and ``norm_squared``.

    Example:
      >>> import gradxform as gx
      >>> skip, known = gx.skip_large_updates([3.0, 4.0], 0, None, max_squared_norm=20.0)
      >>> skip.item(), known["norm_squared"].item()
      (True, 25.0)
    """
    norm_squared = jnp.asarray(sum_over(updates, _add_squares, np.float32(0)))
    skip = ~(norm_squared < max_squared_norm)
    return skip, {"should_skip": skip, "norm_squared": norm_squared}
