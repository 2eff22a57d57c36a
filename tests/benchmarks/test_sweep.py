"""Sixteen learning rates for a network on digits: `gx.sweep` against runs of `gx.fit` one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

import gradxform as gx
from gradxform.training.sweep import sweep

RATES = np.logspace(-4, -1, 16).tolist()
BATCH = 32


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32), labels.astype(np.int32)


@pytest.fixture(scope="module")
def params() -> dict[str, np.ndarray]:
    """A network of 64, 64 and 10 units."""
    rng = np.random.default_rng(0)
    return {
        "hidden": (rng.normal(size=(64, 64)) / 8).astype(np.float32),
        "hidden_bias": np.zeros(64, np.float32),
        "out": (rng.normal(size=(64, 10)) / 8).astype(np.float32),
        "out_bias": np.zeros(10, np.float32),
    }


def _loss(params: Any, batch: Any) -> Any:
    images, labels = batch
    hidden = jax.nn.relu(images @ params["hidden"] + params["hidden_bias"])
    scores = jax.nn.log_softmax(hidden @ params["out"] + params["out_bias"])
    return -scores[np.arange(len(labels)), labels].mean()


def _sweeping(params: Any, digits: Any, epochs: int) -> Callable[[], Any]:
    grid = {"learning_rate": RATES}
    return lambda: sweep(
        _loss, params, digits, gx.adam, grid, batch_size=BATCH, epochs=epochs, progress=False
    )


def _one_after_the_other(params: Any, digits: Any, epochs: int) -> Callable[[], Any]:
    txs = [gx.adam(rate) for rate in RATES]
    return lambda: [
        gx.fit(_loss, params, digits, tx, batch_size=BATCH, epochs=epochs, progress=False) for tx in txs
    ]


@pytest.mark.benchmark(group="sweep")
def test_sweep_compiled(race: Any, params: Any, digits: Any) -> None:
    ours, theirs = (train(params, digits, 10) for train in (_sweeping, _one_after_the_other))
    race(
        "16 learning rates, 10 epochs of digits, compiled",
        lambda: ours,
        lambda: theirs,
        rounds=15,
        at_most=0.9,
        rival="16 runs of `gx.fit`, one after the other",
    )


@pytest.mark.benchmark(group="sweep")
def test_sweep_with_compilation(race: Any, params: Any, digits: Any) -> None:
    def fresh(train: Callable[..., Callable[[], Any]]) -> Callable[[], Callable[[], Any]]:
        def prepare() -> Callable[[], Any]:
            jax.clear_caches()
            return train(params, digits, 10)

        return prepare

    race(
        "16 learning rates, 10 epochs of digits, with compilation",
        fresh(_sweeping),
        fresh(_one_after_the_other),
        rounds=3,
        at_most=1 / 3,
        rival="16 runs of `gx.fit`, each compiled for its rate",
    )
