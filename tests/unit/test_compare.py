"""The measures can fail: each way for a tap to be wrong is caught, and each that is right passes."""

import dataclasses
import math
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import torch

from conformance import flax_side, precision, torch_side
from conformance.compare import MODES, Diff, causes_first, compare, in_data_order, measure, over_runs, terms
from conformance.precision import DTYPES, from_torch, probe_matmul, rounded, to_torch
from conformance.tolerances import FLOAT64, ROUNDING_FACTOR, UNIT_ROUNDOFF, summation_error
from conformance.weights import random_weights
from vit_flax.config import preset
from vit_flax.model import ViT
from vit_flax.weights import to_params

SMALL = dict(image_size=(16, 24), patch_size=8, hidden_dim=12, num_heads=3, mlp_dim=20, num_layers=2, num_classes=5)
CONFIG = preset("vit_ti16").replace(**SMALL)
SHAPE = (2, 7, 12)
TERMS = {
    "patches": 8 * 8 * 3,
    "embedding": 1,
    "encoder/01/attention": 12,
    "encoder/01/middle": 1,
    "encoder/01/mlp": 20,
    "encoder/01": 1,
    "norm": 1,
    "logits": 12,
}
TAPS = (
    "patches",
    "embedding",
    *(f"encoder/{i:02}{part}" for i in range(2) for part in ("/attention", "/middle", "/mlp", "")),
    "norm",
    "logits",
)
each_precision = pytest.mark.parametrize("name", DTYPES)
each_coarse_precision = pytest.mark.parametrize("name", ("float32", "bfloat16", "float16"))


def numbers(seed, name="float64", shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[name])


def judge(ours, theirs, truth, name, terms=1):
    return measure("tap", "alone", ours, theirs, truth, name, terms)


def with_entry(array, value):
    changed = array.copy()
    changed[1, 3, 2] = value
    return changed


BROKEN = {
    "another shape": (lambda a: a[:, :-1], r"shape \(2, 6, 12\), expected \(2, 7, 12\)"),
    "a shape that broadcasts": (lambda a: a[:1], r"shape \(1, 7, 12\), expected \(2, 7, 12\)"),
    "another dtype": (lambda a: a.astype(np.int8), "the candidate computed int8, asked for "),
    "NaN": (lambda a: with_entry(a, np.nan), "NaN or infinity in the candidate"),
    "infinity": (lambda a: with_entry(a, -np.inf), "NaN or infinity in the candidate"),
    "no tap": (lambda a: None, "the candidate has no such tap"),
}
BROKEN_REFERENCE = {
    "another dtype": (lambda a: a.astype(np.int8), "the reference computed int8, asked for "),
    "NaN": (lambda a: with_entry(a, np.nan), "NaN or infinity in the reference"),
    "no tap": (lambda a: None, "the reference has no such tap"),
}


@each_precision
def test_a_candidate_that_equals_the_reference_passes(name):
    theirs = numbers(0, name)
    diff = judge(theirs.copy(), theirs, numbers(0), name)
    assert diff.passes
    assert diff.problem is None


@each_precision
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_candidate_fails_and_says_why(name, broken):
    change, problem = BROKEN[broken]
    diff = judge(change(numbers(0, name)), numbers(0, name), numbers(0), name)
    assert not diff.passes
    assert diff.severity == math.inf
    assert re.search(problem, str(diff))


@each_precision
@pytest.mark.parametrize("broken", BROKEN_REFERENCE)
def test_a_broken_reference_fails_and_says_why(name, broken):
    change, problem = BROKEN_REFERENCE[broken]
    diff = judge(numbers(0, name), change(numbers(0, name)), numbers(0), name)
    assert not diff.passes
    assert re.search(problem, str(diff))


@each_precision
def test_nan_on_both_sides_is_not_agreement(name):
    bad = with_entry(numbers(0, name), np.nan)
    assert not judge(bad, bad, with_entry(numbers(0), np.nan), name).passes


@each_coarse_precision
def test_a_truth_that_is_nan_passes_nobody(name):
    assert not judge(numbers(0, name), numbers(0, name), with_entry(numbers(0), np.nan), name).passes


def test_one_stray_entry_in_float64_is_enough():
    theirs = numbers(0)
    stray = theirs[1, 3, 2] + 2 * FLOAT64 * np.abs(theirs).max()
    assert not judge(with_entry(theirs, stray), theirs, theirs, "float64").passes


