"""Memory of a process

The most that a fresh process has held, less what it held before: the state, and three steps of an optimizer
on parameters of the shapes of GPT-2 small, compiled with parameters and state given away, or an update
outside `jax.jit`. It is `VmHWM` in /proc/self/status; what `resource` tells of a process begins with that of
the one it came from.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.test_stages import CHAIN

PROGRAM = """
import importlib, sys
sys.path.insert(0, {tests!r})
import jax
from benchmarks.models import TREES, draw
from benchmarks.races import step_of
from benchmarks.test_stages import OPTIMIZERS

def kilobytes(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

tx = OPTIMIZERS[{optimizer!r}](importlib.import_module({library!r}))
params, grads = (draw(TREES["GPT-2 small"], seed) for seed in range(2))
before = kilobytes("VmRSS")
state = tx.init(params)
if {compiled}:
    step = jax.jit(step_of(tx), donate_argnums=(0, 1))
    for _ in range(3):
        params, state = step(params, state, grads)
else:
    params, state = tx.update(grads, state, params)
jax.block_until_ready((params, state))
print((kilobytes("VmHWM") - before) * 1024)
"""


def _bytes(**arguments: Any) -> float:
    code = PROGRAM.format(tests=str(Path(__file__).parents[1]), **arguments)
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(run.stdout)


@pytest.mark.benchmark
@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("optimizer", ["Adam", CHAIN])
def test_peak_of_a_process(race: Any, optimizer: str, compiled: bool) -> None:
    def holding(library: str) -> Callable[[], Any]:
        return lambda: lambda: _bytes(optimizer=optimizer, library=library, compiled=compiled)

    contestants = {"gradxform": holding("gradxform"), "Optax": holding("optax")}
    what = f"peak of {'three compiled steps' if compiled else 'an un-jitted update'}"
    race(what, f"{optimizer}, GPT-2 small", contestants, rounds=1, at_most=1.05, unit="bytes", warm_up=False)
