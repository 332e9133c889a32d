"""Rungs in their order: what fails, what that blocks, and what is not run twice."""

import numpy as np
import pytest

from conformance.cases import CASES, Case, load_target
from conformance.check import assert_taps_match
from conformance.flax_side import FlaxSide
from conformance.ladder import Ladder, Outcome
from conformance.precision import rounded
from conformance.rungs import BY_NAME, NAMES, RUNGS
from vit_flax import preset

CASE = Case("twin:digits", num_layers=1)
QUICK = ("weights", "float64", "float32", "bfloat16", "loss", "gradients float64", "schedule")


class Sloppy(FlaxSide):
    """The right maths, done in bfloat16 wherever float32 is asked for."""

    def taps(self, weights, images, given=None, draw=None):
        if images.dtype != np.float32:
            return super().taps(weights, images, given, draw)
        narrow = rounded(weights, "bfloat16"), rounded({"": images}, "bfloat16")[""]
        return rounded(super().taps(*narrow, given and rounded(given, "bfloat16")), "float32")


class Changed(FlaxSide):
    """One entry of one leaf comes back as its neighbour."""

    def held(self, weights):
        changed = np.nextafter(weights["head/bias"][:1], np.float32(np.inf))
        return super().held(weights) | {"head/bias": np.concatenate([changed, weights["head/bias"][1:]])}


class Poor:
    """A target that has taps, and nothing else."""

    def __init__(self, config):
        self.taps = FlaxSide(config).taps


def climb(target, rungs=QUICK):
    ladder = Ladder(target, name="target", cases=[CASE])
    return {rung: ladder.outcome(CASE, rung) for rung in rungs}


def test_a_sound_target_climbs():
    assert {rung: outcome.status for rung, outcome in climb(FlaxSide).items()} == dict.fromkeys(QUICK, "pass")


def test_sloppy_rounding_passes_as_maths_and_fails_as_rounding():
    outcomes = climb(Sloppy)

    assert outcomes["float64"].status == "pass"
    assert outcomes["float32"].status == "fail"
    assert outcomes["float32"].headline.startswith("patches alone: ")
    causes = {cause.name for cause in outcomes["float32"].diagnosis.causes}
    assert causes == {"float32 products in bfloat16", "float32 blocks kept in bfloat16"}
    assert outcomes["bfloat16"].status == "pass"


def test_a_leaf_that_comes_back_changed_fails_the_weights_and_blocks_what_needs_them():
    outcomes = climb(Changed)

    assert outcomes["weights"].headline == "head/bias alone: off by 1.0e+00 of its scale, limit 0.0e+00"
    blocked = {name for name, outcome in outcomes.items() if outcome.status == "blocked"}
    assert {outcomes[name].blocked_by for name in blocked} == {"weights"}
    assert blocked == {"float64", "float32", "bfloat16", "gradients float64"}


def test_a_failure_is_charged_to_the_lowest_rung_that_failed():
    ladder = Ladder(Changed, name="target", cases=[CASE])
    ladder.outcome(CASE, "weights")

    assert ladder.outcome(CASE, "trajectory float32").blocked_by == "weights"


def test_what_a_target_cannot_do_is_not_verified_and_blocks_nothing():
    outcomes = climb(Poor)

    lacking = {name: outcome.headline for name, outcome in outcomes.items() if outcome.status == "not verified"}
    assert lacking == {
        "weights": "the target has no 'held'",
        "loss": "the target has no 'loss'",
        "gradients float64": "the target has no 'gradients'",
        "schedule": "the target has no 'rates'",
    }
    assert {outcomes[name].status for name in ("float64", "float32", "bfloat16")} == {"pass"}


def test_rungs_come_after_what_they_need():
    for place, rung in enumerate(RUNGS):
        assert {NAMES.index(need) for need in rung.needs} <= set(range(place))
    assert set(BY_NAME) == set(NAMES)


def test_a_rung_is_climbed_once():
    ladder = Ladder(FlaxSide, name="target", cases=[CASE])

    assert ladder.outcome(CASE, "weights") is ladder.outcome(CASE, "weights")
    planned = [rung for rung in RUNGS if CASE.climbs(rung)]
    assert [outcome.status for outcome in ladder.outcomes[CASE].values()] == ["pass", *["not run"] * (len(planned) - 1)]


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


def test_every_rung_that_is_planned_is_there_from_the_start_and_no_other():
    model = Case("twin:digits", scope="model")

    outcomes = Ladder(FlaxSide, name="target", cases=[model]).outcomes[model]

    assert set(outcomes) == {rung.name for rung in RUNGS if rung.scope == "model" and not rung.gpu_only}
    assert {outcome.status for outcome in outcomes.values()} == {"not run"}
