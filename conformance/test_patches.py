"""Patches alone, fed the reference's input: an error is charged to the block that makes it."""

import pytest

from conformance.check import assert_taps_match
from conformance.rungs import PRECISIONS


@pytest.mark.parametrize("rung", PRECISIONS)
def test_patches_match(case, rung, climb):
    assert_taps_match(climb(case, rung), "patches", "alone")
