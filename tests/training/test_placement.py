"""`fit` on a mesh: the numbers of one device, whatever lies where."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import gradxform as gx
from gradxform.parallel.communication import communication
from gradxform.parallel.gradients import scatter_gradients
from gradxform.parallel.sharding import shard_over
from gradxform.parallel.zero import shard_state
from gradxform.training import FitResult, NonFiniteError, fit
from gradxform.training.placement import OnMesh
from gradxform.training.program import Carry, program
from gradxform.training.sources import Rows

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(240, 16)).astype(np.float32)
DATA = {"x": X, "y": np.tanh(X @ RANDOM.normal(size=(16, 3))).astype(np.float32)}
START = {
    "hidden": RANDOM.normal(0, 0.25, (16, 32)).astype(np.float32),
    "bias": np.zeros(32, np.float32),
    "out": RANDOM.normal(0, 0.2, (32, 3)).astype(np.float32),
    "shift": 0.0,
}
TX = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.cosine_decay_schedule(1e-2, 200)))


def squares(params: Any, batch: Any) -> Any:
    out = jnp.tanh(batch["x"] @ params["hidden"] + params["bias"]) @ params["out"] + params["shift"]
    return jnp.mean((out - batch["y"]) ** 2), {"largest": jnp.abs(out).max()}


def dropped(params: Any, batch: Any, key: jax.Array) -> Any:
    keep = jax.random.bernoulli(key, 0.9, batch["x"].shape)
    return squares(params, {**batch, "x": batch["x"] * keep})[0]


def mesh(devices: int = 8, kind: Any = AxisType.Auto, names: tuple[str, ...] = ("data",)) -> Mesh:
    shape = (devices,) if len(names) == 1 else (devices // 2, 2)
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names), devices=jax.devices()[:devices])


@cache
def alone() -> FitResult:
    return fit(squares, START, DATA, TX, batch_size=32, steps=200)


def assert_same(found: FitResult, expected: FitResult) -> None:
    """To 1e-5 after 200 steps."""
    assert found.step == expected.step
    for name, param in expected.params.items():
        np.testing.assert_allclose(found.params[name], param, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found.history.loss, expected.history.loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_as_many_devices_as_there_are_give_what_one_gives(devices: int) -> None:
    """240 examples in batches of 32: the short one of 16 at each epoch's end is there too."""
    found = fit(squares, START, DATA, TX, batch_size=32, steps=200, mesh=mesh(devices))
    assert_same(found, alone())
    np.testing.assert_allclose(
        found.history.metrics["largest"], alone().history.metrics["largest"], rtol=1e-5
    )
    assert found.params["hidden"].sharding.num_devices == devices
    assert found.params["hidden"].is_fully_replicated
    assert isinstance(START["hidden"], np.ndarray)


def test_an_explicit_mesh_is_the_same_program_for_any_loss() -> None:
    expected = fit(squares, START, DATA, TX, batch_size=32, steps=200, mesh=mesh())
    found = fit(squares, START, DATA, TX, batch_size=32, steps=200, mesh=mesh(kind=AxisType.Explicit))
    np.testing.assert_array_equal(found.params["hidden"], expected.params["hidden"])
    assert found.compile_seconds < 0.3  # a call of no steps, of what is compiled already


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["automatic", "explicit"])
def test_sharded_parameters_stay_so_and_their_state_with_them(kind: Any) -> None:
    """FSDP, or ZeRO-3."""
    on_mesh = mesh(kind=kind)
    layout = shard_over(START, on_mesh, "data")
    params = jax.device_put(START, layout)
    found = fit(squares, params, DATA, TX, batch_size=32, steps=200, mesh=on_mesh)
    assert_same(found, alone())
    (moments,) = (slots for slots in found.state.slots if hasattr(slots, "mu"))
    for tree in (found.params, moments.mu, moments.nu):
        assert tree["hidden"].sharding.spec == layout["hidden"].spec == P("data", None)
        assert tree["hidden"].addressable_shards[0].data.shape == (2, 32)
    again = fit(squares, found, DATA, TX, batch_size=32, steps=1, mesh=on_mesh)
    assert again.params["hidden"].sharding.spec == P("data", None)
    assert not params["hidden"].is_deleted()


