"""Which configuration earns the article's 0.77: presets trained over several seeds, and a record of each.

    python -m vit_flax.settlement --data PATH --record results

trains `article`, `article-p4` and `article-p4-untied` with the printed recipe over three seeds. Given again after an
interruption, it goes on where it stopped.
"""

import argparse
import datetime
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from vit_flax.data import Data, read_data
from vit_flax.devices import split_cpu
from vit_flax.durable import write_json
from vit_flax.environment import environment
from vit_flax.memory import keep_memory
from vit_flax.progress import Display
from vit_flax.run import Run
from vit_flax.settings import Settings, resolve, to_json

ARTICLE_PRESETS = ("article", "article-p4", "article-p4-untied")
ARTICLE_ACCURACY = 0.7704  # the article's test_acc


def train_seeds(
    preset: str,
    recipe: str,
    seeds: Sequence[int],
    data: Data,
    path: str | None,
    folder: Path,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train one configuration once a seed, each run in a folder of its own: the record of all of them."""
    runs, compiled = [], _CompileTime()
    for seed in seeds:
        settings = resolve(preset, recipe, {}, seed, path, data)
        own = folder / f"{preset}-{recipe}-{seed}"
        run = Run.resume(own, settings) if own.exists() else Run.begin(own, settings)
        with Display(settings, run.steps_done(), f"{preset} {recipe} seed {seed}") as display:
            result = run.train(data, display, stop_after)
        runs.append({"seed": seed} | result)
    return {
        "kind": "training",
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "settings": {key: value for key, value in to_json(settings).items() if key not in ("seed", "data")},
        "compile_seconds": compiled.seconds,
        "runs": runs,
    } | summary(runs, settings)


def summary(runs: Sequence[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    """Mean and spread over the seeds, and the time that training took."""
    accuracies = [run["test_acc"] for run in runs]
    epochs = [record["seconds"] for run in runs for record in run["history"]]
    images = settings.steps_per_epoch * settings.recipe.batch_size
    return {
        "mean": statistics.mean(accuracies),
        "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "epochs": min(len(run["history"]) for run in runs),
        "seconds": statistics.mean(sum(record["seconds"] for record in run["history"]) for run in runs),
        "images_per_second": images / statistics.median(epochs),
    }


class _CompileTime:
    """Seconds that XLA spends compiling from now on."""

    def __init__(self) -> None:
        self.seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += duration_secs


def record_name(record: dict[str, Any]) -> str:
    """The file of a record: its date, what was trained and on what kind of device."""
    settings, device = record["settings"], record["environment"]["device"].split()[0]
    trained = f"{settings['preset']}-{settings['recipe_name']}"
    return f"{record['created'][:16].replace(':', '')}-training-{trained}-{device}.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="PATH", help="the dataset's folder")
    parser.add_argument("--presets", nargs="+", default=ARTICLE_PRESETS, metavar="NAME", help="the models")
    parser.add_argument("--recipe", default="article", metavar="NAME", help="how they are trained")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), metavar="N", help="one run for each")
    parser.add_argument("--stop-after", type=int, metavar="EPOCH", help="leave the later epochs for another time")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of the runs")
    parser.add_argument("--record", type=Path, default=Path("results"), metavar="DIR", help="folder of the records")
    options = parser.parse_args(arguments)
    keep_memory()
    split_cpu()
    data = read_data(options.data)
    options.record.mkdir(parents=True, exist_ok=True)
    for preset in options.presets:
        record = train_seeds(
            preset, options.recipe, options.seeds, data, options.data, options.runs, options.stop_after
        )
        write_json(options.record / record_name(record), record)
        print(f"{preset}: test_acc {record['mean']:.4f} after {record['epochs']} epochs of {options.recipe}")


if __name__ == "__main__":
    main()
