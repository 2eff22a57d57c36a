"""Muon and GaLore against Optax, PyTorch's Muon, and the papers' algorithms in NumPy float64."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from catalogue import run, x64
from numpy.testing import assert_allclose

import gradxform as gx

STEPS = 100
SHAPES = {
    "twins": [(6, 4), (6, 4)],
    "tall": (21, 5),
    "heads": (3, 4, 2),
    "bias": (4,),
    "s": (),
}


def tree(seed: int, *outer: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=(*outer, *shape))),
        SHAPES,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def descend(tx: Any, dtype: Any) -> tuple[Any, Any]:
    """Towards targets that move from step to step: where it ends, and all updates."""
    params, targets = jax.tree.map(lambda x: x.astype(dtype), (tree(0), tree(1, STEPS)))

    def step(carry: Any, target: Any) -> Any:
        params, state = carry
        updates, state = tx.update(jax.tree.map(jnp.subtract, params, target), state, params)
        return (gx.apply_updates(params, updates), state), updates

    return jax.jit(lambda start: jax.lax.scan(step, (start, tx.init(start)), targets))(params)


def distance(got: Any, expected: Any) -> float:
    """The largest distance of two leaves, as a part of the second one's norm."""

    def part(x: Any, y: Any) -> float:
        x, y = np.ravel(x), np.ravel(y)
        return float(np.linalg.norm(x - y) / np.linalg.norm(y))

    return max(jax.tree.leaves(jax.tree.map(part, got, expected)))


def not_twins(params: Any) -> Any:
    return {**jax.tree.map(lambda param: True, params), "twins": [True, False]}


def heads(library: Any) -> Any:
    """Dimension numbers: a tree with a prefix, a batch axis, several axes, negative ones and None."""
    numbers = library.contrib.MuonDimensionNumbers
    return lambda params: {
        "twins": [numbers(1, 0), None],
        "tall": None,
        "heads": numbers((-1, 0), 1),
        "bias": None,
        "s": None,
    }


def batched(library: Any) -> Any:
    return lambda params: {**heads(library)(params), "heads": library.contrib.MuonDimensionNumbers(1, 2)}


MUON: dict[str, Any] = {
    "plain": {},
    "dion": {"ns_coeffs": "dion", "ns_steps": 7},
    "other coefficients": {"ns_coeffs": (3.0, -3.5, 1.5), "ns_steps": 3, "beta": 0.7},
    "momentum": {"nesterov": False},
    "adaptive": {"adaptive": True, "muon_weight_dimension_numbers": batched},
    "decay": {"weight_decay": 0.1, "weight_decay_mask": not_twins, "adam_weight_decay": 0.2},
    "spectral": {"preconditioning": "spectral", "ns_steps": 4},
    "aol": {"preconditioning": "aol", "ns_steps": 4},
    "schatten": {"preconditioning": "schatten", "ns_steps": 4},
    "heads": {"muon_weight_dimension_numbers": heads, "consistent_rms": 0.2},
    "batched": {"muon_weight_dimension_numbers": batched},
    "adam": {
        "adam_learning_rate": lambda t: 0.3 / (t + 1),
        "adam_b1": 0.5,
        "adam_b2": 0.9,
        "adam_eps_root": 1e-3,
        "eps": 1e-3,
    },
}


def arguments(case: dict[str, Any], library: Any) -> dict[str, Any]:
    return {key: value(library) if value in (heads, batched) else value for key, value in case.items()}


@pytest.mark.parametrize("case", MUON)
def test_muon_is_optaxs(case: str) -> None:
    ours, theirs = (library.contrib.muon(0.05, **arguments(MUON[case], library)) for library in (gx, optax))
    with x64():
        (got, _), updates = descend(ours, jnp.float64)
        (expected, _), optaxs = descend(theirs, jnp.float64)
    assert distance(updates, optaxs) < 1e-9
    assert distance(got, expected) < 1e-10


@pytest.mark.parametrize("case", ["batched", "heads"])
def test_muon_is_optaxs_in_float32(case: str) -> None:
    ends = [
        descend(library.contrib.muon(0.05, **arguments(MUON[case], library)), jnp.float32)[0][0]
        for library in (gx, optax)
    ]
    # The others are Adam's, in which Optax's correction of the bias loses digits.
    got, expected = ([*end["twins"], end["tall"], end["heads"]] for end in ends)
    assert distance(got, expected) < 1e-5


GALORE: dict[str, Any] = {
    "plain": {"rank": 2, "update_proj_gap": 7},
    "scaled, decayed": {"rank": 3, "scale": 0.25, "weight_decay": 0.1, "mask": not_twins},
    "of lion": {"rank": 1, "update_proj_gap": 1, "base_optimizer": optax.scale_by_lion()},
    "heads": {
        "rank": 3,
        "update_proj_gap": 30,
        "weight_dimension_numbers": lambda library: (
            lambda params: {
                **dict.fromkeys(params),
                "twins": [library.contrib.GaLoreDimensionNumbers(1, 0), None],
                "heads": library.contrib.GaLoreDimensionNumbers((2, 0), -2),
            }
        ),
    },
}


