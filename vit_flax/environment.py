"""What a figure was measured on: versions and device, for everything that is recorded, and in words under a table."""

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def environment(*packages: str) -> dict[str, Any]:
    """Python, platform, device, versions of `PACKAGES` and these packages, what JAX was told, and the code's commit."""
    device = jax.devices()[0]
    kind = f"{os.cpu_count()} cores, {cpu()}" if device.platform == "cpu" else device.device_kind
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.platform} ({kind})",
        "packages": {name: importlib.metadata.version(name) for name in (*PACKAGES, *packages)},
        "jax": told_to_jax(),
    } | commit(Path(__file__))


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def begun(file: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """The record that is under way in a file, to go on with; the fresh one, if there is none.

    Raises `ValueError`, naming the file, if it was begun with other versions of the packages.
    """
    if not file.exists():
        return fresh
    record = json.loads(file.read_text())
    if record["environment"]["packages"] != fresh["environment"]["packages"]:
        raise ValueError(f"{file} was begun with other versions of the packages: begin a new file")
    go_on_here(record["environment"], fresh["environment"])
    return record


def go_on_here(found: dict[str, Any], here: dict[str, Any]) -> None:
    """A record that goes on elsewhere, or after a commit, tells each device and each commit that it is of."""
    for key in ("device", "commit"):
        told = found[key].split("; ") if key in found else []
        if key in here and here[key] not in told:
            found[key] = "; ".join([*told, here[key]])


def told_to_jax() -> dict[str, str]:
    """What changes its figures: the precision of float32 products, and XLA's flags where there are any."""
    told = {"matmul_precision": jax.config.values["jax_default_matmul_precision"] or "default"}
    flags = os.environ.get("XLA_FLAGS", "").split()
    return told | ({"xla_flags": " ".join(flags)} if flags else {})


def commit(file: Path) -> dict[str, str]:
    """The commit of the git checkout that has this file, and whether anything there was changed since; or nothing."""

    def git(*command: str) -> str:
        return subprocess.run(
            ["git", "-C", str(file.parent), *command], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # or it is installed within somebody else's checkout
        changed = " and changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return {"commit": git("rev-parse", "HEAD") + changed}
    except (OSError, subprocess.CalledProcessError):
        return {}


def cpu(told: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, and its family and model where Linux tells them: one name covers several generations."""
    lines = told.read_text().partition("\n\n")[0].splitlines() if told.is_file() else []
    of_first_core = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if not {"model name", "cpu family", "model"} <= of_first_core.keys():
        return platform.processor() or platform.machine()
    return "{model name}, family {cpu family}, model {model}".format(**of_first_core)


def measured_on(record: dict[str, Any]) -> str:
    """A sentence or two of a record that has an `environment`, was `created`, and may have `ended` days later."""
    found = record["environment"]
    days = dict.fromkeys(record[key][:10] for key in ("created", "ended") if key in record)
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return f"Device: {found['device']}. Python {found['python']}, {versions}. Recorded {' to '.join(days)}."
