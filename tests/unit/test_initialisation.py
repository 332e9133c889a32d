"""What a target's fresh weights lack is told in words, leaf by leaf."""

import numpy as np
import pytest

from conformance.compare import causes_first
from conformance.initialisation import compare_initial

SHAPES = {"patches/conv/kernel": (4, 4, 1, 16), "patches/conv/bias": (16,), "head/kernel": (16, 10)}


class Side:
    """Normal kernels and biases of zero; `change(weights, seed)` makes them others."""

    def __init__(self, change=lambda weights, seed: None):
        self.change = change

    def initial(self, seed):
        rng = np.random.default_rng(seed)
        weights = {
            name: np.zeros(shape) if name.endswith("bias") else rng.standard_normal(shape)
            for name, shape in SHAPES.items()
        }
        self.change(weights, seed)
        return weights


def lacking(weights, seed):
    del weights["head/kernel"]


def under_one_seed_only(weights, seed):
    if seed:
        del weights["head/kernel"]


def one_more(weights, seed):
    weights["tail/kernel"] = np.ones(3)


def transposed(weights, seed):
    weights["head/kernel"] = weights["head/kernel"].T


def growing(weights, seed):
    weights["head/kernel"] = np.ones((16, 10 + seed))


def not_numbers(weights, seed):
    weights["head/kernel"][0, 0] = np.nan


def bias_not_a_number(weights, seed):
    weights["patches/conv/bias"][0] = np.inf


WRONG = {
    lacking: "head/kernel alone: the candidate has no such leaf",
    under_one_seed_only: "head/kernel alone: not a leaf under every seed",
    one_more: "tail/kernel alone: the reference has no such leaf",
    transposed: "head/kernel alone: shape (10, 16), expected (16, 10)",
    growing: "head/kernel alone: shape (16, 10) under one seed, another under the next",
    not_numbers: "head/kernel alone: NaN or infinity in the candidate",
    bias_not_a_number: "patches/conv/bias alone: NaN or infinity in the candidate",
}


@pytest.mark.parametrize("change", WRONG, ids=lambda change: change.__name__)
def test_what_is_wrong_is_told_in_words(change):
    assert [str(diff) for diff in causes_first(compare_initial(Side(change), Side()))] == [WRONG[change]]


def test_two_sound_sides_pass():
    diffs = compare_initial(Side(), Side())
    assert len(diffs) == 5 + 1 + 5 + 1 + 1
    assert not causes_first(diffs)
