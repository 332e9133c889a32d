"""What a run leaves behind: a report in three forms, none of which hides a failure or is left half-written."""

import copy
import itertools
import json
import math
import re

import jsonschema
import pytest

from conformance import chart, report

VERSIONS = {"jax": "0.12.0", "flax": "0.12.7", "torch": "2.9.0", "numpy": "2.3.5", "timm": "1.0.22"}
FLOORS = {"float64": 1e-15, "float32": 2e-7, "bfloat16": 4e-3}


def tap_names(num_layers):
    layers = [f"encoder/{i:02}{part}" for i in range(num_layers) for part in ("/attention", "/mlp", "")]
    return ["patches", "embedding", *layers, "norm", "logits"]


def make_diff(rung, tap, mode, i, wrong=False):
    floor = FLOORS[rung] * (1 + 0.1 * i * (mode == "free"))
    error = 4.7e-4 if wrong else floor * (1.05 + 0.1 * math.sin(i))
    own = None if rung == "float64" else floor
    return {
        "tap": tap,
        "mode": mode,
        "status": "fail" if wrong else "pass",
        "error": error,
        "reference_error": own,
        "limit": 1e-12 if own is None else 3 * own,
        "ratio": own and error / own,
        "problem": None,
    }


def make_rung(name, num_layers, wrong_from=None):
    """A rung whose layers are wrong from one tap on: the MLPs by themselves, the rest in consequence."""
    taps = tap_names(num_layers) if name != "weights" else []
    start = taps.index(wrong_from) if wrong_from else math.inf
    diffs = [
        make_diff(name, tap, mode, i, wrong=i >= start and (mode == "free" or tap.endswith("mlp")))
        for i, tap in enumerate(taps)
        for mode in ("alone", "free")
    ]
    status, headline = "pass", None
    if wrong_from:
        status, headline = "fail", f"{wrong_from} diverges: 4.7e-04 of its scale, limit 1.0e-12"
    return {"rung": name, "status": status, "blocked_by": None, "seconds": 1.23, "headline": headline, "diffs": diffs}


def make_case(*, subject="vit_ti16", reference="timm:vit_tiny_patch16_224", num_layers=2, wrong_from=None):
    rungs = [make_rung(name, num_layers, wrong_from if name == "float64" else None) for name in report.RUNGS]
    if wrong_from:
        blocked = {"status": "blocked", "blocked_by": "float64", "seconds": None, "diffs": []}
        rungs[2:] = [rung | blocked for rung in rungs[2:]]
    return {
        "id": f"{subject}-{reference}",
        "subject": subject,
        "reference": reference,
        "image_size": [224, 224],
        "num_layers": num_layers,
        "batch_size": 2,
        "full_depth": 12,
        "seed": 0,
        "rungs": rungs,
    }


def make_report(*cases):
    failed = sum(report.case_failed(case) for case in cases)
    return {
        "schema_version": 1,
        "created": "2026-11-22T10:00:00+00:00",
        "target": "vit_flax",
        "verdict": "fail" if failed else "pass",
        "headline": f"{failed} of {len(cases)} cases differ from their reference" if failed else "the same model",
        "environment": {
            "python": "3.12.1",
            "platform": "Linux-6.1-x86_64",
            "device": "cpu",
            "packages": VERSIONS,
            "matmul": {"jax float32": 1.1e-7, "torch float32": 3e-4},
        },
        "images": {"source": "CIFAR-10 (JPEG-75 copy)"},
        "limits": {"float64": 1e-12, "rounding_factor": 3.0},
        "cases": list(cases),
    }


PASSING = make_report(make_case(), make_case(num_layers=12, reference="twin"))
FAILING = make_report(make_case(reference="twin"), make_case(wrong_from="encoder/00/mlp"))
EXAMPLES = pytest.mark.parametrize("example", [PASSING, FAILING], ids=["passing", "failing"])


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
    "verdict that hides a failure": lambda r: r.update(verdict="pass"),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_invalid_report_is_refused_and_leaves_nothing(spoil, failing, tmp_path):
    spoil(failing)
    with pytest.raises(jsonschema.ValidationError):
        report.write(failing, tmp_path / "out")
    assert not list(tmp_path.iterdir())


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
    page, lines = report.html(FAILING), report.summary(FAILING)
    finding = "encoder/00/mlp diverges: 4.7e-04 of its scale, limit 1.0e-12"
    assert finding in page
    assert f"  {finding}" in lines
    assert "  consequences: 6 later taps, 1 also failing alone" in lines
    assert "Consequences: 6 later taps" in page
    assert "blocked by float64" in page


def test_consequences_start_after_the_first_tap_that_fails_alone():
    rung = make_rung("float64", 2, wrong_from="encoder/00/mlp")
    assert report.consequences(rung) == tap_names(2)[4:]
    assert report.failing_alone(rung) == {"encoder/00/mlp", "encoder/01/mlp"}
    assert report.consequences(make_rung("weights", 2)) == []


@pytest.mark.parametrize("width", [24, 40, 80, 120])
@EXAMPLES
def test_summary_fits_and_begins_with_the_headline(example, width):
    example = copy.deepcopy(example)
    example["cases"][0]["reference"] = "transformers:google/vit-base-patch16-224-in21k-and-then-some"
    example["headline"] += " — naïve\nté"
    lines = report.summary(example, width)
    assert lines[0].startswith(f"{example['verdict'].upper()}  {example['headline'][:9]}")
    assert max(map(len, lines)) <= width
    assert all(line.isascii() and line.isprintable() for line in lines)


