"""What a session found, as a report."""

import json
import math
import types

from report_examples import DIAGNOSIS, MUTATION

from conformance import record, report
from conformance.cases import Case
from conformance.compare import Diff
from conformance.diagnosis import Diagnosis, Finding
from conformance.faults import Fault
from conformance.ladder import Outcome

GELU = Fault("the other GELU", "float64", "encoder/00/mlp", "jax.nn.gelu's default")
KNOWN = Diagnosis(4e8, 0.003, (Finding((GELU,), ("encoder/00/mlp",), True, 4e8, 0.003),))


class Climbed:
    """A ladder after its climb, as `record` sees it."""

    name, seed = "mine", 0

    def __init__(self, **statuses):
        self.outcomes = {Case("twin:digits"): statuses}

    def images(self, case):
        return types.SimpleNamespace(source="photographs")


def test_record_of_a_climb_is_a_valid_report(tmp_path):
    endless = Diff("boxes, area", "alone", math.inf, None, 0.1)
    missing = Diff("logits", "free", math.inf, None, 0.0, "the candidate has no such tap")
    failed = Outcome("fail", headline="boxes", diffs=(endless, missing), diagnosis=KNOWN)
    found = record.as_report(Climbed(pixels=failed), MUTATION)
    report.write(found, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    pixels = report.rungs_by_name(written["cases"][0])["pixels"]
    assert written["mutation"] == MUTATION
    assert pixels["diagnosis"] == DIAGNOSIS | {
        "findings": [
            {
                "either": DIAGNOSIS["causes"],
                "taps": ["encoder/00/mlp"],
                "everywhere": True,
                "before": 4e8,
                "after": 0.003,
            }
        ],
        "unexplained": [],
    }
    assert [diff["problem"] for diff in pixels["diffs"]] == ["error is not finite: inf", missing.problem]


def test_a_tap_without_a_name_or_with_half_a_character_leaves_a_whole_report(tmp_path):
    diffs = [
        Diff(name, "free", math.inf, None, 0.0, "the reference has no such tap")
        for name in ("", "half \ud800", "\x1b[2J")
    ]
    found = record.as_report(Climbed(float64=Outcome("fail", headline="crashed: \udcff\n\x1b[31m", diffs=tuple(diffs))))

    report.write(found, tmp_path)

    written = json.loads((tmp_path / "report.json").read_text())["cases"][0]
    assert [diff["tap"] for diff in written["rungs"][0]["diffs"]] == ["(no name)", "half \\ud800", "\\x1b[2J"]
    assert written["detail"] == "crashed: \\udcff\\n\\x1b[31m"
    assert "\x1b" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_before_the_session_nothing_is_probed_and_nothing_passes():
    found = record.as_report(Climbed(float64=Outcome(), loss=Outcome()), probed=False)

    assert (found["verdict"], found["headline"]) == ("incomplete", "nothing was verified")
    assert found["environment"]["matmul"] == {}
    assert found["cases"][0]["verdict"] == "incomplete"
