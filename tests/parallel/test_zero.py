"""ZeRO: the numbers of one device, an eighth of the state on each of eight, and no byte of it sent."""

import copy
import math
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import assert_close, x64
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradxform as gx
from gradxform.parallel.communication import communication
from gradxform.parallel.gradients import scatter_gradients
from gradxform.parallel.sharding import shard_over, state_sharding
from gradxform.parallel.zero import shard_state

RANDOM = np.random.default_rng(0)
KINDS = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["automatic", "explicit"])


def mesh(shape: tuple[int, ...] = (8,), names: tuple[str, ...] = ("data",), kind: Any = AxisType.Auto) -> Any:
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype("float32")


def loss(params: Any, batch: Any) -> Any:
    out = jnp.tanh(batch @ params["in"]) @ params["out"] + params["bias"]
    return jnp.mean(out**2), {"mean": jnp.mean(out)}


PARAMS = {"in": normal(16, 64), "out": normal(64, 16), "bias": normal(16), "odd": None}
BATCH = normal(32, 16)


def adamw() -> Any:
    return gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(0.01))


def step_of(tx: Any, value_and_grad: Any) -> Any:
    def step(params: Any, state: Any, batch: Any) -> Any:
        (value, _), grads = value_and_grad(params, batch)
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state, value

    return step


def three_steps(step: Any, params: Any, state: Any, batch: Any) -> Any:
    for _ in range(3):
        params, state, value = step(params, state, batch)
    return params, state, value


@KINDS
@pytest.mark.parametrize("layout", ["whole", "model parallel"])
def test_the_numbers_are_those_of_one_device(kind: Any, layout: str) -> None:
    plain = jax.value_and_grad(loss, has_aux=True)
    expected = three_steps(jax.jit(step_of(adamw(), plain)), PARAMS, adamw().init(PARAMS), BATCH)
    on_mesh, given = mesh(kind=kind), P()
    if layout == "model parallel":
        on_mesh = mesh((4, 2), ("data", "model"), kind)
        given = {"in": P(None, "model"), "out": P("model"), "bias": P(), "odd": None}
    on = partial(NamedSharding, on_mesh)
    placed = jax.device_put(PARAMS, jax.tree.map(on, given, is_leaf=lambda node: isinstance(node, P)))
    batch = jax.device_put(BATCH, on(P("data")))
    tx = shard_state(adamw(), on_mesh, "data", given)
    value_and_grad = scatter_gradients(loss, on_mesh, "data", given, has_aux=True)
    found = three_steps(jax.jit(step_of(tx, value_and_grad)), placed, tx.init(placed), batch)
    assert_close(jax.device_get(found), jax.device_get(expected))
    for before, after in zip(jax.tree.leaves(placed), jax.tree.leaves(found[0]), strict=True):
        assert after.sharding.is_equivalent_to(before.sharding, after.ndim)
    for slot, sharding in zip(
        jax.tree.leaves(found[1].slots), jax.tree.leaves(state_sharding(tx, placed).slots), strict=True
    ):
        assert slot.sharding.is_equivalent_to(sharding, slot.ndim)
        assert slot.addressable_shards[0].data.size == slot.size / on_mesh.devices.size or slot.ndim == 1


def gpt2_small() -> Any:
    """The shapes of GPT-2 small."""
    width, shape = 768, partial(jax.ShapeDtypeStruct, dtype=jnp.float32)

    def norm() -> Any:
        return {"scale": shape((width,)), "bias": shape((width,))}

    def linear(rows: int, columns: int) -> Any:
        return {"kernel": shape((rows, columns)), "bias": shape((columns,))}

    def block() -> Any:
        return {
            "norms": [norm(), norm()],
            "attention": [linear(width, 3 * width), linear(width, width)],
            "mlp": [linear(width, 4 * width), linear(4 * width, width)],
        }

    return {
        "words": shape((50257, width)),
        "places": shape((1024, width)),
        "blocks": [block() for _ in range(12)],
        "norm": norm(),
    }


@pytest.mark.parametrize("make", [lambda: gx.adamw(0.01), lambda: gx.muon(0.01), lambda: gx.sm3(0.01)])
def test_an_eighth_of_the_state_on_each_device(make: Any) -> None:
    params = gpt2_small()
    tx = shard_state(make(), mesh(), "data")
    state = jax.eval_shape(tx.init, params)
    whole = each = 0
    for slot, sharding in zip(
        jax.tree.leaves(state),
        jax.tree.leaves(state_sharding(tx, params, NamedSharding(mesh(), P()))),
        strict=True,
    ):
        whole += slot.size * slot.dtype.itemsize
        each += math.prod(sharding.shard_shape(slot.shape)) * slot.dtype.itemsize
    assert whole > 4e8
    assert each <= whole * (1 / 8 + 0.02)