def test_float64_passes_at_its_limit_and_not_a_bit_above():
    theirs = with_entry(np.clip(numbers(0), -1, 1), 0.0)  # of scale one, so that the entry is the error
    at, above = (judge(with_entry(theirs, x), theirs, theirs, "float64") for x in (FLOAT64, np.nextafter(FLOAT64, 1)))
    assert at.error == FLOAT64 and at.passes
    assert above.error > FLOAT64 and not above.passes


@each_coarse_precision
def test_rounding_passes_at_the_reference_error_times_the_factor_and_not_a_bit_above(name):
    dtype, own = DTYPES[name], 2.0**-4
    truth = np.ones((1, 1, 1))
    theirs, at = ((truth + error).astype(dtype) for error in (own, ROUNDING_FACTOR * own))
    above = np.nextafter(at, dtype.type(2))
    assert judge(at, theirs, truth, name).error == ROUNDING_FACTOR * own
    assert judge(at, theirs, truth, name).passes
    assert not judge(above, theirs, truth, name).passes


@each_coarse_precision
def test_a_reference_that_is_exactly_right_does_not_excuse_the_candidate(name):
    theirs = numbers(0, name)
    truth = theirs.astype(np.float64)
    diff = judge((truth * (1 + 2.0**-6)).astype(DTYPES[name]), theirs, truth, name, terms=768)
    assert diff.reference_error == 0
    assert not diff.passes


def test_a_reference_that_is_exactly_right_is_no_reason_to_ask_for_better_than_a_plain_sum():
    theirs = numbers(0, "float32")
    truth = theirs.astype(np.float64)
    off = truth * (1 + summation_error(768))  # far more than one gap between neighbours
    within, beyond = (truth + factor * (off - truth) for factor in (1, 2 * ROUNDING_FACTOR))
    assert judge(within.astype(np.float32), theirs, truth, "float32", terms=768).passes
    assert not judge(beyond.astype(np.float32), theirs, truth, "float32", terms=768).passes


@each_coarse_precision
def test_the_nearest_numbers_pass_against_any_reference(name):
    truth = numbers(0)
    nearest = truth.astype(DTYPES[name])
    careless = (truth * (1 + 2.0**-6)).astype(DTYPES[name])
    assert judge(nearest, nearest, truth, name).passes
    assert judge(nearest, careless, truth, name).passes
    assert not judge(careless, nearest, truth, name).passes


@each_precision
def test_nothing_against_nothing_is_no_error(name):
    zeros = np.zeros(SHAPE, DTYPES[name])
    diff = judge(zeros, zeros, zeros.astype(np.float64), name)
    assert diff.passes
    assert diff.error == 0


@each_precision
def test_something_against_nothing_is_an_error_without_bound(name):
    zeros = np.zeros(SHAPE, DTYPES[name])
    diff = judge(with_entry(zeros, np.finfo(np.float16).tiny), zeros, zeros.astype(np.float64), name)
    assert not diff.passes
    assert diff.error == diff.severity == math.inf


@each_coarse_precision
def test_one_bad_token_is_not_averaged_away(name):
    shape = (2, 2048, 12)
    truth, theirs = numbers(0, shape=shape), numbers(0, name, shape)
    ours = theirs.copy()
    ours[1, 700] = truth[1, 700] * (1 + 2.0**-4)
    assert not judge(ours, theirs, truth, name).passes


@pytest.mark.parametrize(("images", "factor", "passes"), ((1, 5, True), (1, 20, False), (16, 2, True), (16, 5, False)))
def test_an_image_with_bad_luck_is_one_draw_of_many(images, factor, passes):
    truth, own = np.ones((16, 3, 8)), 2.0**-12
    theirs, ours = np.float32(truth + own), np.float32(truth + own)
    ours[:images, 1] += np.float32((factor - 1) * own)
    assert judge(ours, theirs, truth, "float32").passes == passes


SHIFT = dict.fromkeys(DTYPES, 20) | {"float16": 3}  # whose exponents go from -14 to 15


@each_precision
def test_the_scale_of_a_tap_changes_no_bit_of_its_verdict(name):
    truth, theirs = numbers(0), numbers(0, name)
    ours = with_entry(theirs, 0)

    def at_scale(scale):  # a power of two: every product is exact
        return judge(*((a * scale).astype(DTYPES[name]) for a in (ours, theirs)), truth * scale, name)

    assert at_scale(2.0 ** SHIFT[name]) == at_scale(1.0) == at_scale(2.0 ** -SHIFT[name])
    assert at_scale(1.0).error > 0


