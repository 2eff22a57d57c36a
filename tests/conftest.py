"""What all tests share: eight virtual devices, so that sharding is tested on any machine."""

import os
from tempfile import TemporaryDirectory

import pytest

# Read when jax starts its backend, so it has to stand before anything that uses jax.
_DEVICES = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()


def pytest_configure(config: pytest.Config) -> None:
    """Workers compile the same programs again and again: what one has compiled, the others find."""
    # Only with workers: races, which time the compiler, run in one process.
    if getattr(config.option, "numprocesses", None) and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = TemporaryDirectory(prefix="gradxform-tests-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
