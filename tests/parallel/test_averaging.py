"""Gradients averaged under pmap, shard_map and vmap against NumPy's mean; noise of each device and of all."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import gradxform as gx
from gradxform.parallel.averaging import PerDevice, average_gradients, decorrelate, fold_in_axis
from gradxform.parallel.sharding import state_sharding

N = 8
RANDOM = np.random.default_rng(0)
GRADS = {
    "w": RANDOM.normal(size=(N, 4, 3)).astype("float32"),
    "b": RANDOM.normal(size=(N, 3)).astype("float32"),
}
MESH = jax.make_mesh((N,), ("data",), axis_types=(AxisType.Auto,))


def mapped_by_pmap(function: Any) -> Any:
    return jax.pmap(function, axis_name="data")


def mapped_by_vmap(function: Any) -> Any:
    return jax.jit(jax.vmap(function, axis_name="data"))


def mapped_by_shard_map(function: Any, check_vma: bool) -> Any:
    def one(*arguments: Any) -> Any:
        result = function(*jax.tree.map(lambda array: array[0], arguments))
        return jax.tree.map(lambda array: array[None], result)

    return jax.jit(
        jax.shard_map(one, mesh=MESH, in_specs=P("data"), out_specs=P("data"), check_vma=check_vma)
    )


WAYS = {
    "pmap": mapped_by_pmap,
    "vmap": mapped_by_vmap,
    "shard_map": partial(mapped_by_shard_map, check_vma=False),
    "shard_map, checked": partial(mapped_by_shard_map, check_vma=True),
}
each_way = pytest.mark.parametrize("mapped", WAYS.values(), ids=WAYS)


@each_way
def test_every_device_gets_the_mean(mapped: Any) -> None:
    def both(grads: Any) -> Any:
        mean, total = average_gradients("data"), average_gradients(["data"], "sum")
        return mean.update(grads, mean.init(grads))[0], total.update(grads, total.init(grads))[0]

    means, totals = mapped(both)(GRADS)
    for name, grads in GRADS.items():
        mean = np.broadcast_to(grads.astype(float).mean(0), grads.shape)
        np.testing.assert_allclose(means[name], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(totals[name], N * mean, rtol=1e-5, atol=1e-6)


def test_over_two_axes_or_one_of_them() -> None:
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    grads = GRADS["w"].reshape(4, 2, 4, 3)

    def over(axes: Any) -> Any:
        def update(grads: Any) -> Any:
            tx = average_gradients(axes)
            return tx.update(grads, tx.init(grads))[0]

        spec = P("data", "model")
        return jax.jit(jax.shard_map(update, mesh=mesh, in_specs=spec, out_specs=spec))(grads)

    everywhere = np.broadcast_to(grads.mean((0, 1)), grads.shape)
    np.testing.assert_allclose(over(("data", "model")), everywhere, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        over("model"), np.broadcast_to(grads.mean(1, keepdims=True), grads.shape), rtol=1e-5, atol=1e-6
    )


def loss(w: Any, batch: Any) -> Any:
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2)


BATCH = {
    "x": RANDOM.normal(size=(4 * N, 3)).astype("float32"),
    "y": RANDOM.normal(size=4 * N).astype("float32"),
}


def make(axis_name: Any) -> gx.GradientTransformation:
    return gx.chain(average_gradients(axis_name), gx.clip_by_global_norm(0.5), gx.adam(0.1))


def three_steps(tx: Any, w: Any, batch: Any) -> Any:
    state = tx.init(w)
    for _ in range(3):
        updates, state = tx.update(jax.grad(loss)(w, batch), state, w)
        w = gx.apply_updates(w, updates)
    return w, state


def test_one_chain_serves_jit_pmap_and_shard_map() -> None:
    """The norm that is clipped is the mean gradient's, on every device; the states have one structure."""
    start = jnp.ones(3)
    alone, alone_state = jax.jit(partial(three_steps, make(None)))(start, BATCH)
    parts = jax.tree.map(lambda rows: rows.reshape(N, -1, *rows.shape[1:]), BATCH)
    together, state = jax.pmap(partial(three_steps, make("data")), "data", in_axes=(None, 0))(start, parts)
    assert jax.tree.structure(state) == jax.tree.structure(alone_state)

    def on_each(w: Any, batch: Any) -> Any:
        return three_steps(make("data"), jax.lax.pcast(w, "data", to="varying"), batch)[0]

    sharded = jax.shard_map(on_each, mesh=MESH, in_specs=(P(), P("data")), out_specs=P("data"))
    for result in (together, jax.jit(sharded)(start, BATCH).reshape(N, 3)):
        np.testing.assert_allclose(result, np.broadcast_to(alone, (N, 3)), rtol=1e-5)


