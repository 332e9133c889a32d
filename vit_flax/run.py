"""A training run as a folder:

    run.json             its settings, and the versions and device it began on
    lock                 held by the process that trains it
    checkpoints/         by step, each with the history of all epochs before
    tensorboard/         losses and accuracies by epoch, loss and learning rate by step (vit_flax/scalars.py)
    result.json          once it has ended: the history, and the test accuracy of the final parameters
    learning_curve.png

With the data, run.json and the checkpoints are all that it needs to go on after an interruption.
"""

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from vit_flax.checkpoint import Checkpoints, Kept, Which, steps_kept
from vit_flax.curve import draw
from vit_flax.data import Data
from vit_flax.devices import mesh_for
from vit_flax.durable import make_folder, write_json
from vit_flax.environment import environment
from vit_flax.lock import LOCK, locked
from vit_flax.loop import Begun, Diverged, History, train_model
from vit_flax.progress import Listener, Several
from vit_flax.scalars import Scalars
from vit_flax.settings import Settings, differences, from_json, to_json
from vit_flax.train import TrainState, create_train_state, eval_model, initialize_model
from vit_flax.weights import count_parameters


class RunError(ValueError):
    """A run that cannot start, go on or be read: the message names the folder."""


class Stopped(Exception):
    """A run was asked to stop, and has been kept as it is after this step."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class Run:
    """One run's settings and folder."""

    def __init__(self, folder: Path, settings: Settings, planned: tuple[int, ...] = ()) -> None:
        """`planned`: how many epochs it was to have before it was extended to those of its settings."""
        self.folder, self.settings, self.planned = folder, settings, planned

    @classmethod
    def begin(cls, folder: Path, settings: Settings) -> "Run":
        """A new run. Raises `RunError` rather than touch a folder that holds something."""
        _check_empty(folder)
        make_folder(folder)
        with locked(folder):
            _check_empty(folder)  # still
            write_json(folder / "run.json", {"settings": to_json(settings), "environment": environment()})
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """The run that is kept there. Raises `RunError`."""
        file = folder / "run.json"
        if not file.is_file():
            raise RunError(f"{folder} holds no run: there is no {file}")
        return cls(folder, *read_settings(file))

    @classmethod
    def resume(cls, folder: Path, settings: Settings) -> "Run":
        """The run that is kept there, to go on with these settings, or to be extended to more epochs.

        Raises `RunError` if it has others.
        """
        run = cls.open(folder)
        changed = differences(run.settings, settings)
        was, wanted = run.settings.recipe.epochs, settings.recipe.epochs
        if wanted > was and len(changed) == 1:
            return cls(folder, settings, (*run.planned, was))
        if changed:
            raise RunError(f"{folder} holds a run with other settings: {'; '.join(changed)}")
        return run

    def fresh(self) -> TrainState:
        """The state before the first step."""
        s = self.settings
        model, params, rng = initialize_model(s.config, s.seed)
        return create_train_state(model, params, rng, s.recipe, s.steps_per_epoch, mesh_for(s.recipe.batch_size))

    def checkpoints(self) -> Checkpoints:
        return Checkpoints(self.folder / "checkpoints", self.settings, self.planned)

    def steps_done(self) -> int:
        """Of the newest checkpoint."""
        return max(steps_kept(self.folder / "checkpoints"), default=0)

    def restored(self, which: Which) -> Kept:
        """The last state that was kept, or that of the best epoch. Raises `CheckpointError`."""
        with self.checkpoints() as checkpoints:
            return checkpoints.restore(which, self.fresh())

    def train(
        self,
        data: Data,
        listener: Listener | None = None,
        stop_after: int | None = None,
        every: int | None = None,
        stop: Callable[[], object] = bool,
    ) -> dict[str, Any]:
        """Train from the last checkpoint, or from the start, to the end (or to an epoch): the result as it is kept.

        It is kept after each epoch, and, if asked, after so many steps within one (once the steps that run in one call
        have run). Raises `Stopped`, once all is kept, when `stop()` says so; `LockError` if another process trains it;
        and `RunError`, naming the step and the last good checkpoint, if the loss stops being finite.
        """
        with locked(self.folder):
            self._note_extension()
            state, history = self._train(data, listener or Listener(), stop_after, every, stop)
            return self._conclude(state, history, data)

    def _train(
        self,
        data: Data,
        listener: Listener,
        stop_after: int | None,
        every: int | None,
        stop: Callable[[], object],
    ) -> tuple[TrainState, History]:
        with self.checkpoints() as checkpoints:
            state, history, begun = Kept(self.fresh(), [], None)
            if checkpoints.newest():
                state, history, begun = checkpoints.restore("last", state)
            with closing(Scalars(self.folder / "tensorboard", self.settings, int(state.step), history)) as scalars:
                listener = Several(scalars, listener)
                keeper = _Keeper(checkpoints, listener, self.settings.recipe.epochs, every, stop)
                keeper.go_on(state, history)
                try:
                    return train_model(
                        state, data, history, keeper.keep, listener.steps, stop_after, begun=begun, due=keeper.due
                    )
                except Diverged as error:
                    checkpoints.wait()
                    good = checkpoints.newest() or "there is none"
                    raise RunError(f"{error}; the last good checkpoint: {good}") from error

    def _note_extension(self) -> None:
        file = self.folder / "run.json"
        kept = json.loads(file.read_text())
        if list(self.planned) != kept.get("planned", []):
            write_json(file, kept | {"settings": to_json(self.settings), "planned": self.planned})

    def measured(self, state: TrainState, history: History, data: Data) -> dict[str, Any]:
        """The result of a run as it is now."""
        return {
            "test_acc": eval_model(state, data.test),
            "test_images": len(data.test.labels),
            "parameters": count_parameters(self.settings.config),
            "history": history,
        }

    def _conclude(self, state: TrainState, history: History, data: Data) -> dict[str, Any]:
        result = self.measured(state, history, data)
        write_json(self.folder / "result.json", result)
        draw(result, self.settings, self.folder / "learning_curve.png")
        return result


class _Keeper:
    """Keeps a run while it is trained, tells of it, and stops it when asked to."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        listener: Listener,
        epochs: int,
        every: int | None,
        stop: Callable[[], object],
    ) -> None:
        self.checkpoints, self.listener = checkpoints, listener
        self.epochs, self.every, self.stop = epochs, every, stop
        self.kept = 0  # the step

    def go_on(self, state: TrainState, history: History) -> None:
        """From what was kept before."""
        self.kept = int(state.step)
        self._stop_if_asked(history)

    def due(self, step: int) -> bool:
        return bool(self.stop()) or (self.every is not None and step - self.kept >= self.every)

    def keep(self, state: TrainState, history: History, begun: Begun | None) -> None:
        self.checkpoints.save(state, history, begun)
        self.kept = int(state.step)
        if begun is None:
            self.listener.epoch(history[-1])
        self._stop_if_asked(history)

    def _stop_if_asked(self, history: History) -> None:
        if len(history) < self.epochs and self.stop():
            raise Stopped(self.kept)


def read_settings(file: Path) -> tuple[Settings, tuple[int, ...]]:
    """The settings in a run.json, and the epochs that were planned before them. Raises `RunError`."""
    try:
        kept = json.loads(file.read_text())
        return from_json(kept["settings"]), tuple(kept.get("planned", ()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def _check_empty(folder: Path) -> None:
    # A run that was killed as it began leaves its lock, and perhaps a part of its first file: nothing to lose.
    left = {LOCK, "run.json.part"}
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - left):
        raise RunError(f"{folder} is not empty: go on with the run there (--resume), or choose another --out")
