"""Why a target differs: the reference is replayed with each known fault in it, then with pairs of them, until one
replay leaves no difference."""

import dataclasses
import hashlib
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from conformance.catalogue import FAULTS
from conformance.compare import Diff
from conformance.faults import Fault, planted
from conformance.rungs import RUNGS, Ground, Rung, Target

PATIENCE = 120.0  # seconds that pairs are tried for: on a large model there are too many of them
# Costly, and the same whenever given the same.
REPLAYED = (
    *("taps", "gradients", "train", "initial", "drawn", "crops"),
    *("augment", "noisy_losses", "averages", "evaluate"),
)


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The faults under which a rung holds; none where no known one explains it. Errors as multiples of their limits."""

    causes: tuple[Fault, ...]
    before: float
    after: float | None

    @property
    def text(self) -> str:
        if not self.causes:
            return "no known cause explains it"
        names = " and ".join(f"'{fault.name}' ({fault.seen})" for fault in self.causes)
        return f"explained by {names}: {self.before:.2g} times its limit without, {self.after:.2g} times with it"


def diagnose(ground: Ground, rung: Rung, first: Sequence[Fault] = ()) -> Diagnosis:
    """The fault, or the pair, that explains best why a rung fails; those in `first` are tried before any other.

    In float64 at most one can: a wrong one leaves its own difference. Elsewhere the one is taken under which the
    reference is wrong by as much as the target.
    """
    hypotheses = [f for f in FAULTS if f.rung == rung.name and f.applies(ground.config)]
    ground = _replayable(ground)
    found = rung.climb(ground)
    before = _worst(found)
    for fault in first:
        if fault in hypotheses and (diffs := _under(ground, rung, fault)) and _holds(diffs):
            return Diagnosis((fault,), before, _worst(diffs))
    singles = {fault: diffs for fault in hypotheses if (diffs := _under(ground, rung, fault))}
    if explained := _best(singles):
        return Diagnosis((explained,), before, _worst(singles[explained]))
    deadline = time.monotonic() + PATIENCE
    for causes in _pairs(found, singles):
        if time.monotonic() > deadline:
            break
        if _holds(diffs := _under(ground, rung, *causes)):
            return Diagnosis(causes, before, _worst(diffs))
    return Diagnosis((), before, None)


def _pairs(found: Sequence[Diff], singles: dict[Fault, tuple[Diff, ...]]) -> list[tuple[Fault, Fault]]:
    """The pairs that may explain what was found, the likeliest first: those of which one half already helps.

    What one half breaks of what was whole, the other must break too: else it stays broken under both.
    """
    whole = {diff.tap for diff in found if diff.mode == "alone"} - _failing(found)
    broken = {fault: _failing(diffs) & whole for fault, diffs in singles.items()}
    ranked = sorted(singles, key=lambda fault: len(_failing(singles[fault])))
    places = sorted(itertools.combinations(range(len(ranked)), 2), key=sum)
    return [(ranked[i], ranked[j]) for i, j in places if broken[ranked[i]] == broken[ranked[j]]]


def diagnose_all(ground: Ground, rungs: Iterable[Rung] = RUNGS) -> dict[str, Diagnosis]:
    """Every rung that fails, with its diagnosis; once explained, the climb goes on from a reference with the causes."""
    found: dict[str, Diagnosis] = {}
    unexplained: set[str] = set()
    for rung in rungs:
        if unexplained & set(rung.needs):
            unexplained.add(rung.name)
        elif not _holds(rung.climb(ground)):
            found[rung.name] = diagnosis = diagnose(ground, rung)
            ground = dataclasses.replace(ground, reference_target=_with(ground, diagnosis.causes))
            unexplained |= set() if diagnosis.causes else {rung.name}
    return found


def _with(ground: Ground, causes: Iterable[Fault]) -> Target:
    target = ground.reference_target
    for fault in causes:
        target = planted(fault, target)
    return target


def _under(ground: Ground, rung: Rung, *causes: Fault) -> tuple[Diff, ...]:
    """What the rung finds against a reference with these faults; nothing where they cannot be planted together."""
    replay = dataclasses.replace(ground, reference_target=_with(ground, causes))
    replay.__dict__["candidate"] = ground.candidate
    try:
        return rung.climb(replay)
    except (ValueError, KeyError, IndexError):
        return ()


def _replayable(ground: Ground) -> Ground:
    """The same comparison with a reference that can be changed, remembering what the target answered."""
    replayable = dataclasses.replace(ground, reference_target=ground.pliable_target)
    replayable.__dict__["candidate"] = Remembered(ground.candidate)
    return replayable


class Remembered:
    """A side whose costly answers are kept: asked the same again, it does not compute."""

    def __init__(self, side: Any) -> None:
        self.side = side
        self.answers: dict[bytes, Any] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.side, name)
        if name not in REPLAYED:
            return method

        def ask(*arguments: Any, **named: Any) -> Any:
            if named.get("draw") is not None:  # which also counts what it is asked
                return method(*arguments, **named)
            key = _digest((name, arguments, named))
            if key not in self.answers:
                self.answers[key] = method(*arguments, **named)
            return self.answers[key]

        return ask


def _digest(value: Any) -> bytes:
    hashed = hashlib.blake2b()

    def add(value: Any) -> None:
        match value:
            case dict():
                for name in sorted(value):
                    hashed.update(name.encode())
                    add(value[name])
            case tuple() | list():
                for item in value:
                    add(item)
            case np.ndarray():
                hashed.update(f"{value.dtype}{value.shape}".encode())
                hashed.update(np.ascontiguousarray(value).tobytes())
            case _:
                hashed.update(repr(value).encode())

    add(value)
    return hashed.digest()


def _holds(diffs: Sequence[Diff]) -> bool:
    return bool(diffs) and all(diff.passes for diff in diffs)


def _worst(diffs: Sequence[Diff]) -> float:
    return max(diff.severity for diff in diffs)


def _failing(diffs: Sequence[Diff]) -> set[str]:
    """The blocks that fail alone: the others only follow."""
    return {diff.tap for diff in diffs if diff.mode == "alone" and not diff.passes}


def _best(replays: dict[Fault, tuple[Diff, ...]]) -> Fault | None:
    """Among the faults that explain a rung, the one under which both sides are most nearly alike."""
    explaining = {fault: _misfit(diffs) for fault, diffs in replays.items() if _holds(diffs)}
    return min(explaining, key=explaining.__getitem__) if explaining else None


def _misfit(diffs: Sequence[Diff]) -> float:
    """In float64, the worst error. Where errors are ratios: how far they are from the reference's own, typically."""
    ratios = [abs(math.log(d.error / d.reference_error)) for d in diffs if d.reference_error and d.error]
    return statistics.median(ratios) if ratios else _worst(diffs)
