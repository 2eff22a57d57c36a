"""Training loops

A network of 64, 64 and 10 units on scikit-learn's digits, plain stochastic gradient descent, one example a
step and 32: `gx.fit`, compiled before the race, against loops in Python, in JAX over a jitted step and in
PyTorch. The loops slice the arrays, take a step and keep the loss without waiting for it. The loop with our
step stands beside that with Optax's.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

RATE = 0.01
EPOCHS = {1: 2, 32: 30}
"""By batch size."""


def _loss(params: Any, batch: Any) -> Any:
    images, labels = batch
    hidden = jax.nn.relu(images @ params["hidden"] + params["hidden_bias"])
    scores = jax.nn.log_softmax(hidden @ params["out"] + params["out_bias"])
    return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], 1))


def _batches(examples: int, size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    orders = [rng.permutation(examples) for _ in range(EPOCHS[size])]
    return [order[begin : begin + size] for order in orders for begin in range(0, examples, size)]


Training = Callable[[Any, Any, int], Callable[[], Any]]


def _fit(params: Any, digits: Any, size: int) -> Callable[[], Any]:
    tx = gx.sgd(RATE)
    return lambda: gx.fit(
        _loss, params, digits, tx, batch_size=size, epochs=EPOCHS[size], key=0, progress=False
    )


def _loop(library: Any) -> Training:
    def loop(params: Any, digits: Any, size: int) -> Callable[[], Any]:
        tx = library.sgd(RATE)

        @jax.jit
        def step(params: Any, state: Any, batch: Any) -> Any:
            loss, grads = jax.value_and_grad(_loss)(params, batch)
            updates, state = tx.update(grads, state, params)
            return library.apply_updates(params, updates), state, loss

        def run() -> Any:
            w, state, losses = params, tx.init(params), []
            for rows in _batches(len(digits[0]), size):
                w, state, loss = step(w, state, tuple(column[rows] for column in digits))
                losses.append(loss)
            return jax.block_until_ready((w, losses))

        return run

    return loop


def _torch_loop(params: Any, digits: Any, size: int) -> Callable[[], Any]:
    import torch

    images, labels = torch.from_numpy(digits[0]), torch.from_numpy(digits[1]).long()

    def train() -> Any:
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        losses = []
        for rows in map(torch.from_numpy, _batches(len(images), size)):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    def run() -> Any:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # with so little to share among threads, one is the faster
        try:
            return train()
        finally:
            torch.set_num_threads(threads)

    return run


def _racing(trainings: dict[str, Training], params: Any, digits: Any, size: int) -> dict[str, Any]:
    runs = {who: training(params, digits, size) for who, training in trainings.items()}
    return {who: lambda run=run: run for who, run in runs.items()}


@pytest.mark.benchmark
@pytest.mark.parametrize(("size", "at_most"), [(1, 1 / 6), (32, 1.0)])
def test_fit(race: Any, params: Any, digits: Any, size: int, at_most: float) -> None:
    trainings = {"gradxform": _fit, "Optax, a loop": _loop(optax)}
    if find_spec("torch"):
        trainings["PyTorch, a loop"] = _torch_loop
    case = f"{len(_batches(len(digits[0]), size)):,} steps of {size}"
    race("`fit`", case, _racing(trainings, params, digits, size), rounds=9, at_most=at_most)


@pytest.mark.benchmark
@pytest.mark.parametrize("size", EPOCHS)
def test_a_loop_in_python(race: Any, params: Any, digits: Any, size: int) -> None:
    trainings = {"gradxform": _loop(gx), "Optax": _loop(optax)}
    case = f"{len(_batches(len(digits[0]), size)):,} steps of {size}"
    race("a loop in Python", case, _racing(trainings, params, digits, size), rounds=9, at_most=1.0)
