"""Checkpoints of a training run with Orbax: the last epoch's and the best one's, each kept whole or not at all.

last/7/ or best/5/   the epoch
    state/           Orbax's
    history.json
    sha256.json      of every other file
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vit_flax.devices import everywhere
from vit_flax.settings import write_json
from vit_flax.train import History, TrainState

Which = Literal["last", "best"]


class CheckpointError(ValueError):
    """A checkpoint that is not there or cannot be read: the message names the folder."""


class Checkpoints:
    """The checkpoints under a folder. Use it as a context, which ends Orbax's threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()  # Orbax wants absolute paths
        self.orbax = ocp.StandardCheckpointer()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.orbax.close()

    def save(self, state: TrainState, history: History) -> None:
        """Keep the epoch that just ended as the last, and as the best if no earlier one validated better."""
        best = max(record["val/acc"] for record in history)
        # The best goes first: were the run killed in between, resuming the last would come by here again.
        names = ("best", "last") if history[-1]["val/acc"] >= best else ("last",)
        part = self.folder / "part"
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        self.orbax.save(part / "state", _packed(_arrays(state)))
        self.orbax.wait_until_finished()
        write_json(part / "history.json", history)
        write_json(part / "sha256.json", _sha256(part))
        for name in names:
            _keep(part, self.folder / name / str(len(history)))
        shutil.rmtree(part)

    def path(self, which: Which) -> Path | None:
        """The folder of that checkpoint; None before the first."""
        return latest(self.folder / which)

    def restore(self, which: Which, state: TrainState) -> tuple[TrainState, History]:
        """The state and history kept there; `state` says what they look like. Raises `CheckpointError`."""
        if (path := self.path(which)) is None:
            raise CheckpointError(f"{self.folder} has no checkpoint yet")
        try:
            # Before Orbax sees them: it overlooks damaged arrays, and goes on about other damage in the background.
            if _sha256(path) != json.loads((path / "sha256.json").read_text()):
                raise ValueError("files are not as they were written, by their sha256")
            wanted = _packed(_arrays(state))  # arrays, not shapes alone: they say the device as well
            kept = _unpacked(self.orbax.restore(path / "state", wanted), _arrays(state))
            return everywhere(state.replace(**kept), state.mesh), json.loads((path / "history.json").read_text())
        except Exception as error:  # whatever Orbax and TensorStore stumble over
            reason = str(error).partition("\n")[0]
            message = f"{path} cannot be read and looks damaged ({type(error).__name__}: {reason})"
            raise CheckpointError(message) from error


def latest(folder: Path) -> Path | None:
    """The newest epoch in last/ or best/; None before the first."""
    epochs = [path for path in folder.glob("*") if path.name.isdecimal()]
    return max(epochs, key=lambda path: int(path.name), default=None)


def _keep(part: Path, whole: Path) -> None:
    """Copy `part`, so that it is there whole or not at all, and in place of what was kept before."""
    if whole.exists():
        return
    shutil.rmtree(whole.parent / "part", ignore_errors=True)
    shutil.copytree(part, whole.parent / "part")
    (whole.parent / "part").rename(whole)
    for other in whole.parent.iterdir():
        if other != whole:
            shutil.rmtree(other)


def _arrays(state: TrainState) -> dict[str, Any]:
    """What changes while training; all else follows from the run's settings."""
    return {name: getattr(state, name) for name in ("step", "params", "opt_state", "average")}


# Orbax takes milliseconds for each array, and a state has hundreds: so it gets one array for each dtype.


def _packed(tree: Any) -> dict[str, jax.Array]:
    leaves = jax.tree.leaves(tree)
    kinds = sorted({str(leaf.dtype) for leaf in leaves})
    return {kind: jnp.concatenate([leaf.ravel() for leaf in leaves if leaf.dtype == kind]) for kind in kinds}


def _unpacked(packed: dict[str, jax.Array], like: Any) -> Any:
    rest = {kind: np.asarray(array) for kind, array in packed.items()}

    def leaf(like: jax.Array) -> jax.Array:
        kind = str(like.dtype)
        own, rest[kind] = np.split(rest[kind], [like.size])
        return jnp.array(own.reshape(like.shape))

    return jax.tree.map(leaf, like)


def _sha256(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / "sha256.json")
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
