"""What a run leaves behind: a report that hides no failure and is never left half-written."""

import copy
import json
import math
import re
import sys
import time

import jsonschema
import pytest
from report_examples import (
    DIAGNOSIS,
    EXAMPLES,
    FAILING,
    PASSING,
    RUNGS,
    UNFINISHED,
    make_case,
    make_report,
    make_rung,
    statistic,
    tap_names,
)

from conformance import report
from conformance.rungs import NAMES
from conformance.summary import summary
from conformance.verdicts import WORDS


@pytest.fixture
def failing():
    return copy.deepcopy(FAILING)


def float64_diffs(example):
    return example["cases"][-1]["rungs"][1]["diffs"]


@EXAMPLES
def test_json_is_the_report_itself(example, tmp_path):
    report.write(example, tmp_path / "new" / "folder")
    files = sorted((tmp_path / "new" / "folder").iterdir())
    assert [file.name for file in files] == ["report.html", "report.json"]
    assert json.loads(files[1].read_text()) == example


SPOILED = {
    "unknown field": lambda r: r.update(extra=1),
    "missing field": lambda r: r.pop("images"),
    "version": lambda r: r.update(schema_version=2),
    "date": lambda r: r.update(created="yesterday"),
    "status": lambda r: r["cases"][0]["rungs"][0].update(status="skipped"),
    "mode": lambda r: float64_diffs(r)[0].update(mode="together"),
    "passing without an error": lambda r: float64_diffs(r)[0].update(error=None),
    "passing with a problem": lambda r: float64_diffs(r)[0].update(problem="missing"),
    "blocked by nothing": lambda r: r["cases"][1]["rungs"][2].update(blocked_by=None),
    "a rung that is none": lambda r: r["cases"][0]["rungs"][0].update(rung="backward"),
    "diagnosis without a cause's name": lambda r: r["cases"][1]["rungs"][1].update(
        diagnosis=DIAGNOSIS | {"causes": [{"seen": "here"}]}
    ),
    "diagnosis without a text": lambda r: r["cases"][1]["rungs"][1].update(diagnosis=DIAGNOSIS | {"text": ""}),
    "half a mutation score": lambda r: r.update(mutation={"faults": 116, "killed": 116}),
    "verdict that hides a failure": lambda r: r.update(verdict="pass"),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_invalid_report_is_refused_and_leaves_nothing(spoil, failing, tmp_path):
    spoil(failing)
    with pytest.raises(jsonschema.ValidationError):
        report.write(failing, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_diagnosis_and_mutation_may_be_null_or_absent(failing, tmp_path):
    failing["mutation"] = failing["cases"][1]["rungs"][1]["diagnosis"] = None
    report.write(failing, tmp_path)
    del failing["mutation"], failing["cases"][1]["rungs"][1]["diagnosis"]
    report.write(failing, tmp_path)
    said = (tmp_path / "report.html").read_text() + "".join(summary(failing))
    assert "known faults" not in said
    assert "explained by" not in said


def test_interrupted_write_leaves_the_earlier_report(failing, tmp_path, monkeypatch):
    report.write(PASSING, tmp_path)
    before = {file.name: file.read_text() for file in tmp_path.iterdir()}
    monkeypatch.setattr(report.os, "replace", lambda source, target: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        report.write(failing, tmp_path)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == before


@EXAMPLES
def test_page_needs_nothing_but_itself(example):
    page = report.html(example)
    assert not re.search(r"https?:|<script|@import|url\(|\bsrc=", page)
    assert set(re.findall(r'href="(.)', page)) == {"#"}


def test_hostile_names_are_text(failing):
    float64_diffs(failing)[0]["tap"] = '<script>alert("1")</script>'
    page = report.html(failing)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_failure_is_on_the_page_and_in_the_summary():
    page, lines = report.html(FAILING), summary(FAILING)
    finding = "encoder/00/mlp diverges: 4.7e-04 of its scale, limit 1.0e-12"
    assert finding in page
    assert f"  {finding}" in lines
    assert "  consequences: 7 later taps, 1 also failing alone" in lines
    assert "Consequences: 7 later taps" in page
    assert "blocked by float64" in page


def test_gradients_have_consequences_in_the_order_they_are_listed():
    rung = make_rung("gradients float64", 2, wrong_from="encoder/01/norm2/scale")
    wrong = ("encoder/00/norm2/scale", "encoder/00/mlp")
    for diff in rung["diffs"]:
        diff["status"] = "fail" if diff["tap"] in wrong else "pass"
    assert report.consequences(rung) == ["encoder/00/mlp"]


def test_consequences_start_after_the_first_tap_that_fails_alone():
    rung = make_rung("float64", 2, wrong_from="encoder/00/mlp")
    assert report.consequences(rung) == tap_names(2)[5:]
    assert report.failing_alone(rung) == {"encoder/00/mlp", "encoder/01/mlp"}
    assert report.consequences(make_rung("float64", 2)) == []


WORST = (
    ("float64", {"error": 2e-15}, "2.0e-15"),
    ("gradients float64", {"error": 2e-15}, "2.0e-15"),
    ("trajectory", {"error": 2e-15}, "2.0e-15"),
    ("gradients float32", {"error": 2e-7, "ratio": 1.25}, "1.25x"),
    ("randomness", {"error": 1.0, "limit": 4.0}, "0.25"),
    ("weights", {"error": 0.0, "limit": 0.0}, "exact"),
    ("weights", {"error": 3.0, "limit": 0.0, "status": "fail"}, "3, where 0 is allowed"),
)


@pytest.mark.parametrize(("rung", "numbers", "said"), WORST)
def test_worst_is_said_in_the_rungs_own_measure(rung, numbers, said):
    passing, failing = statistic("logits", 0.0), statistic("logits", 0.0) | numbers
    assert report.worst([passing | {"ratio": 0.0}, failing], rung) == said


def test_cut_depth_is_said(failing):
    assert "2 of 12 layers" in report.html(failing)
    assert any(" 2/12 " in line for line in summary(failing))
    whole = make_report(make_case(num_layers=12))
    assert " of 12 layers" not in report.html(whole)
    assert "/12" not in "".join(summary(whole))


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_error_that_is_not_finite_becomes_null_and_a_problem(error, failing, tmp_path):
    bad = next(diff for diff in float64_diffs(failing) if diff["status"] == "fail")
    bad.update(error=error, limit=math.nan)
    report.write(failing, tmp_path)
    written = next(d for d in float64_diffs(json.loads((tmp_path / "report.json").read_text())) if d["problem"])
    assert (written["error"], written["limit"]) == (None, None)
    assert written["problem"] == f"error is not finite: {error}"
    assert written["problem"] in (tmp_path / "report.html").read_text()
    assert summary(failing)
    assert bad["error"] is error


def test_given_problem_is_kept_and_leaves_no_worst_number(failing):
    diff = report.clean(float64_diffs(failing)[-1] | {"error": math.nan, "problem": "missing"})
    assert diff["problem"] == "missing"
    assert report.worst([diff, float64_diffs(failing)[0]], "float64") == ""


def test_page_of_a_run_without_cases_or_diffs():
    empty = make_case()
    empty["rungs"] = [rung | {"diffs": [], "status": "not run"} for rung in empty["rungs"][:2]]
    assert "not run" in report.html(make_report(empty))
    assert summary(make_report(empty))[2].split()[-6:] == ["-"] * 6
    assert report.html(make_report())


READINGS = {
    1.1e-7: "about 23 bits: float32",
    3e-4: "about 12 bits: TF32 or float16, not float32",
    3e-3: "about 8 bits: bfloat16, not float32",
    0.3: "about 2 bits: worse than bfloat16, not float32",
    0.0: "no rounding seen",
    None: "not finite: the product cannot be trusted",
}


@pytest.mark.parametrize(("error", "said"), READINGS.items())
def test_probe_error_is_read_as_a_precision(error, said):
    assert report.reading(error, "torch float32") == said


def test_schema_knows_the_rungs_of_the_ladder():
    assert tuple(report.SCHEMA["$defs"]["rung_name"]["enum"]) == NAMES
    assert {*report.FORWARD, *report.GRADIENTS, *report.ERRORS, *RUNGS} <= set(NAMES)


def test_a_report_is_left_where_there_is_no_jsonschema(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "jsonschema", None)  # an import of it raises now

    report.write(FAILING, tmp_path)

    assert json.loads((tmp_path / "report.json").read_text()) == FAILING


def test_the_schema_knows_every_word():
    assert tuple(report.SCHEMA["$defs"]["case"]["properties"]["verdict"]["enum"]) == WORDS
    assert set(report.UNDECIDED) <= set(WORDS)


def test_the_page_says_what_was_not_run_what_failed_elsewhere_and_each_cases_word():
    failed = UNFINISHED | {"verdict": "fail", "failed_elsewhere": ["tests/test_x.py::test_<y>"]}

    page = report.html(failed)

    assert "1 of 26 planned rungs" in page
    assert '<li class="muted">loss: not run</li>' in page
    assert "tests/test_x.py::test_&lt;y&gt;" in page
    assert '<span class="word passed">the same</span>' in page
    assert '<span class="word unverified">incomplete</span>' in page


def with_strangers(count):
    """A report on a target that has so many taps more than the reference."""
    case = make_case()
    strangers = [
        {"tap": f"extra-{i}", "mode": mode, "status": "fail", "problem": "the reference has no such tap"}
        | dict.fromkeys(("error", "reference_error", "limit", "ratio"))
        for i in range(count)
        for mode in ("alone", "free")
    ]
    rungs = [
        rung | {"status": "fail", "headline": "extra-0", "diffs": [*rung["diffs"], *strangers]}
        if rung["rung"] == "float64"
        else rung
        for rung in case["rungs"]
    ]
    return make_report(case | {"rungs": rungs})


def test_any_number_of_taps_leaves_a_report_of_bounded_size_that_says_what_is_left_out(tmp_path):
    strange = with_strangers(20_000)
    started = time.process_time()

    report.write(strange, tmp_path)
    summary(strange)

    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(json.loads((tmp_path / "report.json").read_text())["cases"][0]["rungs"][1]["diffs"]) >= 40_000
    assert "more taps are not drawn" in page
    assert "blocks are not drawn" in page
    assert "of them fail" in page
    assert len(page) < 10 * len(report.html(FAILING))
    assert time.process_time() - started < 120  # a minute here, where what is quadratic takes half an hour
