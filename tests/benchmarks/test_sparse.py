"""Row-sparse gradients

A table of 1,000,000 embeddings of 64 numbers, of which a step touches 4,096 rows: the compiled step against
that of Optax, which takes dense gradients only, and eight steps to a round. What the step holds beyond
parameters and state, as a share of the table. And how its time goes with the size of the table and with the
rows touched: the medians of 30 steps.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx

ROWS, WIDTH, TOUCHED = 1_000_000, 64, 4096
OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "AdaGrad": lambda library: library.adagrad(0.1),
    "Adam": lambda library: library.adam(0.1),
    "momentum": lambda library: library.sgd(0.1, momentum=0.9),
}

each = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def touched_rows(rows: int, touched: int, seed: int = 0) -> gx.RowSparse:
    """Rows drawn with repetition, as words are in a batch of text."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((touched, WIDTH), np.float32)
    return gx.RowSparse(rng.integers(0, rows, touched), values, (rows, WIDTH))


def stepper(library: Any, optimizer: str, grad: gx.RowSparse) -> tuple[Any, Any, Any]:
    """The compiled step, its carry, and the gradient as the library takes it."""
    tx = OPTIMIZERS[optimizer](library)
    params = jnp.zeros(grad.shape)
    carry = jax.tree.map(jnp.copy, (params, tx.init(params)))
    grad = grad if library is gx else grad.to_dense()

    def step(params: Any, state: Any, grad: Any) -> Any:
        updates, state = tx.update(grad, state, params)
        return library.apply_updates(params, updates), state

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*carry, grad).compile()
    return compiled, carry, grad


def stepping(library: Any, optimizer: str) -> Any:
    """Eight steps, of which each touches other rows."""
    step, carry, grad = stepper(library, optimizer, touched_rows(ROWS, TOUCHED))
    grads = [touched_rows(ROWS, TOUCHED, seed) if library is gx else grad for seed in range(8)]

    def run() -> None:
        nonlocal carry
        for grad in grads:
            carry = step(*carry, grad)
        jax.block_until_ready(carry)

    return lambda: run


@pytest.mark.benchmark
@each
def test_a_step_of_a_large_table(race: Any, optimizer: str) -> None:
    libraries = {"gradxform": gx, "Optax, dense": optax}
    contestants = {who: stepping(library, optimizer) for who, library in libraries.items()}
    race("step", f"{optimizer} (× 8)", contestants, rounds=9, at_most=1 / 40)


@pytest.mark.benchmark
@each
def test_memory_beyond_the_table(record: Any, optimizer: str) -> None:
    step, *_ = stepper(gx, optimizer, touched_rows(ROWS, TOUCHED))
    held, table = step.memory_analysis().temp_size_in_bytes, ROWS * WIDTH * 4
    what = "memory beyond parameters and state"
    record(what, optimizer, "the table itself", held, table, unit="bytes", at_most=0.05)


@pytest.mark.benchmark
def test_the_cost_grows_with_the_rows_touched(record: Any) -> None:
    """Three sizes of each, in turns; four times the rows touched against four times the table."""
    sizes = [(250_000, 4096), (1_000_000, 4096), (4_000_000, 4096), (1_000_000, 1024), (1_000_000, 16384)]
    took: dict[tuple[int, int], list[float]] = {size: [] for size in sizes}
    for _ in range(3):
        for size in sizes:  # one table at a time, the largest takes a gigabyte
            step, carry, grad = stepper(gx, "momentum", touched_rows(*size))
            for repeat in range(12):
                begin = perf_counter()
                carry = jax.block_until_ready(step(*carry, grad))
                took[size] += [perf_counter() - begin] if repeat > 1 else []
    base = took[1_000_000, 4096]
    for name, size, target in [
        ("a table four times smaller", (250_000, 4096), {"at_least": 0.5}),
        ("a table four times larger", (4_000_000, 4096), {"at_most": 1.5}),
        ("a quarter of the rows touched", (1_000_000, 1024), {"at_most": 0.6}),
        ("four times the rows touched", (1_000_000, 16384), {"at_least": 2}),
    ]:
        case = f"{size[1]:,} rows of {size[0]:,}: {name}"
        record("time and size", case, "4,096 rows of 1,000,000", took[size], base, **target)
