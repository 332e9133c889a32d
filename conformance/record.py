"""What a session found, as the plain dict that `report.schema.json` describes."""

import datetime
import math
from typing import Any

from conformance import tolerances
from conformance.cases import Case
from conformance.compare import Diff
from conformance.ladder import Ladder, Outcome, Rung
from conformance.precision import probe_matmul, torch_device
from vit_flax.config import preset
from vit_flax.environment import environment


def as_report(ladder: Ladder) -> dict[str, Any]:
    verdict = "pass" if all(o.status == "pass" for o in _outcomes(ladder) if o.status != "not run") else "fail"
    first = next(iter(ladder.outcomes))
    return {
        "schema_version": 1,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "target": ladder.name,
        "verdict": verdict,
        "headline": _headline(ladder),
        "environment": _environment(),
        "images": {"source": ladder.images(first).source},
        "limits": {"float64": tolerances.FLOAT64, "rounding_factor": tolerances.ROUNDING_FACTOR},
        "cases": [_case(case, outcomes, ladder.seed) for case, outcomes in ladder.outcomes.items()],
    }


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
        return f"{ladder.name} is the same model as its references in {_count(len(ladder.outcomes), 'case')}"
    case, rung, outcome = failed[0]
    cases = _count(len({case for case, _, _ in failed}), "case")
    return f"{ladder.name} differs in {cases}; first {case} at {rung}: {outcome.headline}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _case(case: Case, outcomes: dict[Rung, Outcome], seed: int) -> dict[str, Any]:
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


def _rung(rung: Rung, outcome: Outcome) -> dict[str, Any]:
    return {
        "rung": rung,
        "status": outcome.status,
        "blocked_by": outcome.blocked_by,
        "seconds": outcome.seconds,
        "headline": outcome.headline,
        "diffs": [_diff(diff) for diff in outcome.diffs],
    }


def _diff(diff: Diff) -> dict[str, Any]:
    measured = diff.problem is None and math.isfinite(diff.error)
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
