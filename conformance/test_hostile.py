"""Values that expose short cuts: saturated attention, hardly any variance, large and small images, one of NaN."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ("hostile",))
def test_unusual_values_are_computed_alike(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
