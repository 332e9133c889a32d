"""Class token and position embedding alone, fed the reference's patches."""

import pytest

from conformance.check import assert_taps_match
from conformance.rungs import PRECISIONS


@pytest.mark.parametrize("rung", PRECISIONS)
def test_class_token_and_position_embedding_match(case, rung, climb):
    assert_taps_match(climb(case, rung), "embedding", "alone")
