"""A side that is not a function is told how: by repetition, by company, by place, by batch, by what it writes into."""

import dataclasses
import math

import numpy as np
import pytest

from conformance import tolerances
from conformance.cases import Case
from conformance.compare import causes_first
from conformance.flax_side import DividedSide, FlaxSide
from conformance.function import CALLS, Gap, repeated
from conformance.ladder import Ladder
from conformance.rungs import BY_NAME, SHALLOW
from conformance.torch_side import Twin

CASE = Case("twin:digits", num_layers=1)
LADDER = Ladder(FlaxSide, name="target", cases=[CASE])
GROUND = LADDER.ground(CASE)
SMALL = 1e-3


class Centred(FlaxSide):
    """Images less a little of something that is no business of theirs."""

    def taps(self, weights, images, given=None, draw=None):
        less = np.asarray(self.less(weights, images), images.dtype)
        return super().taps(weights, images - images.dtype.type(SMALL) * less, given, draw)


class Odd(Centred):
    """One call in ten is off, at random."""

    seed = 0

    def __init__(self, config):
        super().__init__(config)
        self.rng = np.random.default_rng(self.seed)

    def less(self, weights, images):
        return self.rng.random() < tolerances.ODD_ANSWERS


class Counting(Centred):
    """Each call of a certain number is off."""

    def __init__(self, config):
        super().__init__(config)
        self.calls = 0

    def less(self, weights, images):
        self.calls += 1
        return self.calls % self.period == 0


class EachTenth(Counting):
    period = 10


class EachSecond(Counting):
    period = 2


class EachSecondNarrow(EachSecond):
    def less(self, weights, images):
        return images.dtype == np.float32 and super().less(weights, images)


class FirstWeights(FlaxSide):
    """It loads its weights once for each precision."""

    first = None

    def taps(self, weights, images, given=None, draw=None):
        if self.first is None or self.first["head/bias"].dtype != images.dtype:
            self.first = {name: leaf.copy() for name, leaf in weights.items()}
        return super().taps(self.first, images, given, draw)


class FirstNarrowWeights(FirstWeights):
    """It loads its float32 weights once."""

    def taps(self, weights, images, given=None, draw=None):
        if images.dtype != np.float32:
            return FlaxSide.taps(self, weights, images, given, draw)
        return super().taps(weights, images, given, draw)


class LastBatch(Centred):
    """Only a large batch remembers the last one."""

    last = 0.0

    def less(self, weights, images):
        last, self.last = self.last, images[0].mean()
        return last if len(images) > 3 else 0.0


class BatchMean(Centred):
    def less(self, weights, images):
        return images.mean(axis=0)


class Padded(Centred):
    """An odd batch is padded with its first image, and that is not taken away again."""

    def less(self, weights, images):
        return images[:1] if len(images) % 2 and len(images) > 1 else 0.0


class Paired(Centred):
    """Neighbours in an even batch see each other."""

    def less(self, weights, images):
        return images[np.arange(len(images)) ^ 1] if len(images) % 2 == 0 else 0.0


class Placed(Centred):
    def less(self, weights, images):
        return np.arange(len(images)).reshape(-1, 1, 1, 1)


WRONG = {
    Odd: f"asked {CALLS} times: patches",
    EachTenth: f"asked {CALLS} times: patches",
    EachSecond: f"asked {CALLS} times: patches",
    FirstWeights: "of other weights: patches",
    FirstNarrowWeights: "of other weights in float32: patches",
    BatchMean: "in a batch of three: patches",
    Padded: "in a batch of three: patches",
    Paired: "in other company: patches",
    Placed: "in another order: patches",
    LastBatch: "asked again: patches",
    EachSecondNarrow: "asked again in float32: patches",
}


def climbed(target, rung="function"):
    ground = dataclasses.replace(GROUND, target=target)
    return ground, BY_NAME[rung].climb(ground)


