"""Row-sparse gradients: through every rule of element scope, and refused by name where they cannot go."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import CATALOGUE, Entry, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

import gradxform as gx
from gradxform.rule import Lift

ROWS, WIDTH = 7, 3


def sparse(indices: list[int], values: Any, rows: int = ROWS) -> gx.RowSparse:
    values = np.asarray(values, np.float32)
    return gx.RowSparse(np.asarray(indices, np.int32), values, (rows, *values.shape[1:]))


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=6, max_size=6))  # 5 stands for no row
def test_coalesce_sums_rows_and_sorts(indices: list[int]) -> None:
    values = drawn(0, 6, 2)
    grad = sparse(indices, values, rows=5)
    dense = np.zeros((6, 2), np.float32)
    np.add.at(dense, indices, values)
    together = grad.coalesce()
    kept = np.asarray(together.indices)
    assert (np.diff(kept) > 0).all()
    assert kept[kept < 5].tolist() == sorted({index for index in indices if index < 5})
    for form in (grad, together):
        np.testing.assert_allclose(form.to_dense(), dense[:5], rtol=1e-6, atol=1e-6)
    assert not np.asarray(together.values)[kept >= 5].any()


def test_what_it_is_made_of_is_checked() -> None:
    with pytest.raises(IndexError, match=r"index 9 is out of range for an array of 7 rows"):
        sparse([0, 9], drawn(0, 2, 3))
    with pytest.raises(IndexError, match="index -1 is out of range"):
        sparse([-1], drawn(0, 1, 3))
    with pytest.raises(ValueError, match=r"need values of shape \(2, 3\), got \(2, 4\)"):
        gx.RowSparse(np.arange(2), drawn(0, 2, 4), (7, 3))
    with pytest.raises(ValueError, match="indices must have one axis"):
        gx.RowSparse(np.zeros((2, 2), int), drawn(0, 2, 2, 3), (7, 3))
    grad = sparse([0], drawn(0, 1, 3))
    with pytest.raises(TypeError, match="Arithmetic on trees reaches the indices too"):
        jax.tree.map(lambda leaf: 0.5 * leaf, {"table": grad})


def test_under_jit_what_is_out_of_range_is_dropped() -> None:
    values = drawn(0, 4, 2)

    @jax.jit
    def dense(indices: Any) -> Any:
        grad = gx.RowSparse(indices, values, (5, 2))
        return grad.to_dense(), grad.coalesce().to_dense()

    expected = np.zeros((5, 2), np.float32)
    expected[3] = values[0] + values[2]
    for result in dense(np.asarray([3, 5, 3, -2])):
        np.testing.assert_allclose(result, expected, rtol=1e-6)


RANDOM = ("add_noise", "noisy_sgd")
BY_ELEMENT = [
    entry
    for entry in CATALOGUE
    if isinstance(tx := entry.make(), Lift)
    and all(rule.scope == "element" and rule.mask is None for rule in tx.rules)
    and entry.name not in RANDOM
]


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in BY_ELEMENT])
def test_touched_rows_fare_as_a_small_dense_table(entry: Entry) -> None:
    """On the rows that each step touches, the rule does what it does to an array of these rows alone."""
    touched = [5, 0, 3]
    table = drawn(1, ROWS, WIDTH)
    grads = [drawn(seed, len(touched), WIDTH) for seed in (2, 3, 4)]
    tx, twin = entry.make(), entry.make()
    params: Any = {"table": jnp.asarray(table)}
    rows: Any = {"table": jnp.asarray(table[touched])}
    step = jax.jit(tx.update)
    # The twin's tree has the untouched rows nowhere, so what is summed over the tree is the same.
    state, twin_state = tx.init(params), twin.init(rows)
    whole = [leaf.shape == (ROWS, WIDTH) for leaf in jax.tree.leaves(state) if getattr(leaf, "ndim", 0) == 2]
    before = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (ROWS, WIDTH)]
    assert all(whole)
    for grad in grads:
        updates, state = step({"table": sparse(touched, grad)}, state, params)
        twin_updates, twin_state = twin.update({"table": jnp.asarray(grad)}, twin_state, rows)
        assert isinstance(updates["table"], gx.RowSparse)
        dense = updates["table"].to_dense()
        np.testing.assert_allclose(dense[np.asarray(touched)], twin_updates["table"], rtol=2e-5, atol=1e-6)
        params, rows = gx.apply_updates(params, updates), gx.apply_updates(rows, twin_updates)
    np.testing.assert_allclose(params["table"][np.asarray(touched)], rows["table"], rtol=2e-5, atol=1e-6)
    untouched = [row for row in range(ROWS) if row not in touched]
    np.testing.assert_array_equal(params["table"][np.asarray(untouched)], table[untouched])
    after = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (ROWS, WIDTH)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new[np.asarray(untouched)], old[np.asarray(untouched)])


def test_most_of_the_catalogue_is_by_element() -> None:
    names = {entry.name for entry in BY_ELEMENT}
    assert {"sgd", "momentum", "adagrad", "rmsprop", "adadelta", "adam", "adabelief", "lion"} <= names
    assert len(names) > 40


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_lazy_is_dense_where_zeros_change_nothing(name: str) -> None:
    """The whole table against Optax's dense optimizer, with repeated rows and other leaves beside it."""
    tx = {"sgd": gx.sgd(0.1), "adagrad": gx.adagrad(0.1, initial_accumulator_value=0.1)}[name]
    dense_tx = {"sgd": optax.sgd(0.1), "adagrad": optax.adagrad(0.1)}[name]
    params: Any = {"table": jnp.asarray(drawn(1, ROWS, WIDTH)), "bias": jnp.zeros(WIDTH)}
    dense_params = params
    state, dense_state = tx.init(params), dense_tx.init(params)
    for seed, indices in enumerate([[1, 4, 1], [4, 4, 4], [6, 0, ROWS]]):
        bias = jnp.asarray(drawn(seed, WIDTH))
        grad = sparse(indices, drawn(seed + 5, 3, WIDTH))
        updates, state = tx.update({"table": grad, "bias": bias}, state, params)
        params = gx.apply_updates(params, updates)
        dense = {"table": grad.to_dense(), "bias": bias}
        dense_updates, dense_state = dense_tx.update(dense, dense_state, dense_params)
        dense_params = optax.apply_updates(dense_params, dense_updates)
    assert_close(params, dense_params, rtol=1e-6, atol=1e-6)


