"""Accumulating gradients over several steps."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax.tree_util import register_static

from gradxform.arguments import whole
from gradxform.arithmetic import compute_dtype, next_count, slot_like
from gradxform.hyperparams import show
from gradxform.rule import Lift, Rule, Step, lift
from gradxform.transformation import GradientTransformation, Params, State, Updates
from gradxform.trees import PyTree, check_gradients, flatten, flatten_like
from gradxform.wrappers.wrapper import Wrapper, no_steps, run_if, zeros

__all__ = ["ApplyEvery", "MultiSteps", "MultiStepsState", "apply_every"]


class MultiStepsState(NamedTuple):
    """The state of `MultiSteps`.

    Attributes:
      mini_step: mini-steps accumulated since the last step, int32.
      gradient_step: steps taken, int32.
      inner_opt_state: the inner transformation's state.
      acc_grads: the gradients accumulated; between a step and the next
        mini-step it still holds those of the step.
      skip_state: what `should_skip_update_fn` said last.
    """

    mini_step: jax.Array
    gradient_step: jax.Array
    inner_opt_state: State
    acc_grads: Updates
    skip_state: PyTree = ()


ShouldSkip = Callable[[Updates, Any, Params | None], tuple[jax.Array, PyTree]]


def _never(updates: Updates, gradient_step: Any, params: Params | None) -> tuple[Any, PyTree]:
    return jnp.asarray(False), ()


@jax.jit
def _mean(kept: Any, grad: Any, before: Any) -> Any:
    """The mean of `before` gradients and this one."""
    grad = jnp.asarray(grad, kept.dtype)
    return jnp.where(before == 0, grad, kept + (grad - kept) / (before + 1).astype(kept.dtype))


@jax.jit
def _sum(kept: Any, grad: Any, before: Any) -> Any:
    grad = jnp.asarray(grad, kept.dtype)
    return jnp.where(before == 0, grad, kept + grad)


class MultiSteps(Wrapper):
    r"""Take a step with the mean gradient of every `k` mini-steps: :math:`u = T(\frac1k \sum_i g_i)`.

    In between the update is 0. There is one accumulator, in float32 or wider,
    and the inner transformation runs only when there is a step to take. It is
    itself a transformation, for `chain` and for training loops.

    Args:
      opt: the inner transformation.
      every_k_schedule: `k`, at least 1; or a function from the steps taken to it.
      use_grad_mean: whether to take the mean; otherwise the sum.
      should_skip_update_fn: ``(grads, gradient_step, params) -> (skip, info)``
        with a boolean array `skip`: whether to go on as if this mini-step had
        not been, such as `skip_not_finite`. `info` is kept in the state.
      accumulator_dtype: the accumulator's dtype; by default the parameter's,
        and at least float32.

    Raises:
      ValueError: `k` is below 1.
      TypeError: `every_k_schedule` is no integer and no function, or
        `should_skip_update_fn` gives no boolean scalar.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.MultiSteps(gx.sgd(1.0), every_k_schedule=2)
      >>> first, state = tx.update([1.0], tx.init([0.0]))
      >>> second, state = tx.update([3.0], state)
      >>> first[0].item(), second[0].item(), bool(tx.has_updated(state))
      (0.0, -2.0, True)
    """

    _arguments: tuple[Any, ...]

    def __new__(
        cls,
        opt: GradientTransformation,
        every_k_schedule: int | Callable[[jax.Array], Any],
        use_grad_mean: bool = True,
        should_skip_update_fn: ShouldSkip | None = None,
        accumulator_dtype: Any = None,
    ) -> Self:
        every = every_k_schedule
        if not callable(every):
            whole("MultiSteps", every_k_schedule=every)
        should_skip = should_skip_update_fn or _never
        add = _mean if use_grad_mean else _sum

        def init(params: Params) -> MultiStepsState:
            def kept(param: Any) -> jax.Array:
                return slot_like(param, dtype=accumulator_dtype or compute_dtype(jnp.result_type(param)))

            kept_grads = jax.tree.map(kept, params)
            skip_state = jax.tree.map(
                lambda info: jnp.zeros(info.shape, info.dtype),
                jax.eval_shape(lambda: should_skip(kept_grads, no_steps(), kept_grads)[1]),
            )
            return MultiStepsState(no_steps(), no_steps(), opt.init(params), kept_grads, skip_state)

        def update(
            grads: Updates, state: MultiStepsState, params: Params | None = None, **extra: Any
        ) -> tuple[Updates, MultiStepsState]:
            check_gradients(grads, state.acc_grads if params is None else params, who="MultiSteps")
            skip, skip_state = should_skip(grads, state.gradient_step, params)
            if jnp.shape(skip) != () or jnp.result_type(skip) != jnp.bool_:
                raise TypeError(
                    "MultiSteps: should_skip_update_fn must return a boolean scalar first, got "
                    f"{jnp.result_type(skip)} of shape {jnp.shape(skip)}"
                )
            steps = every(state.gradient_step) if callable(every) else every
            leaves, treedef = flatten(grads)
            old = flatten_like(
                treedef, grads, state.acc_grads, root="acc_grads", like="grads", who="MultiSteps"
            )

            def accumulated(kept: Any, grad: Any) -> Any:
                if grad is None:
                    return kept
                new = add(kept, grad, state.mini_step)
                return new if should_skip is _never else jnp.where(skip, kept, new)

            new = [accumulated(kept, grad) for kept, grad in zip(old, leaves, strict=True)]
            total = treedef.unflatten(
                None if grad is None else kept for kept, grad in zip(new, leaves, strict=True)
            )
            emit = ~skip & (state.mini_step + 1 >= steps)
            updates, inner = run_if(
                "MultiSteps", emit, opt, total, state.inner_opt_state, params, extra, zeros, dtypes=grads
            )
            mini_step = jnp.where(emit, 0, jnp.where(skip, state.mini_step, state.mini_step + 1))
            step = jnp.where(emit, next_count(state.gradient_step), state.gradient_step)
            return updates, MultiStepsState(mini_step, step, inner, treedef.unflatten(new), skip_state)

        call = f"MultiSteps({show(every)})"
        self = super().__new__(cls, call, opt, init, update, "inner_opt_state", passes=True)
        self._arguments = (opt, every, use_grad_mean, should_skip_update_fn, accumulator_dtype)
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self._arguments

    @property
    def inner_opt(self) -> GradientTransformation:
        """The inner transformation."""
        return self.inner

    def has_updated(self, state: MultiStepsState) -> jax.Array:
        """Whether the last mini-step completed a step."""
        return (state.mini_step == 0) & (state.gradient_step > 0)

    def gradient_transformation(self) -> GradientTransformation:
        """The transformation itself."""
        return self


register_static(MultiSteps)


class ApplyEvery(NamedTuple):
    """The slot of `apply_every`: the sum of the updates since the last step."""

    grad_acc: jax.Array


def apply_every(k: int = 1) -> Lift:
    r"""Let the sum of updates through at every `k`-th step: :math:`u = \sum_{i=t-k+1}^t g_i`, else 0.

    Unlike `MultiSteps` it stands after the optimizer, whose moments see every
    gradient.

    Args:
      k: the number of steps, at least 1.

    Returns:
      A `GradientTransformation` with a slot the size of the parameters.

    Raises:
      TypeError: `k` is no integer.
      ValueError: `k` is below 1.

    Example:
      >>> import gradxform as gx
      >>> tx = gx.apply_every(2)
      >>> first, state = tx.update([1.0], tx.init([0.0]))
      >>> first[0].item(), tx.update([3.0], state)[0][0].item()
      (0.0, 4.0)
    """
    whole("apply_every", k=k)

    def init(param: Any) -> ApplyEvery:
        return ApplyEvery(slot_like(param))

    def update(grad: Any, slots: ApplyEvery, param: Any, step: Step) -> tuple[Any, ApplyEvery]:
        place = step.count % k
        total = jnp.where(place == 0, grad, slots.grad_acc + grad)
        return jnp.where(place == k - 1, total, 0), ApplyEvery(total)

    equation = "s ← s + g, u = s at every k-th step, else 0"
    return lift(Rule("apply_every", update, init, {"k": k}, equation, counts=True))