def test_a_gradient_that_is_not_finite_is_left_out_on_all_devices() -> None:
    tx = gx.chain(average_gradients("data"), gx.apply_if_finite(gx.sgd(1.0), 3))
    bad = GRADS["b"].copy()
    bad[3, 1] = np.inf
    updates, state = jax.pmap(lambda grad: tx.update(grad, tx.init(grad)), "data")(bad)
    np.testing.assert_array_equal(updates, np.zeros((N, 3)))
    np.testing.assert_array_equal(state[1].total_notfinite, np.ones(N))


def test_gradients_clipped_for_each_example_are_those_of_the_whole_batch() -> None:
    each = RANDOM.normal(size=(4 * N, 3)).astype("float32")
    tx = average_gradients("data")

    def clipped(grads: Any) -> Any:
        (total,), _ = gx.per_example_global_norm_clip([grads], 1.0)
        return total / len(grads)

    averaged = jax.pmap(lambda grads: tx.update(clipped(grads), tx.init(None))[0], "data")(
        each.reshape(N, 4, 3)
    )
    norms = np.linalg.norm(each.astype(float), axis=1, keepdims=True)
    expected = (each * np.minimum(1, 1 / norms)).mean(0)
    np.testing.assert_allclose(averaged, np.broadcast_to(expected, (N, 3)), rtol=1e-5, atol=1e-7)


def rounded(x: np.ndarray) -> np.ndarray:
    """The nearest bfloat16, by hand: the upper 16 bits, ties to even."""
    bits = np.asarray(x, "float32").view("uint32").astype("uint64")
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return bits.astype("uint32").view("float32").astype(float)


def test_what_is_lost_in_a_narrow_dtype_is_sent_with_the_next_gradient() -> None:
    tx = average_gradients("data", dtype=jnp.bfloat16, error_feedback=True)
    steps = RANDOM.normal(size=(5, N, 6)).astype("float32")

    def run(steps: Any) -> Any:
        def step(state: Any, grad: Any) -> Any:
            updates, state = tx.update([grad], state)
            return state, updates[0]

        return jax.lax.scan(step, tx.init([steps[0]]), steps)

    state, updates = jax.pmap(run, "data", in_axes=1, out_axes=(0, 1))(steps)
    error = np.zeros((N, 6))
    for grads, update in zip(steps, updates, strict=True):
        sent = rounded(np.float32(grads + error))
        error = grads + error - sent
        # The sum of what was sent is rounded too, as far as the devices' hardware does.
        np.testing.assert_allclose(update, np.broadcast_to(sent.mean(0), (N, 6)), atol=2e-2)
    np.testing.assert_allclose(state.error[0].array[:, 0], error, atol=1e-6)
    assert abs(error).max() > 1e-3
    exact = steps.astype(float).sum(0).mean(0)
    np.testing.assert_allclose(updates.sum(0)[0], exact - error.mean(0), atol=5e-2)


def test_the_sum_is_taken_in_the_narrow_dtype() -> None:
    tx = average_gradients("data", dtype=jnp.bfloat16)
    step = mapped_by_shard_map(lambda grads: tx.update(grads, tx.init(grads))[0], False)
    text = step.lower(GRADS["w"]).as_text()
    assert "(tensor<4x3xbf16>) -> tensor<4x3xbf16>" in text.split("all_reduce")[1]
    assert step(GRADS["w"]).dtype == jnp.float32


def test_the_error_goes_in_and_out_of_shard_map_by_the_specs_of_the_state() -> None:
    tx = gx.chain(
        average_gradients("data", dtype=jnp.bfloat16, error_feedback=True), gx.sgd(1.0, momentum=0.5)
    )
    specs = state_sharding(tx, {"w": jnp.ones((4, 3))}, P())
    assert specs[0].error["w"] == PerDevice(P("data"), ("data",))
    assert specs[1].slots[0].trace["w"] == P()
    params = {"w": jnp.ones((4, 3))}
    on_mesh = partial(jax.shard_map, mesh=MESH)
    state = jax.jit(on_mesh(tx.init, in_specs=P(), out_specs=specs))(params)
    assert state[0].error["w"].array.shape == (N, 4, 3)

    def update(grads: Any, state: Any) -> Any:
        return tx.update(jax.tree.map(lambda grad: grad[0], grads), state)

    step = jax.jit(on_mesh(update, in_specs=(P("data"), specs), out_specs=(P(), specs)))
    updates, state = step({"w": GRADS["w"]}, state)
    np.testing.assert_allclose(updates["w"], -GRADS["w"].mean(0), atol=2e-2)
    lost = GRADS["w"] - rounded(GRADS["w"])
    np.testing.assert_allclose(state[0].error["w"].array, lost, atol=1e-6)


