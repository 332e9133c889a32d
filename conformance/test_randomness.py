"""Randomness: the same outcome under the same masks, and masks of the right distribution."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["randomness"])
def test_dropout_is_drawn_and_applied_alike(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