@each_coarse_precision
def test_the_ratio_counts_errors_of_the_reference(name):
    truth = np.ones((1, 1, 1))
    theirs, ours = ((truth + error).astype(DTYPES[name]) for error in (2.0**-5, 2.0**-4))
    assert judge(ours, theirs, truth, name).ratio == 2
    assert judge(theirs, theirs, truth, name).ratio == 1


def test_float64_has_no_ratio():
    assert judge(numbers(0), numbers(0), numbers(0), "float64").ratio is None


@pytest.mark.parametrize("tap", TERMS)
def test_a_tap_is_granted_the_sum_that_its_block_ends_with(tap):
    assert terms(CONFIG, tap) == TERMS[tap]


def test_a_second_projection_is_a_sum_too():
    assert terms(CONFIG.replace(embed_dim=8), "embedding") == 8


def test_a_rougher_run_of_the_reference_widens_the_limit_and_a_better_one_does_not():
    truth = np.ones((1, 1, 1))
    theirs, rough, better = (np.float32(truth + error) for error in (2.0**-10, 2.0**-8, 2.0**-12))
    limits = [measure("tap", "free", theirs, theirs, truth, "float32", 1, also=also).limit for also in (rough, better)]
    assert limits == [ROUNDING_FACTOR * 2.0**-8, ROUNDING_FACTOR * 2.0**-10]


def test_a_sum_of_what_is_wrong_already_is_granted_both_errors():
    truth, theirs = np.ones((1, 1, 1)), np.ones((1, 1, 1), np.float32)
    summation = summation_error(100, "bfloat16")
    off = np.float32(truth + summation)
    diff = measure("tap", "free", theirs, off, truth, "float32", 100, accumulates="bfloat16", summands=truth)
    rounding = UNIT_ROUNDOFF["float32"] / summation  # of `off`
    assert abs(diff.limit / (ROUNDING_FACTOR * math.sqrt(2) * summation) - 1) < rounding


@pytest.mark.parametrize(("size", "factor"), ((0.5, 1), (1, 1), (4, 4)))
def test_a_sum_in_which_terms_cancel_is_granted_the_error_of_its_terms(size, factor):
    truth, theirs = np.ones((1, 1, 1)), np.ones((1, 1, 1), np.float32)
    diff = measure("tap", "free", theirs, theirs, truth, "float32", 100, summands=size * truth)
    assert abs(diff.limit / (factor * ROUNDING_FACTOR * summation_error(100)) - 1) < FLOAT64


def test_where_everything_cancels_something_against_nothing_is_still_an_error():
    zeros, something = np.zeros((1, 1, 1)), np.full((1, 1, 1), 2.0**-20, np.float32)
    diff = measure("tap", "free", something, zeros.astype(np.float32), zeros, "float32", 100, summands=zeros + 1)
    assert not diff.passes


def test_several_runs_are_judged_by_their_root_mean_squares():
    runs = [Diff("tap", "free", 3.0, 1.0, 3.0), Diff("tap", "free", 4.0, 7.0, 21.0)]
    assert over_runs(runs) == Diff("tap", "free", math.sqrt(12.5), 5.0, 15.0)
    assert over_runs(runs[:1]) == runs[0]


def test_luck_in_one_run_of_four_passes_and_in_all_fails():
    lucky, unlucky = Diff("tap", "free", 1.0, 1.0, 3.0), Diff("tap", "free", 3.3, 1.0, 3.0)
    assert not unlucky.passes
    assert over_runs([unlucky, lucky, lucky, lucky]).passes
    assert not over_runs([unlucky] * 4).passes


@pytest.mark.parametrize("run", range(3))
def test_a_problem_in_any_run_decides(run):
    runs = [Diff("tap", "free", 1.0, 1.0, 3.0)] * 3
    runs[run] = Diff("tap", "free", math.inf, None, 0.0, "NaN or infinity in the candidate")
    assert over_runs(runs) == runs[run]


def test_a_run_whose_truth_is_nan_passes_nobody():
    runs = [Diff("tap", "free", 1.0, 1.0, 3.0), Diff("tap", "free", math.nan, math.nan, math.nan)]
    assert not over_runs(runs).passes


def diff_of(tap, mode, error):
    return Diff(tap, mode, error, None, FLOAT64)


