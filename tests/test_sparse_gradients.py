"""Row-sparse gradients of models as they are: JAX's own numbers, and nowhere an array of the table's size."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr

import gradxform as gx
from gradxform.sparse_gradients import sparse_value_and_grad

ROWS, WIDTH = 19, 3
TABLE = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
IDS = np.array([[3, 0, -2], [3, 18, 7]], np.int32)
BEYOND = np.array([[3, 19, -20], [40, 18, 3]], np.int32)


def dense(grads: Any) -> Any:
    return jax.tree.map(
        lambda leaf: leaf.to_dense() if isinstance(leaf, gx.RowSparse) else leaf,
        grads,
        is_leaf=lambda leaf: isinstance(leaf, gx.RowSparse),
    )


def both(loss: Callable[..., Any], *args: Any, has_aux: bool = False, **options: Any) -> tuple[Any, Any]:
    """The value and the gradient, and what JAX says that they are, compiled together."""
    ours = sparse_value_and_grad(loss, has_aux=has_aux, **options)
    theirs = jax.value_and_grad(loss, options.get("argnums", 0), has_aux)
    result: tuple[Any, Any] = jax.jit(lambda *args: (ours(*args), theirs(*args)))(*args)
    return result


def close(left: Any, right: Any, tolerance: float = 1e-6) -> None:
    def same(a: Any, b: Any) -> None:
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    jax.tree.map(same, dense(left), dense(right))


def equations(jaxpr: Any) -> Iterator[Any]:
    """Those of a traced function and of all functions within."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)
        ):
            if isinstance(inner, Jaxpr | ClosedJaxpr):
                yield from equations(getattr(inner, "jaxpr", inner))


def made(function: Callable[..., Any], *args: Any) -> list[tuple[int, ...]]:
    """The shapes of all arrays that a function makes on its way, forwards and backwards."""
    traced = jax.make_jaxpr(function)(*args)
    found = [tuple(var.aval.shape) for eqn in equations(traced.jaxpr) for var in eqn.outvars]
    assert found
    return found


def windows(table: Any, ids: Any) -> Any:
    """Two rows at a time, with the axes of the windows before that of the look-ups."""
    numbers = jax.lax.GatherDimensionNumbers((0, 1), (), (0,))
    return jax.lax.gather(table, ids.reshape(-1, 1), numbers, (2, WIDTH), mode="fill", fill_value=0)


LOOKUPS: dict[str, Callable[[Any, Any], Any]] = {
    "indexing": lambda table, ids: table[ids],
    "one index": lambda table, ids: table[ids[0, 1]],
    "take": lambda table, ids: jnp.take(table, ids, axis=0),
    "take, clipped": lambda table, ids: jnp.take(table, ids, axis=0, mode="clip"),
    "get, filled": lambda table, ids: table.at[ids].get(mode="fill", fill_value=2.0),
    "vmap": lambda table, ids: jax.vmap(jax.vmap(lambda i: table[i]))(ids),
    "vmap, last axis": lambda table, ids: jax.vmap(lambda i: table[i], out_axes=1)(ids[0]),
    "vmap, filled": lambda table, ids: jax.vmap(lambda i: table.at[i].get(mode="fill", fill_value=1.0))(ids),
    "dynamic slice": lambda table, ids: jax.lax.dynamic_slice(table, (ids[1, 2], 0), (4, WIDTH)),
    "vmap of it": lambda table, ids: jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(table, i, 2))(ids[1]),
    "windows": windows,
    "slices as well": lambda table, ids: (table[2:9:3].sum() + table[0]) * table[ids],
    "twice": lambda table, ids: table[ids[0]] * jnp.take(table, ids[1], axis=0),
    "small integers": lambda table, ids: table.at[ids.astype(jnp.uint8)].get(mode="clip"),
    "jit": lambda table, ids: jax.jit(lambda table: (table, table[ids]))(table)[1],
    "checkpoint": lambda table, ids: jax.checkpoint(lambda table, ids: jnp.sin(table[ids]))(table, ids),
    "cast before": lambda table, ids: table.astype(jnp.bfloat16)[ids].astype(jnp.float32),
    "copied before": lambda table, ids: jnp.array(table)[ids],
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_every_spelling_has_jaxs_gradient_without_an_array_of_the_tables_size(name: str) -> None:
    def loss(params: Any, ids: Any) -> Any:
        rows = jnp.nan_to_num(LOOKUPS[name](params["table"], ids))
        weights = jnp.arange(1.0, rows.size + 1).reshape(rows.shape)
        return jnp.sum(jnp.sin(rows * params["scale"]) * weights), rows

    params = {"table": jnp.asarray(TABLE), "scale": jnp.float32(0.7)}
    function = sparse_value_and_grad(loss, has_aux=True)
    compiled = jax.jit(lambda *args: (function(*args), jax.value_and_grad(loss, has_aux=True)(*args)))
    for ids in (IDS, BEYOND):
        ((value, rows), grads), ((expected, expected_rows), expected_grads) = compiled(params, ids)
        assert isinstance(grads["table"], gx.RowSparse)
        assert grads["table"].indices.dtype == jnp.int32
        assert value == pytest.approx(float(expected), rel=1e-6)
        np.testing.assert_array_equal(rows, expected_rows)
        # Where JAX adds up rows in bfloat16, these are added up in the table's float32.
        close(grads, expected_grads, 2e-6 if name != "cast before" else 0.02)
    assert (ROWS, WIDTH) not in made(function, params, IDS)


