"""Why a target differs: the reference is replayed with each known fault in it, to see what that explains.

A fault explains a failure if both sides agree once the reference has it too. Two things keep an explanation from being
made up. It may break nothing that was whole. And where errors are ratios, the reference with the fault may be wrong by
no more than the target is (`ruined`): a reference that is ruined enough would grant the target any error.

Several causes need no search among pairs: what explains most is planted for good, and what still fails is asked for
again. What none of them explains is asked of every elementary change of a leaf. What still none explains everywhere is
asked for tap by tap, as each fails alone: one layer may differ as if it alone had a fault.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from conformance.catalogue import FAULTS
from conformance.diagnosis import Diagnosis, Finding
from conformance.elementary import ELEMENTARY
from conformance.faults import Fault
from conformance.replay import Diffs, Key, Replays, Shown, charged, cleared, exact, failing, spoils, worst
from conformance.rungs import RUNGS, Ground, Rung
from conformance.together import with_faults


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


def diagnose(ground: Ground, rung: Rung, first: Sequence[Fault] = (), shown: Shown | None = None) -> Diagnosis:
    """Which known faults explain why a rung fails, and what none of them explains.

    Those in `first` are tried before any other, which are not looked at if these explain all of it. Diagnoses against
    one reference may share `shown`.
    """
    replays = Replays(ground, rung, shown)
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
        tried = _tried(replays, base, hypotheses, so_far)
        step = _most_helpful(replays.sound, base, tried, so_far)
        if step is None:
            tried |= _tried(replays, base, _elementary(replays, base), so_far)
            step = _most_helpful(replays.sound, base, tried, so_far)
        if step is None:
            return _in_parts(replays, steps, base, tried, so_far)
        steps.append(step)
        base = step.replay
    findings = tuple(step.finding(replays.sound) for step in steps)
    return Diagnosis(worst(replays.sound.values()), worst(base.values()) if steps else None, findings)


def _elementary(replays: Replays, base: Diffs) -> list[Fault]:
    """Those of this rung that may show where something fails alone, in whichever layer."""
    taps = {tap for tap, _ in charged(base)}

    def may_show(fault: Fault) -> bool:
        if not fault.around:  # another config: of every layer's parts
            return True
        anywhere = re.sub(r"/(\d+|{last})/", "/*/", fault.place)
        return any(fnmatchcase(tap, anywhere) for tap in taps)

    return [
        fault
        for fault in ELEMENTARY
        if fault.rung == replays.rung.name and fault.applies(replays.ground.config) and may_show(fault)
    ]


def _tried(replays: Replays, base: Diffs, hypotheses: Sequence[Fault], so_far: tuple[Fault, ...]) -> dict[Fault, Diffs]:
    """The replays with each hypothesis that may explain anything that still fails, on top of what is planted so far."""
    tried = {}
    for fault in hypotheses:
        causes = (*so_far, fault)
        if fault not in so_far and replays.may_explain(causes, charged(base)) and (replay := replays.under(causes)):
            tried[fault] = replay
    return tried


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
    """What is explained of a rung that is not explained whole, and what is not.

    Nothing, where each tap stands on those before it: a fault that clears the first of them, and no more, is not there.
    """
    sound = replays.sound
    everywhere = [step for step in (_visible(step, replays) for step in steps) if step.keys]
    everywhere = [] if replays.rung.in_order else everywhere
    findings = tuple(step.finding(sound) for step in (*everywhere, *_tap_by_tap(replays, base, tried, so_far)))
    explained = {tap for finding in findings for tap in finding.taps}
    unexplained = tuple(tap for tap in _taps(charged(sound)) if tap not in explained)
    return Diagnosis(worst(sound.values()), None, findings, unexplained)


def _tap_by_tap(replays: Replays, base: Diffs, tried: dict[Fault, Diffs], so_far: tuple[Fault, ...]) -> list[Step]:
    """Of each tap that still fails alone, the fault that explains it there, whatever it breaks elsewhere.

    Of several the one that explains most taps. Not where errors are ratios: that one of them is alike within a factor
    identifies nothing (a softmax in float16 is as wrong as products in TF32). Nor where each tap stands on those before
    it: after a draw that is missing all have other numbers, whatever is missing.
    """
    if replays.rung.in_order:
        return []
    steps = {}
    for fault, replay in tried.items():
        keys = tuple(key for key in charged(base) if key in replay and replay[key].passes and exact(replay[key]))
        steps[fault] = _visible(Step((fault,), keys, (*so_far, fault), replay, everywhere=False), replays)
    shares: dict[tuple[Fault, ...], list[Key]] = {}
    for key in charged(base):
        most = max((len(step.keys) for step in steps.values() if key in step.keys), default=0)
        either = tuple(f for f, step in steps.items() if key in step.keys and len(step.keys) == most)
        if either:
            shares.setdefault(either, []).append(key)
    return [dataclasses.replace(steps[e[0]], either=e, keys=tuple(keys)) for e, keys in shares.items()]


def _visible(step: Step, replays: Replays) -> Step:
    """The step without those of its taps at which its faults do not make the sound reference as wrong as the target.

    Nothing is left where all that it explains are ratios.
    """

    def is_visible(key: Key) -> bool:
        if not exact(replays.sound[key]):
            return replays.sound[key].reference_error is None
        return replays.as_wrong(step.planted, key)

    return dataclasses.replace(step, keys=tuple(key for key in step.keys if key in replays.sound and is_visible(key)))


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