def test_causes_come_before_consequences_and_both_in_data_order():
    bad, good = 2 * FLOAT64, FLOAT64 / 2
    rows = (("a", good, good), ("b", good, bad), ("c", bad, bad), ("d", math.nan, bad))
    diffs = [
        diff_of(tap, mode, error) for tap, free, alone in rows for mode, error in (("free", free), ("alone", alone))
    ]
    assert [(diff.tap, diff.mode) for diff in causes_first(diffs)] == [
        ("b", "alone"),
        ("c", "alone"),
        ("d", "alone"),
        ("c", "free"),
        ("d", "free"),
    ]


def test_parameters_come_in_the_order_in_which_the_data_meet_them():
    names = list(random_weights(preset("article-p4-untied").replace(num_layers=1, share_norm=False), seed=0))
    layer = ("norm1", "attention/query", "attention/key", "attention/value", "attention/projection", "norm2", "mlp/fc1")
    parts = [name.rpartition("/")[0] for name in in_data_order(reversed(names))]

    assert list(dict.fromkeys(parts)) == [
        "patches/conv",
        "embedding/projection",
        "embedding",
        *(f"encoder/00/{part}" for part in (*layer, "mlp/fc2")),
        "head",
    ]


class Chain:
    """Three blocks, each a function of the one before it; what is given at a tap goes on instead."""

    def __init__(self, **blocks):
        self.blocks = {"a": lambda x: x + x, "b": lambda x: x * x, "c": lambda x: x - x.dtype.type(1)} | blocks

    def taps(self, weights, images, given=None):
        taps, x = {}, images
        for name, block in self.blocks.items():
            taps[name] = block(x)
            x = (given or {}).get(name, taps[name])
        return taps


def compared(candidate, name="float64", reference=None):
    return compare(candidate, reference or Chain(), CONFIG, {}, numbers(0), name)


@each_precision
def test_equal_sides_have_no_headline(name):
    result = compared(Chain(), name)
    assert [(diff.tap, diff.mode) for diff in result.diffs] == [(tap, mode) for tap in "abc" for mode in MODES]
    assert result.headline is None
    assert result.failures == []


@each_precision
def test_the_headline_is_the_block_that_is_wrong_by_itself(name):
    result = compared(Chain(b=lambda x: x * x + x.dtype.type(1)), name)
    assert [(diff.tap, diff.mode) for diff in result.failures] == [("b", "alone"), ("b", "free"), ("c", "free")]
    assert result.headline == result.failures[0]
    assert result.worst("alone") == result.headline


@each_coarse_precision
def test_a_careless_block_of_the_reference_does_not_excuse_the_next_block(name):
    def careless(x):
        return x + x if x.dtype == np.float64 else x + x + x / x.dtype.type(8)

    candidate = Chain(a=careless, b=lambda x: x * x + x / x.dtype.type(8))
    failures = [(diff.tap, diff.mode) for diff in compared(candidate, name, Chain(a=careless)).failures]
    assert failures[0] == ("b", "alone")
    assert ("a", "alone") not in failures


@each_precision
@pytest.mark.parametrize(
    "blocks", ({"d": lambda x: x}, {"b": lambda x: x[..., :6]}, {"c": lambda x: x * x.dtype.type(np.nan)})
)
def test_a_tap_too_many_and_a_shape_and_a_nan_fail_in_a_whole_comparison(name, blocks):
    (broken,) = blocks
    assert broken in {diff.tap for diff in compared(Chain(**blocks), name).failures}


@each_precision
def test_a_tap_too_few_fails_in_a_whole_comparison(name):
    result = compared(Chain(), name, Chain(d=lambda x: x))
    assert [str(diff) for diff in result.failures] == [f"d {mode}: the candidate has no such tap" for mode in MODES]


@each_precision
def test_both_sides_are_given_what_the_precision_can_hold(name):
    seen = []
    spy = Chain(a=lambda x: (seen.append(x.dtype), x + x)[1])
    compared(spy, name)
    assert set(seen) == {DTYPES[name]}


def flax_logits(weights, images):
    with jax.enable_x64(images.dtype == np.float64), jax.default_matmul_precision("highest"):
        return jax.jit(ViT(CONFIG).apply)({"params": to_params(weights, CONFIG)}, images)


