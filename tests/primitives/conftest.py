"""A tree, gradients for it over several steps, and the loop that sends them through transformations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

STEPS = 20
SHAPES = {"kernel": (2, 3), "layers": [(4,), ()]}


def _tree(rng: np.random.Generator, *, steps: tuple[int, ...] = ()) -> Any:
    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return rng.normal(size=(*steps, *shape)).astype(np.float32)

    return jax.tree.map(draw, SHAPES, is_leaf=lambda node: isinstance(node, tuple))


@pytest.fixture(scope="session")
def params() -> Any:
    return _tree(np.random.default_rng(1))


@pytest.fixture(scope="session")
def grads() -> Any:
    """The gradients of all steps, stacked along the first axis."""
    return _tree(np.random.default_rng(2), steps=(STEPS,))


@pytest.fixture(scope="session")
def send(params: Any, grads: Any) -> Callable[..., list[Any]]:
    """The updates of all steps for each transformation, stacked as `grads` is; one program for them all."""

    def send(*txs: Any, grads: Any = grads, params: Any = params) -> list[Any]:
        def step(states: Any, grad: Any) -> Any:
            pairs = [tx.update(grad, state, params) for tx, state in zip(txs, states, strict=True)]
            return [state for _, state in pairs], [updates for updates, _ in pairs]

        params = jax.tree.map(jnp.asarray, params)
        return jax.jit(lambda states, grads: jax.lax.scan(step, states, grads)[1])(
            [tx.init(params) for tx in txs], grads
        )

    return send


@pytest.fixture(scope="session")
def assert_trees_close() -> Callable[..., None]:
    def check(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 0.0) -> None:
        jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol), actual, expected)

    return check
