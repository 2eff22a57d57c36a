"""Arithmetic on trees and looking into states: Optax gives the same, and what is wrong is named."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

RNG = np.random.default_rng(0)


def example(dtype: Any = "float32", seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)

    def numbers(*shape: int) -> jax.Array:
        values = rng.normal(size=shape)
        values = values + 1j * rng.normal(size=shape) if dtype == "complex64" else values
        return jnp.asarray(values, dtype)

    return {"w": numbers(2, 3), "b": [numbers(3), None, numbers()], "empty": numbers(0)}


X, Y = example(), example(seed=1)
CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "add": ((X, Y, X), {}),
    "sub": ((X, Y), {}),
    "mul": ((X, Y), {}),
    "div": ((X, Y), {}),
    "scale": ((0.3, X), {}),
    "add_scale": ((X, 0.3, Y), {}),
    "clip": ((X, -0.5, 0.2), {}),
    "conj": ((example("complex64"),), {}),
    "real": ((example("complex64"),), {}),
    "where": ((jnp.asarray(False), X, Y), {}),
    "sum": ((X,), {}),
    "vdot": ((X, Y), {}),
    "norm": ((X,), {}),
    "max": (({"w": X["w"], "b": X["b"]},), {}),
    "min": (({"w": X["w"], "b": X["b"]},), {}),
    "size": ((X,), {}),
    "allclose": ((X, X), {}),
    "zeros_like": ((X, jnp.int32), {}),
    "ones_like": ((X,), {}),
    "full_like": ((X, 7.0), {}),
    "batch_shape": ((X, (2, 3)), {}),
    "split_key_like": ((jax.random.key(0), X), {}),
    "random_like": ((jax.random.key(0), X), {"sampler": jax.random.uniform}),
    "unwrap_random_key_data": (([jax.random.key(3), 1.0],), {}),
    "cast": ((X, jnp.bfloat16), {}),
    "cast_like": ((X, example("bfloat16")), {}),
    "dtype": ((X,), {}),
    "update_moment": ((X, Y, 0.9, 2), {}),
    "update_infinity_moment": ((X, Y, 0.9, 1e-8), {}),
    "update_moment_per_elem_norm": ((example("complex64"), X, 0.9, 2), {}),
    "bias_correction": ((X, 0.9, 3), {}),
}

OTHERS = {"NamedTupleKey", "get", "get_all_with_path", "map_params", "set"}
"""They have tests of their own."""


@pytest.mark.parametrize("name", sorted(gx.tree.__all__))
def test_as_in_optax(name: str) -> None:
    if not hasattr(optax.tree, name):  # an older version has not all of them
        assert name in CASES or name in OTHERS
        return
    ours, theirs = getattr(gx.tree, name), getattr(optax.tree, name)
    if inspect.isfunction(theirs):
        assert [(p.name, p.kind, p.default) for p in inspect.signature(ours).parameters.values()] == [
            (p.name, p.kind, p.default) for p in inspect.signature(theirs).parameters.values()
        ]
    if name not in CASES:
        assert name in OTHERS
        return
    arguments, keywords = CASES[name]
    found, expected = (f(*arguments, **keywords) for f in (ours, theirs))
    if name == "dtype":
        assert found == expected
        return
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.result_type(a) == jnp.result_type(b)
        if jnp.issubdtype(jnp.result_type(a), jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_allclose(np.asarray(a, complex), np.asarray(b, complex), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("order", [1, 2, jnp.inf, "inf", None])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_norms_are_those_of_one_vector(order: Any, squared: bool, dtype: str) -> None:
    tree = example(dtype)
    vector = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    expected = np.linalg.norm(vector, ord=np.inf if order == "inf" else order) ** (2 if squared else 1)
    found = gx.tree.norm(tree, order, squared)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_below_float32_there_is_one_rounding() -> None:
    many = {"w": jnp.full(4096, 0.1, jnp.bfloat16), "b": jnp.ones(2, jnp.bfloat16)}
    one = float(jnp.bfloat16(0.1))
    exact = {
        "sum": 4096 * one + 2,
        "norm": np.sqrt(4096 * one**2 + 2),
        "vdot": 4096 * one**2 + 2,
    }
    for name, value in exact.items():
        arguments = (many, many) if name == "vdot" else (many,)
        found = getattr(gx.tree, name)(*arguments)
        assert found.dtype == jnp.bfloat16
        assert found == jnp.bfloat16(value), name


def test_trees_without_elements() -> None:
    for tree in ({}, {"a": None}):
        assert gx.tree.sum(tree) == gx.tree.vdot(tree, tree) == gx.tree.size(tree) == 0
        assert gx.tree.norm(tree) == gx.tree.norm(tree, jnp.inf) == 0
        assert gx.tree.max(tree) == -np.inf
        assert gx.tree.min(tree) == np.inf
        assert gx.tree.allclose(tree, tree)
    assert gx.tree.max({"a": jnp.zeros(0), "b": -1.0}) == -1


def test_the_gradient_of_a_norm_at_zero_is_zero() -> None:
    assert jax.grad(gx.tree.norm)(jnp.zeros(3)).tolist() == [0, 0, 0]


def test_sums_in_pairs() -> None:
    np.testing.assert_allclose(gx.tree.sum(list(range(101)), True), 5050)


@pytest.mark.parametrize(
    ("handler", "expected"), [("promote", "float32"), ("highest", "float32"), ("lowest", "bfloat16")]
)
def test_the_dtype_of_a_mixed_tree(handler: Any, expected: str) -> None:
    mixed = {"a": jnp.ones(2), "b": jnp.ones(2, jnp.bfloat16), "c": None}
    assert gx.tree.dtype(mixed, handler) == expected == optax.tree.dtype(mixed, handler)
    with pytest.raises(ValueError, match=r"tree\['a'\] has float32, tree\['b'\] has bfloat16"):
        gx.tree.dtype(mixed)


def test_half_precisions_have_no_order() -> None:
    halves = {"a": jnp.ones(2, jnp.float16), "b": jnp.ones(2, jnp.bfloat16)}
    assert gx.tree.dtype(halves, "promote") == "float32"
    with pytest.raises(ValueError, match="bfloat16"):
        gx.tree.dtype(halves, "lowest")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gx.tree.add({"a": 1.0}, {"b": 1.0}), ValueError, r"tree_x\['a'\] has no counterpart"),
        (lambda: gx.tree.sub({"a": jnp.ones(2)}, {"a": jnp.ones(3)}), TypeError, "shapes"),
        (
            lambda: gx.tree.vdot({"a": jnp.ones(2)}, {"a": jnp.ones(())}),
            ValueError,
            r"shapes \(2,\) and \(\)",
        ),
        (lambda: gx.tree.norm({"a": 1.0}, ord=3), ValueError, "ord must be 1, 2, inf or None, got 3"),
        (lambda: gx.tree.cast({"a": 1j}, jnp.float32), TypeError, "take the real part first"),
        (lambda: gx.tree.dtype({"a": 1.0}, "most"), ValueError, "mixed_dtype_handler must be .* got 'most'"),
        (
            lambda: gx.tree.update_moment({"a": jnp.ones(2)}, {"a": jnp.ones(3)}, 0.9, 1),
            ValueError,
            r"shapes \(2,\) and \(3,\) differ",
        ),
    ],
)
def test_what_does_not_fit_is_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        call()
    text = str(raised.value) + "".join(getattr(raised.value, "__notes__", []))
    assert "'a'" in text or "got" in text


# Looking into states.

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}


def mixed() -> gx.GradientTransformation:
    """Our parts and Optax's, one of them masked."""
    mask = {"w": True, "b": False}
    return gx.chain(gx.clip(1.0), optax.trace(0.9), gx.masked(gx.adam(gx.tunable(0.1)), mask))


