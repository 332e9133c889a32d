"""Preprocessing and augmentation: the same pixels for the same draws, drawn from the same distribution."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["pixels"])
def test_pixels_and_crops_are_the_same(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
