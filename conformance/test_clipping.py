"""Clipping: the global norm is bounded by the same rule."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["clipping"])
def test_gradients_are_clipped_by_the_same_rule(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
