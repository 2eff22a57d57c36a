"""Every primitive and optimizer, for the tests that all of them have to pass; and what those tests share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx


class Entry(NamedTuple):
    """A transformation that has to pass the common tests.

    Attributes:
      name: what the test is called.
      make: makes a new one.
      rests: whether zero gradients give zero updates.
      descends: whether it is a whole optimizer, whose updates go downhill.
      wide: whether it computes, and keeps its state, in float32 whatever the parameters are.
    """

    name: str
    make: Callable[[], Any]
    rests: bool = True
    descends: bool = False
    wide: bool = True


def _halving(count: Any) -> Any:
    return 0.1 / (count + 1.0)


def _kitchen_sink() -> Any:
    return gx.chain(
        gx.clip_by_global_norm(gx.tunable(1.0)),
        gx.scale_by_adam(b2=gx.tunable(0.99)),
        gx.add_decayed_weights(1e-2, mask=_matrices),
        gx.scale_by_learning_rate(_halving),
    )


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda p: np.ndim(p) > 1, params)


def _partition() -> Any:
    labels = {True: "matrix", False: "vector"}
    return gx.partition(
        {
            "matrix": gx.adam(gx.tunable(0.1)),
            "vector": gx.chain(gx.clip_by_global_norm(1.0), gx.sgd(_halving)),
        },
        lambda params: jax.tree.map(labels.get, _matrices(params)),
    )


def _squares() -> Any:
    """The squared gradient as an estimate of the Hessian's diagonal."""
    return gx.stateless(lambda grads, params: jax.tree.map(lambda grad: jnp.real(grad * grad), grads))


def _told(tx: Any) -> Any:
    """The transformation, told the loss."""
    return gx.GradientTransformation(tx.init, partial(tx.update, value=2.0))


def _searching(search: Any) -> Any:
    """A line search down a bowl."""

    def bowl(params: Any) -> Any:
        return sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(params)) + 0.0

    def update(grads: Any, state: Any, params: Any) -> Any:
        value, grad = jax.value_and_grad(bowl)(params)
        return search.update(grads, state, params, value=value, grad=grad, value_fn=bowl)

    return gx.GradientTransformation(search.init, update)


def _adam_of_primitives() -> Any:
    return gx.ratio(gx.ema(0.9), gx.chain(gx.square(), gx.ema(0.99), gx.root(1e-8)))


