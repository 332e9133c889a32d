"""What a person sees of a run while it goes on: a bar over all of it, and a sentence where something is unusual."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from vit_flax.loop import Progress
from vit_flax.settings import Settings


def tell(sentence: str) -> None:
    """Say something on stderr, beside a bar that may be there."""
    tqdm.write(f"vit-flax: {sentence}", file=sys.stderr)


@contextmanager
def progress_bar(settings: Settings, steps_done: int, label: str | None = None) -> Iterator[Progress]:
    """What `Run.train` reports to, shown on stderr."""
    batch = settings.recipe.batch_size
    total = settings.recipe.epochs * settings.steps_per_epoch * batch
    with tqdm(
        desc=label, total=total, initial=steps_done * batch, unit=" images", unit_scale=True, dynamic_ncols=True
    ) as bar:

        def progress(images: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(images)

        yield progress
