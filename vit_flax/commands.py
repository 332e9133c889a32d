"""What the commands of `vit-flax` do. They import JAX, so `cli` imports them only once the options are read."""

import argparse
import shlex

from vit_flax.data import Data, read_data
from vit_flax.fields import read_fields
from vit_flax.interrupt import interruptible
from vit_flax.predict import likeliest, probabilities, read_images
from vit_flax.progress import Display, tell
from vit_flax.run import Run, RunError, Stopped, read_settings
from vit_flax.settings import Settings, repeat, resolve
from vit_flax.train import eval_model

SHOWN = 3  # classes that predict shows


def train(options: argparse.Namespace) -> int:
    data, settings = _settings(options)
    run = Run.resume(options.out, settings) if options.resume else Run.begin(options.out, settings)
    try:
        with Display(settings, run.steps_done()) as display, interruptible(_announce_stop) as came:
            result = run.train(data, display, every=options.checkpoint_every, stop=lambda: came)
    except Stopped as stopped:
        print(f"{stopped}: to go on, run vit-flax train --resume --out {shlex.quote(str(options.out))}")
        return came.status
    print(f"test_acc: {result['test_acc']:.4f} ({settings.source}, {result['test_images']} images, final parameters)")
    print(f"kept in {options.out}: checkpoints, tensorboard, result.json, learning_curve.png")
    return 0


def _announce_stop() -> None:
    tell("stopping after the steps under way (once more: at once)")


def _settings(options: argparse.Namespace) -> tuple[Data, Settings]:
    """What the options ask for; what they leave open is as it was in a kept run, or the default."""
    shorthands = {name: getattr(options, name) for name in ("epochs", "batch_size", "learning_rate")}
    changes, model_changes = read_fields(options.set)
    changes = {name: value for name, value in shorthands.items() if value is not None} | changes
    kept = _kept(options)
    path = options.data or (kept.data if kept else None)
    data = read_data(path)
    if kept is None:
        default = "article" if path else "digits"
        names = (options.preset or default, options.recipe or default)
        return data, resolve(*names, changes, options.seed or 0, path, data, model_changes)
    for option, given, had in (("preset", options.preset, kept.preset), ("recipe", options.recipe, kept.recipe_name)):
        if given not in (None, had):
            raise ValueError(f"--{option} is {given}, but the kept run has {had}: leave the option out")
    settings = repeat(kept, changes, options.seed, path, data, model_changes)
    if options.config and settings.digest != kept.digest:
        tell(f"these data are not those of {options.config}")
    return data, settings


def _kept(options: argparse.Namespace) -> Settings | None:
    """The settings of the run to go on with or to repeat."""
    if options.resume and options.config:
        raise ValueError("--resume goes on with a run, --config begins another with its settings: give one of them")
    if options.resume:
        return Run.open(options.out).settings
    return read_settings(options.config)[0] if options.config else None


def evaluate(options: argparse.Namespace) -> None:
    run = Run.open(options.run)
    data = read_data(options.data or run.settings.data)
    shape = (*run.settings.config.image_size, run.settings.config.channels)
    if (data.classes, data.test.images.shape[1:]) != (run.settings.classes, shape):
        raise RunError(f"{options.run} was trained on {run.settings.source}; {data.source} has other classes or sizes")
    state, history, begun = run.restored(options.checkpoint)
    under_way = f", and {len(begun.metrics.loss)} steps" if begun else ""
    epochs = f"epoch {len(history)} of {run.settings.recipe.epochs}{under_way}"
    print(f"{options.checkpoint} checkpoint of {options.run}: {epochs}")
    for name, dataset in (("val_acc", data.validation), ("test_acc", data.test)):
        print(f"{name}: {eval_model(state, dataset):.4f} ({data.source}, {len(dataset.labels)} images)")


def predict(options: argparse.Namespace) -> None:
    run = Run.open(options.run)
    config = run.settings.config
    images = read_images(options.images, config.image_size, config.channels)
    state = run.restored(options.checkpoint).state
    for file, row in zip(options.images, probabilities(state, images), strict=True):
        print(f"{file}: {likeliest(row, run.settings.classes, SHOWN)}")
