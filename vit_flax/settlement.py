"""Which configuration earns the article's 0.77: presets trained over several seeds, and a record of each.

    python -m vit_flax.settlement --data PATH --record results

trains `article`, `article-p4` and `article-p4-untied` with the printed recipe over three seeds: the first seed of each,
then the second. Each run is recorded once it ends. Given again after an interruption, it goes on where it stopped.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from vit_flax.data import Data, read_data
from vit_flax.devices import split_cpu
from vit_flax.durable import write_json
from vit_flax.environment import environment, now
from vit_flax.interrupt import interruptible
from vit_flax.memory import keep_memory
from vit_flax.progress import Display, tell
from vit_flax.run import Run, Stopped
from vit_flax.settings import Settings, resolve, to_json

ARTICLE_PRESETS = ("article", "article-p4", "article-p4-untied")
ARTICLE_ACCURACY = 0.7704  # the article's test_acc


class Settlement:
    """Configurations that are trained with one recipe on the same data, each run in a folder of its own.

    `how`: what `Run.train` is to be told.
    """

    def __init__(self, recipe: str, data: Data, path: str | None, folder: Path, **how: Any) -> None:
        self.recipe, self.data, self.path, self.folder, self.how = recipe, data, path, folder, how
        self.created = now()
        self.settings: dict[str, Settings] = {}  # of each preset
        self.runs: dict[str, list[dict[str, Any]]] = {}
        self.compiled: dict[str, float] = {}  # seconds

    def train(self, preset: str, seed: int) -> None:
        """Train one, or what is left of it. Raises `Stopped`; a run that has ended an epoch by then counts as it is."""
        settings = self.settings[preset] = resolve(preset, self.recipe, {}, seed, self.path, self.data)
        own = self.folder / f"{preset}-{self.recipe}-{seed}"
        run = Run.resume(own, settings) if own.exists() else Run.begin(own, settings)
        before = _compile_time.seconds
        try:
            with Display(settings, run.steps_done(), f"{preset} {self.recipe} seed {seed}") as display:
                self._add(preset, seed, run.train(self.data, display, **self.how))
        except Stopped:
            if run.steps_done() >= settings.steps_per_epoch:
                state, history, _ = run.restored("last")
                self._add(preset, seed, run.measured(state, history, self.data))
            raise
        finally:
            self.compiled[preset] = self.compiled.get(preset, 0) + _compile_time.seconds - before

    def _add(self, preset: str, seed: int, result: dict[str, Any]) -> None:
        self.runs.setdefault(preset, []).append({"seed": seed} | result)

    def record(self, preset: str) -> dict[str, Any]:
        """What is known of a preset: of its runs, those that have come furthest, which can be averaged."""
        furthest = max(len(run["history"]) for run in self.runs[preset])
        runs = [run for run in self.runs[preset] if len(run["history"]) == furthest]
        settings = self.settings[preset]
        return {
            "kind": "training",
            "created": self.created,
            "environment": environment(),
            "settings": {key: value for key, value in to_json(settings).items() if key not in ("seed", "data")},
            "compile_seconds": self.compiled.get(preset, 0),
            "runs": runs,
        } | summary(runs, settings)

    def keep(self, preset: str, folder: Path) -> None:
        """Write the record, in place of that of the runs before, and say what was reached."""
        if preset in self.runs:
            record = self.record(preset)
            write_json(folder / record_name(record), record)
            seeds = ", ".join(str(run["seed"]) for run in record["runs"])
            reached = f"test_acc {record['mean']:.4f} after {record['epochs']} epochs of {self.recipe}"
            print(f"{preset}: {reached} (seeds: {seeds})", flush=True)


def train_seeds(
    preset: str,
    recipe: str,
    seeds: Sequence[int],
    data: Data,
    path: str | None,
    folder: Path,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Train one configuration once a seed: the record of all runs."""
    settlement = Settlement(recipe, data, path, folder, stop_after=stop_after)
    for seed in seeds:
        settlement.train(preset, seed)
    return settlement.record(preset)


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


_compile_time = _CompileTime()


def record_name(record: dict[str, Any]) -> str:
    """The file of a record: its date, what was trained and on what kind of device."""
    settings, device = record["settings"], record["environment"]["device"].split()[0]
    trained = f"{settings['preset']}-{settings['recipe_name']}"
    return f"{record['created'][:16].replace(':', '')}-training-{trained}-{device}.json"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="PATH", help="the dataset's folder")
    parser.add_argument("--presets", nargs="+", default=ARTICLE_PRESETS, metavar="NAME", help="the models")
    parser.add_argument("--recipe", default="article", metavar="NAME", help="how they are trained")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2), metavar="N", help="one run for each")
    parser.add_argument("--stop-after", type=int, metavar="EPOCH", help="leave the later epochs for another time")
    parser.add_argument("--deadline", type=float, metavar="SECONDS", help="stop then, and keep what there is")
    parser.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="keep runs within epochs, too")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of the runs")
    parser.add_argument("--record", type=Path, default=Path("results"), metavar="DIR", help="folder of the records")
    options = parser.parse_args(arguments)
    end = time.monotonic() + (math.inf if options.deadline is None else options.deadline)
    keep_memory()
    split_cpu()
    options.record.mkdir(parents=True, exist_ok=True)
    with interruptible(lambda: tell("stopping after the steps under way (once more: at once)")) as came:
        how = dict(
            stop_after=options.stop_after,
            every=options.checkpoint_every,
            stop=lambda: came or time.monotonic() > end,
        )
        settlement = Settlement(options.recipe, read_data(options.data), options.data, options.runs, **how)
        try:
            for seed in options.seeds:
                for preset in options.presets:
                    try:
                        settlement.train(preset, seed)
                    finally:
                        settlement.keep(preset, options.record)
        except Stopped as stopped:
            print(f"{stopped} of {preset}, seed {seed}: to go on, give the same command again")
    return came.status


if __name__ == "__main__":
    sys.exit(main())