def test_a_sharded_state_with_gradients_in_parts() -> None:
    """ZeRO-1, beside a mesh's second axis that the model lies along."""
    on_mesh = mesh(names=("data", "model"))
    layout = {"hidden": P(None, "model"), "bias": P("model"), "out": P("model"), "shift": P()}
    params = jax.device_put(START, jax.tree.map(partial(NamedSharding, on_mesh), layout))
    tx = shard_state(TX, on_mesh, "data", layout)
    gradient = partial(scatter_gradients, mesh=on_mesh, axis="data", params_sharding=layout)
    found = fit(squares, params, DATA, tx, batch_size=32, steps=200, mesh=on_mesh, value_and_grad=gradient)
    assert_same(found, alone())
    (moments,) = (slots for slots in found.state.slots if hasattr(slots, "mu"))
    assert moments.mu["hidden"].sharding.spec == P("data", "model")
    assert found.params["hidden"].sharding.spec == P(None, "model")


def sent_by(tx: Any, value_and_grad: Any) -> Any:
    """What the compiled loop sends in a step."""
    place, plan = OnMesh(mesh(), None), gx.batches(DATA, 48)
    params = place.params(START)
    carry = Carry(params, place.state(tx, params, None))
    run = program(squares, tx, plan, 8, "replay", value_and_grad, place.layout(carry))
    key = place.whole(jax.random.key(0))
    drawn = Rows(place.data(DATA, plan), plan, 8).draw(8, 0, key)
    return communication(run.lower(carry, drawn.data, key, np.int32(0), np.int32(8)).compile())


def test_a_step_sends_the_gradients_sum_and_nothing_else() -> None:
    """Which it would not if every device went through the whole batch."""
    size = 4 * (16 * 32 + 32 + 32 * 3 + 1)
    sent = sent_by(TX, jax.value_and_grad)
    assert sent.bytes("all-reduce") == sent.bytes() - sent.bytes("all-gather")
    assert size <= sent.bytes("all-reduce") <= size + 4 * 4  # the loss, the metric
    assert sent.bytes("all-gather") == 0
    scattered = sent_by(shard_state(TX, mesh(), "data"), partial(scatter_gradients, mesh=mesh(), axis="data"))
    cut = 4 * (16 * 32 + 32 + 32 * 3)
    assert scattered.bytes("reduce-scatter") == scattered.bytes("all-gather") == cut
    assert scattered.bytes() - 2 * cut <= 4 * 8


def test_dropout_is_that_of_one_device() -> None:
    found = fit(dropped, START, DATA, TX, batch_size=32, steps=200, mesh=mesh(), key=3)
    assert_same(found, fit(dropped, START, DATA, TX, batch_size=32, steps=200, key=3))


def test_noise_is_that_of_one_device() -> None:
    tx = gx.chain(gx.add_noise(0.01, 0.5, key=jax.random.key(4)), gx.adam(0.01))
    found = fit(squares, START, DATA, tx, batch_size=32, steps=40, mesh=mesh())
    assert_same(found, fit(squares, START, DATA, tx, batch_size=32, steps=40))


def test_the_whole_data_set_lies_in_parts_and_is_never_gathered() -> None:
    place, plan = OnMesh(mesh(), None), gx.batches(DATA)
    assert place.data(DATA, plan)["x"].sharding.spec == P("data")
    assert place.data(DATA, gx.batches(DATA, 32))["x"].is_fully_replicated
    found = fit(squares, START, DATA, gx.sgd(0.1), steps=20, mesh=mesh())
    assert_same(found, fit(squares, START, DATA, gx.sgd(0.1), steps=20))