def test_the_gradient_is_the_rows_that_were_looked_up() -> None:
    weights = np.arange(18.0, dtype=np.float32).reshape(2, 3, WIDTH)
    expected = np.zeros_like(TABLE)
    np.add.at(expected, IDS, weights)
    value, grad = sparse_value_and_grad(lambda table: jnp.sum(table[IDS] * weights))(TABLE)
    assert grad.indices.tolist() == [3, 0, 17, 3, 18, 7]
    np.testing.assert_array_equal(grad.values, weights.reshape(6, WIDTH))
    np.testing.assert_array_equal(grad.to_dense(), expected)
    assert float(value) == pytest.approx(float((TABLE[IDS] * weights).sum()), rel=1e-6)


def test_compiled_it_needs_no_memory_for_the_table() -> None:
    def loss(table: Any, ids: Any) -> Any:
        return jnp.sum(table[ids] ** 2)

    args = jax.ShapeDtypeStruct((100_000, 16), jnp.float32), jax.ShapeDtypeStruct((32,), jnp.int32)
    analysis = jax.jit(sparse_value_and_grad(loss)).lower(*args).compile().memory_analysis()
    assert analysis.temp_size_in_bytes + analysis.output_size_in_bytes < 32 * 16 * 4 * 4


class Words(nn.Module):
    """Embeddings, positions and a layer."""

    dtype: Any = None
    tied: bool = False

    @nn.compact
    def __call__(self, ids: Any) -> Any:
        words = nn.Embed(ROWS, WIDTH, dtype=self.dtype, name="words")
        hidden = words(ids) + nn.Embed(5, WIDTH, name="places")(jnp.arange(ids.shape[1]))
        hidden = jnp.tanh(nn.Dense(WIDTH)(hidden))
        return words.attend(hidden) if self.tied else hidden


class NnxWords(nnx.Module):
    """Embeddings and a layer."""

    def __init__(self) -> None:
        self.words = nnx.Embed(ROWS, WIDTH, rngs=nnx.Rngs(0))
        self.layer = nnx.Linear(WIDTH, 2, rngs=nnx.Rngs(1))

    def __call__(self, ids: Any) -> Any:
        return self.layer(self.words(ids))


class EquinoxWords(eqx.Module):
    """Embeddings and a layer, of one word."""

    words: eqx.nn.Embedding
    layer: eqx.nn.Linear

    def __call__(self, i: Any) -> Any:
        return self.layer(self.words(i))


def linen(module: nn.Module) -> tuple[Any, Callable[..., Any]]:
    return module.init(jax.random.key(0), IDS), module.apply


def flax_nnx() -> tuple[Any, Callable[..., Any]]:
    graph, params = nnx.split(NnxWords())
    return params, lambda params, ids: nnx.remat(lambda model, ids: model(ids))(nnx.merge(graph, params), ids)


def equinox() -> tuple[Any, Callable[..., Any]]:
    keys = jax.random.split(jax.random.key(0))
    model = EquinoxWords(eqx.nn.Embedding(ROWS, WIDTH, key=keys[0]), eqx.nn.Linear(WIDTH, 2, key=keys[1]))
    return model, lambda model, ids: jax.vmap(jax.vmap(model))(ids)


