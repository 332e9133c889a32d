"""Gradients, alone and free-running: of every parameter, and of every tap as an input."""

import pytest

from conformance.check import assert_taps_match

GRADIENTS = ("gradients float64", "gradients float32", "gradients bfloat16")


@pytest.mark.parametrize("rung", GRADIENTS)
def test_every_block_has_the_same_gradients(case, rung, climb):
    assert_taps_match(climb(case, rung), "*", "alone")


@pytest.mark.parametrize("rung", GRADIENTS)
def test_no_gradient_diverges_on_the_way_back(case, rung, climb):
    assert_taps_match(climb(case, rung), "*", "free")
