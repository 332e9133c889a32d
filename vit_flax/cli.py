"""The command `vit-flax`: train, evaluate, predict."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vit_flax.config import PRESETS
from vit_flax.data import Data, read_data
from vit_flax.devices import split_cpu
from vit_flax.memory import keep_memory
from vit_flax.predict import likeliest, probabilities, read_images
from vit_flax.progress import progress_bar
from vit_flax.recipe import RECIPES
from vit_flax.run import Run, RunError
from vit_flax.settings import Settings, resolve
from vit_flax.train import eval_model

INTRODUCTION = """\
Train a Vision Transformer, evaluate it, and let it classify images.

  vit-flax train                         scikit-learn's digits, in a minute
  vit-flax train --data cifar --out c10  CIFAR-10, as in the article
  vit-flax train --resume --out c10      after an interruption, bit for bit
  vit-flax evaluate --run c10            validation and test accuracy
  vit-flax predict --run c10 cat.jpg     the likeliest classes of an image
"""
TRAINING = """\
Train a model and keep the run in a folder.

Without --data this trains on scikit-learn's digits, with a preset and a recipe
of their size. With it, on CIFAR-10 as torchvision downloads it (a folder with
cifar-10-batches-py) or as Hugging Face has it (train and test Parquet files).

The folder gets run.json (all settings, versions, device), checkpoints (of the
last epoch, and of the one that validated best), tensorboard, and at the end
result.json and learning_curve.png. The accuracy to quote is test_acc: that of
the final parameters.
"""
EVALUATING = "Validation and test accuracy of a kept run."
PREDICTING = """\
The three likeliest classes of each image. An image of another size is scaled
and cropped at its centre. (Models of digits want them light on dark.)
"""
OUT = Path("run")
SHOWN = 3  # classes that predict shows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after one sentence on stderr about what cannot be done."""
    options = _parser().parse_args(arguments)
    keep_memory()
    split_cpu()
    try:
        options.command(options)
    except (ValueError, OSError) as error:
        print(f"vit-flax: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vit-flax", description=INTRODUCTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="train | evaluate | predict")

    def command(name: str, function: object, description: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        made.set_defaults(command=function)
        return made

    training = command("train", train, TRAINING)
    training.add_argument("--data", metavar="PATH", help="the dataset's folder (default: scikit-learn's digits)")
    training.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="the run's folder (default: run)")
    training.add_argument("--resume", action="store_true", help="go on with the run in --out from its last checkpoint")
    training.add_argument(
        "--preset", metavar="NAME", help=f"the model: {', '.join(PRESETS)} (default: digits; article with --data)"
    )
    training.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"how it is trained: {', '.join(RECIPES)} (default: digits; article with --data)",
    )
    training.add_argument("--epochs", type=int, metavar="N", help="passes over the data (default: the recipe's)")
    training.add_argument("--batch-size", type=int, metavar="N", help="images a step (default: the recipe's)")
    training.add_argument("--learning-rate", type=float, metavar="X", help="at its highest (default: the recipe's)")
    training.add_argument("--seed", type=int, metavar="N", help="of all that is random (default: 0)")

    evaluating = command("evaluate", evaluate, EVALUATING)
    evaluating.add_argument("--data", metavar="PATH", help="another copy of the dataset (default: the run's)")
    predicting = command("predict", predict, PREDICTING)
    for made in (evaluating, predicting):
        made.add_argument("--run", type=Path, default=OUT, metavar="DIR", help="the run's folder (default: run)")
        made.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which one (default: last)")
    predicting.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image file")
    return parser


def train(options: argparse.Namespace) -> None:
    data, settings = _settings(options, Run.open(options.out).settings if options.resume else None)
    run = Run.resume(options.out, settings) if options.resume else Run.begin(options.out, settings)
    with progress_bar(settings, run.steps_done()) as progress:
        result = run.train(data, progress)
    print(f"test_acc: {result['test_acc']:.4f} ({settings.source}, {result['test_images']} images, final parameters)")
    print(f"kept in {options.out}: checkpoints, tensorboard, result.json, learning_curve.png")


def _settings(options: argparse.Namespace, kept: Settings | None) -> tuple[Data, Settings]:
    """What the options ask for; what they leave open is as it was in a kept run, or the default."""
    path = options.data or (kept.data if kept else None)
    data = read_data(path)
    preset = options.preset or (kept.preset if kept else "article" if path else "digits")
    recipe = options.recipe or (kept.recipe_name if kept else "article" if path else "digits")
    changes = {name: getattr(options, name) for name in ("epochs", "batch_size", "learning_rate")}
    if kept:
        changes = {name: getattr(kept.recipe, name) if given is None else given for name, given in changes.items()}
    seed = options.seed if options.seed is not None else kept.seed if kept else 0
    changes = {name: given for name, given in changes.items() if given is not None}
    return data, resolve(preset, recipe, changes, seed, path, data)


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


if __name__ == "__main__":
    sys.exit(main())
