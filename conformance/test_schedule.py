"""Schedule: the learning rate of every step."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["schedule"])
def test_every_step_has_the_same_rate(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
