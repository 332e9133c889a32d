"""Weights rung: the canonical dict goes into both sides and comes back, bit for bit."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["weights"])
def test_weights_arrive_and_return(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
