"""Epochs: their steps, their metrics, the validation at their end; and what is needed to go on within one.

B batch   n images of a dataset
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vit_flax import train
from vit_flax.data import Data, Dataset
from vit_flax.devices import divided, everywhere
from vit_flax.train import Metrics, TrainState

Progress = Callable[[int, float], None]  # told how many images were trained on, and their loss
History = list[dict[str, float]]  # of each epoch: epoch, train/loss, train/acc, val/acc, seconds
Due = Callable[[int], bool]  # whether to keep the run after so many steps, within an epoch


class Begun(NamedTuple):
    """An epoch under way."""

    metrics: Metrics  # of its steps so far
    seconds: float  # that they took


class Diverged(ArithmeticError):
    """The loss is no longer a finite number; steps count from 1."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.step = step


def train_epoch(
    state: TrainState,
    dataset: Dataset,
    epoch: int,
    progress: Progress | None = None,
    begun: Begun | None = None,
    due: Due | None = None,
    keep: Callable[[TrainState, Begun], None] = lambda state, begun: None,
) -> tuple[TrainState, Metrics]:
    """One pass over the data, or the rest of one that was `begun`: the new state, and the epoch's mean metrics.

    Between two calls, `keep(state, begun)` is called where one is `due`.
    `progress(images, loss)` hears of each call, one call late, so that the device never waits.
    Raises `Diverged` as soon as a loss that is not finite has been heard of.
    """
    start = time.perf_counter() - (begun.seconds if begun else 0)
    rows = train.epoch_rows(state, epoch, len(dataset.labels))
    before = len(begun.metrics.loss) if begun else 0
    per_call = _per_call(len(rows))
    first = int(state.step) - before
    calls = [begun.metrics] if begun else []
    heard, unheard = before, list[Metrics]()

    def hear(left: int) -> None:
        """Wait for all calls but the `left` last ones."""
        nonlocal heard
        while len(unheard) > left:
            losses = np.asarray(unheard.pop(0).loss)
            if not np.isfinite(losses).all():
                raise Diverged(first + heard + int(np.isfinite(losses).argmin()) + 1)
            if progress is not None:
                progress(losses.size * rows.shape[1], float(losses.mean()))
            heard += losses.size

    for done in range(before, len(rows), per_call):
        state, metrics = train.train_steps(state, dataset, divided(rows[done : done + per_call], state.mesh, axis=1))
        calls.append(metrics)
        unheard.append(metrics)
        hear(left=1)
        if done + per_call < len(rows) and due is not None and due(first + done + per_call):
            hear(left=0)  # or a state whose loss is not finite would be kept
            keep(state, Begun(_joined(calls), time.perf_counter() - start))
    hear(left=0)
    losses, accuracies = _joined(calls)
    return state, Metrics(losses.mean(), accuracies.mean())


def _joined(calls: list[Metrics]) -> Metrics:
    losses, accuracies = (jnp.concatenate(part) for part in zip(*calls, strict=True))
    return Metrics(losses, accuracies)


def _per_call(steps: int) -> int:
    """The most steps in a call such that all calls of an epoch are alike, and compiled once."""
    return max(k for k in range(1, train.STEPS_PER_CALL + 1) if steps % k == 0)


def train_model(
    state: TrainState,
    data: Data,
    history: History | None = None,
    keep: Callable[[TrainState, History, Begun | None], None] | None = None,
    progress: Progress | None = None,
    stop_after: int | None = None,
    begun: Begun | None = None,
    due: Due | None = None,
) -> tuple[TrainState, History]:
    """All epochs of the recipe that the history still lacks, validating after each. Raises `Diverged`.

    The first of them may be `begun`. `keep(state, history, begun)` is called after each epoch, with None, and within
    one where it is `due`; it may raise, to stop there. After epoch `stop_after` the rest is left for later.
    """
    epochs = min(state.recipe.epochs, stop_after or state.recipe.epochs)
    history = list(history or [])
    keep = keep or (lambda *_: None)
    dataset, validation = everywhere((data.train, data.validation), state.mesh)
    for epoch in range(len(history) + 1, epochs + 1):
        start = time.perf_counter() - (begun.seconds if begun else 0)
        state, metrics = train_epoch(
            state, dataset, epoch, progress, begun, due, lambda state, begun: keep(state, history, begun)
        )
        begun, trained = None, time.perf_counter()
        history.append(
            {
                "epoch": epoch,
                "train/loss": float(metrics.loss),
                "train/acc": float(metrics.accuracy),
                "val/acc": train.eval_model(state, validation),
                "seconds": trained - start,
            }
        )
        keep(state, history, None)
    return state, history
