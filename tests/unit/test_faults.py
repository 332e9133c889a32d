"""A fault is data: it travels by name, knows its place on any model, and changes every method that it touches."""

import dataclasses
import pickle

import numpy as np
import pytest

from conformance.catalogue import FAULTS, fault_named
from conformance.compare import in_data_order
from conformance.diagnose import diagnose
from conformance.faults import Anew, Fault, is_at, planted
from conformance.mutation import HABITATS, sound
from conformance.randomness import noisy
from conformance.rungs import BY_NAME
from conformance.sides import Masks
from conformance.torch_side import Twin
from conformance.training import PLAN, compare_clipping
from tests.unit.ports.of_rules import CLIPPING, clip, decaying, every_leaf, norm_of
from vit_flax.config import preset
from vit_flax.weights import canonical_shapes

TIED = preset("article").replace(num_layers=3)


def test_a_fault_travels_by_its_name():
    fault = fault_named("the other GELU")
    assert pickle.loads(pickle.dumps(fault)) is fault
    with pytest.raises(ValueError, match="unknown fault 'unheard of'"):
        pickle.loads(pickle.dumps(Fault(name="unheard of", rung="float64", place="norm", seen="nowhere")))


@pytest.mark.parametrize("habitat", HABITATS)
def test_a_place_is_a_leaf_of_the_model_it_is_asked_for(habitat):
    config = HABITATS[habitat]
    leaves = in_data_order(canonical_shapes(config))
    places = {kind: Fault("", "", f"{{{kind}}}", "").first_place(config) for kind in ("leaf", "kernel", "last_scale")}

    assert places["leaf"] == leaves[0]
    assert places["kernel"] == next(leaf for leaf in leaves if leaf.endswith("kernel"))
    assert places["last_scale"] == [leaf for leaf in leaves if leaf.endswith("scale")][-1]


@pytest.mark.parametrize(
    ("place", "expected", "is_there"),
    [
        ("logits", "logits", True),
        ("encoder/00/mlp", "encoder/00", False),
        ("head/kernel, spread", "head/kernel, *", True),
        ("step 08/loss", "step */loss", True),
        ("step 08/parameters", "step */loss", False),
        (None, "*", False),
    ],
)
def test_a_place_is_the_expected_one_but_for_what_chance_decides(place, expected, is_there):
    assert is_at(place, expected) == is_there


def test_no_place_has_a_brace_left_in_it():
    assert not any("{" in fault.first_place(TIED) for fault in FAULTS)


@pytest.mark.parametrize(
    "fault", [fault for fault in FAULTS if Anew in map(type, fault.around.values())], ids=lambda f: f.name
)
def test_what_remembers_its_calls_knows_nothing_of_another_side(fault):
    def first_answer(habitat):
        ground = sound(HABITATS[habitat])
        side = planted(fault, ground.target)(ground.config)
        upstream = {"logits": np.ones((len(ground.images), ground.config.num_classes), np.float32)}
        gradients = [side.gradients(ground.weights, ground.images, upstream).parameters for _ in range(2)]
        return side.taps(ground.weights, ground.images), *gradients

    alone = first_answer("oblong, in colour")
    first_answer("square, grey")
    after_another = first_answer("oblong, in colour")

    for before, after in zip(alone, after_another, strict=True):
        for name, leaf in before.items():
            np.testing.assert_array_equal(leaf, after[name], err_msg=name)


AVERAGING = [fault for fault in FAULTS if fault.rung == "average"]


@pytest.mark.parametrize("inner", AVERAGING, ids=lambda fault: fault.name)
def test_any_two_faults_of_averaging_can_be_planted_together(inner):
    ground = sound()
    for outer in AVERAGING:
        both = planted(outer, planted(inner, ground.reference_target))
        diffs = BY_NAME["average"].climb(dataclasses.replace(ground, target=both))
        assert not all(diff.passes for diff in diffs), outer.name


def test_what_changes_the_draws_changes_them_wherever_a_side_draws():
    ground = sound()
    config = noisy(ground.config)
    weights = {name: x.astype(np.float64) for name, x in ground.weights.items()}
    images = ground.images.astype(np.float64)
    side = planted(fault_named("mask shared by all images"), lambda c: Twin(c, "cpu"))(config)
    masks, again = Masks(0), Masks(0)

    taps = side.taps(weights, images, draw=masks)
    side.gradients(weights, images, {"logits": taps["logits"]}, draw=again)
    drawn = side.drawn(weights, images, seed=0)

    assert masks.asked == again.asked
    assert masks.asked[0][0] == (1, *taps["embedding"].shape[1:])
    for found in (taps, drawn):
        dropped = found["embedding"] == 0
        assert dropped.any()
        assert (dropped == dropped[:1]).all()


def test_a_side_that_never_drops_asks_for_nothing():
    ground = sound()
    config = noisy(ground.config)
    side = planted(fault_named("never dropped"), lambda c: Twin(c, "cpu"))(config)
    masks = Masks(0)
    side.taps(ground.weights, ground.images, draw=masks)
    assert masks.asked == []


RULES = (
    "clipped by norm and epsilon",
    "clipped leaf by leaf",
    "clipped block by block",
    "clipped by the kernels' norm",
    "kernels alone clipped",
    "clipped by value",
    "not clipped",
    "scaled to the norm, not clipped",
    "norm of the gradient in float32",
)


@pytest.mark.parametrize("habitat", HABITATS)
def test_no_two_rules_of_clipping_agree_on_the_gradients_they_are_asked_about(habitat):
    ground = sound(HABITATS[habitat])
    sides = [ground.reference, *(planted(fault_named(rule), ground.reference_target)(ground.config) for rule in RULES)]

    for number, one in enumerate(sides):
        for other in sides[number + 1 :]:
            assert not all(diff.passes for diff in compare_clipping(one, other, ground.weights))


@pytest.mark.parametrize("habitat", HABITATS)
@pytest.mark.parametrize("rule", ["clipped by the kernels' norm", "kernels alone clipped"])
def test_clipping_by_the_norm_of_the_kernels_is_told_from_no_clipping(rule, habitat):
    found_on = dataclasses.replace(sound(HABITATS[habitat]), target=CLIPPING[rule])
    assert diagnose(found_on, BY_NAME["clipping"]).causes == (fault_named(rule),)


@pytest.mark.parametrize("habitat", HABITATS)
@pytest.mark.parametrize("scaled", [every_leaf, lambda name: not decaying(name)], ids=["all", "all but kernels"])
def test_clipping_by_the_norm_of_all_but_kernels_is_no_known_fault(scaled, habitat):
    rule = clip(norm_of(lambda name: not decaying(name), scaled))
    diagnosis = diagnose(dataclasses.replace(sound(HABITATS[habitat]), target=rule), BY_NAME["clipping"])
    assert diagnosis.before > 1
    assert not diagnosis.causes


def test_pixels_of_floating_resizing_are_within_half_a_level_of_rounded_ones():
    ground = sound()
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3), np.uint8)
    boxes, flips = (
        np.array([[0, 0, 16, 24], [1, 2, 13, 20], [3, 0, 10, 24], [2, 2, 5, 5]]),
        np.array([0, 1, 0, 1], bool),
    )
    plan = PLAN.replace(means=(0.5,) * 3, stds=(0.5,) * 3)
    floating = planted(fault_named("resized without rounding"), ground.reference_target)(ground.config)

    off = 127.5 * np.abs(
        floating.pixels(images, boxes, flips, plan) - ground.reference.pixels(images, boxes, flips, plan)
    )

    assert off[0].max() < 1e-3
    assert 0.1 < off.max() <= 1.01  # rounded once for each axis
