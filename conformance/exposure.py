"""Inputs that expose: on which of them each gate sees which fault, and how well.

The margin of a gate is the error of the weakest fault it is there for, as a multiple of its limit. A gate that sees one
only just may miss it elsewhere: under `tolerances.BLIND` it is called blind to it.
"""

import dataclasses
from collections.abc import Sequence

from conformance import tolerances
from conformance.catalogue import FAULTS
from conformance.compare import Comparison, compare
from conformance.faults import Fault, planted
from conformance.hostile import EXPOSURES
from conformance.rungs import Ground


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
    weights, images = EXPOSURES[exposure].change(ground.weights, ground.images)
    return compare(ground.candidate, ground.reference, ground.config, weights, images, precision)


def measured_in(precision: str) -> tuple[str, ...]:
    """The exposures on which gates of this precision are measured."""
    return tuple(name for name, exposure in EXPOSURES.items() if precision in exposure.margins)


def margins(ground: Ground, precision: str, exposures: Sequence[str] | None = None) -> list[Margin]:
    """Of every forward gate in one precision, on each of the inputs."""
    faults = [f for f in FAULTS if f.rung == "float64" and f.applies(ground.config) and not f.float32_inside]
    found = []
    for exposure in measured_in(precision) if exposures is None else exposures:
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
