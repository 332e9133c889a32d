"""What TensorBoard shows of a run: its epochs, and its steps as they go by."""

import shutil
import time
from pathlib import Path

from tensorboard.summary import Writer

from vit_flax.loop import History
from vit_flax.optimizer import schedule
from vit_flax.progress import Listener
from vit_flax.settings import Settings

OF_EPOCHS = ("train/loss", "train/acc", "val/acc")  # the article's
OF_STEPS = ("step/loss", "step/learning_rate", "step/images_per_second")


class Scalars(Listener):
    """Writes them, from a step on. Two runs to TensorBoard: `epochs`, and `steps`, one point a call of several steps.

    Epochs are written anew from the history: what a killed run had logged of later ones would show twice. Of steps
    there is no history: those that a killed run must train again are there twice, with the same loss.
    """

    def __init__(self, folder: Path, settings: Settings, step: int, history: History) -> None:
        self.step, self.batch_size = step, settings.recipe.batch_size
        self.rate = schedule(settings.recipe, settings.steps_per_epoch)
        self.since: float | None = None  # the last call's end; the first one compiles
        shutil.rmtree(folder / "epochs", ignore_errors=True)
        self._epochs, self._steps = Writer(str(folder / "epochs")), Writer(str(folder / "steps"))
        for record in history:
            self.epoch(record)

    def epoch(self, record: dict[str, float]) -> None:
        for name in OF_EPOCHS:
            self._epochs.add_scalar(name, record[name], step=int(record["epoch"]))

    def steps(self, images: int, loss: float) -> None:
        """So many images more were trained on, with this mean loss. The rate is that of the last step."""
        self.step += images // self.batch_size
        now = time.perf_counter()
        values = [loss, float(self.rate(self.step - 1))]
        if self.since is not None:
            values.append(images / (now - self.since))
        self.since = now
        for name, value in zip(OF_STEPS, values, strict=False):
            self._steps.add_scalar(name, value, step=self.step)

    def close(self) -> None:
        self._epochs.close()
        self._steps.close()
