"""One rung climbed again and again, each time against a reference with other faults in it."""

import dataclasses
import functools
from collections.abc import Iterable

from conformance import tolerances
from conformance.compare import Diff
from conformance.faults import Fault
from conformance.guard import Guarded
from conformance.remember import Replayed
from conformance.rungs import Ground, Rung, Target
from conformance.together import with_faults
from vit_flax.config import ViTConfig

Key = tuple[str, str]  # the tap and the mode of a comparison
Diffs = dict[Key, Diff]
Shown = dict[tuple[str, tuple[Fault, ...]], Diffs]  # by rung and faults: what tells the sound reference from that one

CONFIGS_KEPT, BYTES_KEPT = 2, 2**29  # of each side


class Replays:
    """One rung against the reference with faults in it; both sides remember what they are asked again and again.

    `shown` knows no target: diagnoses against one reference may share it.
    """

    def __init__(self, ground: Ground, rung: Rung, shown: Shown | None = None) -> None:
        self.sides: list[Replayed] = []
        build = _built_once if rung.repeats else functools.partial(_built_and_replayed, self.sides)
        target, reference = build(ground.target), build(ground.editable_reference)
        self.ground = dataclasses.replace(ground, target=target, reference_target=reference)
        self.rung = rung
        self.sound = _by_key(rung.climb(self.ground))
        self._shown = {} if shown is None else shown

    def under(self, causes: tuple[Fault, ...]) -> Diffs | None:
        """What the rung finds against a reference with these faults; nothing where a side cannot take that."""
        reference = with_faults(self.ground.reference_target, causes)
        return self._climb(dataclasses.replace(self.ground, reference_target=reference))

    def as_wrong(self, causes: tuple[Fault, ...], key: Key) -> bool:
        """Whether these faults make the sound reference as wrong as the target there, on the same input.

        For exact errors: two sides that are equal are equally wrong. On the input that a reference with faults in it
        makes, that need not be seen, as where attention is saturated.
        """
        asked = self.rung.name, causes
        if asked not in self._shown:
            faulty = with_faults(self.ground.reference_target, causes)
            self._shown[asked] = self._climb(dataclasses.replace(self.ground, target=faulty)) or {}
        shown, found = self._shown[asked].get(key), self.sound.get(key)
        return shown is not None and found is not None and _alike(shown.error, found.error)

    def may_explain(self, causes: tuple[Fault, ...], keys: Iterable[Key]) -> bool:
        """Not, where all of these are exact and the causes make the reference as wrong as the target at none."""
        keys = [key for key in keys if key in self.sound]
        return not all(exact(self.sound[key]) for key in keys) or any(self.as_wrong(causes, key) for key in keys)

    def _climb(self, ground: Ground) -> Diffs | None:
        for side in self.sides:
            side.anew()
        try:
            return _by_key(self.rung.climb(ground))
        except Exception:  # whatever a side raises when given what it was not made for: no explanation
            return None


def _built_and_replayed(sides: list[Replayed], build: Target) -> Target:
    """A side for each config, that remembers what it answered; it is added to the list.

    (Not a method: what holds itself is freed late, and this holds a gigabyte.)
    """

    def built(config: ViTConfig) -> Replayed:
        sides.append(Replayed(Guarded(build(config)), BYTES_KEPT))
        return sides[-1]

    return _built_once(built)


def _built_once(build: Target) -> Target:
    """A side for each config; large ones would not fit side by side for long."""
    return functools.lru_cache(maxsize=CONFIGS_KEPT)(build)


def _alike(error: float, other: float) -> bool:
    """Errors of two sides that are equal to the float64 limit, of whichever scale is larger."""
    return error == other or abs(error - other) <= tolerances.FLOAT64 * max(1.0, error)


def _by_key(diffs: Iterable[Diff]) -> Diffs:
    return {(diff.tap, diff.mode): diff for diff in diffs}


def failing(diffs: Diffs) -> list[Key]:
    return [key for key, diff in diffs.items() if not diff.passes]


def charged(diffs: Diffs) -> list[Key]:
    """What fails alone: the rest only follows. All that fails, where nothing does alone."""
    keys = failing(diffs)
    return [key for key in keys if key[1] == "alone"] or keys


def worst(diffs: Iterable[Diff]) -> float:
    return max((diff.severity for diff in diffs), default=0.0)


def exact(diff: Diff) -> bool:
    """Both sides are held to be equal there, and no statistic or ratio is bounded.

    Where no error at all is allowed it may be that of a draw, as of a constant that the target draws.
    """
    return diff.reference_error is None and diff.limit == tolerances.FLOAT64


def cleared(base: Diffs, replay: Diffs) -> tuple[Key, ...]:
    """What is charged in `base`, and holds in the replay.

    A comparison may have another name there (of a leaf that is now drawn, say): then all of the new ones must hold.
    """
    left = set(failing(replay))
    renamed_hold = not left - base.keys()
    return tuple(k for k in charged(base) if (k not in left if k in replay else renamed_hold))


def spoils(sound: Diffs, base: Diffs, replay: Diffs) -> bool:
    """Something that held in `base` fails in the replay, or the replayed reference is ruined somewhere."""
    broken = any(key in base and base[key].passes for key in failing(replay))
    return broken or any(ruined(diff, sound.get(key)) for key, diff in replay.items())


def ruined(diff: Diff, sound: Diff | None) -> bool:
    """Whether a reference with faults in it is wrong by more than the target: judged by what *its* error grants.

    A rung bounds the target's error by so many times the reference's. Here the same factor bounds the reference's error
    by the target's; what a sound side is granted, both are. A hypothesis is true or false at its worst comparison.
    Measured there, both ways, in multiples of the bound: at most 0.80 for the ten known faults of a single pass (it is
    the fast variance), at least 2.4 for 44 false hypotheses: those faults taken for each other, and ten others,
    written as code (tests/unit/rounding.py). The envelope of float32 training has a prediction interval in the factor's
    place.
    """
    if diff.reference_error is None:
        return False
    factor = diff.limit / diff.reference_error if diff.reference_error else 1.0
    return diff.reference_error > max(factor * diff.error, sound.limit if sound else 0.0)