def haiku() -> tuple[Any, Callable[..., Any]]:
    model = hk.without_apply_rng(hk.transform(lambda ids: hk.Linear(2)(hk.Embed(ROWS, WIDTH)(ids))))
    return model.init(jax.random.key(0), IDS), model.apply


MODELS: dict[str, tuple[Callable[[], tuple[Any, Callable[..., Any]]], int]] = {
    "linen": (lambda: linen(Words()), 2),
    "linen, in bfloat16": (lambda: linen(Words(jnp.bfloat16)), 2),
    "linen, under remat": (lambda: linen(nn.remat(Words)()), 2),
    "linen, tied": (lambda: linen(Words(tied=True)), 1),
    "nnx, under remat": (flax_nnx, 1),
    "equinox": (equinox, 1),
    "haiku": (haiku, 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_other_libraries_as_they_are(name: str) -> None:
    make, tables = MODELS[name]
    params, apply = make()

    def loss(params: Any, ids: Any) -> Any:
        return jnp.mean(jnp.square(apply(params, ids).astype(jnp.float32)))

    ids = IDS % ROWS
    (value, grads), (expected, expected_grads) = both(loss, params, ids)
    sparse = [x for x in jax.tree.leaves(grads, is_leaf=is_sparse) if is_sparse(x)]
    assert len(sparse) == tables
    assert jax.tree.structure(dense(grads)) == jax.tree.structure(params)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    close(grads, expected_grads, 1e-6 if "bfloat16" not in name else 3e-3)


def is_sparse(leaf: Any) -> bool:
    return isinstance(leaf, gx.RowSparse)


def test_checkpoint_still_recomputes() -> None:
    def loss(table: Any, ids: Any) -> Any:
        return jax.checkpoint(lambda table: jnp.sum(jnp.sin(jnp.sin(table[ids]))))(table)

    def sines(function: Callable[..., Any]) -> int:
        traced = jax.make_jaxpr(function)(TABLE, IDS)
        return sum(equation.primitive.name == "sin" for equation in equations(traced.jaxpr))

    assert sines(sparse_value_and_grad(loss)) == sines(jax.value_and_grad(loss)) > 2


def test_an_untied_use_of_the_same_leaf_makes_it_dense_and_stop_gradient_does_not() -> None:
    def loss(params: Any, ids: Any) -> Any:
        return jnp.sum(params["a"][ids] * params["b"][ids]) + jnp.sum(params["a"] ** 2)

    def still(params: Any, ids: Any) -> Any:
        held = jax.lax.stop_gradient(params)
        norms = {name: jnp.linalg.norm(held[name]) for name in held}
        return jnp.sum(params["a"][ids] * params["b"][ids] * held["b"].mean(0)), (norms, params)

    params = {"a": TABLE, "b": TABLE + 1, "c": TABLE}
    (_, grads), (_, expected) = both(loss, params, IDS)
    assert [is_sparse(grads[name]) for name in "abc"] == [False, True, False]
    close(grads, expected)
    ((_, (norms, same)), grads), (_, expected) = both(still, params, IDS, has_aux=True)
    assert [is_sparse(grads[name]) for name in "abc"] == [True, True, False]
    close(grads, expected)
    assert float(norms["a"]) == pytest.approx(float(np.linalg.norm(TABLE)), rel=1e-6)
    np.testing.assert_array_equal(same["b"], params["b"])


@pytest.mark.parametrize(
    ("of_table", "said"),
    [
        (
            lambda t, i: t[i] @ t.T,
            r"params\['in'\]\['table'\] is used by transpose, not only to look rows up",
        ),
        (lambda t, i: t[i] * t.mean(), "is used by reduce_sum"),
        (lambda t, i: t[i, 1], "is used by gather"),
        (lambda t, i: jax.lax.map(lambda j: t[j], i), "is passed to scan; look its rows up before"),
        (lambda t, i: jax.lax.cond(i[0, 0] > 0, lambda: t[i], lambda: 0.0 * t[i]), "is passed to cond"),
        (lambda t, i: own_derivative(t, i), "is used by custom_jvp_call"),
    ],
    ids=["transposed", "averaged", "elements", "scan", "cond", "own derivative"],
)
def test_a_named_table_that_is_used_otherwise_is_refused(of_table: Callable[..., Any], said: str) -> None:
    def loss(params: Any) -> Any:
        return jnp.sum(of_table(params["in"]["table"], IDS) ** 2)

    params = {"in": {"table": jnp.asarray(TABLE)}, "out": None}
    with pytest.raises(TypeError, match=rf"^sparse_value_and_grad: .*{said}.*it gets a dense gradient$"):
        sparse_value_and_grad(loss, tables={"in": True, "out": False})(params)
    left_out = sparse_value_and_grad(loss, tables=lambda params: {"in": False, "out": None})
    functions = left_out, sparse_value_and_grad(loss), jax.value_and_grad(loss)
    *ours, expected = jax.jit(lambda params: [function(params) for function in functions])(params)
    for result in ours:
        jax.tree.map(np.testing.assert_array_equal, result, expected)


@jax.custom_jvp
def own_derivative(table: Any, ids: Any) -> Any:
    return table[ids]


own_derivative.defjvp(lambda primals, tangents: (own_derivative(*primals), 2 * tangents[0][primals[1]]))


def test_what_tables_may_be() -> None:
    def loss(table: Any, name: str, bias: Any, *, shift: Any) -> Any:
        assert name == "any object"
        return jnp.sum((table[IDS] + bias[IDS][..., None] + shift) ** 2)

    def of_both(argnums: Any, tables: Any = None) -> Any:
        function = sparse_value_and_grad(loss, argnums, tables=tables)
        return jax.eval_shape(
            lambda table, bias: function(table, "any object", bias, shift=1.0)[1], TABLE, TABLE[:, 0]
        )

    table, bias = of_both((0, -1))
    assert (table.values.shape, bias.values.shape) == ((6, WIDTH), (6,))
    table, bias = of_both((0, 2), tables=(True, False))
    assert (table.values.shape, bias.shape) == ((6, WIDTH), (ROWS,))
    _, grad = sparse_value_and_grad(loss, -1)(TABLE, "any object", TABLE[:, 0], shift=1.0)
    # Each row has three columns, of which the bias is added to each.
    expected = np.zeros(ROWS)
    np.add.at(expected, IDS, 2 * (TABLE[IDS] + TABLE[IDS, :1] + 1).sum(-1))
    np.testing.assert_allclose(grad.to_dense(), expected, rtol=1e-6)

    # A slice alone makes no table, unless it is said to be one; one that is not used has no rows.
    def unused(params: Any) -> Any:
        return jnp.sum(params["w"][:4] ** 2)

    cut = {"w": TABLE, "v": TABLE}
    assert not any(map(is_sparse, sparse_value_and_grad(unused)(cut)[1].values()))
    (_, grads), (_, expected) = both(unused, cut, tables=True)
    assert grads["w"].indices.tolist() == [0, 1, 2, 3]
    assert grads["v"].values.shape == (0, WIDTH)
    close(grads, expected)


def test_what_is_no_table_no_parameter_or_no_loss() -> None:
    def unused(params: Any) -> Any:
        return jnp.sum(params["w"][:4] ** 2)

    cut = {"w": TABLE, "v": TABLE}
    with pytest.raises(TypeError, match=r"params\['b'\] is a single number and has no rows"):
        sparse_value_and_grad(lambda params: params["b"] ** 2, tables=True)({"b": 1.0})
    with pytest.raises(ValueError, match=r"sparse_value_and_grad: .*'u'"):
        sparse_value_and_grad(unused, tables={"w": True, "u": False})(cut)
    with pytest.raises(TypeError, match=r"params\['ids'\] has dtype int32"):
        sparse_value_and_grad(unused)({**cut, "ids": IDS})
    with pytest.raises(TypeError, match="argnums=2 is beyond the 1 positional arguments"):
        sparse_value_and_grad(unused, argnums=2)(cut)
    with pytest.raises(TypeError, match=r"with has_aux the function must return \(value, aux\)"):
        sparse_value_and_grad(unused, has_aux=True)(cut)
    with pytest.raises(TypeError, match="scalar-output"):
        sparse_value_and_grad(lambda table: table[IDS])(TABLE)


@jax.custom_vjp
def doubled_backwards(x: Any) -> Any:
    return x


doubled_backwards.defvjp(lambda x: (x, None), lambda _, cotangent: (2 * cotangent,))


def test_all_else_is_as_jax_does_it(capfd: pytest.CaptureFixture[str]) -> None:
    def loss(params: Any, ids: Any, key: Any) -> Any:
        rows = doubled_backwards(params["table"][ids])
        kept = jax.random.bernoulli(key, 0.5, rows.shape) * rows

        def cell(carry: Any, row: Any) -> Any:
            new = jax.nn.relu(carry @ params["w"] + row)
            return new, jnp.linalg.norm(new)

        last, norms = jax.lax.scan(cell, jnp.ones((3, WIDTH)), kept)
        jax.debug.print("largest {}", rows.max(), ordered=True)
        return jnp.sum(jax.lax.cond(norms[0] > norms[1], jnp.sin, jnp.cos, last)), {
            "norms": norms,
            "key": key,
        }

    params = {"table": TABLE, "w": np.eye(WIDTH, dtype=np.float32), "bias": 0.5}
    key = jax.random.key(3)
    ((value, aux), grads), ((expected, aux_expected), expected_grads) = both(
        loss, params, IDS, key, has_aux=True
    )
    assert is_sparse(grads["table"])
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(aux["norms"], aux_expected["norms"], rtol=1e-6)
    assert aux["key"] == key
    close(grads, expected_grads)
    jax.effects_barrier()
    assert capfd.readouterr().out.count("largest") == 2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.complex64])
