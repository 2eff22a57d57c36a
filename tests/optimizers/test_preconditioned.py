"""Shampoo and SOAP against the papers' algorithms in NumPy float64, and what must hold of both."""

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import x64
from numpy.testing import assert_allclose, assert_array_equal

import gradxform as gx
from gradxform.optimizers.preconditioned import shampoo, soap
from gradxform.primitives.kronecker import inverse_root, scale_by_shampoo, scale_by_soap

STEPS = 30
SHAPES = {"matrix": (4, 1, 3), "cube": (2, 3, 4), "vector": (4,), "number": ()}


def draw(shape: tuple[int, ...], steps: int = STEPS, *, imaginary: bool = False) -> np.ndarray:
    rng = np.random.default_rng(7 + math.prod(shape))
    parts = rng.normal(size=(1 + imaginary, steps, *shape))
    return parts[0] + 1j * parts[1] if imaginary else parts[0]


def all_updates(tx: Any, grads: Any) -> Any:
    """Every step's updates, in one scan."""
    start = tx.init(jax.tree.map(lambda grad: grad[0], grads))

    def step(state: Any, grad: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grad, state, grad)
        return state, updates

    return jax.tree.map(np.asarray, jax.jit(lambda: jax.lax.scan(step, start, grads)[1])())


def error(got: Any, expected: Any) -> float:
    """The distance as a part of the expected norm."""
    return float(np.linalg.norm(np.ravel(got - expected)) / np.linalg.norm(np.ravel(expected)))


def unfold(x: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def turn(x: np.ndarray, matrices: dict[int, np.ndarray]) -> np.ndarray:
    for axis, matrix in matrices.items():
        x = np.moveaxis(np.tensordot(matrix, x, (1, axis)), 0, axis)
    return x


def diagonal(method: str, grads: np.ndarray, b2: float, eps: float) -> np.ndarray:
    """All updates of the method, without momentum."""
    squares, out = 0.0, []
    for t, g in enumerate(grads, 1):
        squares = squares + abs(g) ** 2 if method == "adagrad" else b2 * squares + (1 - b2) * abs(g) ** 2
        corrected = squares / (1 - b2**t) if method == "adam" else squares
        root = np.sqrt(corrected + eps) if method == "adagrad" else np.sqrt(corrected) + eps
        out.append(g if method == "sgd" else g / root)
    return np.stack(out)


def shampoo_in_numpy(
    grads: np.ndarray,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    graft: str | None = "adam",
    update_interval: int = 10,
    start_preconditioning_step: int = 0,
    exponent_override: int | None = None,
    relative_eps: bool = True,
    nesterov: bool = False,
) -> np.ndarray:
    axes = [axis for axis, length in enumerate(grads.shape[1:]) if length > 1]
    p = exponent_override or 2 * len(axes)
    plain = diagonal(graft or ("adagrad" if b2 == 1 else "adam"), grads, b2, 1e-8)
    factors, roots, m, out = dict.fromkeys(axes, 0.0), {}, 0.0, []
    for t, (g, b) in enumerate(zip(grads, plain, strict=True), 1):
        for axis in axes:
            product = unfold(g, axis) @ unfold(g, axis).conj().T
            factors[axis] = b2 * factors[axis] + (1 if b2 == 1 else 1 - b2) * product
            if (t - 1) % update_interval == 0:
                known = factors[axis] / (1 if b2 == 1 else 1 - b2**t)
                values, vectors = np.linalg.eigh(known)
                values = values + eps * (np.trace(known).real if relative_eps else 1)
                roots[axis] = (vectors * values ** (-1 / p)) @ vectors.conj().T
        if len(axes) < 2 or t <= start_preconditioning_step:
            d = b
        else:
            d = turn(g, roots)
            d = d * np.linalg.norm(b) / np.linalg.norm(d) if graft else d
        m = b1 * m + (1 - b1) * d
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * d / (1 - b1**t)
        out.append(ahead if nesterov else m / (1 - b1**t))
    return np.stack(out)


ORIGINAL = {"b1": 0.0, "b2": 1.0, "eps": 1e-3, "graft": None, "update_interval": 1, "relative_eps": False}
SHAMPOO: dict[str, dict[str, Any]] = {
    "original": ORIGINAL,
    "averages": {"b2": 0.9, "graft": None, "update_interval": 3},
    "adam": {},
    "adagrad": {"graft": "adagrad", "b2": 1.0, "exponent_override": 2},
    "rmsprop": {"graft": "rmsprop", "nesterov": True, "start_preconditioning_step": 7, "update_interval": 5},
}


@pytest.mark.parametrize("case", SHAMPOO)
def test_shampoo_of_the_papers(case: str) -> None:
    with x64():
        grads = {name: draw(shape) for name, shape in SHAPES.items()}
        updates = all_updates(scale_by_shampoo(**SHAMPOO[case]), grads)
    for name, grad in grads.items():
        assert error(updates[name], shampoo_in_numpy(grad, **SHAMPOO[case])) < 1e-10, name


def soap_in_numpy(
    grads: np.ndarray, max_dim: int, frequency: int, skip: bool, b1: float = 0.95, b2: float = 0.95
) -> np.ndarray:
    """The paper's algorithms 3 and 4, the first moment in the parameter's own axes."""
    axes = [axis for axis, length in enumerate(grads.shape[1:]) if 1 < length <= max_dim]
    factors: Any = dict.fromkeys(axes, 0.0)
    bases: dict[int, np.ndarray] = {}
    m: Any = 0.0
    v: Any = 0.0
    out = []
    for count, g in enumerate(grads):
        for axis in axes:
            product = unfold(g, axis) @ unfold(g, axis).conj().T
            factors[axis] = b2 * factors[axis] + (1 - b2) * product
            if count == 0:
                bases[axis] = np.linalg.eigh(factors[axis])[1][:, ::-1]
        if count == 0 and skip:
            out.append(0 * g)
            continue
        t = count + 1 - skip
        back = {axis: q.conj().T for axis, q in bases.items()}
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * abs(turn(g, back)) ** 2
        out.append(turn(turn(m, back) / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + 1e-8), bases))
        if count and count % frequency == 0:
            for axis in axes:
                products = factors[axis] @ bases[axis]
                order = np.argsort(-np.diag(bases[axis].conj().T @ products).real)
                v = np.take(v, order, axis)
                bases[axis] = np.linalg.qr(products[:, order])[0]
    return np.stack(out)


