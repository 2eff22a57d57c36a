"""Stochastic gradient descent on digits, one example a step: `gx.fit` against loops over steps in Python."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import gradxform as gx

EPOCHS = 2
RATE = 0.01


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
    return -jnp.mean(jnp.take_along_axis(scores, labels[:, None], 1))


def _order(examples: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.permutation(examples) for _ in range(EPOCHS)])


Training = Callable[[Any, Any], Callable[[], Any]]


def _fit(params: Any, digits: Any) -> Callable[[], Any]:
    tx = gx.sgd(RATE)
    return lambda: gx.fit(_loss, params, digits, tx, batch_size=1, epochs=EPOCHS, key=0, progress=False)


def _jitted_steps(params: Any, digits: Any) -> Callable[[], Any]:
    tx = optax.sgd(RATE)

    @jax.jit
    def step(params: Any, state: Any, batch: Any) -> Any:
        loss, grads = jax.value_and_grad(_loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    def run() -> Any:
        w, state, losses = params, tx.init(params), []
        for i in _order(len(digits[0])):
            w, state, loss = step(w, state, tuple(column[i : i + 1] for column in digits))
            losses.append(loss)
        return jax.block_until_ready((w, losses))

    return run


def _torch_steps(params: Any, digits: Any) -> Callable[[], Any]:
    import torch

    # With one example there is nothing to share among threads, and one is the faster.
    torch.set_num_threads(1)
    images, labels = torch.from_numpy(digits[0]), torch.from_numpy(digits[1]).long()

    def run() -> Any:
        model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        losses = []
        for i in _order(len(images)):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images[i : i + 1]), labels[i : i + 1])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    return run


RIVALS: dict[str, tuple[Training, float]] = {"a Python loop over a jitted Optax step": (_jitted_steps, 6)}
if find_spec("torch"):
    RIVALS["a PyTorch loop"] = (_torch_steps, 10)


@pytest.mark.benchmark(group="fit")
@pytest.mark.parametrize("rival", RIVALS)
def test_fit_one_example_a_step(race: Any, params: Any, digits: Any, rival: str) -> None:
    theirs, at_least = RIVALS[rival]
    fit, loop = _fit(params, digits), theirs(params, digits)
    steps = EPOCHS * len(digits[0])
    name = f"{steps} steps of one digit"
    race(name, lambda: fit, lambda: loop, rounds=9, at_least=at_least, rival=rival)
