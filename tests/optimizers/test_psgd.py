"""PSGD against the papers' equations in NumPy float64, and by what its preconditioner is for."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import run, x64
from numpy.testing import assert_allclose, assert_array_equal

import gradxform as gx
from gradxform.optimizers.psgd import kron
from gradxform.primitives.psgd import KronSlots, _fit, precond_update_prob_schedule, scale_by_kron

STEPS = 30
SHAPES = {"bias": (4,), "cube": (2, 3, 4), "s": (), "twins": [(5, 3), (5, 3)]}


@jax.jit
def probes(key: Any) -> list[jax.Array]:
    """What the rule promises to draw, for each leaf all steps."""

    def of_leaf(leaf: int, shape: tuple[int, ...]) -> jax.Array:
        def draw(t: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, t), leaf), shape, float)

        return jax.vmap(draw)(jnp.arange(STEPS))

    return [of_leaf(i, x.shape) for i, x in enumerate(jax.tree.leaves(tree(0)))]


def tree(seed: int, *outer: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: rng.normal(size=(*outer, *shape)), SHAPES, is_leaf=lambda node: isinstance(node, tuple)
    )


class Paper:
    """The equations for one array, on the whole Kronecker product as one matrix."""

    def __init__(self, shape: tuple[int, ...], diagonal: set[int], scale: float) -> None:
        self.shape, self.diagonal = shape or (1,), diagonal
        self.q = [scale ** (1 / len(self.shape)) * np.eye(size) for size in self.shape]
        self.m, self.t = np.zeros(shape), 0

    def product(self) -> np.ndarray:
        whole = np.ones((1, 1))
        for q in self.q:
            whole = np.kron(whole, q)
        return whole

    def rows(self, vector: np.ndarray, axis: int) -> np.ndarray:
        return np.moveaxis(vector.reshape(self.shape), axis, 0).reshape(self.shape[axis], -1)

    def fit(self, seen: np.ndarray, probe: np.ndarray, rate: float) -> None:
        a = self.product() @ seen.ravel()
        b = np.linalg.inv(self.product()).T @ probe.ravel()
        for axis in range(len(self.shape)):
            ours, theirs = (rows @ rows.T for rows in (self.rows(a, axis), self.rows(b, axis)))
            if axis in self.diagonal:
                ours, theirs = np.diag(np.diag(ours)), np.diag(np.diag(theirs))
                norm = (ours + theirs).max()
            else:
                both = ours + theirs
                column = both[:, np.linalg.norm(both, axis=0).argmax()]
                norm = np.linalg.norm(both @ column) / np.linalg.norm(column)
            self.q[axis] = self.q[axis] - rate / norm * np.triu(ours - theirs) @ self.q[axis]

    def step(self, grad: np.ndarray, probe: np.ndarray | None, into: bool) -> np.ndarray:
        self.m = 0.8 * self.m + 0.2 * grad
        self.t += 1
        average = self.m / (1 - 0.8**self.t)
        if probe is not None:
            self.fit(average if into else grad, probe, 0.3)
        u = self.product().T @ self.product() @ average.ravel()
        return np.reshape(u / max(1, np.sqrt(np.mean(u**2)) / 1.1), grad.shape)


# Which axes are diagonal, leaf by leaf.
CASES: dict[str, tuple[dict[str, Any], list[set[int]]]] = {
    "plain": ({}, [{0}, set(), {0}, set(), set()]),
    "one_diag": ({"memory_save_mode": "one_diag"}, [{0}, {2}, {0}, {0}, {0}]),
    "all_diag": ({"memory_save_mode": "all_diag"}, [{0}, {0, 1, 2}, {0}, {0, 1}, {0, 1}]),
    "short": ({"max_size_triangular": 3, "min_ndim_triangular": 3}, [{0}, {2}, {0}, {0, 1}, {0, 1}]),
    "gradient": (
        {"momentum_into_precond_update": False, "min_ndim_triangular": 0},
        [set(), set(), {0}, set(), set()],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equations_in_float64(case: str) -> None:
    options, diagonal = CASES[case]
    grads = tree(1, STEPS)
    with x64():
        key = jax.random.key(5)
        tx = scale_by_kron(
            0.8,
            lambda count: jnp.where(count < 10, 1.0, 0.375),
            preconditioner_lr=0.3,
            preconditioner_init_scale=0.7,
            key=key,
            **options,
        )
        state = tx.init(tree(0))
        ends, updates = jax.jit(lambda state: jax.lax.scan(lambda s, g: tx.update(g, s)[::-1], state, grads))(
            state
        )
        slots, updates, draws = jax.tree.map(np.asarray, (ends.slots[0], updates, probes(key)))
    leaves, updates = jax.tree.leaves(grads), jax.tree.leaves(updates)
    papers = [Paper(g.shape[1:], diagonal[i], 0.7) for i, g in enumerate(leaves)]
    due = 0.0
    for t in range(STEPS):
        due += 1.0 if t < 10 else 0.375
        fits, due = due >= 1, due % 1
        for paper, grad, draw, update in zip(papers, leaves, draws, updates, strict=True):
            expected = paper.step(grad[t], draw[t] if fits else None, case != "gradient")
            assert_allclose(update[t], expected, rtol=1e-10, atol=1e-12)
    mus, ends = jax.tree.leaves(slots.mu), jax.tree.structure(grads).flatten_up_to(slots.factors)
    for paper, mu, factors in zip(papers, mus, ends, strict=True):
        assert_allclose(mu, paper.m, rtol=1e-12)
        assert_allclose([abs(q).max() for q in factors], abs(factors[0]).max(), rtol=1e-12)
        for q, expected in zip(factors, paper.q, strict=True):
            square = np.diag(q) if q.ndim == 1 else q
            assert_allclose(square / abs(q).max(), expected / abs(expected).max(), rtol=1e-9, atol=1e-12)


def test_it_whitens() -> None:
    """Gradients of a covariance that is a Kronecker product come out with the identity for theirs."""
    rng = np.random.default_rng(0)
    left, right = (rng.normal(size=(n, n)) * np.geomspace(0.1, 3, n)[:, None] for n in (3, 4))
    tx = scale_by_kron(0.0, 1.0, preconditioner_lr=lambda t: 0.3 / (1 + t / 100), max_rms=np.inf)

    @jax.jit
    def whitened() -> Any:
        def step(state: Any, key: Any) -> Any:
            u, state = tx.update(left @ jax.random.normal(key, (3, 4)) @ right.T, state)
            return state, u.ravel()

        return jax.lax.scan(step, tx.init(jnp.zeros((3, 4))), jax.random.split(jax.random.key(1), 8000))[1]

    late = np.asarray(whitened())[3000:]
    covariance = late.T @ late / len(late)
    assert abs(covariance - np.eye(12)).max() < 0.2
    assert np.linalg.cond(np.kron(left, right)) > 100


def test_leaves_of_equal_shape_are_one_call_and_other_steps_fit_nothing() -> None:
    twins = [jnp.ones((5, 3))] * 4
    tx = scale_by_kron()
    state = tx.init(twins)

    before, _, _ = str(jax.make_jaxpr(tx.update)(twins, state)).partition("cond[")
    assert "triangular_solve[" not in before
    lowered = jax.jit(tx.update).trace(twins, state).lower(lowering_platforms=("cuda",)).as_text()
    assert lowered.count("stablehlo.triangular_solve") == 2  # one for each axis, for all four


def test_the_probability_is_honoured() -> None:
    grad = [np.ones(3, np.float32)]
    tx = scale_by_kron(0.0, lambda count: jnp.where(count < 20, 1.0, 0.3))
    step = jax.jit(tx.update)
    state, changes = tx.init(grad), []
    for _ in range(120):
        before = state.slots[0].factors
        _, state = step(grad, state)
        changes.append(not np.array_equal(before[0][0], state.slots[0].factors[0][0]))
    assert all(changes[:20])
    assert sum(changes[20:]) in (29, 30)
    never, state = run(scale_by_kron(0.0, 0.0), grad, [grad] * 3)
    assert_array_equal(never[-1][0], grad[0])


def test_the_schedule() -> None:
    p = precond_update_prob_schedule(0.9, 0.1, 0.01, 50)
    count = np.asarray([0, 50, 51, 150, 10_000, 2**31 - 1])
    assert_allclose(p(count), np.maximum(0.9 * np.exp(-0.01 * np.maximum(count - 50.0, 0)), 0.1), rtol=1e-6)
    assert "precond_update_prob_schedule" in repr(p * 0.5)
    default = scale_by_kron()
    value = gx.get_hyperparams(default.init([1.0]))["preconditioner_update_probability"]
    assert value == 1


def test_a_triangle_of_one_element_is_a_diagonal() -> None:
    grad, probe = jnp.asarray([2.0]), jnp.asarray([0.5])
    for scale in (0.1, 1.0, 3.0):
        (full,) = _fit((jnp.full((1, 1), scale),), grad, probe, 0.1)
        (diagonal,) = _fit((jnp.full(1, scale),), grad, probe, 0.1)
        assert_allclose(full.ravel(), diagonal, rtol=1e-6)


def test_zero_gradients_move_nothing() -> None:
    params = {"bias": jnp.ones(3), "kernel": jnp.ones((2, 3))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = scale_by_kron()
    start = tx.init(params)
    updates, state = run(tx, params, [zeros] * 5)
    jax.tree.map(lambda update: assert_array_equal(update, 0), updates)
    jax.tree.map(assert_array_equal, state.slots, start.slots)


@pytest.mark.parametrize("size", [1e-30, 1e18])
def test_huge_and_tiny_gradients(size: float) -> None:
    rng = np.random.default_rng(0)
    grads = [(size * rng.normal(size=(4, 3))).astype(np.float32) for _ in range(600)]
    tx = scale_by_kron()
    state, step = tx.init(grads[0]), jax.jit(tx.update)
    for grad in grads:
        update, state = step(grad, state)
        assert np.isfinite(update).all()
    assert 0.3 < np.sqrt(np.mean(update**2)) <= 1.1001
    assert all(np.diagonal(q).min() > 0 for q in state.slots[0].factors)


def test_dtypes_and_odd_leaves() -> None:
    params = {"empty": jnp.zeros((0, 3)), "half": jnp.ones((2, 2), jnp.bfloat16), "none": None, "s": 0.5}
    tx = kron(0.1, mu_dtype=jnp.bfloat16)
    updates, state = run(tx, params, [params] * 3)
    slots: KronSlots = state.slots[0]
    assert updates[-1]["half"].dtype == slots.mu["half"].dtype == jnp.bfloat16
    assert {q.dtype for q in jax.tree.leaves(slots.factors)} == {jnp.dtype("float32")}
    assert jax.tree.map(jnp.shape, updates[-1]) == jax.tree.map(jnp.shape, params)
    low = scale_by_kron(precond_dtype=jnp.bfloat16).init(params)
    assert {q.dtype for q in jax.tree.leaves(low.slots[0].factors)} == {jnp.dtype(jnp.bfloat16)}
    with x64():
        double = jnp.ones((2, 2), jnp.float64)
        for kept, dtype in ((jnp.float32, jnp.float64), (jnp.float64, jnp.float32)):
            tx, grad = scale_by_kron(precond_dtype=kept, mu_dtype=kept), double.astype(dtype)
            update, state = jax.eval_shape(tx.update, grad, tx.init(grad))
            assert update.dtype == grad.dtype
            assert {q.dtype for q in state.slots[0].factors} == {jnp.dtype(kept)}


def test_the_key() -> None:
    grads = [{"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.float32)}] * 2
    first, other, same = (
        run(scale_by_kron(key=key), grads[0], grads)[0][-1] for key in (0, 1, jax.random.PRNGKey(0))
    )
    assert_array_equal(first["a"], same["a"])
    assert not np.allclose(first["a"], other["a"])
    assert not np.allclose(first["a"], first["b"])


def test_errors_name_the_argument() -> None:
    for name, value, allowed in (
        ("memory_save_mode", "two_diag", "must be one of None, 'one_diag', 'all_diag', got 'two_diag'"),
        ("min_ndim_triangular", -1, "must be an integer of at least 0, got -1"),
        ("b1", 1.0, r"must be in \[0, 1\), got 1.0"),
        ("preconditioner_update_probability", 1.5, r"must be in \[0, 1\], got 1.5"),
        ("preconditioner_lr", 1.0, r"must be in \[0, 1\), got 1.0"),
        ("preconditioner_init_scale", 0.0, "must be a finite number above 0, got 0.0"),
        ("max_rms", 0.0, "must be above 0, got 0.0"),
    ):
        with pytest.raises(ValueError, match=f"scale_by_kron: {name} {allowed}"):
            kron(0.1, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"max_size_triangular must be an integer of at least 0, got 1\.5"):
        kron(0.1, max_size_triangular=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"scale_by_kron: key must be jax.random.key\(0\).*got 'seed'"):
        kron(0.1, key="seed")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="precond_update_prob_schedule: min_prob must be in"):
        precond_update_prob_schedule(min_prob=2.0)
    with pytest.raises(TypeError, match="scale_by_kron whitens real numbers; wrap it in split_real_and_imag"):
        kron(0.1).init([jnp.ones(2, jnp.complex64)])
    wrapped = gx.split_real_and_imaginary(kron(0.1))
    updates, _ = run(wrapped, [jnp.ones(2, jnp.complex64)], [[jnp.ones(2, jnp.complex64)]])
    assert updates[0][0].dtype == jnp.complex64


def distance(tx: Any, gradient: Any, start: Any, goal: Any, steps: int) -> float:
    def step(carry: Any, _: None) -> Any:
        params, state = carry
        updates, state = tx.update(gradient(params), state, params)
        return (gx.apply_updates(params, updates), state), None

    (end, _), _ = jax.jit(lambda start: jax.lax.scan(step, (start, tx.init(start)), None, steps))(start)
    return float(jnp.linalg.norm(end - goal))


def test_it_descends_an_ill_conditioned_quadratic_and_rosenbrock() -> None:
    """Where the curvature is a rotated Kronecker product it outruns Adam, whose axes are the parameters'."""
    rng = np.random.default_rng(0)
    rotations = [np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2)]
    left, right = (q @ np.diag(np.geomspace(1, 100, 6)) @ q.T for q in rotations)
    start = jnp.asarray(rng.normal(size=(6, 6)), jnp.float32)
    rate = gx.cosine_decay_schedule(0.1, 1000)
    ends = [distance(tx, lambda w: left @ w @ right, start, 0.0, 1000) for tx in (kron(rate), gx.adam(rate))]
    assert ends[0] < 1e-2, ends
    assert ends[0] < ends[1] / 10, ends

    rosenbrock = jax.grad(lambda w: (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2)
    tx = kron(gx.cosine_decay_schedule(0.05, 2000), min_ndim_triangular=1)
    assert distance(tx, rosenbrock, jnp.asarray([-1.2, 1.0]), 1.0, 2000) < 1e-2


def test_decay_and_tunables() -> None:
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = kron(
        gx.tunable(0.5), weight_decay=0.1, weight_decay_mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    )
    (updates,), _ = run(tx, params, [zeros])
    assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    assert_array_equal(updates["bias"], 0)
    tx = scale_by_kron(
        gx.tunable(0.9), gx.tunable(0.5), preconditioner_lr=gx.tunable(0.2), max_rms=gx.tunable(0.3)
    )
    state = gx.set_hyperparams(tx.init(params), max_rms=0.1)
    updates, _ = tx.update(params, state)
    assert_allclose(updates["bias"], 0.1, rtol=1e-6)
