"""The compiled part of training: many steps in one call."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from gradxform.hyperparams import get_hyperparams
from gradxform.training.batches import Batches, Shuffled, step_key, take
from gradxform.training.placement import Layout
from gradxform.transformation import GradientTransformation, Params, State, apply_updates
from gradxform.trees import PyTree
from gradxform.wrappers.loss_scaling import scale_loss

__all__ = [
    "Carry",
    "Guard",
    "Outcome",
    "Program",
    "Record",
    "build_program",
    "cached",
    "checked_loss",
    "first_batch",
    "program",
    "scalar_hyperparams",
]

Guard: TypeAlias = Literal["replay", "hold", "off"]
"""What happens at a loss that is not finite.

``"replay"`` ends the call; the caller keeps the buffers that it passed in, and
can run the steps before it again. It costs nothing a step, and a copy in memory.
``"hold"`` ends the call without that step's update, which costs a few
microseconds a step; buffers are donated. ``"off"`` goes on.
"""


class Carry(NamedTuple):
    """What goes from one call to the next.

    Attributes:
      params: the parameters.
      state: the transformation's state.
    """

    params: Params
    state: State


class Record(NamedTuple):
    """What is kept of a step."""

    loss: jax.Array
    metrics: dict[str, jax.Array]
    hyperparams: dict[str, jax.Array]


class Outcome(NamedTuple):
    """What a call reports.

    Attributes:
      step: the steps taken so far.
      finite: whether all losses were finite; if not, that of `step` is not.
      nan: whether there is a parameter that is not a number.
      records: of each step.
    """

    step: Any
    finite: Any
    nan: Any
    records: Record


class _Loop(NamedTuple):
    params: Params
    state: State
    step: jax.Array
    finite: jax.Array
    records: Record


Program: TypeAlias = Callable[..., tuple[Carry, Outcome]]
"""``(carry, data, key, start, stop) -> (carry, outcome)``, compiled."""


def cached(build: Callable[..., Any]) -> Callable[..., Any]:
    """Build again only for other arguments, so that nothing is compiled twice."""
    kept = lru_cache(maxsize=64)(build)

    def get(*arguments: Any) -> Any:
        try:
            return kept(*arguments)
        except TypeError:  # a loss that cannot be hashed, such as a module with arrays
            return build(*arguments)

    return get


def program(
    loss_fn: Callable[..., Any],
    tx: GradientTransformation,
    plan: Batches | None,
    length: int,
    guard: Guard,
    value_and_grad: Callable[..., Any] = jax.value_and_grad,
    layout: Layout | None = None,
) -> Program:
    """The compiled loop; the same arguments give the same program, so nothing is compiled twice.

    Args:
      loss_fn: as `fit` takes it.
      tx: the transformation.
      plan: how batches are drawn from the data, which is `Shuffled` unless
        they are all of it; ``None`` if the data is a stack of batches along its
        leading axis.
      length: the most steps in a call.
      guard: what happens at a loss that is not finite.
      value_and_grad: what takes the gradients.
      layout: how arrays lie on several devices.

    Returns:
      The program. Steps from `start` until `stop` are inputs, not part of it.
    """
    built: Program = _kept_program(loss_fn, tx, plan, length, guard, value_and_grad, layout)
    return built


def build_program(
    loss_fn: Callable[..., Any],
    tx: GradientTransformation,
    plan: Batches | None,
    length: int,
    guard: Guard,
    value_and_grad: Callable[..., Any],
    layout: Layout | None,
) -> Program:
    """`program`, made anew; its arguments need not be hashable."""
    loss_of = checked_loss(loss_fn)

    def scaled(params: Params, batch: PyTree, key: jax.Array, state: State) -> tuple[jax.Array, Any]:
        loss, metrics = loss_of(params, batch, key)
        return scale_loss(loss, state), (loss, metrics)

    differentiated = value_and_grad(scaled, has_aux=True)

    def step_on(
        params: Params, state: State, batch: PyTree, key: jax.Array
    ) -> tuple[Params, State, jax.Array, Record]:
        if layout is not None:  # said here, or the loop would take the first layout that something asks for
            params, state = layout.keep(params, state)
            batch = layout.split(batch)
        (_, (loss, metrics)), grads = differentiated(params, batch, key, state)
        finite = jnp.bool_(True) if guard == "off" else jnp.isfinite(loss)

        def advanced() -> tuple[Params, State]:
            # For complex parameters, JAX's gradient is the conjugate of the direction of steepest ascent.
            updates, new = tx.update(jax.tree.map(jnp.conj, grads), state, params)
            return apply_updates(params, updates), new

        if guard == "hold":
            params, state = jax.lax.cond(finite, advanced, lambda: (params, state))
        else:
            params, state = advanced()
        return params, state, finite, Record(loss, metrics, scalar_hyperparams(state))

    def train(carry: Carry, data: PyTree, key: jax.Array, start: Any, stop: Any) -> tuple[Carry, Outcome]:
        def until(end: Any, batch_of: Callable[[Any], PyTree], loop: _Loop) -> _Loop:
            def body(loop: _Loop) -> _Loop:
                batch, random = batch_of(loop.step), step_key(key, loop.step)
                params, state, finite, record = step_on(loop.params, loop.state, batch, random)
                records = jax.tree.map(
                    lambda kept, new: jax.lax.dynamic_update_index_in_dim(kept, new, loop.step - start, 0),
                    loop.records,
                    record,
                )
                return _Loop(params, state, loop.step + finite, finite, records)

            return jax.lax.while_loop(lambda loop: (loop.step < end) & loop.finite, body, loop)

        def epoch(loop: _Loop) -> _Loop:
            assert plan is not None
            number = loop.step // plan.steps_per_epoch
            begin = number * plan.steps_per_epoch
            full = plan.full_steps * plan.batch_size
            order = jax.lax.dynamic_index_in_dim(data.orders, number - data.first, keepdims=False)

            def batch_of(step: Any) -> PyTree:
                first = (step - begin) * plan.batch_size
                return take(data.data, jax.lax.dynamic_slice_in_dim(order, first, plan.batch_size))

            loop = until(jnp.minimum(stop, begin + plan.full_steps), batch_of, loop)
            if plan.remainder:
                short = order[full:]
                loop = until(
                    jnp.minimum(stop, begin + plan.steps_per_epoch), lambda _: take(data.data, short), loop
                )
            return loop

        params, state = carry
        rows = data.data if isinstance(data, Shuffled) else data
        example = jax.eval_shape(lambda: first_batch(rows, plan))
        record = jax.eval_shape(step_on, params, state, example, key)[-1]
        records = jax.tree.map(lambda value: jnp.zeros((length, *value.shape), value.dtype), record)
        loop = _Loop(params, state, start, jnp.bool_(True), records)
        if plan is None:
            loop = until(stop, lambda step: _row(data, step - start), loop)
        elif plan.whole:
            loop = until(stop, lambda _: data, loop)
        else:
            loop = jax.lax.while_loop(lambda loop: (loop.step < stop) & loop.finite, epoch, loop)
        outcome = Outcome(loop.step, loop.finite, _any_nan(loop.params), loop.records)
        return Carry(loop.params, loop.state), outcome

    return jax.jit(
        train,
        donate_argnums=() if guard == "replay" else (0,),
        out_shardings=None if layout is None else layout.outputs,
    )


_kept_program = cached(build_program)


def scalar_hyperparams(state: State) -> dict[str, jax.Array]:
    """The hyperparameters in `state` that are single real numbers."""
    values = {name: jnp.asarray(value) for name, value in get_hyperparams(state).items()}
    return {
        name: value
        for name, value in values.items()
        if value.ndim == 0
        and any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.bool_, jnp.integer, jnp.floating))
    }


def _row(data: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), data)


def first_batch(data: PyTree, plan: Batches | None) -> PyTree:
    """A batch to look at before training."""
    if plan is None:
        return _row(data, 0)
    return data if plan.whole else take(data, jnp.zeros(plan.batch_size, jnp.int32))


def _any_nan(params: Params) -> jax.Array:
    found = [jnp.any(jnp.isnan(leaf)) for leaf in jax.tree.leaves(params)]
    return jnp.any(jnp.stack(found)) if found else jnp.bool_(False)


def checked_loss(loss_fn: Callable[..., Any]) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """The loss function with one signature, and errors for what is no loss."""
    takes_key = _takes_key(loss_fn)

    def loss_of(params: Params, batch: PyTree, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        out = loss_fn(params, batch, key=key) if takes_key else loss_fn(params, batch)
        loss, metrics = out if isinstance(out, tuple) and len(out) == 2 else (out, {})
        if not _is_array(loss) or not isinstance(metrics, dict):
            raise TypeError(
                "fit: loss_fn must return a scalar, or (scalar, metrics) with metrics a dictionary from name "
                f"to scalar; it returned {_show(out)}"
            )
        if jnp.shape(loss) != ():
            raise TypeError(
                f"fit: the loss must be a scalar, it has shape {jnp.shape(loss)}; "
                "return its mean over the batch"
            )
        if not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise TypeError(
                f"fit: the loss must be a real floating-point number, it has dtype {jnp.result_type(loss)}, "
                "which has no gradient"
            )
        for name, value in metrics.items():
            if not _is_array(value) or jnp.shape(value) != ():
                raise TypeError(
                    f"fit: the metric {name!r} must be a scalar, it is {_show(value)}; "
                    "return its mean over the batch"
                )
        return jnp.asarray(loss), {name: jnp.asarray(value) for name, value in metrics.items()}

    return loss_of


def _takes_key(loss_fn: Callable[..., Any]) -> bool:
    """Whether `loss_fn` has an argument `key` that is not yet filled in, by a partial application say."""
    try:
        parameter = inspect.signature(loss_fn).parameters.get("key")
    except ValueError:  # some callables written in C have no signature
        return False
    return parameter is not None and (parameter.default is None or parameter.default is parameter.empty)


def _is_array(value: Any) -> bool:
    return isinstance(value, int | float | complex) or (hasattr(value, "shape") and hasattr(value, "dtype"))


def _show(value: Any) -> str:
    if _is_array(value):
        return f"an array of shape {jnp.shape(value)}"
    if isinstance(value, tuple):
        return f"({', '.join(_show(part) for part in value)})"
    return type(value).__name__
