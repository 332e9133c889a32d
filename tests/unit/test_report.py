"""What a run leaves behind: a report in three forms, none of which hides a failure or is left half-written."""

import copy
import itertools
import json
import math
import re
import types

import jsonschema
import pytest

from conformance import chart, record, report
from conformance.cases import Case
from conformance.compare import Diff
from conformance.ladder import Outcome
from conformance.rungs import NAMES

VERSIONS = {"jax": "0.12.0", "flax": "0.12.7", "torch": "2.9.0", "numpy": "2.3.5", "timm": "1.0.22"}
FLOORS = {"float64": 1e-15, "float32": 2e-7, "bfloat16": 4e-3, "float16": 5e-4}
MODEL = tuple(name for name in report.FORWARD if name != report.DEFAULT)  # as where there is no GPU
TRAINING = ("loss", "optimizer", "randomness", "trajectory", "trajectory float32")
RUNGS = ("weights", *MODEL, *report.GRADIENTS, *TRAINING)
MUTATION = {"faults": 116, "killed": 115, "placed": 114, "diagnosed": 113, "seconds": 61.5}
DIAGNOSIS = {
    "text": "explained by 'the other GELU' (jax.nn.gelu's default): 4e+08 times its limit without, 0.003 times with it",
    "causes": [{"name": "the other GELU", "seen": "jax.nn.gelu's default"}],
    "before": 4e8,
    "after": 0.003,
}


def tap_names(num_layers):
    layers = [f"encoder/{i:02}{part}" for i in range(num_layers) for part in ("/attention", "/middle", "/mlp", "")]
    return ["patches", "embedding", *layers, "norm", "logits"]


def gradient_names(num_layers):
    leaves = ("norm2/scale", "norm1/scale", "mlp/fc1/kernel", "attention/query/kernel")
    parameters = [f"encoder/{i:02}/{leaf}" for i in reversed(range(num_layers)) for leaf in leaves]
    inputs = [tap for tap in reversed(tap_names(num_layers)) if tap != "logits"]
    return ["head/kernel", *parameters, "patches/conv/kernel", *inputs, "images"]


def names(rung, num_layers):
    if rung.startswith("trajectory"):
        quantities = ("loss",) if rung.endswith("float32") else ("loss", "parameters")
        return [f"step {step:02}/{quantity}" for step in range(1, 11) for quantity in quantities]
    known = {"optimizer": ["adam: head/bias", "adamw: head/bias"], "loss": ["loss", "gradient"]}
    known |= {"randomness": ["draw 00", "embedding, share kept"], "weights": ["head/bias", "head/kernel"]}
    return known.get(rung) or (gradient_names if rung in report.GRADIENTS else tap_names)(num_layers)


def make_diff(rung, tap, mode, i, wrong=False):
    if rung == "randomness":
        return statistic(tap, 0.31 * i)
    if rung == "weights":
        return statistic(tap, 0.0) | {"mode": mode, "limit": 0.0}
    precision = rung.split()[-1] if rung.split()[-1] in FLOORS else "float64"
    floor = FLOORS[precision] * (1 + 0.1 * i * (mode == "free"))
    error = 4.7e-4 if wrong else floor * (1.05 + 0.1 * math.sin(i))
    own = None if precision == "float64" else floor
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


def statistic(tap, share):
    """A comparison that is no error relative to a scale, but a number and its limit."""
    numbers = {"error": 5 * share, "reference_error": None, "limit": 5.0, "ratio": None}
    return {"tap": tap, "mode": "free", "status": "pass" if share <= 1 else "fail", "problem": None} | numbers


def make_rung(name, num_layers, wrong_from=None):
    """A rung whose layers are wrong from one tap on: the MLPs by themselves, the rest in consequence."""
    taps = names(name, num_layers)
    start = taps.index(wrong_from) if wrong_from else math.inf
    diffs = [
        make_diff(name, tap, mode, i, wrong=i >= start and (mode == "free" or tap.endswith("mlp")))
        for i, tap in enumerate(taps)
        for mode in (("alone", "free") if name in (*report.FORWARD, *report.GRADIENTS) else ("free",))
    ]
    status, headline = "pass", None
    if wrong_from:
        status, headline = "fail", f"{wrong_from} diverges: 4.7e-04 of its scale, limit 1.0e-12"
    said = {"headline": headline, "diagnosis": DIAGNOSIS if wrong_from else None}
    return {"rung": name, "status": status, "blocked_by": None, "seconds": 1.23, "diffs": diffs} | said


