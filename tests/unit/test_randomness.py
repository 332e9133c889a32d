"""The statistics of dropout: shares of draws that share a fate are no surer than the draws there are."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from conformance.catalogue import fault_named
from conformance.compare import causes_first
from conformance.faults import planted
from conformance.mutation import sound
from conformance.precision import rounded
from conformance.randomness import alike, apart, compare_draws, compare_masked, noisy
from conformance.torch_side import Twin
from reference.model import MLP, TransformerEncoder
from tests.unit.ports.of_dropout import computed_again
from vit_flax.config import preset

SHAPE, KEEP, PAIRS = (4, 16, 7, 64), 0.9, 50  # runs, images, tokens, features
SHARED = {"nothing": SHAPE, "images": (4, 1, 7, 64), "tokens": (4, 16, 1, 64), "features": (4, 16, 7, 1)}


def masks(shape, keep=KEEP):
    rng = np.random.default_rng(0)
    return [np.broadcast_to(rng.random(shape) < keep, SHAPE) for _ in range(2 * PAIRS)]


def distances(drawn, what=lambda mask: mask):
    return [apart(what(a), what(b)) for a, b in zip(drawn[::2], drawn[1::2], strict=True)]


@pytest.mark.parametrize("shared", SHARED)
def test_two_sidesalike_are_a_standard_deviationapart(shared):
    found = distances(masks(SHARED[shared]))
    assert max(found) < 4
    assert 0.7 < math.sqrt(np.mean(np.square(found))) < 1.3


def test_taken_for_independent_they_would_be_called_different():
    naive = [
        abs(a.mean() - b.mean()) / math.sqrt(2 * KEEP * (1 - KEEP) / a.size)
        for a, b in zip(*[iter(masks(SHARED["features"]))] * 2, strict=True)
    ]
    assert max(naive) > 6


@pytest.mark.parametrize("axis", (1, 2, 3))
def test_draws_shared_along_an_axis_are_told_from_independent_ones(axis):
    shape = [*SHAPE]
    shape[axis] = 1
    assert apart(alike(masks(tuple(shape))[0], axis), alike(masks(SHAPE)[1], axis)) > 6


def test_another_rate_is_seen_and_no_drawing_at_all_is_not_nothing():
    assert apart(masks(SHAPE)[0], masks(SHAPE, 0.8)[1]) > 6
    assert apart(np.ones(SHAPE, bool), np.ones(SHAPE, bool)) == 0
    assert apart(np.ones(SHAPE, bool), np.zeros(SHAPE, bool)) == math.inf


CONFIG = noisy(preset("digits").replace(num_layers=1))


def test_a_side_that_drops_at_evaluation_is_told_so():
    ground, sound_side = sound(CONFIG), Twin(CONFIG, "cpu")
    dropping = planted(fault_named("drops at evaluation"), lambda config: Twin(config, "cpu"))(CONFIG)
    weights = {name: leaf.astype(np.float64) for name, leaf in ground.weights.items()}

    failures = causes_first(compare_masked(dropping, sound_side, weights, ground.images.astype(np.float64)))

    problem = "drops at evaluation: entries are zero that are not"
    assert str(failures[0]) == f"in evaluation, embedding free: {problem}"


def test_a_side_that_keeps_nothing_is_seen():
    class Empty(Twin):
        def drawn(self, weights, images, seed):
            return {tap: 0 * value for tap, value in super().drawn(weights, images, seed).items()}

    ground = sound(CONFIG)
    weights, images = {n: x.astype(np.float64) for n, x in ground.weights.items()}, ground.images.astype(np.float64)
    failures = causes_first(compare_draws(Empty(CONFIG, "cpu"), Twin(CONFIG, "cpu"), CONFIG, weights, images))
    assert failures[0].tap == "embedding, scale of what is kept"


@pytest.mark.parametrize("kind", (MLP, TransformerEncoder))
def test_what_the_backward_pass_computes_again_has_the_masks_of_the_forward_pass(kind):
    ground = sound(CONFIG)
    images = ground.images.astype(np.float64)
    weights = rounded(ground.weights, "float64")
    reference = Twin(CONFIG, "cpu")

    checkpointed = compare_masked(computed_again(kind, keeping_state=True)(CONFIG), reference, weights, images)
    drawn_again = compare_masked(computed_again(kind)(CONFIG), reference, weights, images)

    assert all(diff.passes for diff in checkpointed)
    assert sum(diff.tap.startswith("gradient of") for diff in checkpointed) > 10
    first = causes_first(drawn_again)[0]
    draws = sum(diff.tap.startswith("draw ") for diff in drawn_again)
    assert (first.tap, first.problem) == (f"the gradient's draw {draws:02}", "the reference draws no more")


def test_a_generator_of_ones_own_that_is_not_restored_is_told():
    side, generator = computed_again(MLP, keeping_state=True)(CONFIG), torch.Generator()

    def dropped(x, part):
        if not part.training:
            return x
        return x * x.new_empty(x.shape).bernoulli_(1 - part.p, generator=generator) / (1 - part.p)

    for part in side.model.modules():
        if isinstance(part, nn.Dropout):
            part.forward = functools.partial(dropped, part=part)
    ground = sound(CONFIG)
    weights = rounded(ground.weights, "float64")

    first = causes_first(compare_masked(side, Twin(CONFIG, "cpu"), weights, ground.images.astype(np.float64)))[0]

    assert first.tap.startswith("the gradient's draw ")