CATALOGUE: list[Entry] = [
    Entry("identity", gx.identity),
    Entry("scale", lambda: gx.scale(0.5)),
    Entry("scale_by_schedule", lambda: gx.scale_by_schedule(_halving)),
    Entry("accumulate_squares", gx.accumulate_squares),
    Entry("ema", lambda: gx.ema(0.9)),
    Entry("ema_biased", lambda: gx.ema(0.9, debias=False)),
    Entry("trace", lambda: gx.trace(gx.tunable(0.9))),
    Entry("trace_nesterov", lambda: gx.trace(0.9, nesterov=True)),
    Entry("clip", lambda: gx.clip(0.3)),
    Entry("clip_by_global_norm", lambda: gx.clip_by_global_norm(1.0)),
    Entry("clip_between_moments", lambda: gx.chain(gx.ema(0.9), gx.clip_by_global_norm(0.5), gx.trace(0.9))),
    Entry("clip_by_block_rms", lambda: gx.clip_by_block_rms(0.3)),
    Entry("adaptive_grad_clip", lambda: gx.adaptive_grad_clip(gx.tunable(0.2))),
    Entry("centralize", gx.centralize),
    Entry("normalize", gx.normalize),
    Entry("normalize_by_update_norm", lambda: gx.normalize_by_update_norm(_halving)),
    Entry("zero_nans", gx.zero_nans),
    Entry("keep_params_nonnegative", gx.keep_params_nonnegative, rests=False),
    Entry("scale_by_param_block_norm", gx.scale_by_param_block_norm),
    Entry("scale_by_param_block_rms", gx.scale_by_param_block_rms),
    Entry("scale_by_trust_ratio", lambda: gx.scale_by_trust_ratio(gx.tunable(0.1))),
    Entry("stateless", lambda: gx.stateless(lambda grads, params: jax.tree.map(jnp.sin, grads))),
    Entry("stateless_with_tree_map", lambda: gx.stateless_with_tree_map(lambda grad, param: grad * param)),
    Entry("set_to_zero", gx.set_to_zero),
    Entry("masked", lambda: gx.masked(gx.chain(gx.clip_by_global_norm(1.0), gx.adam(0.1)), _matrices)),
    Entry("masked_foreign", lambda: gx.masked(optax.sgd(0.1, momentum=0.9), _matrices), wide=False),
    Entry("partition", _partition, descends=True),
    Entry("selective_transform", lambda: gx.selective_transform(gx.adam(_halving), freeze_mask=_matrices)),
    Entry("multi_steps", lambda: gx.MultiSteps(gx.adam(gx.tunable(0.1)), 2)),
    Entry(
        "multi_steps_foreign",
        lambda: gx.MultiSteps(optax.adam(0.1), lambda step: step + 1, False),
        wide=False,
    ),
    Entry("apply_every", lambda: gx.apply_every(2)),
    Entry("apply_if_finite", lambda: gx.apply_if_finite(gx.adam(0.1), 2), descends=True),
    Entry("conditionally_transform", lambda: gx.conditionally_transform(gx.ema(0.9), lambda step: step > 0)),
    Entry("conditionally_mask", lambda: gx.conditionally_mask(gx.ema(0.9), lambda step: step % 2 == 0)),
    Entry("average_params", lambda: gx.average_params(gx.tunable(0.9))),
    Entry("inject_hyperparams", lambda: gx.inject_hyperparams(gx.adam)(_halving), descends=True),
    Entry("flatten", lambda: gx.flatten(gx.adam(0.1)), descends=True),
    Entry("split_real_and_imaginary", lambda: gx.split_real_and_imaginary(gx.adam(0.1)), descends=True),
    Entry("snapshot", lambda: gx.snapshot("updates", lambda updates: updates), wide=False),
    Entry(
        "monitor", lambda: gx.monitor({"mean": gx.measure_with_ema(lambda updates: updates, 0.9)}), wide=False
    ),
    Entry("add_decayed_weights", lambda: gx.add_decayed_weights(0.1), rests=False),
    Entry("add_noise", lambda: gx.add_noise(0.1, 0.5, key=3), rests=False),
    Entry("square", gx.square),
    Entry("ratio", _adam_of_primitives),
    Entry("scale_by_rss", gx.scale_by_rss),
    Entry("scale_by_rms", gx.scale_by_rms),
    Entry("scale_by_stddev", lambda: gx.scale_by_stddev(0.5, eps_in_sqrt=False)),
    Entry("scale_by_adadelta", gx.scale_by_adadelta),
    Entry("scale_by_adam", gx.scale_by_adam),
    Entry("sgd", lambda: gx.sgd(0.1), descends=True),
    Entry("momentum", lambda: gx.sgd(_halving, momentum=0.9, nesterov=True), descends=True),
    Entry("adagrad", lambda: gx.adagrad(0.1), descends=True),
    Entry("rmsprop", lambda: gx.rmsprop(0.1, centered=True, momentum=0.9), descends=True),
    Entry("adadelta", lambda: gx.adadelta(weight_decay=0.0), descends=True),
    Entry("adam", lambda: gx.adam(gx.tunable(0.1)), descends=True),
    Entry("nadam", lambda: gx.adam(0.1, nesterov=True, mu_dtype=jnp.bfloat16), descends=True),
    # Adam's family
    Entry("scale_by_optimistic_gradient", gx.scale_by_optimistic_gradient),
    Entry("adamw", lambda: gx.adamw(gx.tunable(0.1), mask=_matrices), rests=False, descends=True),
    Entry("adamax", lambda: gx.adamax(0.1), descends=True),
    Entry("adamaxw", lambda: gx.adamaxw(_halving), rests=False, descends=True),
    Entry("amsgrad", lambda: gx.amsgrad(0.1), descends=True),
    Entry("radam", lambda: gx.radam(0.1, b2=gx.tunable(0.9)), descends=True),
    Entry("adabelief", lambda: gx.adabelief(0.1, nesterov=True), descends=True),
    Entry("yogi", lambda: gx.yogi(0.1), rests=False, descends=True),
    Entry("adan", lambda: gx.adan(0.1), descends=True),
    Entry("novograd", lambda: gx.novograd(0.1), descends=True),
    Entry("optimistic_adam_v2", lambda: gx.optimistic_adam_v2(0.1, beta=_halving), descends=True),
    Entry("ademamix", lambda: gx.ademamix(0.1, alpha=_halving), descends=True),
    Entry("simplified_ademamix", lambda: gx.simplified_ademamix(0.1, alpha=2.0), descends=True),
    Entry("adopt", lambda: gx.adopt(0.1, nesterov=True), descends=True),
    Entry("acprop", lambda: gx.acprop(0.1), descends=True),
    # Signs, layers, small memory
    Entry("scale_by_sign", gx.scale_by_sign),
    Entry("signum", lambda: gx.signum(_halving), descends=True),
    Entry("lion", lambda: gx.lion(0.1), rests=False, descends=True),
    Entry("lion_smooth", lambda: gx.lion(0.1, weight_decay=0.0, mode="smooth"), descends=True),
    Entry("rprop", lambda: gx.rprop(0.1, one_step_late=False), descends=True),
    Entry("noisy_sgd", lambda: gx.noisy_sgd(0.1, key=3), rests=False),
    Entry("optimistic_gradient_descent", lambda: gx.optimistic_gradient_descent(0.1), descends=True),
    Entry("polyak_sgd", lambda: _told(gx.polyak_sgd()), descends=True),
    Entry("lars", lambda: gx.lars(10.0, weight_decay_mask=_matrices), descends=True),
    Entry("lamb", lambda: gx.lamb(0.1), descends=True),
    Entry("fromage", lambda: gx.fromage(_halving), rests=False, descends=True),
    Entry("adafactor", lambda: gx.adafactor(0.1, 2, momentum=0.9, dtype_momentum=None), descends=True),
    Entry("sm3", lambda: gx.sm3(0.1), descends=True),
    Entry(
        "sophia", lambda: _told(gx.sophia(0.1, hessian_diagonal_fn=_squares(), weight_decay=0.0)), wide=False
    ),
    Entry("sam", lambda: gx.sam(gx.adam(_halving), gx.chain(gx.normalize(), gx.sgd(0.1))), wide=False),
    # No learning rate, no schedule
    Entry("distance_over_gradients", lambda: gx.scale_by_distance_over_gradients(param_dtype=None)),
    Entry("dog", lambda: gx.dog(weight_decay=0.0, init_step=("distance", 0.1)), descends=True),
    Entry("dog_with_a_rate", lambda: gx.dog(init_step=("learning_rate", 0.1)), descends=True),
    Entry("dowg", lambda: gx.dowg(0.5), descends=True),
    Entry("prodigy", lambda: gx.prodigy(_halving), descends=True),
    Entry("dadapt_adamw", gx.dadapt_adamw, descends=True),
    Entry("cocob", gx.cocob, descends=True),
    Entry("momo", lambda: _told(gx.momo(0.1)), descends=True),
    Entry("momo_adam", lambda: _told(gx.momo_adam(adapt_lower_bound=True)), descends=True),
    Entry("mechanize", lambda: gx.mechanize(gx.adam(_halving), weight_decay=0.0), descends=True),
    Entry("schedule_free_sgd", lambda: gx.schedule_free_sgd(0.1, weight_decay=0.0), descends=True),
    Entry("schedule_free_adamw", lambda: gx.schedule_free_adamw(0.1, warmup_steps=2), descends=True),
    Entry("madgrad", lambda: gx.madgrad(_halving), descends=True),
    Entry("scale_by_muon", lambda: gx.masked(gx.scale_by_muon(adaptive=True, ns_steps=3), _matrices)),
    Entry("orthogonal_rows", lambda: gx.muon(0.1, "dion", preconditioning="aol", nesterov=False)),
    Entry("scale_by_shape", lambda: gx.masked(gx.scale_by_shape(consistent_rms=gx.tunable(0.2)), _matrices)),
    Entry("muon", lambda: gx.muon(gx.tunable(0.1), weight_decay=0.0), descends=True),
    Entry("scale_by_galore", lambda: gx.scale_by_galore(1, 2, 0.5, gx.trace(0.9))),
    Entry("galore", lambda: gx.galore(_halving, 1, 2), descends=True),
    Entry("graft", lambda: gx.graft(gx.scale_by_adam(), gx.scale_by_rss())),
    Entry("scale_by_shampoo", lambda: gx.scale_by_shampoo(eps=1e-4, block_size=3, update_interval=2)),
    Entry("shampoo", lambda: gx.shampoo(_halving, b2=gx.tunable(0.9), eps=1e-2), descends=True),
    Entry("scale_by_soap", lambda: gx.scale_by_soap(precondition_frequency=2, max_precond_dim=4)),
    Entry("soap", lambda: gx.soap(gx.tunable(0.1), weight_decay=0.0, max_precond_dim=4), descends=True),
    Entry("scale_by_kron", lambda: gx.scale_by_kron(preconditioner_update_probability=0.5)),
    Entry("kron", lambda: gx.kron(_halving, memory_save_mode="one_diag"), descends=True),
    # Curvature; a line search tries points as coarse as the parameters
    Entry("scale_by_lbfgs", lambda: gx.scale_by_lbfgs(3)),
    Entry("lbfgs", lambda: gx.lbfgs(0.1, linesearch=None), descends=True),
    Entry(
        "backtracking",
        lambda: _searching(gx.scale_by_backtracking_linesearch(4, store_grad=True)),
        wide=False,
    ),
    Entry("zoom", lambda: _searching(gx.scale_by_zoom_linesearch(4)), wide=False),
    # Around any optimizer
    Entry("cautious", lambda: gx.cautious(gx.adam(gx.tunable(0.1))), descends=True),
    Entry("mars", lambda: gx.mars(gx.adam(_halving), 0.1), descends=True),
    Entry("nesterov", lambda: gx.nesterov(gx.sgd(0.1, momentum=0.9)), descends=True),
    Entry(
        "decay_schedule", lambda: gx.decay_schedule(gx.adam(0.1), b2=lambda count: 1 - (count + 1.0) ** -0.8)
    ),
    Entry("decoupled_weight_decay", lambda: gx.decoupled_weight_decay(gx.radam(0.1), 0.1), rests=False),
    Entry("dynamic_loss_scale", lambda: gx.dynamic_loss_scale(gx.adam(0.1), 2.0, period=2), descends=True),
    Entry("kitchen_sink", _kitchen_sink, rests=False, descends=True),
    Entry(
        "named", lambda: gx.named_chain(("clip", gx.clip(1.0)), ("adam", gx.adam(_halving))), descends=True
    ),
]

each = pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in CATALOGUE])


def example_params(dtype: Any = jnp.float32) -> dict[str, Any]:
    """A small tree: a matrix and, in a list, a vector."""
    return example_grads(1, dtype, seed=1)[0]


def example_grads(steps: int, dtype: Any = jnp.float32, seed: int = 0) -> list[dict[str, Any]]:
    """Gradients for `example_params`, one tree a step."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> jax.Array:
        numbers = rng.normal(size=shape)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            numbers = numbers + 1j * rng.normal(size=shape)
        return jnp.asarray(numbers, dtype=dtype)

    return [{"layers": [draw(3)], "matrix": draw(8, 2)} for _ in range(steps)]


def run(tx: Any, params: Any, grads: list[Any]) -> tuple[list[Any], Any]:
    """The updates of every step, and the last state; the parameters stay where they are."""
    state, updates = tx.init(params), []
    for grad in grads:
        update, state = tx.update(grad, state, params)
        updates.append(update)
    return updates, state


def assert_close(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Equal structure, dtypes and, nearly, values."""
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=atol)


@contextmanager
def x64() -> Iterator[None]:
    """64-bit numbers within the block, in any version of jax."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
