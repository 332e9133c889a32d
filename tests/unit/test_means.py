"""What a rough mean may err by is what a plain loop errs by, and it is granted where a block begins with a norm."""

import dataclasses

import numpy as np
import pytest

from conformance import means
from conformance.catalogue import fault_named
from conformance.faults import planted
from conformance.means import typical_shift, with_rough_means
from conformance.mutation import HABITATS, sound
from conformance.rungs import BY_NAME
from conformance.tolerances import BLIND, ONE_DRAW, mean_error
from conformance.weights import offset, random_weights

each_habitat = pytest.mark.parametrize("habitat", HABITATS)


def tokens_of_mean(mean, count=2000, features=32):
    tokens = mean + np.random.default_rng(0).standard_normal((2, count, features))
    return tokens.astype(np.float32)


@pytest.mark.parametrize("features", (8, 32))
def test_the_mean_error_is_that_of_a_plain_loop(features):
    tokens = tokens_of_mean(30, features=features)
    truth = tokens.astype(np.float64).mean(axis=-1)
    loop = np.cumsum(tokens, axis=-1, dtype=np.float32)[..., -1] / np.float32(features)
    measured = np.sqrt(np.mean((loop / truth - 1) ** 2))
    assert 1 / 2 < measured / mean_error(features) < 2


def test_many_features_are_summed_in_blocks():
    assert mean_error(768) == mean_error(32)


def test_a_shift_is_in_standard_deviations_and_grows_with_the_offset():
    at_30, at_60 = (typical_shift(tokens_of_mean(mean), 0.0) for mean in (30, 60))
    assert 0.9 < at_30 / (30 * mean_error(32)) < 1.1
    assert 0.9 < at_60 / (2 * at_30) < 1.1


def test_a_constant_token_is_shifted_no_further_than_its_epsilon_lets_it():
    assert 0.999 < typical_shift(np.ones((1, 4, 32)), 1e-6) / (1e3 * ONE_DRAW * mean_error(32)) < 1.001


def test_a_token_that_is_the_same_in_every_image_may_draw_a_large_error_in_all_of_them():
    tokens = tokens_of_mean(30)
    drawn_in_each = typical_shift(tokens, 0.0)
    tokens[:, 0] = (tokens[0, 0] - tokens[0, 0].mean()) / tokens[0, 0].std() + 30
    drawn_once = typical_shift(tokens, 0.0)
    assert 0.9 < drawn_once / (drawn_in_each * ONE_DRAW) < 1.1


def test_a_seed_that_came_near_its_limit_is_granted_more_as_its_class_token_draws_once(monkeypatch):
    ground = sound(HABITATS["deep"])
    ground = dataclasses.replace(ground, weights=random_weights(ground.config, 814))
    place = ("encoder/00/attention", "alone")

    def limit():
        return {(diff.tap, diff.mode): diff.limit for diff in BY_NAME["float32 offset"].climb(ground)}[place]

    granted = limit()
    monkeypatch.setattr(means, "ONE_DRAW", 0.0)
    assert granted > 1.5 * limit()


@each_habitat
def test_every_norm_is_shifted_and_nothing_else(habitat):
    ground = sound(HABITATS[habitat])
    weights = offset(ground.weights)

    rough = with_rough_means(weights, ground.reference.taps(weights, ground.images), ground.config)

    changed = {name for name in weights if (rough[name] != weights[name]).any()}
    assert changed == {name for name in weights if "norm" in name and name.endswith("/bias")}
    assert all(rough[name].dtype == weights[name].dtype for name in weights)


@each_habitat
def test_a_sound_model_passes_and_a_careless_variance_is_seen(habitat):
    ground = sound(HABITATS[habitat])
    careless = dataclasses.replace(ground, target=planted(fault_named("LayerNorm's fast variance"), ground.target))
    place = ("encoder/00/attention", "alone")

    found = BY_NAME["float32 offset"].climb(ground)
    wrong = {(diff.tap, diff.mode): diff.severity for diff in BY_NAME["float32 offset"].climb(careless)}

    assert all(diff.passes for diff in found)
    assert wrong[place] > BLIND
