"""Why a target differs: the reference is replayed with each known fault in it, to see what that explains.

A fault explains a failure if both sides agree once the reference has it too. Two things keep an explanation from being
made up. It may break nothing that was whole. And where errors are ratios, the reference with the fault may be wrong by
no more than the target is (`ruined`): a reference that is ruined enough would grant the target any error.

Several causes need no search among pairs: what explains most is planted for good, and what still fails is asked for
again. What none of them explains everywhere is asked for tap by tap, as each fails alone: one layer may differ as if it
alone had a fault.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

from conformance import tolerances
from conformance.catalogue import FAULTS
from conformance.diagnosis import Diagnosis, Finding
from conformance.faults import Fault
from conformance.replay import Diffs, Key, Replays, charged, cleared, exact, failing, spoils, with_faults, worst
from conformance.rungs import RUNGS, Ground, Rung

Shown = Callable[[tuple[Fault, ...]], Diffs]  # what a rung finds of the sound reference with these faults in it


@dataclasses.dataclass(frozen=True)
class Step:
    """One explanation: faults that clear exactly the same, what they clear, and all that is planted with the first."""

    either: tuple[Fault, ...]
    keys: tuple[Key, ...]
    planted: tuple[Fault, ...]
    replay: Diffs
    everywhere: bool = True

    def finding(self, sound: Diffs) -> Finding:
        before = worst(sound[key] for key in self.keys if key in sound)
        after = worst(self.replay[key] for key in self.keys if key in self.replay)
        return Finding(self.either, _taps(self.keys), self.everywhere, before, after)


def diagnose(ground: Ground, rung: Rung, first: Sequence[Fault] = ()) -> Diagnosis:
    """Which known faults explain why a rung fails, and what none of them explains.

    Those in `first` are tried before any other, which are not looked at if these explain all of it.
    """
    replays = Replays(ground, rung)
    hypotheses = [fault for fault in FAULTS if fault.rung == rung.name and fault.applies(ground.config)]
    known = [fault for fault in hypotheses if fault in first]
    if known and (diagnosis := _search(replays, known)).explained:
        return diagnosis
    return _search(replays, hypotheses)


def _search(replays: Replays, hypotheses: Sequence[Fault]) -> Diagnosis:
    """Plant what explains most until nothing fails; where nothing helps any more, tell what is explained in part."""
    steps: list[Step] = []
    base = replays.sound
    while failing(base):
        so_far = steps[-1].planted if steps else ()
        under = {fault: replays.under((*so_far, fault)) for fault in hypotheses if fault not in so_far}
        tried = {fault: replay for fault, replay in under.items() if replay}
        step = _most_helpful(replays.sound, base, tried, so_far)
        if step is None:
            return _in_parts(replays, steps, base, tried, so_far)
        steps.append(step)
        base = step.replay
    findings = tuple(step.finding(replays.sound) for step in steps)
    return Diagnosis(worst(replays.sound.values()), worst(base.values()) if steps else None, findings)


def _most_helpful(sound: Diffs, base: Diffs, tried: dict[Fault, Diffs], so_far: tuple[Fault, ...]) -> Step | None:
    """The fault that clears most and spoils nothing, with those that clear exactly the same.

    Which of those leaves less rounding behind is luck: none of them is preferred.
    """
    clears = {fault: cleared(base, replay) for fault, replay in tried.items() if not spoils(sound, base, replay)}

    def worth(fault: Fault) -> tuple[bool, int]:
        return not failing(tried[fault]), len(clears[fault])

    best = max(clears, key=worth, default=None)
    if best is None or not clears[best]:
        return None
    either = tuple(f for f in clears if clears[f] == clears[best] and worth(f) == worth(best))
    return Step(either, clears[best], (*so_far, best), tried[best])


def _in_parts(
    replays: Replays, steps: list[Step], base: Diffs, tried: dict[Fault, Diffs], so_far: tuple[Fault, ...]
) -> Diagnosis:
    """What is explained of a rung that is not explained whole, and what is not."""
    sound = replays.sound
    shown = functools.cache(lambda causes: replays.of_reference(causes) or {})
    kept = [step for step in (_visible(step, sound, shown) for step in steps) if step.keys]
    local = _tap_by_tap(sound, base, tried, so_far, shown)
    findings = tuple(step.finding(sound) for step in (*kept, *local))
    known = {tap for finding in findings for tap in finding.taps}
    unexplained = tuple(tap for tap in _taps(charged(sound)) if tap not in known)
    return Diagnosis(worst(sound.values()), None, findings, unexplained)


def _tap_by_tap(
    sound: Diffs, base: Diffs, tried: dict[Fault, Diffs], so_far: tuple[Fault, ...], shown: Shown
) -> list[Step]:
    """Of each tap that still fails alone, the fault that explains it there, whatever it breaks elsewhere.

    Of several the one that explains most taps. Not where errors are ratios: that one of them is alike within a factor
    identifies nothing (a softmax in float16 is as wrong as products in TF32).
    """
    steps = {}
    for fault, replay in tried.items():
        keys = tuple(key for key in charged(base) if key in replay and replay[key].passes and exact(replay[key]))
        step = Step((fault,), keys, (*so_far, fault), replay, everywhere=False)
        steps[fault] = _visible(step, sound, shown) if keys else step
    shares: dict[tuple[Fault, ...], list[Key]] = {}
    for key in charged(base):
        most = max((len(step.keys) for step in steps.values() if key in step.keys), default=0)
        either = tuple(f for f, step in steps.items() if key in step.keys and len(step.keys) == most)
        if either:
            shares.setdefault(either, []).append(key)
    return [dataclasses.replace(steps[e[0]], either=e, keys=tuple(keys)) for e, keys in shares.items()]


def _visible(step: Step, sound: Diffs, shown: Shown) -> Step:
    """The step with those of its taps alone at which its faults make the sound reference as wrong as the target.

    On the sound reference's input, that is: on that of a reference with faults in it a difference may be hidden, as
    where attention is saturated. None, where all that it explains are ratios.
    """
    seen = shown(step.planted)

    def is_visible(key: Key) -> bool:
        if not exact(sound[key]):
            return sound[key].reference_error is None
        return key in seen and _alike(seen[key].error, sound[key].error)

    return dataclasses.replace(step, keys=tuple(key for key in step.keys if key in sound and is_visible(key)))


def _alike(error: float, other: float) -> bool:
    """Errors of two sides that are equal to the float64 limit."""
    return error == other or abs(error - other) <= tolerances.FLOAT64


def _taps(keys: Iterable[Key]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tap for tap, _ in keys))


def diagnose_all(ground: Ground, rungs: Iterable[Rung] = RUNGS) -> dict[str, Diagnosis]:
    """Every rung that fails, with its diagnosis; once explained, the climb goes on from a reference with the causes."""
    found: dict[str, Diagnosis] = {}
    unexplained: set[str] = set()
    for rung in rungs:
        if unexplained & set(rung.needs):
            unexplained.add(rung.name)
        elif not all(diff.passes for diff in rung.climb(ground)):
            found[rung.name] = diagnosis = diagnose(ground, rung)
            causes = [finding.either[0] for finding in diagnosis.findings if diagnosis.explained]
            ground = dataclasses.replace(ground, reference_target=with_faults(ground.reference_target, causes))
            unexplained |= set() if diagnosis.explained else {rung.name}
    return found
