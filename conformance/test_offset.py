"""Tokens whose mean is large against their spread, in float32: a variance formed as E[x²] - E[x]² loses its digits."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ("float32 offset",))
def test_a_large_mean_costs_no_digits(climb, case, rung):
    assert_taps_match(climb(case, rung), "*")
