"""What a session found, as the plain dict that `report.schema.json` describes."""

from collections.abc import Sequence
from typing import Any

from conformance import tolerances
from conformance.cases import Case
from conformance.compare import Diff
from conformance.diagnosis import Diagnosis, Finding
from conformance.faults import Fault
from conformance.ladder import Ladder, Outcome
from conformance.precision import probe_matmul, torch_device
from conformance.verdicts import headline, verdict, word
from vit_flax.config import preset
from vit_flax.environment import environment, now


def as_report(
    ladder: Ladder,
    mutation: dict[str, Any] | None = None,
    *,
    failed_elsewhere: Sequence[str] = (),
    exit_status: int = 0,
    probed: bool = True,
) -> dict[str, Any]:
    """The whole session; `mutation` says how many known faults the suite was seen to catch, if that was run.

    `failed_elsewhere` and `exit_status` are pytest's part in the verdict. Before the session no product is `probed`.
    """
    first = next(iter(ladder.outcomes))
    return {
        "schema_version": 3,
        "created": now(),
        "target": ladder.name,
        "verdict": verdict(ladder.outcomes.values(), failed_elsewhere, exit_status),
        "headline": headline(ladder, failed_elsewhere, exit_status),
        "failed_elsewhere": list(failed_elsewhere),
        "environment": environment("torch", "torchvision", "timm")
        | {"matmul": probe_matmul(torch_device()) if probed else {}},
        "images": {"source": ladder.images(first).source},
        "limits": {"float64": tolerances.FLOAT64, "rounding_factor": tolerances.ROUNDING_FACTOR},
        "mutation": mutation,
        "cases": [_case(case, outcomes, ladder.seed) for case, outcomes in ladder.outcomes.items()],
    }


def _case(case: Case, outcomes: dict[str, Outcome], seed: int) -> dict[str, Any]:
    said, detail = word(outcomes)
    return {
        "id": str(case),
        "verdict": said,
        "detail": detail,
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
    return {
        "text": diagnosis.text,
        "causes": _known(diagnosis.causes),
        "before": diagnosis.before,
        "after": diagnosis.after,
        "findings": [_finding(finding) for finding in diagnosis.findings],
        "unexplained": list(diagnosis.unexplained),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "either": _known(finding.either),
        "taps": list(finding.taps),
        "everywhere": finding.everywhere,
        "before": finding.before,
        "after": finding.after,
    }


def _known(faults: Sequence[Fault]) -> list[dict[str, str]]:
    return [{"name": fault.name, "seen": fault.seen} for fault in faults]


def _diff(diff: Diff) -> dict[str, Any]:
    measured = diff.problem is None  # an error that is not finite is left for the report to explain
    return {
        "tap": diff.tap or "(no name)",
        "mode": diff.mode,
        "status": "pass" if diff.passes else "fail",
        "error": diff.error if measured else None,
        "reference_error": diff.reference_error,
        "limit": diff.limit if measured else None,
        "ratio": diff.ratio if measured else None,
        "problem": diff.problem,
    }