def test_a_stream_of_batches_the_last_one_short() -> None:
    def arriving() -> Any:
        for i in range(0, 235, 16):
            yield {name: array[i : min(i + 16, 235)] for name, array in DATA.items()}

    tx = gx.sgd(0.1)
    assert_same(fit(squares, START, arriving(), tx, mesh=mesh()), fit(squares, START, arriving(), tx))
    with pytest.raises(ValueError, match=r"a batch of 12 examples cannot be cut .* 8 devices along 'data'"):
        fit(squares, START, iter([{name: array[:12] for name, array in DATA.items()}]), tx, mesh=mesh())


def test_going_on_with_other_devices_gives_the_same_end() -> None:
    first = fit(squares, START, DATA, TX, batch_size=32, steps=101, mesh=mesh(2))
    assert_same(fit(squares, first, DATA, TX, batch_size=32, steps=99, mesh=mesh(8)), alone())
    state = fit(squares, START, DATA, TX, batch_size=32, steps=101).state
    later = fit(
        squares, first.params, DATA, TX, batch_size=32, steps=99, start=101, state=state, mesh=mesh(8)
    )
    np.testing.assert_allclose(later.params["hidden"], alone().params["hidden"], atol=1e-5)


def test_nothing_is_compiled_twice() -> None:
    def squared(params: Any, batch: Any) -> Any:
        traces.append(1)
        return squares(params, batch)

    traces: list[int] = []
    for _ in range(2):
        fit(squared, START, DATA, TX, batch_size=32, steps=40, mesh=mesh(2))
    once = len(traces)
    fit(squared, START, DATA, TX, batch_size=32, steps=40, mesh=mesh(2))
    assert len(traces) == once


def test_a_loss_that_is_not_finite_is_found_on_a_mesh_too() -> None:
    with pytest.raises(NonFiniteError, match="the loss of step 1 is inf") as caught:
        fit(
            lambda params, batch: jnp.where(params["w"] < 0, jnp.inf, jnp.sum(params["w"])),
            {"w": jnp.float32(0.5)},
            DATA,
            gx.sgd(1.0),
            batch_size=16,
            steps=4,
            mesh=mesh(4),
        )
    assert caught.value.step == caught.value.result.step == 1
    np.testing.assert_array_equal(caught.value.batch, gx.batches(DATA, 16).at(jax.random.key(0), 1))


def test_what_does_not_go_together() -> None:
    for match, error, arguments in [
        (
            r"the batch_size, 30 examples, cannot be cut .* 8 devices along 'data'; pass a batch_size that 8",
            ValueError,
            {"batch_size": 30},
        ),
        ("the mesh has no axis 'rows'; it has 'data'", ValueError, {"batch_size": 32, "data_axis": "rows"}),
        ("mesh must be a jax.sharding.Mesh", TypeError, {"batch_size": 32, "mesh": 8}),
        ("data_axis='data' is an axis of a mesh; pass mesh", ValueError, {"data_axis": "data", "mesh": None}),
    ]:
        with pytest.raises(error, match=match):
            fit(squares, START, DATA, TX, **{"steps": 1, "mesh": mesh(), **arguments})
    with pytest.raises(ValueError, match=r"all of the data set, 236 examples"):
        fit(squares, START, {name: array[:236] for name, array in DATA.items()}, TX, steps=1, mesh=mesh())
    elsewhere = jax.device_put(START, NamedSharding(mesh(names=("rows", "columns")), P()))
    with pytest.raises(ValueError, match=r"params\['bias'\] lies on a mesh with the axes .*rows.*columns"):
        fit(squares, elsewhere, DATA, TX, batch_size=32, steps=1, mesh=mesh())


def test_what_another_process_has_done_is_said() -> None:
    """The error of a collective whose other end has gone, as Gloo words it."""
    place = OnMesh(mesh(), None)
    with pytest.raises(ValueError, match="Gloo"), place.watching(lambda: 7):
        raise ValueError("Gloo all-reduce failed: Connection reset by peer")
    place.together = True
    lost = pytest.raises(RuntimeError, match=r"lost touch with another one after step 7.*resume=True")
    with lost, place.watching(lambda: 7):
        raise ValueError("Gloo all-reduce failed: Connection reset by peer")
    with pytest.raises(ValueError, match="shapes"), place.watching(lambda: 7):
        raise ValueError("of one's own: shapes do not fit")
