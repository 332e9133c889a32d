"""The run in the terminal: the worst first, nothing hidden, at any width."""

import copy
import re

import pytest
from report_examples import (
    DIAGNOSIS,
    EXAMPLES,
    FAILING,
    MODEL,
    NOT_RUN,
    PASSING,
    TRAINING,
    UNVERIFIED,
    changed,
    lacking,
    make_case,
    make_report,
    make_rung,
)

from conformance import report
from conformance.summary import summary


def test_diagnosis_follows_the_headline():
    lines = summary(FAILING)
    at = next(i for i, line in enumerate(lines) if line.startswith("  encoder/00/mlp diverges"))
    assert " ".join(line.strip() for line in lines[at + 1 : at + 3]) == DIAGNOSIS["text"]
    assert lines[at + 3].startswith("  consequences: ")
    finding = report.html(FAILING).partition('<div class="finding">')[2].partition("</div>")[0]
    assert "explained by &#39;the other GELU&#39;" in finding


def test_rungs_of_other_kinds_count_what_fails_and_claim_no_consequences():
    rung = make_rung("optimizer", 2)
    diffs = [diff | {"status": "fail", "error": 1e-3} for diff in rung["diffs"]]
    example = make_report(changed(make_case(), "optimizer", status="fail", headline="adam: head/bias", diffs=diffs))
    lines = summary(example)
    assert "  2 of 2 comparisons fail" in lines
    assert "2 of 2 comparisons fail" in report.html(example)
    assert "onsequences" not in report.html(example) + "".join(lines)


def test_what_is_not_verified_is_counted_with_its_reason_and_never_called_passed():
    lines = summary(UNVERIFIED)
    assert "not verified (n.v.): 3 rungs, which neither passed nor failed" in lines
    assert "  the target has no 'train': trajectory, trajectory float32, in 2 cases" in lines
    page = report.html(UNVERIFIED)
    assert "3 rungs, which neither passed nor failed" in page
    assert "the target has no &#39;train&#39;: trajectory, trajectory float32, in 2 cases" in page
    assert re.findall(r"<li class=\"(\w+)\">(.*trajectory.*)</li>", page) == [
        ("unverified", "trajectory: not verified"),
        ("unverified", "trajectory float32: not verified"),
        ("unverified", "trajectory: not verified"),
        ("passed", "✓ trajectory float32"),
    ]
    assert "ot verified" not in report.html(PASSING) + "".join(summary(PASSING))


def test_the_suites_own_score_is_said():
    said = "115 of 116 known faults caught, 114 at the right place, 113 named"
    assert f"suite: {said}" in summary(PASSING)
    assert f"The suite itself: {said}." in report.html(PASSING)


@pytest.mark.parametrize("width", [24, 40, 80, 120])
@EXAMPLES
def test_summary_fits_and_begins_with_the_headline(example, width):
    example = copy.deepcopy(example)
    example["cases"][0]["reference"] = "transformers:google/vit-base-patch16-224-in21k-and-then-some"
    example["headline"] += " — naïve\nté"
    lines = summary(example, width)
    assert lines[0].startswith(f"{example['verdict'].upper()}  {example['headline'][:9]}")
    assert max(map(len, lines)) <= width
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_summary_gives_each_case_its_worst_numbers():
    table = [line.split() for line in summary(PASSING)[1:4]]
    assert table[0] == ["subject", "reference", "size", "depth", "f64", "f32", "bf16", "f16", "grads", "train"]
    assert table[1][:4] == ["vit_ti16", "timm", "224x224", "2/12"]
    assert table[1][4:] == ["2e-15", "1.15x", "1.15x", "1.15x", "4e-15", "5", "ok"]
    assert table[2][:4] == ["vit_ti16", "twin", "224x224", "12"]
    assert summary(FAILING)[3].split()[4:] == ["FAIL", *["blocked"] * 5]


BLOCKED = {"status": "blocked", "blocked_by": "loss", "diffs": []}
OF_TRAINING = (
    (make_case(), "5 ok"),
    (changed(make_case(), "loss", status="fail"), "FAIL"),
    (changed(make_case(), "trajectory", **BLOCKED), "4/5"),
    (lacking(make_case(), "trajectory", "randomness"), "3/5"),
    (changed(make_case(), "trajectory", **NOT_RUN), "4 ok"),
    (lacking(make_case(), *TRAINING), "n.v."),
    (make_case() | {"rungs": make_case()["rungs"][:8]}, "-"),
)


@pytest.mark.parametrize(("case", "said"), OF_TRAINING, ids=[said for _, said in OF_TRAINING])
def test_training_is_one_word_that_claims_no_more_than_held(case, said):
    assert summary(make_report(case))[2].endswith(f" {said}")


def test_one_failing_precision_of_the_gradients_is_seen_in_the_summary():
    failing = changed(make_case(), "gradients bfloat16", status="fail")
    assert summary(make_report(failing))[2].split()[-3] == "FAIL"


def test_default_precision_is_told_beside_float32_where_it_was_run():
    rungs = make_case()["rungs"]
    default = make_rung("bfloat16", 2) | {"rung": report.DEFAULT}
    both = make_report(make_case() | {"rungs": [*rungs[:3], default, *rungs[3:]]})
    failing = make_report(changed(both["cases"][0], report.DEFAULT, status="fail"))
    assert report.columns(both["cases"]) == list(report.FORWARD)
    assert summary(both) == summary(make_report(make_case()))
    assert summary(failing)[2].split()[4:7] == ["2e-15", "FAIL", "1.15x"]
    assert f">{report.DEFAULT}</th>" in report.html(both)
    not_run = make_report(changed(both["cases"][0], report.DEFAULT, **NOT_RUN))
    assert report.columns(not_run["cases"]) == list(MODEL)
    assert report.DEFAULT not in report.html(not_run)


def test_float16_gives_way_before_a_name_is_cut():
    case = make_case(subject="article-p4-untied", reference="torchvision:vit_b_16")
    wide, narrow = summary(make_report(case)), summary(make_report(case), 74)
    assert " f16 " in wide[1]
    assert " f16 " not in narrow[1]
    assert narrow[2].startswith("article-p4-untied torchvision ")