def test_what_is_sent_is_the_gradient_in_parts_and_the_updates() -> None:
    """Together as many bytes as a sum of whole gradients; besides the norm's total and the loss. No state."""
    on_mesh = mesh()
    tx = shard_state(adamw(), on_mesh, "data")
    params = {name: PARAMS[name] for name in ("in", "out")} | {"bias": PARAMS["bias"]}
    size = sum(param.nbytes for param in params.values())
    placed = jax.device_put(params, NamedSharding(on_mesh, P()))
    batch = jax.device_put(BATCH, NamedSharding(on_mesh, P("data")))
    state = tx.init(placed)

    def sent(value_and_grad: Any) -> Any:
        step = jax.jit(step_of(tx, value_and_grad), donate_argnums=(0, 1))
        return communication(step.lower(placed, state, batch).compile())

    scattered = sent(scatter_gradients(loss, on_mesh, "data", has_aux=True))
    assert scattered.bytes("reduce-scatter") == scattered.bytes("all-gather") == size
    assert scattered.bytes("all-reduce") <= 4 * (3 + 2)
    assert scattered.bytes() == 2 * size + scattered.bytes("all-reduce")
    assert scattered.sent() <= 1.05 * 2 * size * 7 / 8
    # By constraints alone: on CPUs a sum of whole gradients, of which each device takes its part.
    constrained = sent(jax.value_and_grad(loss, has_aux=True))
    assert constrained.bytes("all-gather") == size
    assert size <= constrained.bytes("all-reduce") <= size + 4 * (3 + 2)
    assert constrained.bytes() == constrained.bytes("all-gather") + constrained.bytes("all-reduce")


MATRICES = {"first": [normal(8, 8) for _ in range(5)], "lone": normal(4, 4), "bias": normal(16)}


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: gx.muon(0.1), AxisType.Auto),
        (lambda: gx.muon(0.1), AxisType.Explicit),
        (lambda: gx.soap(0.1), AxisType.Auto),
        (lambda: gx.shampoo(0.1), AxisType.Auto),
    ],
    ids=["muon", "muon, explicit", "soap", "shampoo"],
)
def test_each_matrix_of_a_stack_is_one_devices_work(make: Any, kind: Any) -> None:
    with x64():  # eigenvectors of small eigenvalues make much of rounding
        on_mesh = mesh((4, 2), ("data", "model"), kind)
        params, *steps = (
            jax.tree.map(lambda param: RANDOM.normal(size=param.shape), MATRICES) for _ in range(4)
        )
        plain, tx = make(), shard_state(make(), on_mesh, "data")
        whole = NamedSharding(on_mesh, P())
        placed = jax.device_put(params, whole)
        update, state, expected_state = jax.jit(tx.update), tx.init(placed), plain.init(params)
        expected_update = jax.jit(plain.update)
        for grads in steps:
            updates, state = update(jax.device_put(grads, whole), state, placed)
            expected, expected_state = expected_update(grads, expected_state, params)
            assert_close(jax.device_get(updates), jax.device_get(expected))
        text = update.lower(placed, state, placed).compile().as_text()
    assert "all-to-all" in text
    # Five matrices on four devices: two each.
    assert set(re.findall(r"= f64\[(\d+),8,8\]\S* (?:dot|custom-call)\(", text)) == {"2"}


def test_random_rules_draw_what_they_draw_on_one_device() -> None:
    on_mesh, params = mesh(), {"bias": normal(16)}
    plain = gx.noisy_sgd(0.1, key=3)
    expected, _ = plain.update(params, plain.init(params), params)
    tx, placed = shard_state(plain, on_mesh, "data"), jax.device_put(params, NamedSharding(on_mesh, P()))
    updates, _ = jax.jit(tx.update)(placed, tx.init(placed), placed)
    assert_close(jax.device_get(updates), jax.device_get(expected))


@KINDS
def test_row_sparse_gradients(kind: Any) -> None:
    on_mesh = mesh(kind=kind)
    params = {"table": normal(64, 4), "bias": normal(16)}
    rows = gx.RowSparse(jnp.asarray([60, 1, 60]), normal(3, 4), (64, 4))
    plain = gx.adam(0.1)
    expected = plain.update({"table": rows, "bias": params["bias"]}, plain.init(params), params)
    placed = jax.device_put(params, NamedSharding(on_mesh, P()))
    tx = shard_state(plain, on_mesh, "data")
    grads = {"table": jax.device_put(rows, NamedSharding(on_mesh, P())), "bias": placed["bias"]}
    found = jax.jit(tx.update)(grads, tx.init(placed), placed)
    assert isinstance(found[0]["table"], gx.RowSparse)
    assert_close(jax.device_get(found), jax.device_get(expected))


