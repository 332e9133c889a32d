"""What a person sees of a run while it goes on: a bar over all of it, a line an epoch, and what is unusual."""

import sys
import time

from tqdm import tqdm

from vit_flax.settings import Settings


def tell(sentence: str) -> None:
    """Say something on stderr, above a bar that may be there."""
    tqdm.write(f"vit-flax: {sentence}", file=sys.stderr)


class Listener:
    """Hears how a run goes on. This one says nothing."""

    def steps(self, images: int, loss: float) -> None:
        """So many images were trained on, with this mean loss."""

    def epoch(self, record: dict[str, float]) -> None:
        """An epoch has ended, with this record."""


class Several(Listener):
    """Several that hear the same."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners

    def steps(self, images: int, loss: float) -> None:
        for listener in self.listeners:
            listener.steps(images, loss)

    def epoch(self, record: dict[str, float]) -> None:
        for listener in self.listeners:
            listener.epoch(record)


class Display(Listener):
    """Shows it on stderr: a line an epoch; and on a terminal a bar below them. Use it as a context."""

    def __init__(self, settings: Settings, steps_done: int, label: str = "") -> None:
        self.recipe, self.steps_per_epoch, self.label = settings.recipe, settings.steps_per_epoch, label
        self.steps_done = steps_done
        self.since: float | None = None  # the last epoch's end

    def __enter__(self) -> "Display":
        batch = self.recipe.batch_size
        self.bar = tqdm(
            desc=" ".join([self.label, "compiling"]).strip(),  # until the first steps have been heard of
            total=self.recipe.epochs * self.steps_per_epoch * batch,
            initial=self.steps_done * batch,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
            disable=None,  # without a terminal
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def steps(self, images: int, loss: float) -> None:
        self.bar.set_description(self.label, refresh=False)
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self.bar.update(images)

    def epoch(self, record: dict[str, float]) -> None:
        now = time.monotonic()
        seconds = record["seconds"] if self.since is None else now - self.since
        self.since = now
        tqdm.write(" ".join([self.label, self._line(record, seconds)]).strip(), file=sys.stderr)

    def _line(self, record: dict[str, float], seconds: float) -> str:
        epochs, epoch = self.recipe.epochs, int(record["epoch"])
        speed = self.steps_per_epoch * self.recipe.batch_size / record["seconds"]
        parts = [
            f"epoch {epoch:{len(str(epochs))}}/{epochs}",
            f"loss {record['train/loss']:.4g}",
            f"acc {record['train/acc']:.4f}",
            f"val {record['val/acc']:.4f}",
            f"{speed:,.0f} images/s",
        ]
        if epoch < epochs:
            parts.append(f"{duration((epochs - epoch) * seconds)} left")
        return "  ".join(parts)


def duration(seconds: float) -> str:
    """In words, to the two largest units: 2 h 40 min, 3 min 5 s, 7 s."""
    minutes, s = divmod(round(seconds), 60)
    hours, min = divmod(minutes, 60)
    if hours:
        return f"{hours} h {min} min"
    return f"{min} min {s} s" if min else f"{s} s"