def test_get_finds_slots_tunables_and_states_of_optax() -> None:
    state = mixed().init(PARAMS)
    assert gx.tree.get(state, "learning_rate") == jnp.float32(0.1)
    assert gx.tree.get(state, "mu")["b"] is None
    assert gx.tree.get(state, "trace")["w"].shape == (2, 3)
    assert type(gx.tree.get(state, "TraceState")) is optax.TraceState
    assert gx.tree.get(state, "nothing") is None
    assert gx.tree.get(state, "nothing", default=3) == 3
    with pytest.raises(KeyError, match=r"2 values for 'count': state\[0\]\.count, state\[2\]\.count"):
        gx.tree.get(state, "count")
    last = gx.tree.get(state, "count", filtering=lambda path, value: path[0].idx == 2)
    assert last == 0


def test_get_in_states_of_optax_as_optax_does() -> None:
    tx = optax.chain(
        optax.inject_hyperparams(optax.adam)(learning_rate=0.1), optax.add_noise(0.1, 0.5, 3), optax.ema(0.9)
    )
    state = tx.init(PARAMS)
    for key in ("mu", "nu", "learning_rate", "b1", "rng_key", "ScaleByAdamState", "EmaState"):
        chosen = lambda path, value: not isinstance(value, float)  # noqa: E731
        ours, theirs = (tree.get(state, key, filtering=chosen) for tree in (gx.tree, optax.tree))
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        assert all(a is b for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    ours, theirs = (
        [(str(jax.tree_util.keystr(path)), value) for path, value in tree.get_all_with_path(state, "count")]
        for tree in (gx.tree, optax.tree)
    )
    assert len(ours) == len(theirs) == 4
    assert [id(value) for _, value in ours] == [id(value) for _, value in theirs]


def test_set_replaces_what_has_the_name_and_nothing_else() -> None:
    state = mixed().init(PARAMS)
    new = gx.tree.set(state, learning_rate=jnp.float32(0.5), trace={"w": 1, "b": 2})
    assert gx.tree.get(new, "learning_rate") == 0.5
    assert new[1] == optax.TraceState({"w": 1, "b": 2})
    assert new[0] is not None
    assert gx.tree.get(new, "mu")["w"] is gx.tree.get(state, "mu")["w"]
    assert gx.tree.get(state, "learning_rate") == jnp.float32(0.1)
    counts = gx.tree.set(state, lambda path, value: path[0].idx == 0, count=jnp.int32(7))
    assert [int(value) for _, value in gx.tree.get_all_with_path(counts, "count")] == [7, 0]


def test_set_names_what_there_is() -> None:
    state = mixed().init(PARAMS)
    with pytest.raises(KeyError, match=r"nothing called 'rate'.*it has LiftState.*learning_rate.*tunable"):
        gx.tree.set(state, rate=0.5)
    with pytest.raises(KeyError, match="filtering leaves nothing called 'mu'"):
        gx.tree.set(state, lambda path, value: False, mu=0)


def test_the_step_takes_a_state_that_was_set() -> None:
    tx = gx.sgd(gx.tunable(0.1))
    update = jax.jit(lambda g, s: tx.update(g, s, PARAMS))
    state = tx.init(PARAMS)
    update(PARAMS, state)
    updates, _ = update(PARAMS, gx.tree.set(state, learning_rate=jnp.float32(0.5)))
    assert updates["w"][0, 0] == -0.5
    assert update._cache_size() == 1


def test_map_params_over_our_states_and_optaxs() -> None:
    tx = mixed()
    state = tx.init(PARAMS)
    names = {"w": "W", "b": "B"}
    mapped = gx.tree.map_params(
        tx, lambda _, name: name, state, names, transform_non_params=lambda leaf: "other"
    )
    assert mapped[1].trace == names
    assert gx.tree.get(mapped, "mu") == {"w": "W", "b": None}
    assert gx.tree.get(mapped, "learning_rate") == "other"
    assert (mapped[0].count, mapped[2].count) == (None, "other")

    theirs = optax.chain(optax.adam(0.1), optax.trace(0.9))
    ours, expected = (
        tree.map_params(theirs, lambda _, name: name, theirs.init(PARAMS), names)
        for tree in (gx.tree, optax.tree)
    )
    assert ours == expected
    assert gx.tree_map_params is gx.tree.map_params


def test_map_params_names_what_does_not_fit() -> None:
    tx = gx.adam(0.1)
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=r"map_params: .*\['b'\] has no counterpart in rest\[0\]"):
        gx.tree.map_params(tx, lambda slot, other: other, state, {"w": 1})
    with pytest.raises(ValueError, match=r"tree.map_params.*Pass the transformation"):
        gx.tree.map_params(gx.sgd(0.1, momentum=0.9), lambda slot: slot, state)


def test_the_old_names() -> None:
    for name in gx.tree_utils.__all__:
        assert getattr(gx.tree_utils, name) is getattr(gx.tree, name.removeprefix("tree_"))
    assert {f"tree_{name}" for name in gx.tree.__all__ if name != "NamedTupleKey"} < {*gx.tree_utils.__all__}
    assert gx.global_norm is gx.tree.norm
