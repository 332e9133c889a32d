"""What the commands of `vit-flax` do. They import JAX, so `cli` imports them only once the options are read."""

import argparse
import csv
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax.numpy as jnp

from vit_flax.attention import class_attention
from vit_flax.attention import draw as draw_attention
from vit_flax.augment import normalise
from vit_flax.cli import CANONICAL
from vit_flax.config import preset
from vit_flax.confusion import by_class, confusion, draw
from vit_flax.data import Data, read_data
from vit_flax.fields import read_fields
from vit_flax.image_files import image_files, read_images
from vit_flax.interrupt import interruptible
from vit_flax.layouts import LAYOUTS
from vit_flax.predict import likeliest, probabilities
from vit_flax.progress import Display, tell
from vit_flax.run import Run, RunError, Stopped, read_settings
from vit_flax.settings import Settings, repeat, resolve
from vit_flax.train import classify, share_right
from vit_flax.weight_files import save
from vit_flax.weights import from_params

SHOWN = 3  # classes that predict shows
FILES_AT_ONCE = 256


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
    if kept is None:
        default = "article" if path else "digits"
        names = (options.preset or default, options.recipe or default)
        data = read_data(path, preset(names[0]).image_size)
        return data, resolve(*names, changes, options.seed or 0, path, data, model_changes)
    data = read_data(path, kept.config.image_size)
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
    data = read_data(options.data or run.settings.data, run.settings.config.image_size)
    shape = (*run.settings.config.image_size, run.settings.config.channels)
    if (data.classes, data.test.images.shape[1:]) != (run.settings.classes, shape):
        raise RunError(f"{options.run} was trained on {run.settings.source}; {data.source} has other classes or sizes")
    state, history, begun = run.restored(options.checkpoint)
    under_way = f", and {len(begun.metrics.loss)} steps" if begun else ""
    epochs = f"epoch {len(history)} of {run.settings.recipe.epochs}{under_way}"
    print(f"{options.checkpoint} checkpoint of {options.run}: {epochs}")
    for name, dataset in (("val_acc", data.validation), ("test_acc", data.test)):
        found = classify(state, dataset)
        print(f"{name}: {share_right(found, dataset):.4f} ({data.source}, {len(found)} images)")
    counts = confusion(data.test.labels, found, len(data.classes))
    print(*by_class(counts, data.classes), sep="\n")
    picture = options.run / f"confusion_{options.checkpoint}.png"
    draw(counts, data.classes, f"{data.source}, test images, {epochs}", picture)
    print(f"drawn in {picture}")


def attention(options: argparse.Namespace) -> None:
    run = Run.open(options.run)
    config, recipe = run.settings.config, run.settings.recipe
    files = image_files(options.images)
    images = read_images(files, config.image_size, config.channels)
    pixels = normalise(jnp.asarray(images), recipe.means, recipe.stds)
    shares = class_attention(run.restored(options.checkpoint).state.eval_params, config, pixels)
    draw_attention(shares, images, config.grid, [file.name for file in files], options.to)
    print(f"drawn in {options.to}")


def export(options: argparse.Namespace) -> None:
    run = Run.open(options.run)
    weights = from_params(run.restored(options.checkpoint).state.eval_params)
    if options.layout != CANONICAL:
        weights = LAYOUTS[options.layout].write(weights, run.settings.config)
    save(weights, options.to)
    print(f"{len(weights)} arrays in {options.to}, with the names of {options.layout}")


def predict(options: argparse.Namespace) -> None:
    run = Run.open(options.run)
    config, classes = run.settings.config, run.settings.classes
    files = image_files(options.images)
    state = run.restored(options.checkpoint).state
    with _table(options.csv, ["file", "class", *classes]) as write:
        for start in range(0, len(files), FILES_AT_ONCE):
            some = files[start : start + FILES_AT_ONCE]
            images = read_images(some, config.image_size, config.channels)
            for file, row in zip(some, probabilities(state, images), strict=True):
                write([str(file), classes[row.argmax()], *(f"{p:.6f}" for p in row)])
                if options.csv is None:
                    print(f"{file}: {likeliest(row, classes, SHOWN)}")
    if options.csv is not None:
        print(f"{len(files)} images in {options.csv}")


@contextmanager
def _table(file: Path | None, header: list[str]) -> Iterator[Callable[[list[str]], object]]:
    """A CSV file, whole or not at all, as what writes a row of it; without a file, nothing is written."""
    if file is None:
        yield lambda row: None
        return
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("w", newline="") as table:
            writer = csv.writer(table)
            writer.writerow(header)
            yield writer.writerow
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
