"""Contestants that take turns in one run, so that all meet the same machine."""

import gc
from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradxform as gx

Run = Callable[[], Any]
Contestant = Callable[[], Run]
"""Prepares, off the clock, what is then timed."""


def _took(run: Run, what: str) -> dict[str, float]:
    begin = perf_counter()
    result = run()
    seconds = perf_counter() - begin
    if isinstance(result, dict):  # it has a clock of its own, and more than one lap
        return result
    return {what: result if isinstance(result, float) else seconds}


def interleave(
    contestants: Iterable[Contestant], rounds: int, what: str, warm_up: bool
) -> list[dict[str, np.ndarray]]:
    """Seconds of each contestant: by lap, one number a round.

    Every round runs all of them, one right after the other; who begins changes from round to round.
    """
    contestants = list(contestants)
    laps: list[list[dict[str, float]]] = [[] for _ in contestants]
    for contestant in contestants if warm_up else []:
        contestant()()
    for place in range(rounds):
        for turn in range(len(contestants)):
            who = (place + turn) % len(contestants)
            run = contestants[who]()
            gc.collect()
            gc.disable()
            try:
                laps[who].append(_took(run, what))
            finally:
                gc.enable()
    return [{lap: np.array([each[lap] for each in of_one]) for lap in of_one[0]} for of_one in laps]


def quartiles(numbers: Any) -> list[float]:
    """The first quartile, the median and the third."""
    return [float(number) for number in np.quantile(numbers, [0.25, 0.5, 0.75])]


def both(make: Callable[[Any], Any]) -> dict[str, Callable[[], Any]]:
    """Builders of the same optimizer, ours and Optax's. A fresh one has no traces of its own yet."""
    return {"gradxform": partial(make, gx), "Optax": partial(make, optax)}


def step_of(tx: Any) -> Callable[..., Any]:
    """A training step's share of the optimizer: the update, and its addition to the parameters."""

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return jax.tree.map(lambda p, u: p + u, params, updates), state

    return step


def start(tx: Any, params: Any) -> Any:
    """Parameters and state to give away: some states hold the parameters themselves, so all is copied."""
    return jax.tree.map(jnp.copy, (params, tx.init(params)))


def stepper(step: Callable[..., Any], carry: Any, grads: Any, steps: int) -> Contestant:
    """So many compiled steps from where the last ended, parameters and state given away, as in training."""

    def run() -> None:
        nonlocal carry
        for _ in range(steps):
            carry = step(*carry, grads)
        jax.block_until_ready(carry)

    return lambda: run