def test_sound_sides_are_functions():
    for target in (FlaxSide, DividedSide, lambda config: Twin(config, "cpu")):
        for rung in ("function", "gradients function"):
            _, diffs = climbed(target, rung)
            assert diffs and all(diff.passes for diff in diffs)


@pytest.mark.parametrize("target", [*WRONG][:-1], ids=lambda target: target.__name__)
def test_a_side_that_is_no_function_is_told_how(target):
    _, diffs = climbed(target)
    assert causes_first(diffs)[0].tap == WRONG[target]


def test_an_answer_in_float32_that_changes_is_told():
    """By the second of two, whichever it is."""
    _, diffs = climbed(EachSecondNarrow)
    failing = [diff.tap for diff in causes_first(diffs)]
    assert failing[0] == WRONG[EachSecondNarrow]
    assert all(tap.startswith("asked again in float32") for tap in failing)


def test_one_wrong_answer_in_ten_is_missed_less_often_than_is_said():
    share, missed = tolerances.ODD_ANSWERS, tolerances.ODD_ANSWERS_MISSED
    assert (1 - share) ** CALLS <= missed < (1 - share) ** (CALLS - 1)
    asked = [call for call in repeated(GROUND.weights, GROUND.images) if call.check]
    assert len(asked) == CALLS - 2  # and the first of each of the two questions
    assert {call.repeats for call in asked} == {1, 2}


def test_one_wrong_answer_in_ten_is_caught_whatever_the_seed():
    for seed in range(5):
        _, diffs = climbed(type("Seeded", (Odd,), {"seed": seed}))
        assert causes_first(diffs)[0].tap == WRONG[Odd]


class Adding(FlaxSide):
    """Gradients are those of the last call, too."""

    last = None

    def gradients(self, weights, images, upstream, given=None, draw=None):
        found = super().gradients(weights, images, upstream, given, draw)
        last, self.last = self.last or found, found
        return found._replace(parameters={n: g + last.parameters[n] for n, g in found.parameters.items()})


class WholeBlocks(FlaxSide):
    """A sum over rows in blocks of eight, which leaves the last few out."""

    def gradients(self, weights, images, upstream, given=None, draw=None):
        found = super().gradients(weights, images, upstream, given, draw)
        rows = len(images) * found.inputs["encoder/00"].shape[1]
        short = found.parameters["norm/bias"] * (rows - rows % 8) / rows
        return found._replace(parameters={**found.parameters, "norm/bias": short})


class AnyOrder(FlaxSide):
    """Sums in any order, as atomic additions on a GPU: even what is zero is rounding of another size each time."""

    def __init__(self, config):
        super().__init__(config)
        self.rng = np.random.default_rng(0)

    def gradients(self, weights, images, upstream, given=None, draw=None):
        def rounded(g):
            return g * (1 + 1e-15 * self.rng.standard_normal(g.shape)) + 1e-17 * self.rng.standard_normal(g.shape)

        found = super().gradients(weights, images, upstream, given, draw)
        return found._replace(parameters={name: rounded(g) for name, g in found.parameters.items()})


def test_gradients_that_were_not_set_to_zero_are_told():
    _, diffs = climbed(Adding, "gradients function")
    assert causes_first(diffs)[0].tap.startswith("asked again: ")


def test_rows_that_a_gradient_leaves_out_are_told():
    _, diffs = climbed(WholeBlocks, "gradients function")
    assert {diff.tap for diff in diffs if not diff.passes} == {"of three images: norm/bias"}


def test_gradients_may_be_summed_in_any_order():
    _, diffs = climbed(AnyOrder, "gradients function")
    assert max(diff.error for diff in diffs) > 0
    assert all(diff.passes for diff in diffs)


class Untidy(FlaxSide):
    """Sound, but its weights and images are spoilt afterwards."""

    def taps(self, weights, images, given=None, draw=None):
        taps = super().taps({n: w.copy() for n, w in weights.items()}, images.copy(), given, draw)
        for array in (weights["head/bias"], images):
            array.setflags(write=True)
            array *= 2
        return taps


