"""Several processes on this machine, talking over its loopback: the guide's script, as launchers start it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import gradxform as gx
from gradxform.checkpoints import Checkpoints

SCRIPT = Path(__file__).parents[2] / "docs" / "guides" / "train_digits.py"
HEARTBEAT = 10
"""Seconds after which a process that is silent counts as dead."""


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """What the script defines."""
    scope: dict[str, Any] = {"__name__": "train_digits"}
    exec(compile(SCRIPT.read_text(encoding="utf-8"), str(SCRIPT), "exec"), scope)
    return scope


def fit(script: dict[str, Any], steps: int, **more: Any) -> gx.FitResult:
    return gx.fit(
        script["loss"],
        script["network"](),
        script["digits"](),
        script["TX"],
        batch_size=64,
        steps=steps,
        **more,
    )


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def variables(number: int, processes: int, port: int) -> dict[str, str]:
    return {
        "COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "NUM_PROCESSES": str(processes),
        "PROCESS_ID": str(number),
    }


def slurm(number: int, processes: int, port: int) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": str(processes),
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
        "JAX_COORDINATOR_PORT": str(port),
    }


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts processes, and leaves none behind."""
    started: list[subprocess.Popen[str]] = []

    def start(processes: int, launcher: Any, *arguments: Any) -> list[subprocess.Popen[str]]:
        port = free_port()
        plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
        common = {"JAX_PLATFORMS": "cpu", "HEARTBEAT_TIMEOUT": str(HEARTBEAT)}
        new = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), *map(str, arguments)],
                env={**plain, **common, **launcher(number, processes, port)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for number in range(processes)
        ]
        started.extend(new)
        return new

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ends(process: subprocess.Popen[str], within: float = 120) -> str:
    """What the process wrote until its end."""
    try:
        return process.communicate(timeout=within)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"the process did not end: {process.communicate()[0]}")


def assert_same(path: Path, expected: gx.FitResult) -> None:
    found = np.load(path)
    assert found["step"] == expected.step
    np.testing.assert_allclose(found["loss"], expected.history.loss, rtol=1e-5, atol=1e-6)
    for name, param in expected.params.items():
        np.testing.assert_allclose(found[name], param, atol=1e-5, err_msg=name)


def test_two_processes_as_slurm_starts_them_train_as_one(
    script: dict[str, Any], start: Any, tmp_path: Path
) -> None:
    """Each of them reads its own half of every batch."""
    processes = start(2, slurm, tmp_path / "two.npz", "--stream", "--steps", 60)
    outputs = [ends(process) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "2 processes, 2 devices" in outputs[0]
    assert_same(tmp_path / "two.npz", fit(script, 60, drop_last=True))


def test_a_process_is_killed_and_the_run_goes_on_with_more_and_with_fewer(
    script: dict[str, Any], start: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    left, killed = start(
        2,
        variables,
        tmp_path / "never.npz",
        "--steps",
        4000,
        "--checkpoints",
        folder,
        "--checkpoint-every",
        40,
    )
    checkpoints = Checkpoints(folder)
    deadline = time.monotonic() + 120
    while not checkpoints.steps():
        assert killed.poll() is None, ends(killed)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    began = time.monotonic()
    output = ends(left, within=4 * HEARTBEAT)
    assert left.returncode != 0
    assert time.monotonic() - began < 4 * HEARTBEAT
    assert "fit: process 0 of 2 lost touch with another one after step" in output
    assert "resume=True" in output
    ends(killed)
    assert not (tmp_path / "never.npz").exists()

    steps = Checkpoints(folder).steps()[-1] + 60
    shutil.copytree(folder, tmp_path / "copy")
    expected = fit(script, steps)
    processes = start(
        4,
        variables,
        tmp_path / "four.npz",
        "--steps",
        steps,
        "--checkpoints",
        folder,
        "--checkpoint-every",
        40,
    )
    outputs = [ends(process) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert "4 processes, 4 devices" in outputs[0]
    assert_same(tmp_path / "four.npz", expected)

    one = fit(
        script,
        steps,
        mesh=jax.make_mesh((8,), ("data",)),
        checkpoint_dir=tmp_path / "copy",
        checkpoint_every=40,
        resume=True,
    )
    assert one.step == steps
    np.testing.assert_allclose(one.params["hidden"], expected.params["hidden"], atol=1e-5)
