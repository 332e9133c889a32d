"""What a figure was measured on: versions and device, for everything that is recorded, and in words under a table."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def environment(*packages: str) -> dict[str, Any]:
    """Python, platform, device and the versions of `PACKAGES` and these packages."""
    device = jax.devices()[0]
    kind = f"{os.cpu_count()} cores, {cpu()}" if device.platform == "cpu" else device.device_kind
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.platform} ({kind})",
        "packages": {name: importlib.metadata.version(name) for name in (*PACKAGES, *packages)},
    }


def cpu(told: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, and its family and model where Linux tells them: one name covers several generations."""
    lines = told.read_text().partition("\n\n")[0].splitlines() if told.is_file() else []
    of_first_core = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if not {"model name", "cpu family", "model"} <= of_first_core.keys():
        return platform.processor() or platform.machine()
    return "{model name}, family {cpu family}, model {model}".format(**of_first_core)


def measured_on(record: dict[str, Any]) -> str:
    """A sentence or two of a record that has an `environment` and was `created`."""
    found = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return f"Device: {found['device']}. Python {found['python']}, {versions}. Recorded {record['created'][:10]}."
