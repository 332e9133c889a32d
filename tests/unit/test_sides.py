"""Both sides as the suite sees them: gradients, draws and training, and that looking changes nothing."""

import numpy as np
import pytest

from conformance.envelope import PLAN_32
from conformance.flax_side import FlaxSide
from conformance.mutation import CONFIG, sound
from conformance.randomness import noisy
from conformance.reorder import Reordering
from conformance.sides import Masks, can
from conformance.tolerances import FLOAT64
from conformance.torch_side import Twin
from conformance.training import PLAN, training_batches

GROUND = sound()
WIDE = {name: leaf.astype(np.float64) for name, leaf in GROUND.weights.items()}
IMAGES = GROUND.images[:2].astype(np.float64)
UPSTREAM = {"logits": np.random.default_rng(0).standard_normal((2, CONFIG.num_classes))}
SIDES = {"flax": FlaxSide, "twin": lambda config: Twin(config, "cpu")}
each_side = pytest.mark.parametrize("build", SIDES.values(), ids=SIDES)


def largest(a, b):
    return max(float(np.abs(a[name] - b[name]).max()) for name in b)


@each_side
def test_gradients_are_those_of_finite_differences(build):
    side, step, name = build(CONFIG), 1e-6, "encoder/01/mlp/fc1/kernel"
    gradient = side.gradients(WIDE, IMAGES, UPSTREAM).parameters[name]
    direction = np.random.default_rng(1).standard_normal(gradient.shape)

    def value(t):
        taps = side.taps(WIDE | {name: WIDE[name] + t * direction}, IMAGES)
        return float((taps["logits"] * UPSTREAM["logits"]).sum())

    slope = (value(step) - value(-step)) / (2 * step)
    assert abs(slope - float((gradient * direction).sum())) <= step * abs(slope)


@each_side
def test_alone_and_free_gradients_are_the_same_where_a_side_is_given_its_own(build):
    side = build(CONFIG)
    taps, free = side.taps(WIDE, IMAGES), side.gradients(WIDE, IMAGES, UPSTREAM)
    arriving = {tap: free.inputs[tap] for tap in taps}

    alone = side.gradients(WIDE, IMAGES, arriving, given=taps)

    assert largest(alone.parameters, free.parameters) <= FLOAT64
    assert largest(alone.inputs, {tap: g for tap, g in free.inputs.items() if tap != "logits"}) <= FLOAT64


@each_side
def test_alone_nothing_flows_back_through_a_given_tap(build):
    side = build(CONFIG)
    taps = side.taps(WIDE, IMAGES)

    alone = side.gradients(WIDE, IMAGES, UPSTREAM, given=taps)

    assert not alone.parameters["encoder/00/mlp/fc1/kernel"].any()
    assert alone.parameters["head/kernel"].any()


@each_side
def test_draws_are_asked_for_each_time(build):
    side = build(noisy(CONFIG))
    asked = []
    for _ in range(2):
        masks = Masks(0)
        side.taps(WIDE, IMAGES, draw=masks)
        asked.append(masks.asked)
    assert asked[0] == asked[1]
    assert (
        len(asked[0]) == 1 + 4 * 3 + 2 * 2
    )  # after the embedding, four a layer, and two of stochastic depth in all but the first


@each_side
def test_other_masks_give_other_taps_and_the_same_masks_the_same(build):
    side = build(noisy(CONFIG))
    first, again, other = (side.taps(WIDE, IMAGES, draw=Masks(seed))["logits"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@each_side
def test_its_own_draws_depend_on_the_seed(build):
    side = build(noisy(CONFIG))
    first, again, other = (side.drawn(WIDE, IMAGES, seed)["logits"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@each_side
def test_every_step_of_training_is_returned_as_it_was(build):
    images, labels = training_batches(IMAGES, CONFIG, 3)
    losses, after = build(CONFIG).train(WIDE, images, labels, PLAN)
    assert losses.shape == (3,)
    assert largest(after[0], WIDE) == 0  # the first rate is zero
    assert largest(after[1], after[0]) > 0
    assert largest(after[2], after[1]) > 0


def test_a_reordered_model_is_the_same_function_and_other_numbers():
    side = Twin(CONFIG, "cpu")
    other = Reordering(CONFIG, np.random.default_rng(0)).weights(WIDE)
    assert (other["head/kernel"] != WIDE["head/kernel"]).any()
    taps, others = side.taps(WIDE, IMAGES)["logits"], side.taps(other, IMAGES)["logits"]
    assert np.abs(taps - others).max() <= FLOAT64 * np.abs(taps).max()
    narrow, other_narrow = ({n: x.astype(np.float32) for n, x in w.items()} for w in (WIDE, other))
    images = IMAGES.astype(np.float32)
    assert (side.taps(narrow, images)["logits"] != side.taps(other_narrow, images)["logits"]).any()


def test_betas_of_the_envelope_are_float32_numbers():
    for beta in (PLAN_32.momentum, PLAN_32.beta2):
        assert float(np.float32(beta)) == beta
        assert float(np.float32(1) - np.float32(beta)) == 1 - beta


def test_a_capability_is_a_method_that_is_there():
    assert can(FlaxSide(CONFIG), "gradients")
    assert not can(FlaxSide(CONFIG), "teleport")
