"""Attention alone, fed the reference's input: an error is charged to the block that makes it."""

import pytest

from conformance.check import assert_taps_match
from conformance.rungs import PRECISIONS


@pytest.mark.parametrize("rung", PRECISIONS)
def test_every_attention_matches(case, rung, climb):
    assert_taps_match(climb(case, rung), "encoder/*/attention", "alone")
