"""Newton-Schulz against Optax's, against singular value decompositions, and for what it costs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import x64
from numpy.testing import assert_allclose
from optax.contrib._muon import orthogonalize_via_newton_schulz as optaxs

import gradxform as gx

STANDARD = (3.4445, -4.7750, 2.0315)
CONVERGING = (2.0, -1.5, 0.5)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_it_is_optaxs(preconditioning: Any) -> None:
    rows = np.asarray([STANDARD, (3.0, -3.5, 1.5), CONVERGING])
    with x64():
        for coefficients, steps, shapes in (
            (np.asarray(STANDARD), 5, ((5, 5), (9, 4), (130, 300))),
            (rows, 9, ((4, 9),)),
        ):
            for shape in shapes:
                x, arguments = jnp.asarray(draw(*shape)), (jnp.asarray(coefficients), steps, preconditioning)
                got = gx.orthogonalize_via_newton_schulz(x, *arguments)
                assert_allclose(got, optaxs(x, *arguments), rtol=1e-9, atol=1e-12)
            axes = {"reduction_axis": (3, 0), "output_axis": -3}
            x = jnp.asarray(draw(2, 7, 3, 2))
            got = gx.orthogonalize_via_newton_schulz(
                x, *arguments, dimension_numbers=gx.MuonDimensionNumbers(**axes)
            )
            expected = optaxs(x, *arguments, dimension_numbers=optax.contrib.MuonDimensionNumbers(**axes))
            assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


def spectra(n: int) -> dict[str, np.ndarray]:
    return {
        "one large": np.r_[1, np.full(n - 1, 0.002)],
        "three decades": np.geomspace(1, 1e-3, n),
        "six decades": np.geomspace(1, 1e-6, n),
        "power law": 1 / np.arange(1, n + 1),
        "half nothing": np.r_[np.ones(n // 2), np.full(n - n // 2, 1e-9)],
        "flat": np.ones(n),
    }


@pytest.mark.parametrize("spectrum", spectra(2))
@pytest.mark.parametrize("steps", [4, 5])
def test_the_small_matrix_keeps_the_digits(spectrum: str, steps: int) -> None:
    """In float32 it is not much further from float64 than Optax, whose steps are all on the wide matrix."""
    rows, columns = 128, 384
    left, right = (np.linalg.qr(draw(n, rows, seed=n))[0] for n in (rows, columns))
    singular = spectra(rows)[spectrum]
    wanted = singular / np.linalg.norm(singular)
    for _ in range(steps):
        a, b, c = STANDARD
        wanted = a * wanted + b * wanted**3 + c * wanted**5
    exact = (left * wanted) @ right.T
    x, coefficients = jnp.asarray((left * singular) @ right.T, jnp.float32), jnp.asarray(STANDARD)

    def error(f: Any) -> float:
        got = np.asarray(jax.jit(lambda x: f(x, coefficients, steps))(x), np.float64)
        return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))

    assert error(gx.orthogonalize_via_newton_schulz) < 4 * error(optaxs) + 1e-6


def test_wide_matrices_cost_less() -> None:
    x, coefficients = jnp.zeros((128, 512)), jnp.asarray(STANDARD)

    def operations(f: Any) -> float:
        """Of the matrix products."""
        text = jax.make_jaxpr(lambda x: f(x, coefficients))(x)
        return sum(
            2.0
            * np.prod(e.outvars[0].aval.shape)
            * e.invars[0].aval.shape[e.params["dimension_numbers"][0][0][0]]
            for e in equations(text.jaxpr)
            if e.primitive.name == "dot_general"
        )

    ratio = operations(gx.orthogonalize_via_newton_schulz) / operations(optaxs)
    assert_allclose(ratio, (8 * 4 + 28) / (20 * 4 + 10))  # products of n³ and, four times as dear, of n²m


def equations(jaxpr: Any) -> list[Any]:
    found = []
    for equation in jaxpr.eqns:
        inner = [
            getattr(p, "jaxpr", p)
            for p in equation.params.values()
            if hasattr(getattr(p, "jaxpr", p), "eqns")
        ]
        times = equation.params.get("length", 1)
        found += [equation, *(e for each in inner for e in equations(each))] * (times if inner else 1)
    return found


@pytest.mark.parametrize("shape", [(3, 5), (6, 4), (128, 200)])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_it_converges_to_the_polar_factor(shape: tuple[int, int], dtype: Any) -> None:
    x = draw(*shape).astype(dtype)
    if dtype is np.complex128:
        x = x + 1j * draw(*shape, seed=1)
    u, _, vh = np.linalg.svd(x, full_matrices=False)
    with x64():
        for preconditioning in ("frobenius", "spectral", "schatten"):
            got = gx.orthogonalize_via_newton_schulz(jnp.asarray(x), CONVERGING, 40, preconditioning)  # type: ignore[arg-type]
            assert got.dtype == dtype
            assert_allclose(got, u @ vh, atol=1e-9)


def test_half_precision_is_rounded_once() -> None:
    x = jnp.asarray(draw(4, 6), jnp.bfloat16)
    got = gx.orthogonalize_via_newton_schulz(x, STANDARD)
    wide = gx.orthogonalize_via_newton_schulz(x.astype(jnp.float32), STANDARD)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, wide.astype(jnp.bfloat16))


def test_zero_stays_zero_without_epsilon() -> None:
    for preconditioning in ("frobenius", "spectral", "schatten", "aol"):
        for shape in ((2, 3), (0, 3), (3, 0)):
            got = gx.orthogonalize_via_newton_schulz(jnp.zeros(shape), STANDARD, 5, preconditioning, 0.0)  # type: ignore[arg-type]
            np.testing.assert_array_equal(got, np.zeros(shape))


def test_matrices_of_equal_shape_are_one_call() -> None:
    def products(count: int) -> int:
        tx, params = gx.scale_by_muon(), [jnp.ones((4, 6))] * count
        return jax.jit(tx.update).lower(params, tx.init(params)).as_text().count("dot_general")

    assert products(5) == products(1) == 3 * 5


def test_adaptive_multiplies_by_the_dual_norm() -> None:
    x = jnp.asarray(draw(5, 3), jnp.float32)
    tx = gx.scale_by_muon(CONVERGING, 30, beta=0.0, nesterov=False, adaptive=True)
    u, singular, vh = np.linalg.svd(x, full_matrices=False)
    assert_allclose(tx.update(x, tx.init(x))[0], singular.sum() * u @ vh, rtol=1e-4)


def test_coefficients_and_momentum_may_change_over_the_steps() -> None:
    """A schedule of whole rows, a tunable of three, and a scheduled momentum."""
    grads = [jnp.asarray(draw(3, 4, seed=seed), jnp.float32) for seed in range(3)]
    rows = jnp.asarray([STANDARD, CONVERGING, CONVERGING])

    def ends(tx: Any, state: Any) -> list[Any]:
        updates = []
        for grad in grads:
            update, state = tx.update(grad, state)
            updates.append(np.asarray(update))
        return updates

    fixed = [gx.scale_by_muon(c, beta=0.5) for c in (STANDARD, CONVERGING)]
    first, second = (ends(tx, tx.init(grads[0])) for tx in fixed)
    scheduled = gx.scale_by_muon(lambda count: rows[count], beta=0.5)
    for got, expected in zip(ends(scheduled, scheduled.init(grads[0])), [first[0], *second[1:]], strict=True):
        assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    held = gx.scale_by_muon(gx.tunable(np.asarray(STANDARD, np.float32)), beta=lambda count: 0.5)
    state = gx.set_hyperparams(held.init(grads[0]), ns_coeffs=np.asarray(CONVERGING))
    for got, expected in zip(ends(held, state), second, strict=True):
        assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("axes", "shape", "width", "rms"),
    [
        (None, (2, 8), 2.0, 8**0.5),
        (None, (8, 2), 1.0, 8**0.5),
        (gx.MuonDimensionNumbers(1, 0), (8, 2), 2.0, 8**0.5),
        (gx.MuonDimensionNumbers(0, (1, 2)), (2, 3, 6), 3.0, 18**0.5),
        (gx.MuonDimensionNumbers(0, -1), (2, 9, 8), 2.0, 8**0.5),
        (None, (0, 3), 3**0.5, 3**0.5),
    ],
)
def test_the_factor_of_a_shape(axes: Any, shape: Any, width: float, rms: float) -> None:
    x = jnp.ones(shape)
    for tx, factor in ((gx.scale_by_shape(axes), width), (gx.scale_by_shape(axes, gx.tunable(0.5)), rms / 2)):
        assert_allclose(tx.update(x, tx.init(x))[0], np.full(shape, factor), rtol=1e-6)


def test_what_is_refused() -> None:
    x = jnp.ones((2, 3))
    with pytest.raises(ValueError, match=r"preconditioning must be one of \['frobenius'.*'none'"):
        gx.orthogonalize_via_newton_schulz(x, STANDARD, preconditioning="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ns_coeffs must have shape \(3,\) or \(n, 3\), got \(4,\)"):
        gx.orthogonalize_via_newton_schulz(x, (1.0, 2.0, 3.0, 4.0))
    with pytest.raises(ValueError, match=r"an array of shape \(3,\) is no matrix"):
        gx.orthogonalize_via_newton_schulz(x[0], STANDARD)
    for axes in (gx.MuonDimensionNumbers(0, 3), gx.MuonDimensionNumbers([0, 1], 1)):
        with pytest.raises(ValueError, match=r"MuonDimensionNumbers\(.*does not fit.*\(2, 3, 1\)"):
            gx.orthogonalize_via_newton_schulz(x[..., None], STANDARD, dimension_numbers=axes)