@each_precision
def test_looking_changes_no_bit_of_what_the_sides_compute(name):
    weights = rounded(random_weights(CONFIG, seed=0), name)
    images = numbers(0, name, (2, 16, 24, 3))
    theirs = torch_side.twin("vit_ti16", CONFIG, "cpu")
    taps = {"twin": theirs.taps(weights, images), "flax": flax_side.FlaxSide(CONFIG).taps(weights, images)}
    with torch.no_grad():
        plain = from_torch(theirs.model(to_torch(images, "cpu")))
    np.testing.assert_array_equal(taps["twin"]["logits"], plain, strict=True)
    np.testing.assert_array_equal(taps["flax"]["logits"], np.asarray(flax_logits(weights, images)), strict=True)


def test_the_reference_gives_its_taps_in_data_order_and_the_candidate_the_same_ones():
    weights, images = random_weights(CONFIG, seed=0), numbers(0, "float32", (2, 16, 24, 3))
    assert tuple(torch_side.twin("vit_ti16", CONFIG, "cpu").taps(weights, images)) == TAPS
    assert set(flax_side.FlaxSide(CONFIG).taps(weights, images)) == set(TAPS)


@pytest.mark.parametrize("length", (64, 256, 768, 3072))
def test_the_summation_error_is_that_of_a_plain_loop(length):
    # 1,000 sums: the measured root mean square is known to one part in √2000, and a factor of two is far off.
    summands = numbers(0, "float32", (1000, length))
    truth = summands.astype(np.float64).sum(1)
    loop = np.cumsum(summands, axis=1, dtype=np.float32)[:, -1]  # one after another, unlike sum()
    measured = np.sqrt(np.mean((loop - truth) ** 2) / np.mean(truth**2))
    assert 1 / 2 < measured / summation_error(length) < 2


@each_precision
def test_numbers_cross_to_torch_and_back_bit_for_bit(name):
    dtype = DTYPES[name]
    special = np.array([-0.0, np.inf, -np.inf, np.nan, ml_dtypes.finfo(dtype).smallest_subnormal]).astype(dtype)
    for array in (special, numbers(0, name), numbers(0, name).T, numbers(0, name)[:, ::2]):
        tensor = to_torch(array, "cpu")
        assert str(tensor.dtype) == f"torch.{dtype.name}"
        assert from_torch(tensor).dtype == dtype
        assert from_torch(tensor).shape == array.shape
        assert from_torch(tensor).tobytes() == array.tobytes()


@each_precision
def test_a_tensor_does_not_share_its_numbers_with_the_array(name):
    array = numbers(0, name)
    before = array.copy()
    to_torch(array, "cpu").zero_()
    np.testing.assert_array_equal(array, before, strict=True)


@each_coarse_precision
def test_rounding_finds_the_nearest_number(name):
    values = numbers(0)
    nearest = rounded({"x": values}, name)["x"]
    distance = np.abs(nearest.astype(np.float64) - values)
    assert nearest.dtype == DTYPES[name]
    for neighbour in (np.nextafter(nearest, DTYPES[name].type(side)) for side in (-np.inf, np.inf)):
        assert (distance <= np.abs(neighbour.astype(np.float64) - values)).all()


@each_precision
def test_widening_changes_no_value(name):
    values = numbers(0, name)
    wide = rounded({"x": values}, "float64")["x"]
    assert wide.dtype == np.float64
    np.testing.assert_array_equal(rounded({"x": wide}, name)["x"], values, strict=True)


def test_the_probe_finds_float32_on_both_sides():
    errors = probe_matmul("cpu")
    assert set(errors) == {"jax float32", "torch float32", "jax default float32", "torch default float32"}
    assert all(0 < error < 2 * summation_error(256) for error in errors.values())


def test_the_probe_would_notice_a_bfloat16_product(monkeypatch):
    monkeypatch.setattr(precision, "to_torch", lambda a, device: to_torch(a, device).bfloat16().float())
    errors = probe_matmul("cpu")
    assert errors["torch float32"] > 1000 * errors["jax float32"]


def test_a_diff_is_plain_data():
    with pytest.raises(dataclasses.FrozenInstanceError):
        diff_of("a", "free", 0.0).error = 1.0


def test_a_regime_holds_for_both_frameworks_and_ends():
    with precision.regime("float32 default"):
        assert precision.products() == "default"
        assert torch.get_float32_matmul_precision() == "high"
        with precision.regime("float32"):
            assert precision.products() == "highest"
            assert torch.get_float32_matmul_precision() == "highest"
    assert precision.products() == "highest"
    assert torch.get_float32_matmul_precision() == "highest"