@pytest.mark.parametrize("case", GALORE)
def test_galore_is_optaxs(case: str) -> None:
    def made(library: Any) -> Any:
        given = dict(GALORE[case])
        if "weight_dimension_numbers" in given:
            given["weight_dimension_numbers"] = given["weight_dimension_numbers"](library)
        return library.contrib.galore(0.05, **given)

    # In float64 too Optax's singular vectors are float32's, and their signs not always ours.
    ends = [descend(made(library), jnp.float32)[0][0] for library in (gx, optax)]
    # What is not projected is Adam's, in which Optax's correction of the bias loses digits.
    got, expected = ([*end["twins"], end["tall"], end["heads"]] for end in ends)
    assert distance(got, expected) < 1e-5


def muon_of_the_paper(
    w: np.ndarray, gradients: np.ndarray, rate: float, decay: float, beta: float, nesterov: bool
) -> np.ndarray:
    """Jordan et al. 2024: a momentum buffer, five steps of Newton-Schulz, the shape's factor."""
    a, b, c = 3.4445, -4.7750, 2.0315
    buffer = np.zeros_like(w)
    for gradient in gradients:
        buffer = beta * buffer + (1 - beta) * gradient
        ahead = beta * buffer + (1 - beta) * gradient if nesterov else buffer
        x = ahead.T if w.shape[0] > w.shape[1] else ahead
        x = x / (np.linalg.norm(x) + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        x = x.T if w.shape[0] > w.shape[1] else x
        w = (1 - rate * decay) * w - rate * max(1, w.shape[1] / w.shape[0]) ** 0.5 * x
    return w


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(3, 7), (6, 2), (4, 4)])
def test_muon_of_the_paper(shape: tuple[int, int], nesterov: bool) -> None:
    rng = np.random.default_rng(3)
    start, gradients = rng.normal(size=shape), rng.normal(size=(STEPS, *shape))
    expected = muon_of_the_paper(start, gradients, 0.05, 0.1, 0.9, nesterov)
    tx = gx.muon(0.05, beta=0.9, eps=1e-7, weight_decay=0.1, nesterov=nesterov, bias_correction=False)
    with x64():
        got = walk(tx, start, gradients)
    assert_allclose(got, expected, rtol=1e-9)


def walk(tx: Any, start: Any, gradients: Any) -> Any:
    def step(carry: Any, gradient: Any) -> Any:
        params, state = carry
        updates, state = tx.update(gradient, state, params)
        return (gx.apply_updates(params, updates), state), None

    params = jnp.asarray(start)
    return jax.jit(lambda g: jax.lax.scan(step, (params, tx.init(params)), g)[0][0])(jnp.asarray(gradients))


TORCH = json.loads(Path(__file__).with_name("torch_muon.json").read_text())


@pytest.mark.parametrize("case", TORCH["cases"], ids=lambda case: case["adjust_lr_fn"])
def test_muon_of_pytorch(case: dict[str, Any]) -> None:
    # PyTorch's weights are outputs by inputs, and it has no bias correction.
    tx = gx.muon(
        TORCH["lr"],
        eps=0.0,  # PyTorch divides by the larger of norm and 1e-7, not by their sum
        weight_decay=case["weight_decay"],
        bias_correction=False,
        muon_weight_dimension_numbers=gx.MuonDimensionNumbers(reduction_axis=1, output_axis=0),
        consistent_rms=0.2 if case["adjust_lr_fn"] == "match_rms_adamw" else None,
    )
    with x64():
        got = walk(tx, np.asarray(case["start"]), np.asarray(case["gradients"]))
    assert_allclose(got, case["end"], rtol=1e-10)


def galore_of_the_paper(w: np.ndarray, gradients: np.ndarray, rate: float, rank: int, gap: int) -> np.ndarray:
    """Zhao et al. 2024, algorithm 2: Adam on the shorter side's projection, the larger side kept."""
    left = w.shape[0] <= w.shape[1]
    m = v = 0.0
    for t, gradient in enumerate(gradients):
        if t % gap == 0:
            u, _, vh = np.linalg.svd(gradient, full_matrices=False)
            basis = u[:, :rank] if left else vh[:rank].T
        low = basis.T @ gradient if left else gradient @ basis
        m, v = 0.9 * m + 0.1 * low, 0.999 * v + 0.001 * low**2
        step = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
        w = w - rate * (basis @ step if left else step @ basis.T)
    return w


