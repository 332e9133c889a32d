"""A progress bar over a whole run: images per second, loss and time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from vit_flax.run import Run
from vit_flax.train import Progress


@contextmanager
def progress_bar(run: Run, label: str | None = None) -> Iterator[Progress]:
    """What `Run.train` reports to, shown on stderr."""
    per_epoch = run.settings.steps_per_epoch * run.settings.recipe.batch_size
    total, done = run.settings.recipe.epochs * per_epoch, run.epochs_done() * per_epoch
    with tqdm(desc=label, total=total, initial=done, unit=" images", unit_scale=True, dynamic_ncols=True) as bar:

        def progress(images: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update(images)

        yield progress