def make_case(*, subject="vit_ti16", reference="timm:vit_tiny_patch16_224", num_layers=2, wrong_from=None):
    rungs = [make_rung(name, num_layers, wrong_from if name == "float64" else None) for name in RUNGS]
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
        "schema_version": 2,
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
        "mutation": MUTATION,
        "cases": list(cases),
    }


def lacking(case, *rungs):
    """The same case, of a target that has not what these rungs take."""
    unverified = {"status": "not verified", "headline": "the target has no 'train'", "diffs": [], "seconds": None}
    return case | {"rungs": [rung | unverified if rung["rung"] in rungs else rung for rung in case["rungs"]]}


def changed(case, name, **fields):
    return case | {"rungs": [rung | fields if rung["rung"] == name else rung for rung in case["rungs"]]}


PASSING = make_report(make_case(), make_case(num_layers=12, reference="twin:vit_ti16"))
UNVERIFIED = make_report(
    lacking(make_case(), "trajectory", "trajectory float32"), lacking(make_case() | {"id": "second"}, "trajectory")
)
FAILING = make_report(make_case(reference="twin:vit_ti16"), make_case(wrong_from="encoder/00/mlp"))
EXAMPLES = pytest.mark.parametrize("example", [PASSING, FAILING, UNVERIFIED], ids=["pass", "fail", "unverified"])


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
    "version": lambda r: r.update(schema_version=1),
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
    said = (tmp_path / "report.html").read_text() + "".join(report.summary(failing))
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
    page, lines = report.html(FAILING), report.summary(FAILING)
    finding = "encoder/00/mlp diverges: 4.7e-04 of its scale, limit 1.0e-12"
    assert finding in page
    assert f"  {finding}" in lines
    assert "  consequences: 7 later taps, 1 also failing alone" in lines
    assert "Consequences: 7 later taps" in page
    assert "blocked by float64" in page


def test_diagnosis_follows_the_headline():
    lines = report.summary(FAILING)
    at = next(i for i, line in enumerate(lines) if line.startswith("  encoder/00/mlp diverges"))
    assert " ".join(line.strip() for line in lines[at + 1 : at + 3]) == DIAGNOSIS["text"]
    assert lines[at + 3].startswith("  consequences: ")
    finding = report.html(FAILING).partition('<div class="finding">')[2].partition("</div>")[0]
    assert "explained by &#39;the other GELU&#39;" in finding


def test_rungs_of_other_kinds_count_what_fails_and_claim_no_consequences():
    rung = make_rung("optimizer", 2)
    diffs = [diff | {"status": "fail", "error": 1e-3} for diff in rung["diffs"]]
    example = make_report(changed(make_case(), "optimizer", status="fail", headline="adam: head/bias", diffs=diffs))
    lines = report.summary(example)
    assert "  2 of 2 comparisons fail" in lines
    assert "2 of 2 comparisons fail" in report.html(example)
    assert "onsequences" not in report.html(example) + "".join(lines)


def test_gradients_have_consequences_in_the_order_they_are_listed():
    rung = make_rung("gradients float64", 2, wrong_from="encoder/01/norm2/scale")
    wrong = ("encoder/00/norm2/scale", "encoder/00/mlp")
    for diff in rung["diffs"]:
        diff["status"] = "fail" if diff["tap"] in wrong else "pass"
    assert report.consequences(rung) == ["encoder/00/mlp"]


def test_what_is_not_verified_is_counted_with_its_reason_and_never_called_passed():
    lines = report.summary(UNVERIFIED)
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
    assert "ot verified" not in report.html(PASSING) + "".join(report.summary(PASSING))


def test_the_suites_own_score_is_said():
    said = "115 of 116 known faults caught, 114 at the right place, 113 named"
    assert f"suite: {said}" in report.summary(PASSING)
    assert f"The suite itself: {said}." in report.html(PASSING)


