"""Initialisation: fresh weights of the same distributions."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["initialisation"])
def test_fresh_weights_are_distributed_alike(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