def test_summary_gives_each_case_its_worst_numbers():
    table = report.summary(PASSING)[1:4]
    assert table[0].split() == ["subject", "reference", "size", "depth", "float64", "float32", "bfloat16"]
    assert table[1].split() == [
        "vit_ti16",
        "timm:vit_tiny_patch16_224",
        "224x224",
        "2",
        "of",
        "12",
        "2.1e-15",
        "1.15x",
        "1.15x",
    ]
    assert report.summary(FAILING)[3].split()[-3:] == ["FAIL", "blocked", "blocked"]


def test_cut_depth_is_said(failing):
    assert "2 of 12 layers" in report.html(failing)
    assert any("2 of 12" in line for line in report.summary(failing))
    whole = make_report(make_case(num_layers=12))
    assert " of 12" not in report.html(whole) + "".join(report.summary(whole))


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_error_that_is_not_finite_becomes_null_and_a_problem(error, failing, tmp_path):
    bad = next(diff for diff in float64_diffs(failing) if diff["status"] == "fail")
    bad.update(error=error, limit=math.nan)
    report.write(failing, tmp_path)
    written = next(d for d in float64_diffs(json.loads((tmp_path / "report.json").read_text())) if d["problem"])
    assert (written["error"], written["limit"]) == (None, None)
    assert written["problem"] == f"error is not finite: {error}"
    assert written["problem"] in (tmp_path / "report.html").read_text()
    assert report.summary(failing)
    assert bad["error"] is error


def test_given_problem_is_kept_and_leaves_no_worst_number(failing):
    diff = report.finite(float64_diffs(failing)[-1] | {"error": math.nan, "problem": "missing"})
    assert diff["problem"] == "missing"
    assert report.worst([diff, float64_diffs(failing)[0]], "float64") == ""


def test_page_of_a_run_without_cases_or_diffs():
    empty = make_case()
    empty["rungs"] = [rung | {"diffs": [], "status": "not run"} for rung in empty["rungs"][:2]]
    assert "not run" in report.html(make_report(empty))
    assert report.summary(make_report(empty))[2].split()[-6:] == ["not", "run"] * 3
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


def test_taps_run_left_to_right_inside_the_plot():
    xs = chart.tap_xs(40)
    assert xs == sorted(set(xs))
    assert chart.LEFT < xs[0] < xs[-1] < chart.RIGHT


def test_each_decade_has_the_same_height_and_zero_has_its_own():
    scale = chart.axis([1e-15, 2e-3, 0.0])
    heights = [scale.y(0.0)] + [scale.y(10.0**power) for power in range(-15, -1)]
    steps = {round(low - high, 0) for low, high in itertools.pairwise(heights)}
    assert len(steps) == 1
    assert (heights[0], heights[-1]) == (chart.BOTTOM, chart.TOP)
    assert scale.ticks()[-1] == (chart.BOTTOM, None)


@pytest.mark.parametrize("errors", [[0.0], [1.0], [0.0, 1e-300], [1e-3, 1e-3]])
def test_axis_holds_any_errors(errors):
    scale = chart.axis(errors)
    assert all(chart.TOP <= scale.y(error) <= chart.BOTTOM for error in errors)
    assert len(scale.ticks()) >= 2


def test_missing_point_breaks_the_line():
    a, b, c = (chart.Point(x, 1.0, False, "") for x in (1.0, 2.0, 3.0))
    assert chart.path([a, b, None, c]) == "M1.0 1.0L2.0 1.0M3.0 1.0"


def test_labels_keep_apart_and_in_order():
    assert chart.spread([100.0, 20.0, 103.0], gap=10) == [100.0, 20.0, 110.0]


def test_layers_are_columns_under_one_heading():
    headings = chart.groups(["patches", "encoder/00/mlp", "encoder/00", "encoder/01", "logits"])
    assert [group.name for group in headings] == ["patches", "00", "01", "logits"]
    assert [group.parts for group in headings] == [(), ("mlp", "output"), ("output",), ()]


@pytest.mark.parametrize(("error", "shade"), [(1e-15, "far"), (5e-14, "well"), (3e-13, "half"), (9e-13, "near")])
def test_shade_follows_the_share_of_the_limit(error, shade):
    diff = make_diff("float64", "logits", "free", 0) | {"error": error}
    assert chart.style(diff) == shade


def test_every_failure_carries_a_mark():
    diff = make_diff("float64", "logits", "free", 0, wrong=True)
    shades = [chart.style(diff | change) for change in ({}, {"error": 2e-12}, {"limit": None}, {"problem": "missing"})]
    assert shades == ["far-over", "over", "over", "broken"]
    assert all(chart.MARKS[shade] for shade in shades)


def test_curve_draws_candidate_and_rounding_floor():
    curve = chart.curve(make_case())
    drawn = [(line.rung, line.role) for line in curve.lines]
    narrow = [(rung, role) for rung in ("float32", "bfloat16") for role in ("candidate", "reference")]
    assert drawn == [("float64", "candidate"), *narrow]
    assert chart.TOP < curve.limit_y < chart.BOTTOM
    assert chart.curve(make_case() | {"rungs": []}) is None
