"""What all tests share: eight virtual devices, so that sharding is tested on any machine."""

import os

# Read when jax starts its backend, so it has to stand before anything that uses jax.
_DEVICES = "--xla_force_host_platform_device_count=8"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
