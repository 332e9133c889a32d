"""Checkpoints of a training run, each kept whole or not at all, whenever the process is killed or the power fails.

checkpoints/140/    after so many steps
    state/          the step, the parameters, the optimizer's state and the running average: Orbax's, a tree of arrays
    progress.json   the history of the epochs before, and the losses and accuracies of the one under way
    settings.json   those of the run
    sha256.json     of every other file

Each is written beside the others as `part` and renamed once it is on the disk. Kept are the two newest, and the best
epoch by the history of each. So `last` and `best` are read off the folders: nothing points to them that could be stale.
"""

import hashlib
import json
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vit_flax import durable
from vit_flax.devices import everywhere
from vit_flax.loop import Begun, History
from vit_flax.progress import tell
from vit_flax.settings import Settings, differences, from_json, to_json
from vit_flax.train import Metrics, TrainState

Which = Literal["last", "best"]
KEPT = ("step", "params", "opt_state", "average")  # what changes while training; all else follows from the settings
GENERATIONS = 2


class CheckpointError(ValueError):
    """A checkpoint that is not there or cannot be read: the message names the folder."""


def steps_kept(folder: Path) -> list[int]:
    """The steps after which there is a checkpoint, whole or not, in a folder that may be missing."""
    if (folder / "last").exists():
        raise CheckpointError(f"{folder} is of an earlier version (it has a folder `last`): begin a new run")
    return [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]


class Kept(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    history: History
    begun: Begun | None  # the epoch under way


class Checkpoints:
    """The checkpoints of a run under a folder. Use it as a context, which ends Orbax's threads.

    `planned`: numbers of epochs that the run was to have before it was extended to those of its settings.
    """

    def __init__(self, folder: Path, settings: Settings, planned: tuple[int, ...] = ()) -> None:
        self.folder = folder.resolve()  # Orbax wants absolute paths
        self.settings, self.planned = settings, planned
        self.orbax = ocp.StandardCheckpointer()
        self.writer = ThreadPoolExecutor(max_workers=1)
        self.writing: Future[None] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.wait()
        finally:
            self.writer.shutdown()
            self.orbax.close()

    def save(self, state: TrainState, history: History, begun: Begun | None = None) -> None:
        """Keep this state. It is written while training goes on; the next call waits, and raises what went wrong."""
        self.wait()
        arrays = jax.tree.map(np.array, _arrays(state))  # copies: training reuses the memory of what it consumes
        self.writing = self.writer.submit(self._write, arrays, list(history), begun)

    def wait(self) -> None:
        """Until all is written. Raises what went wrong with it."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def newest(self) -> Path | None:
        """The folder of the newest checkpoint, whole or not; None before the first."""
        return self._path(max(steps_kept(self.folder), default=None))

    def restore(self, which: Which, state: TrainState) -> Kept:
        """The newest checkpoint, or that of its best epoch; `state` says what is in it.

        Where that is damaged the one before takes its place, and a sentence says so. Raises `CheckpointError` if there
        is none, or if its settings are not those of the run.
        """
        damage = None
        for step in sorted(steps_kept(self.folder), reverse=True):
            try:
                found, kept = step, self._read(step, state)
                if which == "best":
                    if not kept.history:
                        raise CheckpointError(f"no epoch has ended yet in {self.folder}")
                    found = self._best(kept.history)
                    kept = kept if found == step else self._read(found, state)
            except _DamageError as error:
                damage = damage or error
                continue
            if damage:
                tell(f"{damage}: taking {self._path(found)} instead")
            return kept
        raise CheckpointError(damage or f"{self.folder} has no checkpoint yet")

    def _path(self, step: int | None) -> Path | None:
        return None if step is None else self.folder / str(step)

    def _best(self, history: History) -> int:
        """The step at which the best epoch ended: the later of equals."""
        best = max(history, key=lambda record: (record["val/acc"], record["epoch"]))
        return int(best["epoch"]) * self.settings.steps_per_epoch

    def _write(self, arrays: dict[str, Any], history: History, begun: Begun | None) -> None:
        step = int(arrays["step"])
        whole, part = self.folder / str(step), self.folder / "part"
        durable.make_folder(self.folder)
        durable.remove(part)  # of a run that was killed
        self.orbax.save(part / "state", arrays)
        self.orbax.wait_until_finished()
        _write(part / "progress.json", _progress_to_json(history, begun))
        _write(part / "settings.json", to_json(self.settings))
        _write(part / "sha256.json", _sha256(part))
        durable.sync_all(part)
        durable.remove(whole)  # damaged, or training would not have come from an older one
        durable.rename(part, whole)
        self._forget_before(step, history)

    def _forget_before(self, step: int, history: History) -> None:
        older = sorted((other for other in steps_kept(self.folder) if other <= step), reverse=True)
        kept = set(older[:GENERATIONS])
        for newest in older[:GENERATIONS]:
            ended = history[: newest // self.settings.steps_per_epoch]
            kept |= {self._best(ended)} if ended else set()
        for other in set(older) - kept:
            durable.remove(self.folder / str(other))

    def _read(self, step: int, state: TrainState) -> Kept:
        path = self.folder / str(step)
        try:
            # Before Orbax sees them: it overlooks damaged arrays, and goes on about other damage in the background.
            if _sha256(path) != _json(path / "sha256.json"):
                raise ValueError("files are not as they were written, by their sha256")
            self._check_settings(path)
            history, begun = _progress_from_json(_json(path / "progress.json"))
            arrays = self.orbax.restore(path / "state", jax.tree.map(np.asarray, _arrays(state)))
            return Kept(everywhere(state.replace(**arrays), state.mesh), history, begun)
        except CheckpointError:
            raise
        except Exception as error:  # whatever Orbax and TensorStore stumble over
            reason = str(error).partition("\n")[0]
            raise _DamageError(f"{path} cannot be read and looks damaged ({type(error).__name__}: {reason})") from error

    def _check_settings(self, path: Path) -> None:
        kept = from_json(_json(path / "settings.json"))
        changed = differences(kept, self.settings)
        if kept.recipe.epochs in self.planned:
            changed = [line for line in changed if not line.startswith("recipe.epochs ")]
        if changed:
            raise CheckpointError(f"{path} was trained with other settings than run.json has: {'; '.join(changed)}")


class _DamageError(ValueError):
    pass


def _arrays(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in KEPT}


def _progress_to_json(history: History, begun: Begun | None) -> dict[str, Any]:
    return {
        "history": history,
        "under_way": begun and {"steps": [_typed(x) for x in begun.metrics], "seconds": begun.seconds},
    }


def _progress_from_json(plain: dict[str, Any]) -> tuple[History, Begun | None]:
    under_way = plain["under_way"]
    if under_way is None:
        return plain["history"], None
    metrics = Metrics(*(jnp.array(x["values"], jnp.dtype(x["dtype"])) for x in under_way["steps"]))
    return plain["history"], Begun(metrics, under_way["seconds"])


def _typed(array: Any) -> dict[str, Any]:
    return {"dtype": str(array.dtype), "values": np.asarray(array).tolist()}


def _write(path: Path, plain: Any) -> None:
    path.write_text(json.dumps(plain, indent=1) + "\n")


def _json(path: Path) -> Any:
    return json.loads(path.read_text())


def _sha256(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file != folder / "sha256.json")
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