@pytest.mark.parametrize(("frequency", "max_dim", "imaginary"), [(1, 100, True), (5, 3, False)])
def test_soap_of_the_paper(frequency: int, max_dim: int, imaginary: bool) -> None:
    # The first gradient's null spaces have one dimension at most: then its eigenvectors are unique.
    shapes = {name: SHAPES[name] for name in ("matrix", "cube")}
    with x64():
        grads = {name: draw(shape, imaginary=imaginary) for name, shape in shapes.items()}
        updates = all_updates(scale_by_soap(precondition_frequency=frequency, max_precond_dim=max_dim), grads)
    for name, grad in grads.items():
        assert error(updates[name], soap_in_numpy(grad, max_dim, frequency, True)) < 1e-9, name


def test_soap_may_use_its_first_gradient() -> None:
    with x64():
        grads = draw((2, 3, 4))  # its unfoldings are of full rank, so that no direction is rounding alone
        updates = all_updates(scale_by_soap(skip_first=False, precondition_frequency=3), grads)
    assert error(updates, soap_in_numpy(grads, 100, 3, False)) < 1e-9


def test_complex_shampoo() -> None:
    case: dict[str, Any] = {"graft": "sgd", "b2": 0.95, "update_interval": 4}
    with x64():
        grads = draw((4, 3), imaginary=True)
        updates = all_updates(scale_by_shampoo(**case), grads)
    assert error(updates, shampoo_in_numpy(grads, **case)) < 1e-10


@pytest.mark.parametrize("graft", [None, "sgd"])
def test_blocks_are_arrays_of_their_own(graft: Any) -> None:
    """Also those at the ends, which zeros fill up; the graft's length alone is the whole leaf's."""
    make = partial(scale_by_shampoo, b1=0.0, update_interval=2)
    with x64():
        grads = draw((7, 6))
        grid = [[grads[:, i : i + 4, j : j + 4] for j in (0, 4)] for i in (0, 4)]
        whole, parts = (
            all_updates(make(graft=graft, block_size=4), grads),
            all_updates(make(graft=None), grid),
        )
    joined = np.concatenate([np.concatenate(row, 2) for row in parts], 1)
    if graft:
        joined *= np.divide(*(np.linalg.norm(x, axis=(1, 2), keepdims=True) for x in (grads, joined)))
    assert error(whole, joined) < 1e-9


