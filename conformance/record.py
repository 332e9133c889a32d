"""What a session found, as the plain dict that `report.schema.json` describes."""

import datetime
from typing import Any

from conformance import tolerances
from conformance.cases import Case
from conformance.compare import Diff
from conformance.diagnose import Diagnosis
from conformance.ladder import Ladder, Outcome
from conformance.precision import probe_matmul, torch_device
from vit_flax.config import preset
from vit_flax.environment import environment


def as_report(ladder: Ladder, mutation: dict[str, Any] | None = None) -> dict[str, Any]:
    """The whole session; `mutation` says how many known faults the suite was seen to catch, if that was run."""
    first = next(iter(ladder.outcomes))
    return {
        "schema_version": 2,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "target": ladder.name,
        "verdict": verdict(ladder),
        "headline": _headline(ladder),
        "environment": _environment(),
        "images": {"source": ladder.images(first).source},
        "limits": {"float64": tolerances.FLOAT64, "rounding_factor": tolerances.ROUNDING_FACTOR},
        "mutation": mutation,
        "cases": [_case(case, outcomes, ladder.seed) for case, outcomes in ladder.outcomes.items()],
    }


def verdict(ladder: Ladder) -> str:
    """A run that verified nothing has not passed."""
    found = {outcome.status for outcome in _outcomes(ladder)}
    return "pass" if "pass" in found and not found & {"fail", "blocked"} else "fail"


def _outcomes(ladder: Ladder) -> list[Outcome]:
    return [outcome for outcomes in ladder.outcomes.values() for outcome in outcomes.values()]


def _headline(ladder: Ladder) -> str:
    failed = [
        (case, rung, outcome)
        for case, outcomes in ladder.outcomes.items()
        for rung, outcome in outcomes.items()
        if outcome.status == "fail"
    ]
    if not failed:
        return f"{ladder.name} {'; '.join([_verified(ladder), *_unverified(ladder)])}"
    case, rung, outcome = failed[0]
    cases = _count(len({case for case, _, _ in failed}), "case")
    return f"{ladder.name} differs in {cases}; first {case} at {rung}: {outcome.headline}"


def _verified(ladder: Ladder) -> str:
    """No more than was seen to hold: the model, its training, or some other rungs of the ladder."""

    def holding(*rungs: str) -> str:
        return _count(sum(all(o[r].status == "pass" for r in rungs) for o in ladder.outcomes.values()), "case")

    model, training = holding("float64"), holding("float64", "trajectory")
    if model == "0 cases":
        return f"holds on {_count(sum(o.status == 'pass' for o in _outcomes(ladder)), 'rung')}"
    return f"is the same model as its references in {model}" + (
        f", and trains as they do in {training}" if training != "0 cases" else ""
    )


def _unverified(ladder: Ladder) -> list[str]:
    lacking = sum(outcome.status == "not verified" for outcome in _outcomes(ladder))
    return [f"{_count(lacking, 'rung')} not verified"] if lacking else []


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _case(case: Case, outcomes: dict[str, Outcome], seed: int) -> dict[str, Any]:
    return {
        "id": str(case),
        "subject": case.subject,
        "reference": case.reference,
        "batch_size": case.batch_size,
        "image_size": list(case.config.image_size),
        "num_layers": case.config.num_layers,
        "full_depth": preset(case.subject).num_layers,
        "seed": seed,
        "rungs": [_rung(rung, outcome) for rung, outcome in outcomes.items()],
    }


def _rung(rung: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "rung": rung,
        "status": outcome.status,
        "blocked_by": outcome.blocked_by,
        "seconds": outcome.seconds,
        "headline": outcome.headline,
        "diagnosis": _diagnosis(outcome.diagnosis),
        "diffs": [_diff(diff) for diff in outcome.diffs],
    }


def _diagnosis(diagnosis: Diagnosis | None) -> dict[str, Any] | None:
    if diagnosis is None:
        return None
    causes = [{"name": cause.name, "seen": cause.seen} for cause in diagnosis.causes]
    return {"text": diagnosis.text, "causes": causes, "before": diagnosis.before, "after": diagnosis.after}


def _diff(diff: Diff) -> dict[str, Any]:
    measured = diff.problem is None  # an error that is not finite is left for the report to explain
    return {
        "tap": diff.tap,
        "mode": diff.mode,
        "status": "pass" if diff.passes else "fail",
        "error": diff.error if measured else None,
        "reference_error": diff.reference_error,
        "limit": diff.limit if measured else None,
        "ratio": diff.ratio if measured else None,
        "problem": diff.problem,
    }


def _environment() -> dict[str, Any]:
    return environment("torch", "torchvision", "timm") | {"matmul": probe_matmul(torch_device())}
