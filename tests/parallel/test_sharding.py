"""Every slot with its parameter: for the whole catalogue, from shapes alone, and on meshes of both kinds."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import Entry, assert_close, each, example_grads, example_params
from jax.sharding import AxisType, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

import gradxform as gx
from gradxform.parallel.sharding import shard_over, state_sharding
from gradxform.storage.store import store


def mesh(shape: tuple[int, ...] = (8,), names: tuple[str, ...] = ("data",), kind: Any = AxisType.Auto) -> Any:
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))


def shapes(**sizes: Any) -> Any:
    return {name: jax.ShapeDtypeStruct(size, jnp.float32) for name, size in sizes.items()}


def specs(tree: Any) -> list[Any]:
    return [tuple(sharding.spec) for sharding in jax.tree.leaves(tree)]


@each
def test_every_slot_of_the_catalogue_lies_with_its_parameter(entry: Entry) -> None:
    tx, params = entry.make(), jax.eval_shape(example_params)
    layout = shard_over(params, mesh(), "data")
    assert specs(layout) == [(), ("data", None)]
    found, state = state_sharding(tx, params, layout), jax.eval_shape(tx.init, params)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for sharding, slot in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        part = sharding.shard_shape(slot.shape)  # raises where it cannot be cut
        assert 8 not in slot.shape or np.prod(part) == np.prod(slot.shape) / 8
        assert slot.shape != (8, 2) or sharding == layout["matrix"]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["automatic", "explicit"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.tunable(0.1))),
        lambda: gx.adafactor(0.1, 2),
        lambda: gx.lamb(0.1),
        lambda: store(gx.adam(0.1), min_size=8),
        lambda: gx.MultiSteps(gx.adam(0.1), 2),
        lambda: optax.adamw(0.1),
    ],
    ids=["adamw", "adafactor", "lamb", "bytes", "accumulated", "optax"],
)
def test_the_state_is_made_and_kept_in_its_layout(make: Any, kind: Any) -> None:
    tx, params, (grads,) = make(), example_params(), example_grads(1)
    expected_state = tx.init(params)
    expected = tx.update(grads, expected_state, params)
    on_mesh = mesh(kind=kind)
    layout = shard_over(params, on_mesh, "data")
    params, grads = jax.device_put((params, grads), (layout, layout))
    of_state = state_sharding(tx, params)
    assert of_state == state_sharding(tx, jax.eval_shape(example_params), layout)
    state = jax.jit(tx.init, out_shardings=of_state)(params)
    assert_close(state, expected_state)
    result = jax.jit(tx.update, out_shardings=(layout, of_state))(grads, state, params)
    assert_close(result, expected)
    for leaf, sharding in zip(jax.tree.leaves(result), jax.tree.leaves((layout, of_state)), strict=True):
        assert leaf.sharding == sharding


def test_matrix_rules_on_an_explicit_mesh_leave_the_layout_to_xla() -> None:
    """Where types say how arrays lie, products of matrices are ambiguous; `auto_axes` takes known layouts."""
    tx, params, (grads,) = gx.muon(0.1), example_params(), example_grads(1)
    expected = tx.update(grads, tx.init(params), params)
    layout = shard_over(params, mesh(kind=AxisType.Explicit), "data")
    of_state = state_sharding(tx, params, layout)
    params, grads = jax.device_put((params, grads), (layout, layout))
    state = jax.jit(tx.init, out_shardings=of_state)(params)
    update = jax.jit(jax.sharding.auto_axes(tx.update, out_sharding=(layout, of_state)))
    assert_close(update(grads, state, params), expected)


def test_no_device_ever_holds_a_whole_state() -> None:
    tx, params = gx.adam(0.1), shapes(w=(1024, 64))
    layout = shard_over(params, mesh(), "data")
    init = jax.jit(partial(tx.init, params), out_shardings=state_sharding(tx, params, layout))
    memory = init.lower().compile().memory_analysis()
    assert memory.output_size_in_bytes + memory.temp_size_in_bytes < 2 * 4 * 1024 * 64 / 8 + 1000


def test_axes_of_slots_of_another_shape_lie_as_those_that_they_come_from() -> None:
    on_mesh = mesh((4, 2), ("data", "model"))
    params = shapes(square=(64, 64), wide=(16, 256))

    def found(tx: Any, name: str) -> Any:
        of_state = state_sharding(tx, params, NamedSharding(on_mesh, P("data", "model")))
        return jax.tree.map(
            lambda slot, sharding: (slot.shape, tuple(sharding.spec)),
            [column[name] for column in jax.eval_shape(tx.init, params).slots[0]],
            [column[name] for column in of_state.slots[0]],
        )

    factored = gx.scale_by_factored_rms(min_dim_size_to_factor=8)
    # The one loses its columns and the other its rows: of a square the shapes do not say which.
    assert found(factored, "square") == [((64,), ("data",)), ((64,), ("model",)), ((1,), (None,))]
    assert found(factored, "wide") == [((16,), ("data",)), ((256,), ("model",)), ((1,), (None,))]
    (codes, *scales), _ = (slot.arrays for slot in found(store(gx.scale_by_adam(), min_size=8), "wide"))
    assert codes == ((16, 256), ("data", "model"))
    assert scales == [((16, 1), ("data", None))] * 2  # a row of one block cannot be cut

    # Specs know no mesh; but one number is never cut.
    tx = store(gx.scale_by_adam(), min_size=8)
    specs = state_sharding(tx, params, P("data", "model")).slots[0].mu["wide"].arrays
    assert list(map(tuple, specs)) == [("data", "model"), ("data", None), ("data", None)]

    history = state_sharding(gx.scale_by_lbfgs(64), params, NamedSharding(on_mesh, P("data", "model")))
    kept = jax.tree.leaves(history.diff_params_memory)
    assert [tuple(sharding.spec) for sharding in kept] == [(None, "data", "model")] * 2


def test_where_another_shape_is_refused_the_sizes_tell() -> None:
    def only_these(params: Any) -> Any:
        assert params["w"].shape in ((16, 64), ())
        return {"w": True}

    tx = gx.masked(gx.scale_by_factored_rms(min_dim_size_to_factor=8), only_these)
    of_state = state_sharding(tx, shapes(w=(16, 64)), P("data", "model"))
    assert [column["w"] for column in of_state.slots[0]] == [P("data"), P("model"), P(None)]


def test_optax_states_and_row_sparse_gradients() -> None:
    params = shapes(table=(64, 4), bias=(3,))
    layout = shard_over(params, mesh(), "data")
    for tx in (optax.adafactor(0.1, min_dim_size_to_factor=4), optax.MultiSteps(optax.adam(0.1), 2)):
        state = jax.eval_shape(tx.init, params)
        for sharding, slot in zip(
            jax.tree.leaves(state_sharding(tx, params, layout)), jax.tree.leaves(state), strict=True
        ):
            assert (tuple(sharding.spec)[:1] == ("data",)) == (slot.shape[:1] == (64,))

    tx = gx.adam(0.1)
    values = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), params)
    rows = gx.RowSparse(jnp.asarray([60, 1, 60]), jnp.arange(12.0).reshape(3, 4), (64, 4))
    grads = {"table": rows, "bias": jnp.ones(3)}
    expected, expected_state = tx.update(grads, tx.init(values), values)
    placed = jax.device_put(values, layout)
    of_state = state_sharding(tx, placed)
    state = jax.jit(tx.init, out_shardings=of_state)(placed)

    def step(grads: Any, state: Any, params: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return gx.apply_updates(params, updates), state

    params, state = jax.jit(step, out_shardings=(layout, of_state))(grads, state, placed)
    assert_close((params, state), (gx.apply_updates(values, expected), expected_state))
    assert state.slots[0].mu["table"].sharding == layout["table"]


def test_parameters_on_one_device_and_in_other_memory() -> None:
    tx, params = gx.sgd(0.1, momentum=0.9), example_params()
    device = SingleDeviceSharding(jax.devices()[1])
    found = state_sharding(tx, jax.device_put(params, device))
    assert set(jax.tree.leaves(found)) == {device}
    host = NamedSharding(mesh(), P(), memory_kind=jax.devices()[0].default_memory().kind)
    assert {each.memory_kind for each in jax.tree.leaves(state_sharding(tx, params, host))} == {
        host.memory_kind
    }


def test_layouts_that_do_not_fit() -> None:
    tx, params = gx.adam(0.1), shapes(w=(8, 2), b=(3,))
    row = NamedSharding(mesh(), P("data"))
    for error, match, given in [
        (ValueError, r"state_sharding: params\['b'\] does not say how it lies.*params_sharding", None),
        (ValueError, r"the parameters\['b'\] has no counterpart in params_sharding", {"w": row}),
        (
            TypeError,
            r"params\['b'\] lies as 'data'; give a jax.sharding.NamedSharding",
            {"w": row, "b": "data"},
        ),
        (TypeError, r"params\['b'\] lies as a PartitionSpec, params\['w'\] as a Named", {"w": row, "b": P()}),
    ]:
        with pytest.raises(error, match=match):
            state_sharding(tx, params, given)
    with pytest.raises(ValueError, match="there are no parameters"):
        state_sharding(tx, {}, row)
    with pytest.raises(ValueError, match="shard_over: the mesh has no axis 'model'; it has 'data'"):
        shard_over(params, mesh(), "model")


def test_which_axis_is_cut() -> None:
    on_mesh = mesh((4, 2), ("data", "model"))
    params = shapes(
        stack=(4, 64, 32),  # the longest, so that a scan over the first axis stays on its device
        wide=(8, 4096),  # not the last, which blocks of bytes lie along
        odd=(50257, 768),
        vector=(12,),
        small=(3,),
        scalar=(),
        none=(0, 8),
    )
    found = {name: tuple(sharding.spec) for name, sharding in shard_over(params, on_mesh, "data").items()}
    assert found == {
        "stack": (None, "data", None),
        "wide": ("data", None),
        "odd": (None, "data"),
        "vector": ("data",),
        "small": (),
        "scalar": (),
        "none": (None, "data"),
    }
    # What other axes of the mesh have taken stays theirs; where nothing else is left, it is shared.
    taken = {**{name: P() for name in params}, "odd": P(None, "model"), "wide": P("model", "data")}
    found = shard_over(params, on_mesh, "data", taken)
    assert tuple(found["odd"].spec) == (None, ("model", "data"))
    assert tuple(found["wide"].spec) == ("model", "data")
    both = shard_over(params, on_mesh, ("data", "model"))
    assert tuple(both["wide"].spec) == (("data", "model"), None)
    chex.assert_trees_all_equal_structs(both, params)