def test_the_global_norm_counts_each_row_once() -> None:
    grad = sparse([2, 2, 0], [[3.0], [1.0], [3.0]])  # rows 4 and 3: norm 5, with twelve beside it 13
    tree = {"table": grad, "w": jnp.asarray([12.0])}
    params = {"table": jnp.zeros((ROWS, 1)), "w": jnp.zeros(1)}
    tx = gx.chain(gx.clip_by_global_norm(6.5), gx.scale(2.0))
    updates, _ = tx.update(tree, tx.init(params))
    np.testing.assert_allclose(updates["table"].to_dense()[np.asarray([0, 2]), 0], [3.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(updates["w"], [12.0], rtol=1e-6)
    np.testing.assert_allclose(gx.global_norm(tree), 13.0, rtol=1e-6)


def test_what_needs_whole_arrays_names_the_leaf() -> None:
    params = {"emb": {"table": jnp.ones((ROWS, WIDTH))}}
    grads = {"emb": {"table": sparse([1], drawn(0, 1, WIDTH))}}
    for tx, who in ((gx.muon(0.1), "orthogonalize"), (gx.adafactor(0.1), ""), (gx.lamb(0.1), "")):
        with pytest.raises(TypeError, match=rf"{who}.* needs whole arrays, but grads\['emb'\]\['table'\]"):
            tx.update(grads, tx.init(params), params)
    for wrapped in (gx.MultiSteps(gx.sgd(0.1), 2), gx.sam(gx.sgd(0.1), gx.sgd(0.1)), gx.flatten(gx.sgd(0.1))):
        with pytest.raises(TypeError, match=r"grads\['emb'\]\['table'\] is row-sparse.* Put densify\(\)"):
            wrapped.update(grads, wrapped.init(params), params)
    with pytest.raises(TypeError, match=r"tree.vdot: tree_x\['emb'\]\['table'\] is row-sparse"):
        gx.tree.vdot(grads, params)
    dense = gx.chain(gx.densify(), gx.lamb(0.1))
    updates, _ = dense.update(grads, dense.init(params), params)
    assert updates["emb"]["table"].shape == (ROWS, WIDTH)
    with pytest.raises(ValueError, match=r"\['table'\] has shape \(7, 3\), its parameter has shape \(8, 3\)"):
        gx.sgd(0.1).update(grads, gx.sgd(0.1).init(params), {"emb": {"table": jnp.ones((8, WIDTH))}})


def test_guards_and_masks_pass_rows_on() -> None:
    params: Any = {"table": jnp.ones((ROWS, WIDTH)), "w": jnp.ones(2)}
    grads: Any = {"table": sparse([1, 1], drawn(0, 2, WIDTH)), "w": jnp.ones(2)}
    broken = {**grads, "table": sparse([1, 2], np.full((2, WIDTH), np.nan))}
    expected, _ = gx.adam(0.1).update(grads, gx.adam(0.1).init(params), params)
    tx = gx.apply_if_finite(gx.adam(0.1), 3)
    update = jax.jit(tx.update)
    updates, state = update(broken, tx.init(params), params)
    assert not np.asarray(updates["table"].to_dense()).any()
    updates, state = update(grads, state, params)
    np.testing.assert_allclose(updates["table"].to_dense(), expected["table"].to_dense(), rtol=1e-6)
    partitioned = gx.partition({"rows": gx.adam(0.1), "rest": gx.sgd(1.0)}, {"table": "rows", "w": "rest"})
    updates, _ = partitioned.update(grads, partitioned.init(params), params)
    np.testing.assert_allclose(updates["table"].to_dense(), expected["table"].to_dense(), rtol=1e-6)
    np.testing.assert_allclose(updates["w"], [-1.0, -1.0])


def test_narrow_tables_and_scan() -> None:
    """A bfloat16 table in a compiled loop: the state keeps its types, and the float32 sum is rounded once."""
    params = {"table": jnp.ones((ROWS, 2), jnp.bfloat16)}
    tx = gx.chain(gx.sgd(0.5, momentum=0.9), gx.master_copy())

    def step(carry: Any, values: Any) -> Any:
        params, state = carry
        grad = gx.RowSparse(jnp.asarray([2, 2]), values, (ROWS, 2))
        updates, state = tx.update({"table": grad}, state, params)
        return (gx.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(
        step, (params, tx.init(params)), jnp.full((3, 2, 2), 1e-3, jnp.bfloat16)
    )
    small = float(jnp.bfloat16(1e-3)) * 2 * 0.5
    moved = 1 - small * (1 + 1.9 + 2.71)
    np.testing.assert_allclose(state.slots[-1].master["table"][2], moved, rtol=1e-6)
    assert params["table"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["table"][2], jnp.full(2, moved, jnp.bfloat16))
    np.testing.assert_array_equal(params["table"][3], jnp.ones(2, jnp.bfloat16))


@pytest.mark.parametrize("name", ["dog", "dowg", "prodigy", "dadapt_adamw", "momo", "momo_adam"])
def test_what_measures_all_parameters_refuses_rows(name: str) -> None:
    """Its distances and inner products are over the whole tree; over the touched rows they are others."""
    tx, params = getattr(gx, name)(), {"table": jnp.ones((ROWS, WIDTH))}
    grads = {"table": sparse([1], drawn(0, 1, WIDTH))}
    with pytest.raises(TypeError, match=rf"{name} needs whole arrays, but grads\['table'\] is row-sparse"):
        tx.update(grads, tx.init(params), params, value=1.0)
    whole = gx.chain(gx.densify(), tx)
    updates, _ = whole.update(grads, whole.init(params), params, value=1.0)
    dense, _ = tx.update({"table": grads["table"].to_dense()}, tx.init(params), params, value=1.0)
    assert_close(updates, dense, rtol=1e-6, atol=1e-9)