def primitives(jaxpr: Any, inside: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The name of every operation, with the names of those that it is part of."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        yield name, inside
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "jaxpr")):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from primitives(getattr(inner, "jaxpr", inner), (*inside, name))


@pytest.mark.parametrize(
    ("make", "name", "calls"),
    [(scale_by_shampoo, "eigh", 2), (scale_by_soap, "eigh", 2), (scale_by_soap, "qr", 2)],
)
def test_equal_shapes_are_one_decomposition_in_a_condition(make: Any, name: str, calls: int) -> None:
    grads = [jnp.ones((4, 3))] * 5
    tx = make()
    jaxpr = jax.make_jaxpr(tx.update)(grads, tx.init(grads)).jaxpr
    found = [inside for primitive, inside in primitives(jaxpr) if primitive == name]
    assert len(found) == calls
    assert all("cond" in inside for inside in found)


def test_roots_stay_between_their_updates() -> None:
    tx, grads = scale_by_shampoo(update_interval=3), draw((4, 3), 8).astype(np.float32)
    state, roots = tx.init(grads[0]), []
    for grad in grads:
        _, state = tx.update(grad, state)
        roots.append(np.asarray(state.slots[0].roots[0]))
    changed = [not np.array_equal(before, after) for before, after in pairwise(roots)]
    assert changed == [False, False, True, False, False, True, False]


@pytest.mark.parametrize("graft", ["sgd", "rmsprop", "adam"])
def test_the_graft_gives_the_length(graft: Any) -> None:
    grads = {"w": draw((6, 5)), "cube": draw((2, 3, 4))}
    with x64():
        updates = all_updates(scale_by_shampoo(b1=0.0, graft=graft, block_size=4), grads)
    for name, grad in grads.items():
        lengths = [
            np.linalg.norm(x.reshape(STEPS, -1), axis=1)
            for x in (np.asarray(updates[name]), diagonal(graft, grad, 0.999, 1e-8))
        ]
        assert_allclose(*lengths, rtol=1e-12)


def test_shampoo_turns_with_the_gradients() -> None:
    left, right = (np.linalg.qr(draw((n, n), 1)[0])[0] for n in (5, 3))
    make = partial(scale_by_shampoo, graft="sgd", update_interval=4)
    with x64():
        grads = draw((5, 3))
        straight, turned = all_updates(make(), grads), all_updates(make(), left @ grads @ right.T)
    assert error(turned, left @ straight @ right.T) < 1e-10


def test_soap_without_a_basis_is_adam() -> None:
    grads = {name: draw(shape).astype(np.float32) for name, shape in SHAPES.items()}
    mine = soap(0.1, b1=0.9, b2=0.99, max_precond_dim=1, weight_decay=0.0)
    updates, expected = all_updates(mine, grads), all_updates(gx.adam(0.1, 0.9, 0.99), grads)
    jax.tree.map(assert_array_equal, updates, expected)


@pytest.mark.parametrize("make", [scale_by_shampoo, partial(scale_by_shampoo, graft=None), scale_by_soap])
def test_zero_gradients_move_nothing(make: Any) -> None:
    tx, zeros = make(), {"matrix": np.zeros((12, 4, 3), np.float32), "vector": np.zeros((12, 4), np.float32)}
    jax.tree.map(assert_array_equal, all_updates(tx, zeros), zeros)

    def loss(grads: Any) -> Any:
        return sum(jnp.sum(update) for update in jax.tree.leaves(tx.update(grads, tx.init(grads))[0]))

    slopes = jax.jit(jax.grad(loss))(jax.tree.map(lambda x: x[0], zeros))
    assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(slopes))