@pytest.mark.parametrize("shape", [(3, 7), (6, 2), (4, 4)])
def test_galore_of_the_paper(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    start, gradients = rng.normal(size=shape), rng.normal(size=(40, *shape))
    tx = gx.galore(0.05, 2, 40, shorter_side=True)
    with x64():
        got = walk(tx, start, gradients)
    assert_allclose(got, galore_of_the_paper(start, gradients, 0.05, 2, 40), rtol=1e-9)


@pytest.mark.parametrize("make", [gx.muon, lambda rate: gx.galore(rate, 2)])
def test_complex_parameters_turn_with_their_gradients(make: Any) -> None:
    """A unitary change of rows and columns changes the updates alike: for Muon any, for GaLore a phase."""
    rng = np.random.default_rng(5)
    with x64():
        for shape in ((4, 6), (6, 4)):
            gradients = rng.normal(size=(3, *shape)) + 1j * rng.normal(size=(3, *shape))
            left, right = (
                np.linalg.qr(rng.normal(size=(n, n)) + 1j * rng.normal(size=(n, n)))[0] for n in shape
            )
            if make is not gx.muon:
                left, right = np.exp(0.3j) * np.eye(shape[0]), np.eye(shape[1])
            zeros = jnp.zeros(shape, jnp.complex128)
            updates, _ = run(make(0.1), zeros, list(jnp.asarray(gradients)))
            turned, _ = run(make(0.1), zeros, list(jnp.asarray(left @ gradients @ right)))
            assert updates[0].dtype == jnp.complex128
            assert_allclose(np.stack(turned), left @ np.stack(updates) @ right, rtol=1e-9)


def test_muon_without_parameters_and_with_one_rate_for_each_part() -> None:
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    tx = gx.muon(gx.tunable(0.1), nesterov=False, adam_learning_rate=lambda count: 0.5 / (count + 1))
    updates, state = tx.update(params, tx.init(params))
    assert_allclose(updates["b"], -0.5, rtol=1e-5)
    found = gx.get_hyperparams(state)
    assert_allclose([found["muon.learning_rate"], found["adam.learning_rate"]], [0.1, 0.5])
    doubled, _ = tx.update(params, gx.set_hyperparams(tx.init(params), **{"muon.learning_rate": 0.2}))
    assert_allclose(doubled["w"], 2 * updates["w"], rtol=1e-6)


def test_a_rate_for_all_leaves_of_a_scheduled_muon() -> None:
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    scheduled = gx.muon(lambda count: 0.1 * (count + 1), beta=0.0, nesterov=False)
    once, twice = run(scheduled, params, [params, params])[0]
    for name in params:
        assert_allclose(twice[name], 2 * np.asarray(once[name]), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: gx.muon(0.1, beta=1.0), ValueError, r"scale_by_muon: beta must be in \[0, 1\), got 1.0"),
        (lambda: gx.muon(0.1, eps=-1.0), ValueError, "orthogonalize: eps must be at least 0, got -1.0"),
        (
            lambda: gx.muon(0.1, "fast"),
            ValueError,
            "ns_coeffs must be one of .*'dion'.*'fast'",
        ),
        (
            lambda: gx.muon(0.1, (1.0, 2.0)),
            ValueError,
            r"ns_coeffs must have shape .* got \(2,\)",
        ),
        (lambda: gx.muon(0.1, ns_steps=0), ValueError, "ns_steps must be an integer of at least 1, got 0"),
        (lambda: gx.muon(0.1, preconditioning="none"), ValueError, "preconditioning must be one of .*'none'"),
        (lambda: gx.muon(0.1, consistent_rms=-0.2), ValueError, "scale_by_shape: consistent_rms .* got -0.2"),
        (lambda: gx.muon(0.1, weight_decay=-0.1), ValueError, "weight_decay must be at least 0, got -0.1"),
        (lambda: gx.muon(0.1, adam_b2=1.0), ValueError, "scale_by_adam: b2 .* got 1.0"),
        (lambda: gx.galore(0.1, rank=0), ValueError, "rank must be an integer of at least 1, got 0"),
        (lambda: gx.galore(0.1, rank=2.0), TypeError, "rank must be an integer of at least 1, got 2.0"),
        (
            lambda: gx.galore(0.1, update_proj_gap=0),
            ValueError,
            "update_proj_gap must be an integer of at least 1",
        ),
        (lambda: gx.galore(0.1, scale="big"), TypeError, "scale: step_size must be a number.*'big'"),
    ],
)
def test_bad_arguments_are_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_dimension_numbers_that_do_not_fit() -> None:
    params = {"w": jnp.ones((2, 3, 4)), "b": jnp.ones(2)}
    numbers, galore = gx.MuonDimensionNumbers, gx.GaLoreDimensionNumbers

    def refused(tx: Any, message: str, leaf: str = "['w']") -> None:
        with pytest.raises(ValueError, match=message) as info:
            tx.update(params, tx.init(params), params)
        assert leaf in "\n".join([str(info.value), *getattr(info.value, "__notes__", [])])

    refused(gx.scale_by_muon(), "no matrix: say by MuonDimensionNumbers", "['b']")
    for axes in (numbers(0, 3), numbers(0, (1, 0)), numbers(-4, 0)):
        refused(gx.muon(0.1, muon_weight_dimension_numbers={"w": axes, "b": None}), "does not fit an array")
    stranger = gx.muon(0.1, muon_weight_dimension_numbers={"x": numbers(), "w": None, "b": None})
    with pytest.raises(ValueError, match=r"muon: .*\['x'\] has no counterpart"):
        stranger.init(params)
    partial = gx.galore(0.1, weight_dimension_numbers={"w": galore(), "b": None})
    refused(partial, r"scale_by_galore: .* does not name all axes of params\['w'\]")
