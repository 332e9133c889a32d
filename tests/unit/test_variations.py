"""The blocks in plain NumPy: the twin's, until something varies, and then another model's as a whole."""

import numpy as np
import pytest

from conformance import tolerances
from conformance.catalogue import fault_named
from conformance.faults import planted, recomputed
from conformance.mutation import HABITATS, sound
from conformance.variations import PAPER, Variation, block, varied

EXACT = tolerances.FLOAT64
HALVED = Variation(activation=lambda activation: lambda x: activation(x) / 2)


def wide(ground):
    return {name: x.astype(np.float64) for name, x in ground.weights.items()}, ground.images.astype(np.float64)


def apart(ours, theirs):
    return max(float(np.abs(ours[tap] - x).max() / np.abs(x).max()) for tap, x in theirs.items())


@pytest.mark.parametrize("habitat", HABITATS)
def test_without_a_variation_each_block_is_the_twins(habitat):
    ground = sound(HABITATS[habitat])
    weights, images = wide(ground)
    taps = ground.reference.taps(weights, images)
    inside = [tap for tap in taps if tap not in ("patches", "embedding")]

    blocks = {tap: block(PAPER, tap, taps, weights, ground.config) for tap in inside}

    assert apart(blocks, {tap: taps[tap] for tap in inside}) <= EXACT
    assert not any(PAPER.touches(tap) for tap in taps)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_block_keeps_its_precision(dtype):
    ground = sound()
    weights = {name: x.astype(dtype) for name, x in ground.weights.items()}
    taps = {tap: x.astype(dtype) for tap, x in ground.reference.taps(*wide(ground)).items()}

    made = block(PAPER, "encoder/00/mlp", taps, weights, ground.config)

    assert made.dtype == dtype
    assert (
        apart({"": made.astype(np.float64)}, {"": taps["encoder/00/mlp"].astype(np.float64)}) < 10 * np.finfo(dtype).eps
    )


def test_foreseen_at_once_a_side_is_what_it_is_tap_by_tap():
    ground = sound()
    weights, images = wide(ground)
    passes = []

    def taps(*arguments, **named):
        passes.append(named)
        return ground.reference.taps(*arguments, **named)

    at_once = varied(HALVED)["taps"](taps, ground.config, weights, images)
    count = len(passes)
    change = recomputed(lambda s: block(HALVED, s.tap, s.taps, s.weights, s.config), HALVED.touches)["taps"]
    tap_by_tap = change(taps, ground.config, weights, images)

    assert apart(at_once, tap_by_tap) <= EXACT
    assert count == 2
    assert len(passes) - count == 1 + ground.config.num_layers


def test_a_side_with_another_fault_keeps_it():
    ground = sound()
    weights, images = wide(ground)
    bias = fault_named("attention bias dropped")
    inner = planted(bias, ground.reference_target)(ground.config)
    outer = planted(bias, lambda config: ground.reference)(ground.config)

    def both(side):
        return varied(HALVED)["taps"](side.taps, ground.config, weights, images)

    without = {name: np.zeros_like(x) if "projection/bias" in name else x for name, x in weights.items()}
    expected = varied(HALVED)["taps"](ground.reference.taps, ground.config, without, images)
    assert apart(both(inner), expected) <= EXACT
    assert apart(both(outer), expected) <= EXACT
    assert apart(both(ground.reference), expected) > EXACT


def test_under_draws_and_on_given_taps_a_variation_is_only_where_it_is():
    ground = sound()
    weights, images = wide(ground)
    taps = ground.reference.taps(weights, images)
    alone = varied(HALVED)["taps"](ground.reference.taps, ground.config, weights, images, given=taps)

    changed = {tap for tap in taps if apart({tap: alone[tap]}, {tap: taps[tap]}) > EXACT}

    assert changed == {f"encoder/{i:02}/mlp" for i in range(ground.config.num_layers)}
