"""What a figure was measured on: versions and device, for everything that is recorded."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def environment(*packages: str) -> dict[str, Any]:
    """Python, platform, device and the versions of `PACKAGES` and these packages."""
    device = jax.devices()[0]
    kind = f"{os.cpu_count()} cores, {platform.machine()}" if device.platform == "cpu" else device.device_kind
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.platform} ({kind})",
        "packages": {name: importlib.metadata.version(name) for name in (*PACKAGES, *packages)},
    }