def test_consequences_start_after_the_first_tap_that_fails_alone():
    rung = make_rung("float64", 2, wrong_from="encoder/00/mlp")
    assert report.consequences(rung) == tap_names(2)[5:]
    assert report.failing_alone(rung) == {"encoder/00/mlp", "encoder/01/mlp"}
    assert report.consequences(make_rung("float64", 2)) == []


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
    table = [line.split() for line in report.summary(PASSING)[1:4]]
    assert table[0] == ["subject", "reference", "size", "depth", "f64", "f32", "bf16", "f16", "grads", "train"]
    assert table[1][:4] == ["vit_ti16", "timm", "224x224", "2/12"]
    assert table[1][4:] == ["2e-15", "1.15x", "1.15x", "1.15x", "4e-15", "5", "ok"]
    assert table[2][:4] == ["vit_ti16", "twin", "224x224", "12"]
    assert report.summary(FAILING)[3].split()[4:] == ["FAIL", *["blocked"] * 5]


BLOCKED = {"status": "blocked", "blocked_by": "loss", "diffs": []}
NOT_RUN = {"status": "not run", "diffs": []}
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
    assert report.summary(make_report(case))[2].endswith(f" {said}")


def test_one_failing_precision_of_the_gradients_is_seen_in_the_summary():
    failing = changed(make_case(), "gradients bfloat16", status="fail")
    assert report.summary(make_report(failing))[2].split()[-3] == "FAIL"


def test_default_precision_is_told_beside_float32_where_it_was_run():
    rungs = make_case()["rungs"]
    default = make_rung("bfloat16", 2) | {"rung": report.DEFAULT}
    both = make_report(make_case() | {"rungs": [*rungs[:3], default, *rungs[3:]]})
    failing = make_report(changed(both["cases"][0], report.DEFAULT, status="fail"))
    assert report.columns(both["cases"]) == list(report.FORWARD)
    assert report.summary(both) == report.summary(make_report(make_case()))
    assert report.summary(failing)[2].split()[4:7] == ["2e-15", "FAIL", "1.15x"]
    assert f">{report.DEFAULT}</th>" in report.html(both)
    not_run = make_report(changed(both["cases"][0], report.DEFAULT, **NOT_RUN))
    assert report.columns(not_run["cases"]) == list(MODEL)
    assert report.DEFAULT not in report.html(not_run)


def test_float16_gives_way_before_a_name_is_cut():
    case = make_case(subject="article-p4-untied", reference="torchvision:vit_b_16")
    wide, narrow = report.summary(make_report(case)), report.summary(make_report(case), 74)
    assert " f16 " in wide[1]
    assert " f16 " not in narrow[1]
    assert narrow[2].startswith("article-p4-untied torchvision ")


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
    assert any(" 2/12 " in line for line in report.summary(failing))
    whole = make_report(make_case(num_layers=12))
    assert " of 12 layers" not in report.html(whole)
    assert "/12" not in "".join(report.summary(whole))


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
    assert report.summary(make_report(empty))[2].split()[-6:] == ["-"] * 6
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


def forward(case):
    return [rung for rung in case["rungs"] if rung["rung"] in report.FORWARD]


def test_curve_draws_candidate_and_rounding_floor():
    curve = chart.curve(forward(make_case()))
    drawn = [(line.rung, line.role) for line in curve.lines]
    narrow = [(rung, role) for rung in MODEL[1:] for role in ("candidate", "reference")]
    assert drawn == [("float64", "candidate"), *narrow]
    assert chart.TOP < curve.limit_y < chart.BOTTOM
    assert chart.curve([]) is None


def test_steps_of_training_are_a_line_for_each_quantity_with_every_fifth_labelled():
    curve = chart.steps([make_rung("trajectory", 2), make_rung("trajectory float32", 2)])
    candidates = {line.rung: len(line.points) for line in curve.lines if line.role == "candidate"}
    assert candidates == {"loss": 10, "parameters": 10, "loss float32": 10}
    assert [group.name for group in curve.groups] == ["step 05", "step 10"]
    assert [group.x for group in curve.groups] == [chart.tap_xs(10)[4], chart.tap_xs(10)[9]]
    assert chart.steps([]) is None


BLOCKS = {
    "encoder/03/norm1/bias": "encoder/03/attention",
    "encoder/03/attention/key/kernel": "encoder/03/attention",
    "encoder/03/norm2/scale": "encoder/03/mlp",
    "encoder/03/mlp/fc2/bias": "encoder/03/mlp",
    "encoder/03": "encoder/03",
    "embedding/projection/kernel": "embedding",
    "head/bias": "logits",
    "norm/scale": "norm",
}


@pytest.mark.parametrize(("name", "block"), BLOCKS.items())
def test_each_parameter_is_shown_at_its_block(name, block):
    assert chart.block(name) == block