def test_other_dtypes(dtype: Any) -> None:
    table = jnp.asarray(TABLE).astype(dtype) * jnp.asarray(1 + 2j if dtype == jnp.complex64 else 1, dtype)

    def loss(table: Any) -> Any:
        return jnp.sum(jnp.abs(table[IDS[0]] * table[IDS[1]]).astype(jnp.float32) ** 2)

    (_, grad), (_, expected) = both(loss, table)
    assert grad.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(grad.to_dense(), np.complex64),
        np.asarray(expected, np.complex64),
        rtol=1e-6 if dtype == jnp.complex64 else 0.02,
        atol=1e-6,
    )


def test_in_64_bits() -> None:
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        table, far = jnp.asarray(TABLE, jnp.float64), jnp.asarray(IDS[0], jnp.int64) + 2**32
        numbers = jax.lax.GatherDimensionNumbers((1,), (0,), (0,))

        def loss(table: Any, far: Any) -> Any:
            clipped = jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(table, i, 1)[0])(far)
            filled = jax.lax.gather(table, far[:, None], numbers, (1, WIDTH), mode="fill", fill_value=1)
            return jnp.sum(jnp.sin(clipped * filled * table[far - 2**32]))

        (_, grad), (_, expected) = both(loss, table, far)
        assert (grad.dtype, grad.indices.dtype) == (jnp.float64, jnp.int32)
        assert grad.indices.tolist() == [ROWS - 1] * 3 + [ROWS] * 3 + [3, 0, ROWS - 2]
        np.testing.assert_allclose(grad.to_dense(), expected, rtol=1e-13, atol=1e-13)


