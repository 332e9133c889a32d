"""Where things go in the pictures of a report."""

import itertools

import pytest
from report_examples import MODEL, make_case, make_diff, make_rung, statistic, tap_names

from conformance import chart, report


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
    narrow = make_rung("trajectory float32", 2)
    narrow["diffs"].append(narrow["diffs"][0] | {"tap": "step 01/gradient"})  # of one step only: nothing to draw
    curve = chart.steps([make_rung("trajectory", 2), narrow])
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