def test_gradients_have_the_columns_of_the_taps_and_the_images():
    case = make_case()
    gradients = [rung for rung in case["rungs"] if rung["rung"] in report.GRADIENTS]
    assert chart.blocks(forward(case)) == tap_names(2)
    assert chart.blocks(gradients) == ["images", *tap_names(2)]
    assert chart.blocks([{"diffs": [{"tap": "strange"}, {"tap": "patches"}]}]) == ["patches", "strange"]


def test_a_cell_shows_the_worst_of_its_block():
    rung = make_rung("gradients float64", 2)
    wrong = next(d for d in rung["diffs"] if d["tap"] == "encoder/01/mlp/fc1/kernel" and d["mode"] == "alone")
    wrong.update(status="fail", error=1e-9)
    alone, free = chart.grid([rung])
    place = chart.blocks([rung]).index("encoder/01/mlp")
    assert [i for i, cell in enumerate(alone.cells) if cell.mark] == [place]
    assert alone.cells[place].title.startswith("worst of 3: encoder/01/mlp/fc1/kernel, ")
    assert not any(cell.mark for cell in free.cells)


def test_the_worst_fails_first_then_is_nearest_its_limit():
    near, far = statistic("near", 0.9), statistic("far", 0.1)
    assert chart.worst([far, near]) == near
    assert chart.worst([near, failing := far | {"status": "fail"}]) == failing
    assert chart.worst([near, broken := far | {"problem": "missing", "error": None}]) == broken


KNOWN = types.SimpleNamespace(**DIAGNOSIS | {"causes": (types.SimpleNamespace(**DIAGNOSIS["causes"][0]),)})


class Climbed:
    """A ladder after its climb, as `record` sees it."""

    name, seed = "mine", 0

    def __init__(self, **statuses):
        self.outcomes = {Case("twin:digits"): {name: Outcome("not run") for name in NAMES} | statuses}

    def images(self, case):
        return types.SimpleNamespace(source="photographs")


def outcome(status, **fields):
    found = Outcome(status)
    for name, value in fields.items():
        setattr(found, name, value)
    return found


PASS, LACKING = outcome("pass"), outcome("not verified", headline="the target has no 'train'")
VERDICTS = (
    ({"float64": PASS}, "pass", "mine is the same model as its references in 1 case"),
    (
        {"float64": PASS, "trajectory": PASS},
        "pass",
        "mine is the same model as its references in 1 case, and trains as they do in 1 case",
    ),
    (
        {"float64": PASS, "trajectory": LACKING},
        "pass",
        "mine is the same model as its references in 1 case; 1 rung not verified",
    ),
    ({"schedule": PASS}, "pass", "mine holds on 1 rung"),
    ({"trajectory": LACKING}, "fail", "mine holds on 0 rungs; 1 rung not verified"),
    (
        {"float64": PASS, "loss": outcome("fail", headline="loss alone: off")},
        "fail",
        "mine differs in 1 case; first digits-twin-8x8-depth4 at loss: loss alone: off",
    ),
)


@pytest.mark.parametrize(("statuses", "verdict", "headline"), VERDICTS)
def test_headline_claims_no_more_than_was_verified(statuses, verdict, headline):
    found = record.as_report(Climbed(**statuses))
    assert (found["verdict"], found["headline"]) == (verdict, headline)


def test_record_of_a_climb_is_a_valid_report(tmp_path):
    endless = Diff("boxes, area", "alone", math.inf, None, 0.1)
    missing = Diff("logits", "free", math.inf, None, 0.0, "the candidate has no such tap")
    failed = outcome("fail", headline="boxes", diffs=(endless, missing), diagnosis=KNOWN)
    found = record.as_report(Climbed(pixels=failed), MUTATION)
    report.write(found, tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    pixels = report.rungs_by_name(written["cases"][0])["pixels"]
    assert written["mutation"] == MUTATION
    assert pixels["diagnosis"] == DIAGNOSIS
    assert [diff["problem"] for diff in pixels["diffs"]] == ["error is not finite: inf", missing.problem]


def test_schema_knows_the_rungs_of_the_ladder():
    assert tuple(report.SCHEMA["$defs"]["rung_name"]["enum"]) == NAMES
    assert {*report.FORWARD, *report.GRADIENTS, *report.ERRORS, *RUNGS} <= set(NAMES)
