"""Trajectory: whole training steps, exactly in float64 and within the envelope of rounding in float32."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["trajectory", "trajectory float32"])
def test_training_takes_the_same_course(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
