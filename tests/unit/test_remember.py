"""A side that remembers its answers gives them to the same question only, and answers one at a time."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from conformance.flax_side import FlaxSide
from conformance.mutation import sound
from conformance.randomness import noisy
from conformance.remember import Remembered, Replayed
from conformance.sides import Masks


@pytest.fixture(scope="module")
def ground():
    return sound()


def test_a_remembered_answer_is_given_to_the_same_question_only(ground):
    side = Remembered(FlaxSide(ground.config))
    first = side.taps(ground.weights, ground.images)

    assert side.taps(ground.weights, ground.images) is first
    assert side.taps(ground.weights, ground.images, given=first) is not first
    assert side.taps(ground.weights | {"head/bias": ground.weights["head/bias"] + 1}, ground.images) is not first
    assert side.taps(ground.weights, ground.images.astype(np.float64))["logits"].dtype == np.float64


def test_an_answer_under_masks_is_remembered_with_what_they_were_asked(ground):
    side = Remembered(FlaxSide(noisy(ground.config)))

    def asked(masks):
        return side.taps(ground.weights, ground.images, draw=masks)

    one, again, other = Masks(0), Masks(0), Masks(1)
    first = asked(one)

    assert asked(again) is first
    assert again.asked == one.asked != []
    assert asked(again) is not first  # it goes on from there
    assert asked(other) is not first
    assert asked(lambda shape, keep: np.ones(shape, bool)) is not asked(lambda shape, keep: np.ones(shape, bool))


class Holding:
    """A model that holds what it was given while it computes, as one in PyTorch holds its weights."""

    asked = 0

    def taps(self, weights, images):
        self.asked += 1
        self.held = weights
        time.sleep(0.01)
        return self.held + images


def test_two_threads_may_ask_the_same_side():
    def asked(side):
        with ThreadPoolExecutor() as threads:
            return list(threads.map(side.taps, range(8), [100] * 8))

    assert asked(Remembered(Holding())) == list(range(100, 108))
    assert asked(Holding()) != list(range(100, 108))


def test_what_was_not_asked_for_the_longest_is_forgotten():
    side = Remembered(Holding(), most=2 * 8 * 10)  # two answers of ten numbers
    images = np.zeros(10)

    for weights in (1.0, 2.0, 1.0, 3.0, 1.0):  # the third of them is remembered, and so is the fifth
        assert side.taps(weights, images)[0] == weights
    assert side.side.asked == 3
    assert side.taps(2.0, images)[0] == 2
    assert side.side.asked == 4


class Counting:
    """A side that never answers the same."""

    asked = 0

    def augment(self, images):
        self.asked += 1
        return images + self.asked


def test_a_question_that_is_asked_again_keeps_its_own_answer_each_time_anew():
    side = Replayed(Counting())
    first = [side.augment(0), side.augment(0), side.augment(10), side.augment(0)]
    assert first == [1, 2, 13, 4]

    side.anew()

    assert [side.augment(0), side.augment(0), side.augment(10), side.augment(0)] == first
    assert side.augment(0) == 5
    assert Remembered(Counting()).augment(0) == 1


def test_a_side_that_is_only_remembered_is_asked_such_questions_again():
    side = Remembered(Counting())
    assert [side.augment(0), side.augment(0)] == [1, 2]
