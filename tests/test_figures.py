"""Each picture of the pages on the algorithms shows what the page says that it shows."""

import re

import figures
import numpy as np
import pytest


def test_a_rate_above_two_over_the_curvature_diverges() -> None:
    for factor, losses in figures.rates_against_curvature().items():
        # w is multiplied by 1 - factor at every step, and the loss by its square.
        steps = np.arange(len(losses))
        np.testing.assert_allclose(losses, 5.0 * (1 - factor) ** (2 * steps), rtol=1e-3, atol=1e-30)
        assert (losses[-1] > losses[0]) == (factor > 2)


def test_gradient_descent_is_stuck_at_the_saddle() -> None:
    distances = figures.leaving_a_saddle()
    descent = distances["gradient descent"]
    # On the ridge ½y² it grows by the rate each step.
    np.testing.assert_allclose(descent[:1000], 1e-6 * 1.01 ** np.arange(1000), rtol=1e-3)
    arrived = {name: int((distance > 0.9).argmax()) for name, distance in distances.items()}
    assert arrived == {
        name: pytest.approx(steps, rel=0.03)
        for name, steps in {"gradient descent": 1461, "RMSprop": 74, "Adam": 76}.items()
    }


def test_sgd_ends_at_a_floor_in_proportion_to_its_rate() -> None:
    for rate, (squares, floor) in figures.noise_floors().items():
        assert floor == pytest.approx(rate / 2, rel=rate)
        assert squares[-500:].mean() == pytest.approx(floor, rel=0.1)
    assert figures.decayed()[-1] == pytest.approx(1 / 3000, rel=0.2)


def test_larger_batches_need_fewer_steps_up_to_a_size() -> None:
    steps = figures.steps_by_batch_size()
    assert steps[64] == pytest.approx(steps[4] / 16, rel=0.2)
    assert steps[16384] > 16 * steps[64] * 64 / 16384
    assert (steps[64], steps[16384]) == (34, 6)


def test_adagrads_rate_dies() -> None:
    sizes = figures.effective_rates()
    t = np.arange(1, 10_001)
    np.testing.assert_allclose(sizes["AdaGrad"], t**-0.5, rtol=1e-2)
    np.testing.assert_allclose(sizes["RMSprop"], (1 - 0.9**t) ** -0.5, rtol=1e-2)
    after = {name: distance[3001:] for name, distance in figures.following().items()}
    half, tenth = ({name: (d < x).argmax() for name, d in after.items()} for x in (0.5, 0.1))
    assert half == {"AdaGrad": pytest.approx(404, rel=0.05), "RMSprop": pytest.approx(91, rel=0.05)}
    assert tenth == {"AdaGrad": pytest.approx(1472, rel=0.05), "RMSprop": pytest.approx(294, rel=0.05)}


def test_rmsprop_bounces_without_noise_and_starts_with_long_steps() -> None:
    ends = {name: distance[-1] for name, distance in figures.bouncing().items()}
    assert ends["gradient descent, 0.1"] < 1e-15
    assert ends["RMSprop, 0.1"] == pytest.approx(0.05, rel=1e-3)
    assert ends["RMSprop, 0.01"] == pytest.approx(0.005, rel=1e-3)
    first = {name: sizes[0] for name, sizes in figures.first_updates().items()}
    assert first["RMSprop"] == pytest.approx(0.1**-0.5, rel=1e-3)
    assert first["with bias correction"] == pytest.approx(1.0, rel=1e-3)


def test_adadelta_starts_at_the_pace_of_epsilon_and_has_no_unit() -> None:
    for eps, sizes in figures.warming_up().items():
        # Each step is the difference of two places in float32.
        assert sizes[0] == pytest.approx((eps / (0.1 + eps)) ** 0.5, rel=1e-3)
        assert 3 < sizes[1000] / sizes[0] < 4
    places = figures.without_units()
    one, hundred = places["AdaDelta"].values()
    np.testing.assert_allclose(one[:300], hundred[:300], atol=2e-3)
    one, hundred = places["gradient descent"].values()
    assert one[10] > 0.9 > 1e-6 > hundred[10]


def test_adam_walks_to_the_wrong_end() -> None:
    ends = {name: place[-5000:].mean() for name, place in figures.rare_and_large().items()}
    assert ends["Adam"] > 0.7
    assert ends["SGD"] < -0.9
    assert ends["AMSGrad"] < -0.6


@pytest.mark.parametrize("name", figures.FIGURES)
def test_the_picture_in_the_repository_is_of_this_code(name: str) -> None:
    """`python docs/figures.py` draws them anew."""
    picture = (figures.FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert re.search(r"docs/figures\.py (\w+)", picture)[1] == figures.digest()  # type: ignore[index]
