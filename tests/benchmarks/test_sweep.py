"""Sweeps

Sixteen learning rates of Adam for a network of 64, 64 and 10 units, 10 epochs of digits and once 40:
`gx.sweep` against what it saves: runs of `gx.fit` one after the other, and loops in Python over a jitted step
of Optax, whose rate stands in the state (`inject_hyperparams`), so that it compiles once.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.training.sweep import sweep

RATES = np.logspace(-4, -1, 16).tolist()
BATCH = 32


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


def _loops_of_optax(params: Any, digits: Any, epochs: int) -> Callable[[], Any]:
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=0.0)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        loss, grads = jax.value_and_grad(_loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def run() -> Any:
        rng, ends = np.random.default_rng(0), []
        for rate in RATES:
            w, state, losses = params, tx.init(params), []
            state.hyperparams["learning_rate"] = np.float32(rate)
            for _ in range(epochs):
                order = rng.permutation(len(digits[1]))
                for begin in range(0, len(order), BATCH):
                    rows = order[begin : begin + BATCH]
                    w, state, loss = step(w, state, tuple(column[rows] for column in digits))
                    losses.append(loss)
            ends.append((w, losses))
        return jax.block_until_ready(ends)

    return run


TRAININGS = {
    "gradxform": _sweeping,
    "16 runs of `gx.fit`": _one_after_the_other,
    "Optax, 16 loops": _loops_of_optax,
}


@pytest.mark.benchmark
def test_sweep_compiled(race: Any, params: Any, digits: Any) -> None:
    runs = [train(params, digits, 10) for train in TRAININGS.values()]
    contestants = {who: lambda run=run: run for who, run in zip(TRAININGS, runs, strict=True)}
    race("sweep", "compiled", contestants, rounds=15, at_most=0.9)


@pytest.mark.benchmark
@pytest.mark.parametrize("epochs", [10, 40])
def test_sweep_with_compilation(race: Any, params: Any, digits: Any, epochs: int) -> None:
    def fresh(train: Callable[..., Callable[[], Any]]) -> Callable[[], Callable[[], Any]]:
        def prepare() -> Callable[[], Any]:
            jax.clear_caches()
            return train(params, digits, epochs)

        return prepare

    contestants = {who: fresh(train) for who, train in TRAININGS.items()}
    case = "with compilation" if epochs == 10 else f"with compilation, {epochs} epochs"
    race("sweep", case, contestants, rounds=3, at_most=1 / 3 if epochs == 10 else None, warm_up=False)
