"""Optimizers: Adam, AdamW and SGD move every parameter alike."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["optimizer"])
def test_every_update_is_the_same(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
