"""Inputs that expose: on which of them each gate sees which fault, and how well.

The margin of a gate is the error of the weakest fault it is there for, as a multiple of its limit. A gate that sees one
only just may miss it elsewhere: under `tolerances.BLIND` it is called blind to it.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from conformance import tolerances
from conformance.catalogue import FAULTS
from conformance.compare import Comparison, compare
from conformance.faults import Fault, planted
from conformance.rungs import Ground
from conformance.weights import offset
from vit_flax.weights import Weights

Inputs = tuple[Weights, np.ndarray]


def _times(ending: str, factor: float) -> Callable[[Weights, np.ndarray], Inputs]:
    def change(weights: Weights, images: np.ndarray) -> Inputs:
        return {n: x * np.float32(factor) if ending in n else x for n, x in weights.items()}, images

    return change


def _small_tokens(weights: Weights, images: np.ndarray) -> Inputs:
    """Tokens whose variance is about LayerNorm's epsilon."""
    return {
        n: x * np.float32(1e-3) if n.startswith(("patches", "embedding")) else x for n, x in weights.items()
    }, images


EXPOSURES: dict[str, Callable[[Weights, np.ndarray], Inputs]] = {
    "photographs": lambda weights, images: (weights, images),
    "low-variance tokens": _small_tokens,
    "an offset of 30": lambda weights, images: (offset(weights), images),
    "a constant image": lambda weights, images: (weights, np.full_like(images, 0.5)),
    "saturated logits": _times("head/", 30.0),
    "saturated attention": _times("query/", 30.0),
    "images times 1e-3": lambda weights, images: (weights, images * np.float32(1e-3)),
    "images times 1e3": lambda weights, images: (weights, images * np.float32(1e3)),
}


@dataclasses.dataclass(frozen=True)
class Margin:
    """How well one gate sees the faults that begin at its part of the model, on one input."""

    precision: str
    part: str  # patches, embedding, attention, mlp, block, norm, logits
    exposure: str
    weakest: str  # the fault it sees least of
    margin: float

    @property
    def blind(self) -> bool:
        return self.margin < tolerances.BLIND


def part_of(tap: str) -> str:
    last = tap.rsplit("/", 1)[-1]
    return "block" if last.isdigit() else last


def run(ground: Ground, exposure: str, precision: str) -> Comparison:
    weights, images = EXPOSURES[exposure](ground.weights, ground.images)
    return compare(ground.candidate, ground.reference, ground.config, weights, images, precision)


def margins(ground: Ground, precision: str, exposures: Sequence[str] = tuple(EXPOSURES)) -> list[Margin]:
    """Of every forward gate in one precision, on each of the inputs."""
    faults = [fault for fault in FAULTS if fault.rung == "float64"]
    found = []
    for exposure in exposures:
        seen = {fault: _severity(fault, ground, exposure, precision) for fault in faults}
        for part in dict.fromkeys(part_of(fault.place) for fault in faults):
            own = [fault for fault in faults if part_of(fault.first_place(ground.config)) == part]
            weakest = min(own, key=seen.__getitem__)
            found.append(Margin(precision, part, exposure, weakest.name, seen[weakest]))
    return found


def _severity(fault: Fault, ground: Ground, exposure: str, precision: str) -> float:
    """The fault's error at the place where it begins, alone, as a multiple of the limit there."""
    faulty = dataclasses.replace(ground, target=planted(fault, ground.target))
    place = fault.first_place(ground.config)
    diffs = run(faulty, exposure, precision).diffs
    return next(diff.severity for diff in diffs if (diff.tap, diff.mode) == (place, "alone"))