def test_the_slope_of_an_inverse_root() -> None:
    with x64():
        a, change, h = np.diag([4.0, 4.0, 1.0]), draw((3, 3), 1)[0], 1e-6
        change = change + change.T
        _, slope = jax.jvp(lambda x: inverse_root(x, 4), (a,), (change,))
        above, below = (np.asarray(inverse_root(a + sign * h * change, 4)) for sign in (1, -1))
    assert error(np.asarray(slope), (above - below) / (2 * h)) < 1e-8


@pytest.mark.parametrize("make", [partial(shampoo, block_size=3), partial(soap, precondition_frequency=2)])
def test_dtypes_odd_leaves_and_vmap(make: Any) -> None:
    tx = make(gx.tunable(0.1), b2=gx.tunable(0.9), eps=lambda count: 1e-6 / (count + 1.0))
    params = {"half": jnp.ones((4, 5), jnp.bfloat16), "empty": jnp.ones((0, 3)), "one": jnp.ones((1, 1))}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    state = tx.init(params)
    assert jax.tree.map(jnp.shape, tx.init(shapes)) == jax.tree.map(jnp.shape, state)
    updates, new = jax.jit(tx.update)(params, state, params)
    assert jax.tree.map(jnp.result_type, (updates, new)) == jax.tree.map(jnp.result_type, (params, state))
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {np.dtype(np.float32), np.dtype(np.int32)}
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    stacked, _ = jax.jit(jax.vmap(tx.update))(many, jax.vmap(tx.init)(many), many)
    assert_allclose(*(np.asarray(x, np.float32) for x in (stacked["half"][0], updates["half"])), rtol=1e-2)


def test_both_pass_through_a_valley_where_adam_does_not() -> None:
    left, right = (np.linalg.qr(draw((n, n), 1)[0])[0] * np.geomspace(1, 0.03, n) for n in (8, 6))
    target = draw((8, 6), 1)[0]

    def loss(w: Any) -> Any:
        return jnp.sum((left.T @ (w - target) @ right) ** 2) / 2

    def end(tx: Any) -> float:
        def step(carry: Any, _: None) -> tuple[Any, None]:
            w, state = carry
            updates, state = tx.update(jax.grad(loss)(w), state, w)
            return (gx.apply_updates(w, updates), state), None

        start = jnp.zeros((8, 6))
        (w, _), _ = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), None, 300))()
        return float(loss(w))

    rate = gx.cosine_decay_schedule(0.1, 300)
    adam = end(gx.adam(rate))
    assert end(shampoo(rate)) < adam / 4
    assert end(soap(rate, weight_decay=0.0)) < adam / 100


def test_decay_is_decoupled_and_masked() -> None:
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for make in (shampoo, soap):
        tx = make(0.5, weight_decay=0.1, mask={"w": True, "b": False})
        updates, _ = tx.update(zeros, tx.init(params), params)
        assert_allclose(updates["w"], -0.05, rtol=1e-6)
        assert_array_equal(updates["b"], 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: shampoo(0.1, block_size=0),
            "scale_by_shampoo: block_size must be an integer above 0, got 0",
        ),
        (lambda: shampoo(0.1, update_interval=2.5), "update_interval must be an integer above 0, got 2.5"),
        (
            lambda: shampoo(0.1, start_preconditioning_step=-1),
            "start_preconditioning_step must be an integer",
        ),
        (lambda: shampoo(0.1, exponent_override=0), "exponent_override must be an integer above 0, got 0"),
        (lambda: shampoo(0.1, graft="lion"), r"graft must be one of \['sgd', .* or None, got 'lion'"),
        (lambda: shampoo(0.1, b2=1.0), "graft='adam' averages squares, so b2 must be below 1, got 1.0"),
        (
            lambda: shampoo(0.1, graft=None, start_preconditioning_step=3),
            "start_preconditioning_step needs a graft, got None",
        ),
        (lambda: shampoo(0.1, eps=0.0), "scale_by_shampoo: eps must be above 0, got 0.0"),
        (lambda: soap(0.1, precondition_frequency=True), "precondition_frequency must be an integer above 0"),
        (lambda: soap(0.1, max_precond_dim=0), "scale_by_soap: max_precond_dim must be an integer above 0"),
        (lambda: soap(0.1, shampoo_beta=1.0), r"scale_by_soap: shampoo_beta must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
