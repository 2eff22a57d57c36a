"""A table of embeddings of which a step touches a few rows: what it costs, and what it does not."""

import statistics
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


@pytest.mark.benchmark(group="step of a table")
@each
def test_a_step_of_a_large_table(race: Any, optimizer: str) -> None:
    contestants = [stepping(library, optimizer) for library in (gx, optax)]
    name = f"step of 4,096 rows of 1,000,000 × 64, {optimizer} (× 8)"
    race(name, *contestants, rounds=9, at_most=1 / 40, rival="Optax, dense")


@each
def test_memory_beyond_the_table(record_property: Any, optimizer: str) -> None:
    step, *_ = stepper(gx, optimizer, touched_rows(ROWS, TOUCHED))
    table = ROWS * WIDTH * 4
    share = step.memory_analysis().temp_size_in_bytes / table
    name = f"memory beyond parameters and state, of the table, {optimizer}"
    numbers = {"ours": None, "theirs": None, "ratio": share, "low": share, "high": share, "rounds": 1}
    record_property(
        "race", {"name": name, "rival": "", **numbers, "target": "at most 0.05", "met": share <= 0.05}
    )


def test_the_cost_grows_with_the_rows_touched(record_property: Any) -> None:
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
    median = {size: statistics.median(seconds) for size, seconds in took.items()}
    base = median[1_000_000, 4096]
    for name, size, target, met in [
        ("a table four times smaller", (250_000, 4096), "at least 0.5", lambda ratio: ratio >= 0.5),
        ("a table four times larger", (4_000_000, 4096), "at most 1.5", lambda ratio: ratio <= 1.5),
        ("a quarter of the rows touched", (1_000_000, 1024), "at most 0.6", lambda ratio: ratio <= 0.6),
        ("four times the rows touched", (1_000_000, 16384), "at least 2", lambda ratio: ratio >= 2),
    ]:
        ratio = median[size] / base
        numbers = {"ours": median[size], "theirs": base, "ratio": ratio, "low": ratio, "high": ratio}
        record_property(
            "race",
            {
                "name": f"step of {size[1]:,} rows of {size[0]:,}: {name}",
                "rival": "4,096 rows of 1,000,000",
                **numbers,
                "rounds": 30,
                "target": target,
                "met": met(ratio),
            },
        )
