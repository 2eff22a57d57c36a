"""The end of 100 steps of PyTorch's optimizers, as `torch_reference.py` wrote it down."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from catalogue import x64
from optimizers.torch_reference import CASES, START, STEPS, gradient

import gradxform as gx

ENDS = json.loads(Path(__file__).with_name("torch_reference.json").read_text())["ends"]

SAME: dict[str, Any] = {
    "gradient descent": gx.sgd(0.05),
    "momentum": gx.sgd(0.01, momentum=0.9),
    "nesterov": gx.sgd(0.01, momentum=0.9, nesterov=True),
    "adagrad": gx.adagrad(0.1, eps=1e-20),
    "adagrad from 0.1": gx.adagrad(0.1, initial_accumulator_value=0.1, eps=1e-20),
    "rmsprop": gx.rmsprop(0.05, decay=0.9, eps_in_sqrt=False),
    "rmsprop, centered, momentum": gx.rmsprop(
        0.01, decay=0.95, eps_in_sqrt=False, centered=True, momentum=0.8
    ),
    "adadelta": gx.adadelta(1.0, rho=0.9, eps=1e-6),
    "adam": gx.adam(0.05, b1=0.8, b2=0.99),
    "adamw": gx.adamw(0.05, weight_decay=0.1),
    "adamax": gx.adamax(0.05),
    "radam": gx.radam(0.05, b2=0.95),
    "rprop": gx.rprop(0.05, one_step_late=False),
}


def test_every_reference_has_its_twin() -> None:
    assert SAME.keys() == CASES.keys() == ENDS.keys()


@pytest.mark.parametrize("name", SAME)
def test_as_pytorch(name: str) -> None:
    tx = SAME[name]
    with x64():
        for dtype, rtol in ((jnp.float64, 1e-6), (jnp.float32, 1e-5)):
            w = jnp.asarray(START, dtype)
            state, update = tx.init(w), jax.jit(tx.update)
            for t in range(STEPS):
                updates, state = update(gradient(w, t).astype(dtype), state, w)
                w = gx.apply_updates(w, updates)
            error = jnp.linalg.norm(w - jnp.asarray(ENDS[name]))
            assert error <= rtol * jnp.linalg.norm(jnp.asarray(ENDS[name])), (dtype, error)