def test_a_sharded_table() -> None:
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:4]), ("rows",))
    by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))

    def loss(table: Any, ids: Any) -> Any:
        return jnp.sum(jax.lax.with_sharding_constraint(table, by_rows)[ids] ** 3)

    table = jnp.concatenate([TABLE, TABLE[:1]])  # 20 rows
    (_, grad), (_, expected) = both(loss, jax.device_put(table, by_rows), IDS)
    assert is_sparse(grad)
    close(grad, expected)


def test_the_sign_of_zero_stays() -> None:
    table = jnp.asarray([[-0.0], [0.0]])
    value, _ = sparse_value_and_grad(lambda table: jnp.sum(1 / table[jnp.asarray([0])]))(table)
    assert value == -jnp.inf


def test_it_is_a_function_like_any_other_to_jax() -> None:
    def loss(table: Any, ids: Any) -> Any:
        return jnp.sum(jnp.sin(table[ids]) ** 3)

    tables, ids = jnp.stack([TABLE, TABLE + 1]), jnp.stack([IDS, IDS[::-1] + 1])
    _, grads = jax.jit(jax.vmap(sparse_value_and_grad(loss)))(tables, ids)
    assert grads.indices.shape == (2, 6)
    expected = jax.jit(jax.vmap(jax.grad(loss)))(tables, ids)
    close(jax.vmap(lambda grad: grad.to_dense())(grads), expected)

    def along(value_and_grad: Callable[..., Any]) -> Any:
        gradient = lambda table: dense(value_and_grad(loss)(table, IDS)[1])  # noqa: E731
        return jax.jit(lambda table: jax.jvp(gradient, (table,), (jnp.ones_like(table),))[1])(TABLE)

    close(along(sparse_value_and_grad), along(jax.value_and_grad), 1e-5)
