"""A small problem whose gradient NumPy computes too, and the loops that descend it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import gradxform as gx

STEPS = 200


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision, within one test only."""
    if hasattr(jax, "enable_x64"):
        enable = jax.enable_x64
    else:
        from jax.experimental import enable_x64 as enable
    with enable(True):
        yield


@dataclass
class Problem:
    r"""A rotated valley with a quartic wall, around a centre that moves from step to step.

    .. math:: J_t(w) = (w - c_t)^T H (w - c_t) / 2 + \lVert w - c_t \rVert_4^4 / 4

    Its eigenvalues go from 1 to 50. The centre moves as a batch's optimum does, so that the gradients change
    sign, and every number is a float32, so that both precisions see the same problem.
    """

    params: Any = field(init=False)
    hessian: np.ndarray = field(init=False)
    centres: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.params = {
            "kernel": rng.uniform(1, 2, (2, 3)).astype(np.float32),
            "layers": [rng.uniform(-2, -1, 3).astype(np.float32), np.float32(1.5)],
        }
        rotation = np.linalg.qr(rng.normal(size=(10, 10)))[0]
        hessian = rotation @ np.diag(np.geomspace(1, 50, 10)) @ rotation.T
        self.hessian = ((hessian + hessian.T) / 2).astype(np.float32)
        self.centres = (3 + rng.normal(size=(STEPS, 10))).astype(np.float32)

    @property
    def start(self) -> np.ndarray:
        """The parameters as one float64 vector."""
        return np.asarray(ravel_pytree(self.params)[0], np.float64)

    def gradient(self, w: np.ndarray, t: int) -> np.ndarray:
        """The gradient at step `t`, counted from 1, in float64."""
        away = w - self.centres[t - 1]
        return np.asarray(self.hessian, np.float64) @ away + away**3

    def loss(self, params: Any, centre: Any) -> jax.Array:
        away = ravel_pytree(params)[0] - centre
        pull = jnp.dot(self.hessian.astype(away.dtype), away, precision="highest")
        return away @ pull / 2 + jnp.sum(away**4) / 4

    def descend(self, *txs: Any, dtype: Any = jnp.float32) -> list[np.ndarray]:
        """Where each transformation ends after all steps, as a vector; one program for them all."""
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), self.params)

        def step(carry: Any, centre: Any) -> Any:
            new = []
            for tx, (params, state) in zip(txs, carry, strict=True):
                updates, state = tx.update(jax.grad(self.loss)(params, centre), state, params)
                new.append((gx.apply_updates(params, updates), state))
            return new, None

        start = [(params, tx.init(params)) for tx in txs]
        ends = jax.jit(lambda start, xs: jax.lax.scan(step, start, xs)[0])(start, self.centres.astype(dtype))
        return [np.asarray(ravel_pytree(end)[0]) for end, _ in ends]


@pytest.fixture(scope="session")
def problem() -> Problem:
    return Problem()


@pytest.fixture(scope="session")
def updates_on_constant_gradient() -> Callable[[Any, int], np.ndarray]:
    """The updates of a scalar whose gradient is always 3, as float64."""

    def run(tx: Any, steps: int) -> np.ndarray:
        def step(state: Any, _: None) -> Any:
            updates, state = tx.update(jnp.asarray(3.0), state, jnp.asarray(1.0))
            return state, updates

        state = tx.init(jnp.asarray(1.0))
        return np.asarray(jax.jit(lambda s: jax.lax.scan(step, s, None, steps)[1])(state), np.float64)

    return run
