"""Checkpoints of a training run with Orbax: the last epoch's and the best one's, each written whole or not at all."""

from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vit_flax.train import History, TrainState

Which = Literal["last", "best"]


class CheckpointError(ValueError):
    """A checkpoint that is not there or cannot be read: the message names the folder."""


class Checkpoints:
    """The checkpoints under a folder. Use it as a context: writing goes on in the background until the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()  # Orbax wants absolute paths
        options = ocp.CheckpointManagerOptions(max_to_keep=1)
        self.managers = {
            which: ocp.CheckpointManager(self.folder / which, options=options) for which in ("best", "last")
        }

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        for manager in self.managers.values():
            manager.close()

    def save(self, state: TrainState, history: History) -> None:
        """Keep the epoch that just ended as the last, and as the best if no earlier one validated better."""
        best = max(record["val/acc"] for record in history)
        # The best goes first: were the run killed in between, resuming the last would come by here again.
        for which in ("best", "last") if history[-1]["val/acc"] >= best else ("last",):
            manager = self.managers[which]
            if len(history) not in manager.all_steps():
                manager.save(
                    len(history),
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(_arrays(state)), history=ocp.args.JsonSave(history)
                    ),
                )

    def path(self, which: Which) -> Path | None:
        """The folder of that checkpoint; None before the first."""
        self.managers[which].wait_until_finished()
        epoch = self.managers[which].latest_step()
        return None if epoch is None else self.folder / which / str(epoch)

    def restore(self, which: Which, state: TrainState) -> tuple[TrainState, History]:
        """The state and history kept there; `state` says what they look like. Raises `CheckpointError`."""
        if (path := self.path(which)) is None:
            raise CheckpointError(f"{self.folder} has no checkpoint yet")
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, _arrays(state))
        try:
            kept = self.managers[which].restore(
                int(path.name),
                args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted), history=ocp.args.JsonRestore()),
            )
        except Exception as error:  # whatever Orbax and TensorStore stumble over
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"{path} cannot be read and looks damaged ({type(error).__name__}: {reason})"
            ) from error
        # Orbax pins its arrays to a device, and jit would compile again for those.
        return state.replace(**jax.tree.map(lambda array: jnp.asarray(np.asarray(array)), kept.state)), kept.history


def _arrays(state: TrainState) -> dict[str, Any]:
    """What changes while training; all else follows from the run's settings."""
    return {name: getattr(state, name) for name in ("step", "params", "opt_state", "average")}