@KINDS
@pytest.mark.parametrize("around", [lambda init: init, jax.jit], ids=["alone", "within jit"])
def test_the_first_state_is_split(kind: Any, around: Any) -> None:
    on_mesh = mesh(kind=kind)
    tx = shard_state(adamw(), on_mesh, "data")
    placed = jax.device_put(PARAMS, NamedSharding(on_mesh, P()))
    state = around(tx.init)(placed)
    for leaf, layout in zip(jax.tree.leaves(state), jax.tree.leaves(tx.state_layout(placed)), strict=True):
        assert leaf.sharding.is_equivalent_to(layout, leaf.ndim)
    assert state.slots[1].mu["in"].addressable_shards[0].data.size == 16 * 64 // 8
    assert_close(jax.device_get(state), jax.device_get(adamw().init(PARAMS)))


def test_state_from_shapes_and_extra_arguments() -> None:
    on_mesh = mesh()
    tx = shard_state(gx.polyak_sgd(), on_mesh, "data")
    params = {"w": jnp.ones((8, 2))}
    shapes = jax.eval_shape(lambda: params)
    tracked = shard_state(gx.adam(0.1), on_mesh, "data")
    state = tracked.init(shapes)
    assert state.slots[0].mu["w"].sharding.spec == P("data", None)
    assert jax.eval_shape(tracked.init, shapes).slots[0].mu["w"].shape == (8, 2)
    updates, _ = tx.update(params, tx.init(params), params, value=2.0, unknown="dropped")
    expected, _ = gx.polyak_sgd().update(params, gx.polyak_sgd().init(params), params, value=2.0)
    np.testing.assert_allclose(updates["w"], expected["w"])


def test_gradients_that_leave_out_a_subtree_and_none_of_the_parameters() -> None:
    tx = shard_state(gx.trace(0.9), mesh(), "data")
    params = {"a": {"x": jnp.ones(8)}, "b": jnp.ones(8)}
    state = tx.init(params)
    updates, state = tx.update({"a": {"x": None}, "b": jnp.ones(8)}, state)
    assert updates["a"]["x"] is None
    np.testing.assert_array_equal(updates["b"], np.ones(8))


def test_it_stands_in_a_chain_and_can_be_read_and_copied() -> None:
    on_mesh = mesh()
    sharded = shard_state(gx.adam(gx.tunable(0.1)), on_mesh, "data")
    tx = gx.chain(gx.clip(1.0), gx.apply_if_finite(sharded, 3))
    params = {"w": jnp.ones((16, 2))}
    layout = state_sharding(tx, params, NamedSharding(on_mesh, P()))
    assert layout[1].inner_state.slots[0].mu["w"].spec == P("data", None)
    named = gx.named_chain(("clip", gx.clip(1.0)), ("adam", sharded))
    assert state_sharding(named, params, P())["adam"].slots[0].mu["w"].spec == P("data", None)
    assert "shard_state(over 'data') around" in str(gx.describe(sharded))
    assert float(gx.get_hyperparams(sharded.init(params))["learning_rate"]) == pytest.approx(0.1)
    expected = jax.device_get(sharded.init(params))
    for other in (
        copy.copy(sharded),
        jax.tree.map(lambda leaf: leaf, sharded),
    ):
        assert_close(jax.device_get(other.init(params)), expected)
        assert other.state_layout(params) == sharded.state_layout(params)


def test_a_batch_that_cannot_be_cut_is_taken_whole() -> None:
    on_mesh = mesh()
    value_and_grad = scatter_gradients(loss, on_mesh, "data", has_aux=True)
    short = BATCH[:5]
    found = jax.jit(value_and_grad)(jax.device_put(PARAMS, NamedSharding(on_mesh, P())), short)
    assert_close(jax.device_get(found), jax.device_get(jax.value_and_grad(loss, has_aux=True)(PARAMS, short)))


def test_an_axis_that_is_not_there() -> None:
    for make in (shard_state, scatter_gradients):
        with pytest.raises(ValueError, match=f"{make.__name__}: the mesh has no axis 'rows'; it has 'data'"):
            make(gx.adam(0.1), mesh(), "rows")
    assert shard_over(MATRICES, mesh(), "data")["bias"].spec == P("data")
