"""Fit on a mesh

What `fit` on eight devices costs beside the compiled steps themselves, in a process that has eight.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from gradxform.training.placement import OnMesh
from gradxform.training.program import Carry, program
from gradxform.training.sources import Rows

STEPS, LENGTH, WIDTH = 1024, 512, 256
TX = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))


def loss(params: Any, batch: Any) -> Any:
    out = jnp.tanh(batch["x"] @ params["in"]) @ params["out"]
    return jnp.mean((out - batch["y"]) ** 2)


def _start() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.1, shape).astype(np.float32)

    return {"in": draw(64, WIDTH), "out": draw(WIDTH, 10)}, {"x": draw(2048, 64), "y": draw(2048, 10)}


def _fit(mesh: Any) -> Callable[[], Any]:
    params, data = _start()
    return lambda: gx.fit(loss, params, data, TX, batch_size=256, steps=STEPS, mesh=mesh)


def _bare_calls(mesh: Any) -> Callable[[], Any]:
    """The program that `fit` makes, called for as many steps as it takes in a call."""
    params, data = _start()
    place, plan = OnMesh(mesh, None), gx.batches(data, 256)
    key = place.whole(jax.random.key(0))
    rows = Rows(place.data(data, plan), plan, LENGTH)
    params = place.params(params)
    start = Carry(params, place.state(TX, params, None))
    run = program(loss, TX, plan, LENGTH, "replay", jax.value_and_grad, place.layout(start))

    def calls() -> Any:
        carry = start
        for step in range(0, STEPS, LENGTH):
            drawn = rows.draw(LENGTH, step, key)
            carry, outcome = run(carry, drawn.data, key, np.int32(step), np.int32(step + drawn.steps))
        return jax.block_until_ready((carry, outcome))

    return calls


def _serve() -> None:
    """Run what is asked for, line by line, and tell how many seconds it took."""
    mesh = jax.make_mesh((8,), ("data",))
    runs = {"fit": _fit(mesh), "calls": _bare_calls(mesh)}
    for line in sys.stdin:
        begin = perf_counter()
        runs[line.strip()]()
        print(perf_counter() - begin, flush=True)


@pytest.fixture
def eight_devices() -> Iterator[Callable[[str], float]]:
    """A process that has them; the other races want one."""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, __file__]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(what: str) -> float:
            print(what, file=process.stdin, flush=True)
            return float(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.mark.benchmark
def test_fit_on_eight_devices(race: Any, eight_devices: Callable[[str], float]) -> None:
    def running(what: str) -> Callable[[], Any]:
        return lambda: lambda: eight_devices(what)

    contestants = {"fit": running("fit"), "the compiled steps alone": running("calls")}
    race("fit", f"{STEPS} steps on eight devices", contestants, rounds=7, at_most=1.05)


if __name__ == "__main__":
    _serve()
