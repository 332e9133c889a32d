"""The command `vit-flax`: train, evaluate, predict, attention, export."""

import argparse
import importlib.metadata
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from vit_flax.config import PRESETS
from vit_flax.fields import field_names
from vit_flax.interrupt import SHELL
from vit_flax.recipe import RECIPES

INTRODUCTION = """\
Train a Vision Transformer, evaluate it, and let it classify images.

  vit-flax train                         scikit-learn's digits, in a minute
  vit-flax train --data cifar10          CIFAR-10, downloaded, as in the article
  vit-flax train --resume --out c10      after an interruption, bit for bit
  vit-flax evaluate --run c10            validation and test accuracy
  vit-flax predict --run c10 cat.jpg     the likeliest classes of an image
  vit-flax attention --run c10 cat.jpg   what its class token looks at
  vit-flax export --run c10 --to c.npz   the weights, for other programs
"""
TRAINING = """\
Train a model and keep the run in a folder.

Without --data this trains on scikit-learn's digits, with a preset and a recipe
of their size. With --data cifar10, on CIFAR-10, which is downloaded once; with
a folder, on the copy of it that lies there, as torchvision downloads it
(cifar-10-batches-py) or as Hugging Face has it (train and test Parquet files),
or on your own images in a folder a class (train/cat/1.jpg and test/cat/2.jpg,
or cat/1.jpg). Those are fitted to the preset's image size, and the recipe's
means and stds are measured.

The folder gets run.json (all settings, versions, device), checkpoints (the two
newest, and the epoch that validated best), tensorboard (by epoch and, while
one goes on, by step), and at the end result.json and learning_curve.png. The
accuracy to quote is test_acc: that of the final parameters.
"""
EVALUATING = """\
Validation and test accuracy of a kept run, and for each class of the test
images the share that is found. What is taken for what is drawn in the run's
folder, as confusion_last.png or confusion_best.png.
"""
PREDICTING = """\
The three likeliest classes of each image, or, in a CSV file, the likeliest and
the probability of all. An image of another size is scaled and cropped at its
centre. (Models of digits want them light on dark.)
"""
LOOKING = """\
Draw where the class token of each image looks: the mean over the heads, in the
first, the middle and the last layer.
"""
EXPORTING = """\
The parameters that are evaluated, in one file: .npz or .safetensors, by its
name. Their names are the canonical ones, or those of another library.
"""
CANONICAL = "canonical"
OUT = Path("run")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after one sentence on stderr about what cannot be done.

    Ctrl-C and SIGTERM end a training with 130 and 143, and Ctrl-C everything else with 130.
    """
    options = _parser().parse_args(arguments)
    try:
        from vit_flax import commands, devices, memory  # which take seconds to import: --help does not wait for them

        memory.keep_memory()
        devices.split_cpu()
        return getattr(commands, options.command)(options) or 0
    except KeyboardInterrupt:
        print("vit-flax: interrupted", file=sys.stderr)
        return SHELL + signal.SIGINT
    except (ValueError, OSError) as error:
        print(f"vit-flax: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "vit-flax", description=INTRODUCTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"vit-flax {importlib.metadata.version('vit-parity')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, line: str, description: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=line, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    training = command("train", "train a model and keep the run in a folder", TRAINING)
    training.add_argument(
        "--data", metavar="PATH", help="the dataset's folder, or cifar10 (default: scikit-learn's digits)"
    )
    training.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="the run's folder (default: run)")
    training.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out from its last checkpoint (with more --epochs, beyond its end)",
    )
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
    training.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"change the recipe or the model; may be given again: {', '.join(field_names())}",
    )
    training.add_argument("--config", type=Path, metavar="FILE", help="repeat the run whose run.json this is")
    training.add_argument(
        "--checkpoint-every", type=_count, metavar="STEPS", help="keep the run within epochs too (default: after each)"
    )
    training.add_argument("--seed", type=int, metavar="N", help="of all that is random (default: 0)")

    evaluating = command("evaluate", "validation and test accuracy of a kept run, by class", EVALUATING)
    evaluating.add_argument("--data", metavar="PATH", help="another copy of the dataset (default: the run's)")
    predicting = command("predict", "the likeliest classes of images", PREDICTING)
    exporting = command("export", "the weights of a kept run, in one file", EXPORTING)
    looking = command("attention", "draw what the class token looks at", LOOKING)
    for made in (evaluating, predicting, exporting, looking):
        made.add_argument("--run", type=Path, default=OUT, metavar="DIR", help="the run's folder (default: run)")
        made.add_argument("--checkpoint", choices=("last", "best"), default="last", help="which one (default: last)")
    for shown in (predicting, looking):
        shown.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image file, or a folder of them")
    looking.add_argument(
        "--to", type=Path, default=Path("attention.png"), metavar="FILE", help="the picture (default: attention.png)"
    )
    predicting.add_argument("--csv", type=Path, metavar="FILE", help="write all probabilities there, and print nothing")
    exporting.add_argument("--to", type=Path, required=True, metavar="FILE", help="the file to write")
    exporting.add_argument(
        "--layout",
        choices=(CANONICAL, "timm", "torchvision"),
        default=CANONICAL,
        help="whose names (default: canonical)",
    )
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"is {number}, but must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