def test_a_sound_side_is_blamed_for_writing_and_nothing_else():
    _, diffs = climbed(Untidy)
    (failing,) = causes_first(diffs)
    assert failing.tap == "inputs"
    assert failing.problem == "taps wrote into weights 'head/bias'; taps wrote into images"

    for rung in ("float64", "float32"):
        _, diffs = climbed(Untidy, rung)
        assert all(diff.passes for diff in diffs)


def test_what_is_zero_under_any_weights_is_no_answer_kept():
    zero = {name: leaf * 0 for name, leaf in GROUND.weights.items()}
    diffs = BY_NAME["function"].climb(dataclasses.replace(GROUND, weights=zero))
    assert all(diff.passes for diff in diffs)


def test_nan_is_an_answer_like_any_other():
    nan = dataclasses.replace(GROUND, weights=GROUND.weights | {"head/bias": np.full(10, np.nan, np.float32)})
    diffs = BY_NAME["function"].climb(nan)
    assert all(diff.passes for diff in diffs)


class Vanishing(Counting):
    """Every tenth answer lacks its logits."""

    period = 10

    def taps(self, weights, images, given=None, draw=None):
        self.calls += 1
        taps = FlaxSide.taps(self, weights, images, given, draw)
        return taps if self.calls % self.period else {tap: x for tap, x in taps.items() if tap != "logits"}


def test_an_answer_that_is_missing_now_and_then_is_none():
    _, diffs = climbed(Vanishing)
    first = causes_first(diffs)[0]
    assert (first.tap, first.error) == (f"asked {CALLS} times: logits", math.inf)


class Batchless(FlaxSide):
    """Taps of another shape than they should have: for another rung to tell."""

    def taps(self, weights, images, given=None, draw=None):
        taps = super().taps(weights, images, given, draw)
        return {**taps, "norm": np.sum(taps["norm"]), "logits": np.broadcast_to(taps["logits"][0], (99, 10))}


def test_shapes_are_left_to_the_rungs_that_tell_of_them():
    _, diffs = climbed(Batchless)
    assert all(diff.passes for diff in diffs)


def test_a_target_that_is_no_function_is_told_that_first():
    ladder = Ladder(EachTenth, name="target", cases=[CASE])
    outcomes = {rung: ladder.outcome(CASE, rung) for rung in ("weights", "function", "float64", "hostile")}
    assert [outcome.status for outcome in outcomes.values()] == ["pass", "fail", "blocked", "blocked"]
    assert outcomes["float64"].blocked_by == "function"


class OneDepth(FlaxSide):
    def __init__(self, config):
        if config.num_layers != 4:
            raise ValueError("a model of four layers")
        super().__init__(config)


def test_the_shallow_ground_is_of_the_same_kind_or_the_ground_itself():
    deep = Case("twin:digits")
    ground = Ladder(FlaxSide, name="target", cases=[deep]).ground(deep)
    few = ground.shallow
    assert few.config == ground.config.replace(num_layers=SHALLOW)
    assert few.candidate.config == few.reference.config == few.config
    assert not any(name.startswith(f"encoder/{SHALLOW:02}") for name in few.weights)
    assert ground.shallow is few  # built once
    assert GROUND.shallow is GROUND
    fixed = dataclasses.replace(ground, target=OneDepth)
    assert fixed.shallow is fixed


def test_answers_that_are_far_apart_are_compared_by_how_far():
    far = 2.0**28  # what is left of the last gradients, where these are of an upstream gradient 2^-28 of theirs
    gap = Gap(np.array([np.nextafter(far, math.inf)]), scale=1.0, exact=False)

    assert 0 < gap.wider_than(np.array([far])) <= tolerances.FLOAT64
    assert gap.wider_than(np.array([far * (1 + SMALL)])) > tolerances.FLOAT64
    assert gap.wider_than(0.0) >= far
    assert gap.wider_than(np.array([math.inf])) == math.inf
