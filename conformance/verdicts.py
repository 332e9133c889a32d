"""What the rungs say together: a word for each case, one verdict for the run, and the exit status that goes with it.

Nothing else decides: terminal, JUnit's XML, `report.json`, `report.html` and exit status say what is said here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from conformance import tolerances
from conformance.cases import Case
from conformance.ladder import Ladder, Outcome
from conformance.rungs import NAMES

Verdict = Literal["pass", "fail", "incomplete"]
Outcomes = Mapping[str, Outcome]

EXIT_STATUS: dict[Verdict, int] = {"pass": 0, "fail": 1, "incomplete": 2}

SAME = "the same"
ROUNDS_WORSE = "the same maths but rounds worse"
FLOAT32_INSIDE = "limited by float32 inside"
DIFFERS = "differs"
CANNOT_BE_BUILT = "cannot be built for this config"
CANNOT_RUN = "cannot run in this precision"
CRASHED = "crashed"
INCOMPLETE = "incomplete"
NOT_VERIFIED = "not verified"
WORDS = (SAME, ROUNDS_WORSE, FLOAT32_INSIDE, DIFFERS, CANNOT_BE_BUILT, CANNOT_RUN, CRASHED, INCOMPLETE, NOT_VERIFIED)

# Rungs that fail for rounding alone, where those in float64 have passed.
ROUNDING = tuple(name for name in NAMES if "float" in name and not name.endswith("float64"))
ENVELOPE = "trajectory float32"  # whose limit is no multiple of a granted error


def verdict(cases: Iterable[Outcomes], failed_elsewhere: Sequence[str] = (), exit_status: int = 0) -> Verdict:
    """Of a whole run: `exit_status` is what pytest made of it, `failed_elsewhere` names tests that are no rungs.

    A pass is every planned rung passed or not verified, at least one passed, and nothing else in the session wrong.
    """
    found = {outcome.status for outcomes in cases for outcome in outcomes.values()}
    if "fail" in found or failed_elsewhere:
        return "fail"
    return "pass" if "pass" in found <= {"pass", "not verified"} and exit_status == 0 else "incomplete"


def exit_status(verdict: Verdict, pytests: int) -> int:
    """The verdict's; or pytest's own where that says that there was no session at all: an internal error, bad usage."""
    return pytests if pytests > max(EXIT_STATUS.values()) else EXIT_STATUS[verdict]


def word(outcomes: Outcomes) -> tuple[str, str | None]:
    """Of one case: one of `WORDS`, and what there is to say with it."""
    failed = {name: outcome for name, outcome in outcomes.items() if outcome.status == "fail"}
    if failed:
        return _of_failures(outcomes, failed)
    statuses = [outcome.status for outcome in outcomes.values()]
    if "not run" in statuses:
        told = next((o.headline for o in outcomes.values() if o.status == "not run" and o.headline), None)
        return INCOMPLETE, told or f"{statuses.count('not run')} of {len(statuses)} rungs not run"
    for reason, said in (("cannot be built", CANNOT_BE_BUILT), ("cannot run", CANNOT_RUN)):
        # One rung may need another config, or another precision, than the model itself: that is its own affair.
        for name, outcome in outcomes.items():
            if outcome.reason == reason and ("pass" not in statuses or name == "float64"):
                return said, outcome.headline
    return (SAME, None) if "pass" in statuses else (NOT_VERIFIED, None)


def _of_failures(outcomes: Outcomes, failed: Outcomes) -> tuple[str, str | None]:
    crashes = [outcome.headline for outcome in failed.values() if outcome.reason == "crashed"]
    if crashes:
        return CRASHED, crashes[0]
    first = next(iter(failed.values())).headline
    if all(outcome.reason == "float32 inside" for outcome in failed.values()):
        return FLOAT32_INSIDE, first
    same_maths = "float64" in outcomes and outcomes["float64"].status == "pass"
    if same_maths and set(failed) <= set(ROUNDING) and (amount := _worst_rounding(failed)):
        return ROUNDS_WORSE, amount
    return DIFFERS, first


def _worst_rounding(failed: Outcomes) -> str | None:
    """By how much it rounds worse; None where something could not be measured, and so is more than rounding."""
    wrong = [(name, diff) for name, outcome in failed.items() for diff in outcome.diffs if not diff.passes]
    if not wrong or any(diff.problem or not math.isfinite(diff.severity) for _, diff in wrong):
        return None
    rung, worst = max(wrong, key=lambda found: found[1].severity)
    if rung == ENVELOPE or worst.ratio is None:
        amount = f"{worst.severity:.3g} times the limit"
    else:
        amount = f"{worst.ratio:.3g} times what must be granted, where {tolerances.ROUNDING_FACTOR:g} is allowed"
    return f"at worst {amount}, in {rung} at {worst.tap} {worst.mode}"


def headline(ladder: Ladder, failed_elsewhere: Sequence[str] = (), exit_status: int = 0) -> str:
    """The run in one sentence, which claims no more than was seen to hold."""
    match verdict(ladder.outcomes.values(), failed_elsewhere, exit_status):
        case "pass":
            return f"{ladder.name} {_holds(ladder)}{_besides(ladder)}"
        case "incomplete":
            return _so_far(ladder) + _besides(ladder)
    if failures := _failures(ladder):
        return f"{ladder.name} {failures}{_not_run(ladder)}"
    others = _count(len(failed_elsewhere), "other test")
    return f"{_so_far(ladder)}, but {others} of this session failed, first {failed_elsewhere[0]}"


SAID = {  # of a target, with how many cases
    CRASHED: "crashed in {}",
    DIFFERS: "differs in {}",
    ROUNDS_WORSE: "is the same maths but rounds worse in {}",
    FLOAT32_INSIDE: "is limited by float32 inside in {}",
}


def _failures(ladder: Ladder) -> str:
    by_word: dict[str, list[Case]] = {}
    for case, outcomes in ladder.outcomes.items():
        by_word.setdefault(word(outcomes)[0], []).append(case)
    said = [text.format(_count(len(by_word[w]), "case")) for w, text in SAID.items() if w in by_word]
    for case, outcomes in ladder.outcomes.items():
        for rung, outcome in outcomes.items():
            if outcome.status == "fail":
                return f"{', '.join(said)}; first {case} at {rung}: {outcome.headline}"
    return ""


def _holds(ladder: Ladder) -> str:
    """No more than was seen to hold: the model, its training, or some other rungs of the ladder."""
    model, training = _holding(ladder, "float64"), _holding(ladder, "float64", "trajectory")
    if not model:
        return f"holds on {_count(_statuses(ladder).count('pass'), 'rung')}"
    trains = f", and trains as they do in {_count(training, 'case')}" if training else ""
    return f"is the same model as its references in {_count(model, 'case')}{trains}"


def _holding(ladder: Ladder, *rungs: str) -> int:
    cases = ladder.outcomes.values()
    return sum(all(name in o and o[name].status == "pass" for name in rungs) for o in cases)


def _so_far(ladder: Ladder) -> str:
    statuses = _statuses(ladder)
    if "pass" not in statuses:
        return "nothing was verified"
    return f"what was run holds: {statuses.count('pass')} of {_count(len(statuses), 'rung')}"


def _besides(ladder: Ladder) -> str:
    lacking = _statuses(ladder).count("not verified")
    return f"; {_count(lacking, 'rung')} not verified" if lacking else ""


def _not_run(ladder: Ladder) -> str:
    missing = _statuses(ladder).count("not run")
    return f"; {_count(missing, 'rung')} not run" if missing else ""


def _statuses(ladder: Ladder) -> list[str]:
    return [outcome.status for outcomes in ladder.outcomes.values() for outcome in outcomes.values()]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
