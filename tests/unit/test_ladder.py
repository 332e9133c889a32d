"""Rungs in their order: what fails, what that blocks, and what is not run twice."""

import numpy as np
import pytest

from conformance import ladder as module
from conformance.cases import CASES, Case, load_target
from conformance.check import assert_taps_match
from conformance.ladder import RUNGS, Ladder, Outcome
from conformance.precision import rounded
from conformance.sides import FlaxSide
from vit_flax import preset

CASE = Case("twin:article", image_size=(32, 48), num_layers=1)


class Sloppy(FlaxSide):
    """The right maths, done in bfloat16 wherever float32 is asked for."""

    def taps(self, weights, images, given=None):
        if images.dtype != np.float32:
            return super().taps(weights, images, given)
        narrow = rounded(weights, "bfloat16"), rounded({"": images}, "bfloat16")[""]
        return rounded(super().taps(*narrow, given and rounded(given, "bfloat16")), "float32")


def climb(target, rungs=RUNGS):
    ladder = Ladder(target, name="target", cases=[CASE])
    return {rung: ladder.outcome(CASE, rung) for rung in rungs}


def test_a_sound_target_climbs_to_the_top():
    assert {rung: outcome.status for rung, outcome in climb(FlaxSide).items()} == dict.fromkeys(RUNGS, "pass")


def test_sloppy_rounding_passes_as_maths_and_fails_as_rounding():
    outcomes = climb(Sloppy)

    assert outcomes["float64"].status == "pass"
    assert outcomes["float32"].status == "fail"
    assert outcomes["float32"].headline.startswith("patches alone: ")
    assert (outcomes["bfloat16"].status, outcomes["bfloat16"].blocked_by) == ("blocked", "float32")


def test_a_leaf_that_comes_back_changed_fails_the_weights_and_blocks_the_rest(monkeypatch):
    def read_from(*arguments):
        weights = dict(honest(*arguments))
        weights["head/bias"] = np.nextafter(weights["head/bias"], np.float32(np.inf))
        return weights

    honest = module.read_from
    monkeypatch.setattr(module, "read_from", read_from)

    outcomes = climb(FlaxSide)

    assert outcomes["weights"].headline == "1 of the leaves came back changed, first 'head/bias'"
    assert {outcomes[rung].blocked_by for rung in RUNGS[1:]} == {"weights"}


def test_a_rung_is_climbed_once():
    ladder = Ladder(FlaxSide, name="target", cases=[CASE])

    assert ladder.outcome(CASE, "weights") is ladder.outcome(CASE, "weights")
    assert [outcome.status for outcome in ladder.outcomes[CASE].values()] == ["pass", *["not run"] * 3]


def test_a_check_that_would_check_nothing_fails():
    outcome = climb(FlaxSide, ("float64",))["float64"]

    with pytest.raises(AssertionError, match="no tap is called 'no/such/tap'"):
        assert_taps_match(outcome, "no/such/tap")
    with pytest.raises(AssertionError, match="nothing was compared"):
        assert_taps_match(Outcome(), "*")


def test_the_main_job_covers_what_it_promises():
    whole = {case.reference for case in CASES if case.config == preset(case.subject)}
    sides = {(case.subject, case.reference.split(":")[0]) for case in CASES}

    assert {"twin:article", "twin:article-p4", "twin:article-p4-untied"} <= whole
    assert {"timm:vit_tiny_patch16_224", "timm:vit_base_patch16_224"} <= whole
    assert {(subject, side) for subject in ("vit_ti16", "vit_s16", "vit_b16") for side in ("twin", "timm")} <= sides
    assert {("vit_b16", "torchvision"), ("vit_b32", "torchvision")} <= sides
    assert any(case.config.image_size[0] != case.config.image_size[1] for case in CASES)


def test_a_target_that_needs_a_missing_module_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load_target("needy:build")
