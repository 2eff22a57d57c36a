"""Import

The time that `import gradxform` and `import optax` take in a fresh process that has imported jax.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

CLOCK = """
import jax, sys, time
begin = time.perf_counter()
import {module}
print(time.perf_counter() - begin)
"""


def _seconds(module: str) -> float:
    command = [sys.executable, "-c", CLOCK.format(module=module)]
    # Both as installed packages are: compiled to bytecode, at the latest by the first import.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(run.stdout)


@pytest.mark.benchmark
def test_import_after_jax(race: Any) -> None:
    def importing(module: str) -> Callable[[], Any]:
        return lambda: lambda: _seconds(module)

    contestants = {"gradxform": importing("gradxform"), "Optax": importing("optax")}
    race("import", "after jax", contestants, rounds=11, at_most=1.0, limit=0.15)


def test_import_loads_nothing_heavy() -> None:
    heavy = ["sklearn", "matplotlib", "rich", "chex", "optax", "flax", "pandas"]
    code = f"import gradxform, sys; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"
