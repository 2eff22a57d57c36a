"""Shampoo and SOAP: their papers' algorithms in NumPy, and what is true of them for any gradients."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import x64
from numpy.testing import assert_allclose

import gradxform as gx
from gradxform.primitives.shampoo import inverse_root

STEPS = 30


def gradients(*shape: int, steps: int = STEPS, seed: int = 0, imaginary: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    draws = rng.normal(size=(steps, *shape))
    return draws + 1j * rng.normal(size=(steps, *shape)) if imaginary else draws


def updates_of(tx: Any, grads: np.ndarray, params: Any = None) -> np.ndarray:
    def step(state: Any, grad: Any) -> Any:
        update, state = tx.update(grad, state, params)
        return state, update

    start = tx.init(jnp.zeros_like(grads[0]) if params is None else params)
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, start, jnp.asarray(grads)))()[1])


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    eigenvalues, vectors = np.linalg.eigh(matrix)
    return (vectors * eigenvalues**exponent) @ vectors.conj().T


@pytest.mark.parametrize("imaginary", [False, True])
def test_shampoo_of_a_matrix(imaginary: bool) -> None:
    """Gupta et al., algorithm 1."""
    left, right, expected = 1e-4 * np.eye(4), 1e-4 * np.eye(3), []
    for g in gradients(4, 3, imaginary=imaginary):
        left, right = left + g @ g.conj().T, right + g.conj().T @ g
        expected.append(power(left, -1 / 4) @ g @ power(right, -1 / 4))
    with x64():
        actual = updates_of(gx.scale_by_shampoo(eps=1e-4), gradients(4, 3, imaginary=imaginary))
    assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)
    assert_allclose(
        updates_of(gx.scale_by_shampoo(eps=1e-4), gradients(4, 3).astype(np.float32)),
        expected if not imaginary else updates_of(gx.scale_by_shampoo(eps=1e-4), gradients(4, 3)),
        rtol=1e-3,
        atol=1e-4,
    )


def test_shampoo_of_three_axes_in_moving_averages() -> None:
    """Gupta et al., algorithm 2, with the averages of Anil et al. and their bias corrected."""
    moments, expected = [np.zeros((n, n)) for n in (4, 2, 3)], []
    for t, g in enumerate(gradients(4, 1, 2, 3)[:, :, 0], 1):
        u = g
        for axis in range(3):
            rows = np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
            moments[axis] = 0.9 * moments[axis] + 0.1 * rows @ rows.T
            root = power(moments[axis] / (1 - 0.9**t) + 1e-3 * np.eye(len(rows)), -1 / 6)
            u = np.moveaxis(np.tensordot(root, u, (1, axis)), 0, axis)
        expected.append(u[:, None])
    with x64():
        actual = updates_of(gx.scale_by_shampoo(0.9, eps=1e-3), gradients(4, 1, 2, 3))
    assert_allclose(actual, expected, rtol=1e-8, atol=1e-10)


def test_a_vector_gets_full_matrix_adagrad_and_a_number_adagrad() -> None:
    total, expected = 1e-3 * np.eye(5), []
    for g in gradients(5):
        total = total + np.outer(g, g)
        expected.append(power(total, -1 / 2) @ g)
    with x64():
        assert_allclose(updates_of(gx.scale_by_shampoo(eps=1e-3), gradients(5)), expected, rtol=1e-8)
        for shape in ((), (1,), (1, 1)):
            number = updates_of(gx.scale_by_shampoo(eps=1e-7), gradients(*shape))
            assert_allclose(number, updates_of(gx.scale_by_rss(eps=1e-7), gradients(*shape)), rtol=1e-6)


def test_blocks_are_matrices_of_their_own() -> None:
    """5 by 4 in blocks of at most 2: rows of 2, 2 and 1, columns of 2 and 2."""
    grads = gradients(5, 4)
    tx = gx.scale_by_shampoo(eps=1e-3, block_size=2)
    with x64():
        whole = updates_of(tx, grads)
        for rows in (slice(0, 2), slice(2, 4)):
            for columns in (slice(0, 2), slice(2, 4)):
                block = grads[:, rows, columns]
                assert_allclose(whole[:, rows, columns], updates_of(tx, block), rtol=1e-8)
        # The last row's blocks are filled up with zeros, which change nothing.
        filled = np.concatenate([grads, np.zeros((STEPS, 1, 4))], 1)
        assert_allclose(whole, updates_of(tx, filled)[:, :5], rtol=1e-8)


def test_shampoo_turns_with_the_gradient() -> None:
    rng = np.random.default_rng(1)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (4, 3))
    grads = gradients(4, 3)
    with x64():
        turned = updates_of(gx.scale_by_shampoo(), left @ grads @ right)
        assert_allclose(turned, left @ updates_of(gx.scale_by_shampoo(), grads) @ right, rtol=1e-6)


def test_roots_are_kept_between_updates() -> None:
    tx = gx.scale_by_shampoo(update_interval=3)
    grads = gradients(4, 3, steps=7)
    state, roots = tx.init(jnp.zeros((4, 3))), []
    for grad in grads:
        _, state = tx.update(jnp.asarray(grad, jnp.float32), state)
        roots.append(np.asarray(state.slots[0].roots[0]))
    same = [bool((a == b).all()) for a, b in pairwise(roots)]
    assert same == [True, True, False, True, True, False]


def _primitives(jaxpr: Any, depth: int = 0) -> list[tuple[str, int]]:
    """Each primitive of a program, and how many conditions it stands within."""
    found = []
    for equation in jaxpr.eqns:
        found.append((equation.primitive.name, depth))
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += _primitives(inner, depth + (equation.primitive.name == "cond"))
    return found


@pytest.mark.parametrize(
    ("make", "expensive", "calls"),
    [(lambda: gx.shampoo(0.1), "eigh", 2), (lambda: gx.soap(0.1), "qr", 2)],
)
def test_equal_shapes_are_one_call_and_other_steps_cost_none(
    make: Callable[[], Any], expensive: str, calls: int
) -> None:
    """Six matrices of one shape: one decomposition for each axis, within a condition.

    It stands there for a CPU and for anything else, of which one is compiled.
    """
    params = {f"layer{i}": jnp.ones((4, 3)) for i in range(6)}
    tx = make()
    program = jax.make_jaxpr(tx.update)(params, tx.init(params), params)
    depths = [depth for name, depth in _primitives(program.jaxpr) if name == expensive]
    assert len(depths) == 2 * calls
    assert min(depths) >= 2


def test_inverse_root_has_a_slope_where_eigenvalues_are_equal() -> None:
    with x64():
        rng = np.random.default_rng(0)
        vectors = np.linalg.qr(rng.normal(size=(4, 4)))[0]
        change = rng.normal(size=(4, 4))
        change = change + change.T

        def root(matrix: Any) -> Any:
            return inverse_root(matrix, 4, jnp.asarray(1e-3))

        for eigenvalues in ([1.0, 1.0, 2.0, 3.0], [0.5, 0.5, 0.5, 0.5], [1.0, 1.0 + 1e-9, 1.5, 4.0]):
            matrix = jnp.asarray(vectors * eigenvalues @ vectors.T)
            _, slope = jax.jvp(root, (matrix,), (jnp.asarray(change),))
            difference = (root(matrix + 1e-6 * change) - root(matrix - 1e-6 * change)) / 2e-6
            assert_allclose(slope, difference, rtol=1e-6, atol=1e-8)


def soap(grads: np.ndarray, frequency: int, b1: float = 0.95, b2: float = 0.95, eps: float = 1e-8) -> Any:
    """Vyas et al., algorithms 3 and 4, started as in their code: the first gradient makes the basis only."""
    rows, columns = grads.shape[1:]
    m, v, left, right = np.zeros((rows, columns)), np.zeros((rows, columns)), 0.0, 0.0
    ql = qr = np.eye(rows)
    updates = []
    for t, g in enumerate(grads):
        if t == 0:
            updates.append(np.zeros_like(g))
        else:
            m = b1 * m + (1 - b1) * g
            v = b2 * v + (1 - b2) * (ql.T @ g @ qr) ** 2
            rotated = (ql.T @ m @ qr) / (1 - b1**t)
            updates.append(ql @ (rotated / (np.sqrt(v / (1 - b2**t)) + eps)) @ qr.T)
        left, right = b2 * left + (1 - b2) * g @ g.T, b2 * right + (1 - b2) * g.T @ g
        if t == 0:
            ql, qr = (np.linalg.eigh(moment)[1][:, ::-1] for moment in (left, right))
        elif t % frequency == 0:
            order = np.argsort(-np.diag(ql.T @ left @ ql))
            v, ql = v[order], np.linalg.qr(left @ ql[:, order])[0]
            order = np.argsort(-np.diag(qr.T @ right @ qr))
            v, qr = v[:, order], np.linalg.qr(right @ qr[:, order])[0]
    return np.stack(updates)


@pytest.mark.parametrize("frequency", [1, 4])
def test_soap(frequency: int) -> None:
    grads = gradients(3, 3)
    with x64():
        actual = updates_of(gx.scale_by_soap(precondition_frequency=frequency), grads)
    assert_allclose(actual, soap(grads, frequency), rtol=1e-8, atol=1e-10)


def test_soap_without_a_basis_is_adam() -> None:
    for shape, tx in (
        ((4, 3), gx.scale_by_soap(0.9, 0.99, max_precond_dim=1)),
        ((4,), gx.scale_by_soap(0.9, 0.99)),
    ):
        grads = gradients(*shape).astype(np.float32)
        assert_allclose(updates_of(tx, grads), updates_of(gx.scale_by_adam(0.9, 0.99), grads), rtol=1e-6)


def test_soap_of_gradients_along_the_axes_is_adam_one_step_later() -> None:
    """Where the moments are diagonal, so is the basis, up to its order."""
    diagonal = np.stack([np.diag([4.0, 2.0, 1.0]) * s for s in np.linspace(1, -1, 20)])
    later = updates_of(gx.scale_by_adam(0.95, 0.95), diagonal[1:].astype(np.float32))
    actual = updates_of(gx.scale_by_soap(), diagonal.astype(np.float32))
    assert (actual[0] == 0).all()
    assert_allclose(actual[1:], later, rtol=1e-4, atol=1e-5)


def test_soap_of_vectors_if_asked_and_of_complex_arrays_is_finite_and_rotates() -> None:
    state = gx.scale_by_soap(precondition_1d=True).init(jnp.zeros(3))
    assert [basis.shape for basis in state.slots[0].basis] == [(3, 3)]
    updates = updates_of(gx.scale_by_soap(precondition_frequency=2), gradients(3, 2, imaginary=True))
    assert np.isfinite(updates).all()


def _rotated_valley(tx: Any) -> float:
    """How far from its minimum a noisy matrix quadratic ends whose steep directions are no entries."""
    rng = np.random.default_rng(0)
    left, right = (
        jnp.asarray(q @ np.diag(np.geomspace(1, 30, 8)) @ q.T)
        for q in (np.linalg.qr(rng.normal(size=(8, 8)))[0] for _ in range(2))
    )
    target, noise = jnp.asarray(rng.normal(size=(8, 8))), jnp.asarray(rng.normal(size=(500, 8, 8)))

    def step(carry: Any, noise: Any) -> Any:
        w, state = carry
        updates, state = tx.update(left @ (w - target + 0.1 * noise) @ right, state, w)
        return (gx.apply_updates(w, updates), state), None

    w = jnp.zeros((8, 8))
    (w, _), _ = jax.jit(lambda: jax.lax.scan(step, (w, tx.init(w)), noise))()
    return float(jnp.linalg.norm(w - target))


def test_both_pass_through_a_valley_where_adam_does_not() -> None:
    rate = gx.cosine_decay_schedule(0.03, 500)
    adam = _rotated_valley(gx.adam(rate))
    assert _rotated_valley(gx.soap(rate, weight_decay=0.0)) < adam / 5
    assert _rotated_valley(gx.shampoo(rate)) < adam / 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: gx.scale_by_shampoo(block_size=0),
            "scale_by_shampoo: block_size must be an integer of at least 1, got 0",
        ),
        (
            lambda: gx.scale_by_shampoo(b2=gx.tunable(1.0)),
            r"b2 must be in \[0, 1\), for only the number 1, no tunable, makes it a sum, got 1.0",
        ),
        (lambda: gx.shampoo(0.1, eps=0.0), "scale_by_shampoo: eps must be above 0, got 0.0"),
        (
            lambda: gx.soap(0.1, precondition_frequency=0),
            "precondition_frequency must be an integer of at least 1",
        ),
        (lambda: gx.soap(0.1, shampoo_beta=1.0), r"shampoo_beta must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_arguments_are_refused_by_name(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_graft_has_one_direction_and_the_others_length() -> None:
    grads = gradients(3, 2).astype(np.float32)
    both = updates_of(gx.graft(gx.scale_by_shampoo(), gx.scale_by_adam()), grads)
    direction, magnitude = updates_of(gx.scale_by_shampoo(), grads), updates_of(gx.scale_by_adam(), grads)
    lengths = [np.linalg.norm(x.reshape(STEPS, -1), axis=1) for x in (both, magnitude, direction)]
    assert_allclose(lengths[0], lengths[1], rtol=1e-5)
    assert_allclose(both / lengths[0][:, None, None], direction / lengths[2][:, None, None], atol=1e-4)
    with pytest.raises(TypeError, match="graft: clip_by_global_norm in the magnitude needs more than one"):
        gx.graft(gx.scale_by_sign(), gx.clip_by_global_norm(1.0))


def test_a_numpy_one_is_the_sum_too() -> None:
    grads = gradients(3, 2).astype(np.float32)
    expected = updates_of(gx.scale_by_shampoo(1.0), grads)
    assert_allclose(updates_of(gx.scale_by_shampoo(np.float32(1.0)), grads), expected, rtol=1e-6)


def test_an_interval_is_an_integer() -> None:
    for interval in (True, 2.5):
        with pytest.raises(
            TypeError, match=f"update_interval must be an integer of at least 1, got {interval}"
        ):
            gx.shampoo(0.1, update_interval=interval)  # type: ignore[arg-type]
    gx.shampoo(0.1, update_interval=np.int64(3))
