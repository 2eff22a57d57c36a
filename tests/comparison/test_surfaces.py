"""The test functions against NumPy, and what is said of runs on them."""

import numpy as np
import pytest

from gradxform.comparison.contestants import CONTESTANTS, Contestant
from gradxform.comparison.surfaces import REACHED, SURFACES, race_surfaces, trajectories
from gradxform.optimizers.gradient_descent import sgd

FUNCTIONS = {
    "bowl": lambda x, y: x**2 / 2 + y**2,
    "valley": lambda x, y: (x**2 + 100 * y**2) / 2,
    "rosenbrock": lambda x, y: (1 - x) ** 2 + 100 * (y - x**2) ** 2,
    "beale": lambda x, y: sum((c - x * (1 - y**k)) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))),
    "himmelblau": lambda x, y: (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2,
    "saddle": lambda x, y: (x**2 - y**2) / 2 + y**4 / 4,
    "rastrigin": lambda x, y: 20 + sum(z**2 - 10 * np.cos(2 * np.pi * z) for z in (x, y)),
}


def derivatives(f, point, h=1e-4):
    """Gradient and Hessian by central differences."""
    p, e = np.array(point), h * np.eye(2)
    gradient = [(f(*(p + e[i])) - f(*(p - e[i]))) / (2 * h) for i in range(2)]
    hessian = [
        [
            (f(*(p + e[i] + e[j])) - f(*(p + e[i] - e[j])) - f(*(p - e[i] + e[j])) + f(*(p - e[i] - e[j])))
            / (4 * h * h)
            for j in range(2)
        ]
        for i in range(2)
    ]
    return np.array(gradient), np.linalg.eigvalsh(hessian)


@pytest.mark.parametrize("name", SURFACES)
def test_values_minima_and_saddles(name):
    surface, f = SURFACES[name], FUNCTIONS[name]
    x, y = np.random.default_rng(0).uniform(-2, 2, (2, 50)).astype(np.float32)
    np.testing.assert_allclose(surface.value(x, y), f(x.astype(float), y.astype(float)), rtol=2e-5, atol=2e-5)
    least = -0.25 if name == "saddle" else 0
    for point in surface.minima:
        gradient, curvature = derivatives(f, point)
        assert f(*point) == pytest.approx(least, abs=1e-9)
        np.testing.assert_allclose(gradient, 0, atol=1e-4)
        assert (curvature > 0).all()
    for point in surface.local_minima:
        gradient, curvature = derivatives(f, point)
        assert f(*point) > 0.9
        np.testing.assert_allclose(gradient, 0, atol=1e-4)
        assert (curvature > 0).all()
    for point in surface.saddles:
        gradient, curvature = derivatives(f, point)
        np.testing.assert_allclose(gradient, 0, atol=1e-3)
        assert curvature[0] < 0 < curvature[1]
    left, right, bottom, top = surface.window
    for a, b in (surface.start, *surface.minima, *surface.saddles):
        assert left < a < right
        assert bottom < b < top


def test_gradient_descent_on_the_bowl_in_closed_form():
    (points,) = trajectories(CONTESTANTS["gradient-descent"], [0.1], 30, 2)(SURFACES["bowl"])
    t = np.arange(31)
    expected = np.stack([-4 * 0.9**t, 3 * 0.8**t], axis=1)
    np.testing.assert_allclose(points, [expected, expected], rtol=1e-4)


@pytest.fixture(scope="module")
def race():
    told = []
    contestants = [
        Contestant("exact", sgd, None, (), (1e-3, 0.02)),
        Contestant("noisy", sgd, 1, (), (1e-3, 0.02)),
        Contestant("wild", sgd, None, (), (1e3,)),
    ]
    report = race_surfaces(
        contestants, steps=800, seeds=3, progress=lambda what, fraction: told.append(fraction)
    )
    assert told == sorted(told)
    assert told[-1] == 1
    return report, {(row.surface, row.algorithm): row for row in report.rows}


def test_steps_to_reach_the_minimum(race):
    row = race[1]["bowl", "exact"]
    t = np.arange(801)
    distance = np.hypot(-4 * 0.98**t, 3 * 0.96**t)
    assert row.learning_rate == 0.02
    assert row.reached == 3
    assert row.steps == int((distance < REACHED).argmax())
    assert row.ended == "minimum"
    assert row.final_value < 1e-9


def test_where_runs_stay_stuck(race):
    rows = race[1]
    stuck = rows["saddle", "exact"]
    assert (stuck.ended, stuck.reached, stuck.steps) == ("saddle", 0, None)
    assert stuck.final_value == pytest.approx(0.25, abs=1e-3)
    assert rows["saddle", "noisy"].ended == "minimum"
    assert rows["saddle", "noisy"].reached == 3
    local = rows["rastrigin", "exact"]
    assert local.ended == "local minimum"
    assert local.final_value > 1
    for name in ("valley", "rosenbrock", "beale", "himmelblau"):
        assert rows[name, "wild"].ended == "diverged"
    assert "diverged" in str(race[0])
    assert "local minimum" in race[0].to_csv()
    assert race[0].paths["bowl"]["noisy"].shape == (801, 2)
