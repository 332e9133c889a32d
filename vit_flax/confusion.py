"""Which classes a model takes for which: as counts, in words, and as a picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NUMBERED = 20  # classes at most whose numbers are written into the picture


def confusion(labels: Int[np.ndarray, "n"], found: Int[np.ndarray, "n"], classes: int) -> Int[np.ndarray, "C C"]:
    """How many images of each class (row) were taken for each class (column)."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, found), 1)
    return counts


def by_class(counts: Int[np.ndarray, "C C"], classes: Sequence[str]) -> list[str]:
    """A line a class: the share that was found, and what it was most often taken for."""
    width = max(map(len, classes))
    lines = []
    for i, (name, row) in enumerate(zip(classes, counts, strict=True)):
        total, wrong = int(row.sum()), np.where(np.arange(len(row)) == i, 0, row)
        share = f"{row[i] / total:.4f}" if total else "none"
        taken = f"  most often taken for {classes[int(wrong.argmax())]}: {wrong.max()}" if wrong.any() else ""
        lines.append(f"  {name:<{width}}  {share} of {total}{taken}")
    return lines


def draw(counts: Int[np.ndarray, "C C"], classes: Sequence[str], title: str, file: Path) -> None:
    """Each row as shares of its class."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.5 + 0.45 * min(len(classes), 40)
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="taken for", ylabel="class", title=title)
    places = range(len(classes))
    axes.set_xticks(places, classes, rotation=90)
    axes.set_yticks(places, classes)
    if len(classes) <= NUMBERED:
        for i, j in np.argwhere(counts):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, str(counts[i, j]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(file, dpi=120)
