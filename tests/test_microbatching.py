"""A function over slices of a batch, against the function over the whole batch, and Optax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import assert_close

import gradxform as gx
from gradxform.microbatching import (
    AccumulationType,
    Accumulator,
    micro_grad,
    micro_vmap,
    microbatch,
    reshape_batch_axis,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)).astype(np.float32)
Y = RNG.normal(size=12).astype(np.float32)
W = {"w": RNG.normal(size=3).astype(np.float32), "b": np.float32(0.5)}


def loss(params: Any, x: Any, y: Any) -> Any:
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def theirs_of(kind: AccumulationType) -> Any:
    return getattr(optax.microbatching.AccumulationType, kind.name)


def test_the_gradient_of_slices_is_that_of_the_whole() -> None:
    whole = jax.jit(jax.value_and_grad(loss))(W, X, Y)
    for size in (1, 3, 4, 12, None):
        sliced = jax.jit(microbatch(jax.value_and_grad(loss), (1, 2), size, AccumulationType.MEAN))
        assert_close(sliced(W, X, Y), whole, rtol=1e-5)


@pytest.mark.parametrize("kind", AccumulationType)
def test_optax_has_the_same(kind: AccumulationType) -> None:
    def fun(x: Any, *, y: Any) -> Any:
        return {"a": x * 2 + y[:, None], "b": x.sum(0)}

    for real in (None, 2):
        kwargs = {"argnames": "y", "in_axes": (1, 0), "num_real_microbatches": real}

        def swapped(x: Any, *, y: Any) -> Any:
            return fun(jnp.swapaxes(x, 0, 1), y=y)

        ours = microbatch(swapped, 0, 4, kind, **kwargs)(jnp.swapaxes(X, 0, 1), y=Y)
        theirs = optax.microbatch(swapped, 0, 4, theirs_of(kind), **kwargs)(jnp.swapaxes(X, 0, 1), y=Y)
        assert_close(ours, theirs, rtol=1e-5)


def test_a_prefix_of_kinds_and_an_accumulator_of_ones_own() -> None:
    highest = Accumulator(
        lambda value: jnp.full(value.shape, -jnp.inf, value.dtype),
        lambda carry, value, index: jnp.maximum(carry, value),
        lambda carry: carry,
        lambda values: values.max(0),
    )
    kinds = (AccumulationType.CONCAT, {"sum": AccumulationType.SUM, "max": highest})

    def fun(x: Any) -> Any:
        return (x + 1, x * 2), {"sum": x.sum(), "max": x.max()}

    (one, two), rest = microbatch(fun, 0, 3, kinds)(Y)
    np.testing.assert_array_equal(one, Y + 1)
    np.testing.assert_array_equal(two, Y * 2)
    np.testing.assert_allclose(rest["sum"], Y.sum(), rtol=1e-5)
    assert rest["max"] == Y.max()


def test_half_precision_is_added_up_in_float32() -> None:
    ones = jnp.ones(1024, jnp.bfloat16)
    total = microbatch(lambda x: x.sum(), 0, 1)(ones)
    assert total.dtype == jnp.bfloat16
    assert total == 1024  # in bfloat16 256 + 1 is 256


def test_microbatches_of_a_sharded_batch() -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x = jax.device_put(jnp.arange(32.0), rows)
    assert float(jax.jit(microbatch(jnp.sum, 0, 8))(x)) == 496.0
    split = jax.jit(lambda x: reshape_batch_axis(x, 8))(x)
    assert split.sharding.shard_shape(split.shape) == (4, 1)


def test_the_function_sees_one_slice_at_a_time() -> None:
    seen = []

    def wide(x: Any) -> Any:
        seen.append(x.shape)
        return jnp.tanh(x[:, :, None] * jnp.arange(64.0)).sum()

    x = jnp.ones((512, 8))
    sliced = jax.jit(microbatch(jax.grad(wide), 0, 16, AccumulationType.CONCAT))(x)
    assert set(seen) == {(16, 8)}
    assert_close(sliced, jax.jit(jax.grad(wide))(x), rtol=1e-4)


def test_micro_vmap_as_vmap_and_as_optax() -> None:
    def fun(w: Any, x: Any, *, y: Any) -> Any:
        return jnp.tanh(w @ x) + y, x * y

    plain = jax.vmap(lambda x, y: fun(W["w"], x, y=y))(X, Y)
    for size in (None, 4):
        assert_close(micro_vmap(fun, (None, 0), microbatch_size=size)(W["w"], X, y=Y), plain)
    for kind in (AccumulationType.MEAN, AccumulationType.SUM):
        ours = micro_vmap(fun, (None, 0), microbatch_size=4, accumulator=kind)(W["w"], X, y=Y)
        theirs = optax.microbatching.micro_vmap(
            fun, (None, 0), microbatch_size=4, accumulator=theirs_of(kind)
        )(W["w"], X, y=Y)
        assert_close(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("size", [None, 3])
def test_micro_grad_clips_each_example_and_as_optax(size: int | None) -> None:
    def clipped(grads: Any) -> Any:
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        return jax.tree.map(lambda g: g / jnp.maximum(norm, 1), grads)

    options = {"batch_argnums": (1, 2), "microbatch_size": size, "transform_fn": clipped}
    metrics = {"metrics_fn": lambda grads: grads["b"]}
    ours, each = micro_grad(loss, accumulator=AccumulationType.MEAN, **options, **metrics)(W, X, Y)
    theirs, their_each = optax.microbatching.micro_grad(
        loss, accumulator=theirs_of(AccumulationType.MEAN), **options, **metrics
    )(W, X, Y)
    assert_close(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(each.values, their_each.values, rtol=1e-5)
    np.testing.assert_allclose(each.metrics, their_each.metrics, rtol=1e-5)
    by_hand = [clipped(jax.grad(loss)(W, X[i : i + 1], Y[i : i + 1])) for i in range(12)]
    assert_close(ours, jax.tree.map(lambda *g: jnp.mean(jnp.stack(g), 0), *by_hand), rtol=1e-5)

    def with_aux(params: Any, x: Any, y: Any) -> Any:
        return jnp.sum((x @ params["w"] - y) ** 2), {"x": x}

    _, each = micro_grad(with_aux, True, keep_batch_dim=False, **options)(W, X, Y)
    np.testing.assert_array_equal(each.aux["x"], X)


@pytest.mark.parametrize(
    ("run", "error", "words"),
    [
        (lambda: microbatch(jnp.sum, 0, 5)({"x": X}), ValueError,
         r"batch\['x'\] has 12 examples.*microbatches of 5"),
        (lambda: microbatch(lambda a, b: a, (0, 1), 2)(X, Y[:10]), ValueError, "'argument 1': 10"),
        (lambda: microbatch(jnp.sum, 0, 4, AccumulationType.CONCAT)(X), ValueError, "axis of examples"),
        (lambda: microbatch(jnp.sum, 0, 4, AccumulationType.MEAN)(np.arange(12)), TypeError, "dtype int32"),
        (lambda: microbatch(jnp.sum, 0, 4, "sum")(X), TypeError, "got 'sum'"),
        (lambda: microbatch(jnp.sum, 0, 4, in_axes=(0, 1)), ValueError, "2 axes for 1 arguments"),
        (lambda: micro_vmap(jnp.sum, out_axes=1), ValueError, "out_axes must be 0, got 1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(run: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        run()


def test_the_public_name() -> None:
    assert gx.microbatch is microbatch
    assert gx.microbatching.AccumulationType is AccumulationType
