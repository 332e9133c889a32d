"""The learning curve of a run, as a picture."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vit_flax.settings import Settings

LOSS, TRAIN, VALIDATION = "#b45309", "#64748b", "#1d4ed8"


def draw(result: dict[str, Any], settings: Settings, file: Path) -> None:
    """Loss above, accuracies below, by epoch; the test accuracy of the final parameters as a point at the end."""
    history = result["history"]
    epochs = [record["epoch"] for record in history]
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    upper.plot(epochs, [record["train/loss"] for record in history], color=LOSS, marker=".")
    upper.set(ylabel="train/loss", ylim=(0, None))
    for name, colour in (("train/acc", TRAIN), ("val/acc", VALIDATION)):
        lower.plot(epochs, [record[name] for record in history], color=colour, marker=".", label=name)
    lower.plot(
        epochs[-1:], [result["test_acc"]], "*", color="black", markersize=11, label=f"test {result['test_acc']:.4f}"
    )
    lower.set(xlabel="epoch", ylabel="accuracy")
    lower.legend(loc="lower right", frameon=False)
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{settings.preset}, recipe {settings.recipe_name}, on {settings.source} (seed {settings.seed})")
    figure.savefig(file, dpi=120)