@each_way
def test_row_sparse_gradients_stay_so(mapped: Any) -> None:
    indices = np.stack([np.arange(3) + i for i in range(N)]).astype("int32")
    values = RANDOM.normal(size=(N, 3, 2)).astype("float32")
    tx = gx.chain(average_gradients("data"), gx.adagrad(0.1))
    table = jnp.ones((N + 2, 2))

    def step(indices: Any, values: Any) -> Any:
        updates, _ = tx.update(gx.RowSparse(indices, values, table.shape), tx.init(table), table)
        assert updates.indices.shape == (3 * N,)
        return gx.apply_updates(table, updates)

    dense = np.zeros((N + 2, 2))
    np.add.at(dense, indices.ravel(), values.reshape(-1, 2).astype(float))
    plain = gx.adagrad(0.1)
    mean = jnp.asarray(dense / N, jnp.float32)
    expected = gx.apply_updates(table, plain.update(mean, plain.init(table), table)[0])
    result = mapped(step)(indices, values)
    np.testing.assert_allclose(result, np.broadcast_to(expected, result.shape), rtol=1e-5)


def test_complex_gradients_and_none() -> None:
    grads = {"c": (GRADS["b"] + 1j * GRADS["b"]).astype("complex64"), "n": None}
    tx = average_gradients("data", dtype=jnp.bfloat16)
    updates, _ = jax.pmap(lambda grads: tx.update(grads, tx.init(grads)), "data")(grads)
    assert updates["n"] is None
    mean = grads["c"].mean(0)
    np.testing.assert_allclose(updates["c"], np.broadcast_to(mean, (N, 3)), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_averaged() -> None:
    tx = average_gradients("data")
    with pytest.raises(
        NameError, match=r"average_gradients: there is no axis 'data' here.*leave axis_name out"
    ):
        jax.jit(lambda grad: tx.update(grad, tx.init(grad)))(jnp.ones(3))
    added = jax.shard_map(
        lambda w, batch: tx.update({"w": jax.grad(loss)(w, batch)}, tx.init(w))[0],
        mesh=MESH,
        in_specs=(P(), P("data")),
        out_specs=P(),
    )
    with pytest.raises(ValueError, match=r"grads\['w'\] is the same all along 'data'.*adds up.*pcast"):
        added(jnp.ones(3), BATCH)
    with pytest.raises(TypeError, match=r"grads\['n'\] has dtype int32"):
        jax.pmap(lambda n: tx.update({"n": n}, tx.init(None)), "data")(np.arange(N, dtype="int32"))
    rows = gx.RowSparse(jnp.zeros((N, 1), int).ravel()[:1], jnp.ones((1, 2)), (3, 2))
    keeping = average_gradients("data", dtype=jnp.bfloat16, error_feedback=True)
    with pytest.raises(TypeError, match=r"grads\['table'\] is row-sparse.*masked"):
        jax.pmap(
            lambda _: keeping.update({"table": rows}, keeping.init({"table": jnp.ones((3, 2))})), "data"
        )(np.arange(N))
    for error, match, arguments in [
        (ValueError, "op must be 'mean' or 'sum', got 'max'", {"op": "max"}),
        (TypeError, "dtype must be a floating-point dtype", {"dtype": jnp.int8}),
        (ValueError, "error_feedback makes up for a narrow dtype", {"error_feedback": True}),
    ]:
        with pytest.raises(error, match=match):
            average_gradients("data", **arguments)


def test_devices_share_their_noise_unless_they_are_told_not_to() -> None:
    def noise(tx: Any) -> Any:
        def draw(zeros: Any) -> Any:
            updates, state = tx.update(zeros, tx.init(zeros))
            return updates, state.tunables

        return jax.pmap(draw, "data")(np.zeros((N, 2000), "float32"))

    tx = gx.chain(gx.add_noise(1.0, 0.0, key=0), gx.scale(1.0))
    shared, keys = noise(tx)
    np.testing.assert_array_equal(shared, np.broadcast_to(shared[0], shared.shape))
    own, own_keys = noise(decorrelate(tx, "data"))
    np.testing.assert_array_equal(own_keys["key"], keys["key"])
    correlations = np.corrcoef(own) - np.eye(N)
    assert abs(correlations).max() < 0.1
    np.testing.assert_allclose(own.std(1), 1, atol=0.1)
    # Averaged, the noise of eight devices is a root of eight smaller.
    averaged, _ = jax.pmap(lambda g: average_gradients("data").update(g, ()), "data")(own)
    np.testing.assert_allclose(averaged[0].std(), N**-0.5, atol=0.03)
    np.testing.assert_array_equal(decorrelate(tx, None).update(jnp.zeros(2000), tx.init(None))[0], shared[0])


def test_a_key_of_each_device() -> None:
    key = jax.random.key(3)
    keys = jax.pmap(lambda _: jax.random.key_data(fold_in_axis(key, "data")), "data")(np.arange(N))
    expected = [jax.random.key_data(jax.random.fold_in(key, i)) for i in range(N)]
    np.testing.assert_array_equal(keys, expected)
    assert fold_in_axis(key, None) is key
    with pytest.raises(NameError, match="fold_in_axis: there is no axis 'data' here"):
        fold_in_axis(key, "data")


def test_there_must_be_something_random_to_decorrelate() -> None:
    with pytest.raises(ValueError, match=r"decorrelate: no rule draws random numbers.*inside the wrappers"):
        decorrelate(gx.adam(0.1), "data")
