"""Blocks with their residuals, alone and free-running, against the reference."""

import pytest

from conformance.check import assert_taps_match
from conformance.ladder import PRECISIONS


@pytest.mark.parametrize("rung", PRECISIONS)
def test_every_block_matches(case, rung, climb):
    assert_taps_match(climb(case, rung), "encoder/[0-9][0-9]")
