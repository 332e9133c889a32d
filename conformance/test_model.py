"""The whole model: final norm and logits alone, then every tap free-running from the images."""

import pytest

from conformance.check import assert_taps_match
from conformance.rungs import PRECISIONS


@pytest.mark.parametrize("rung", PRECISIONS)
def test_final_norm_and_logits_match(case, rung, climb):
    outcome = climb(case, rung)
    assert_taps_match(outcome, "logits", "alone")
    if case.config.final_norm:
        assert_taps_match(outcome, "norm", "alone")


@pytest.mark.parametrize("rung", PRECISIONS)
def test_no_tap_diverges_on_the_way(case, rung, climb):
    assert_taps_match(climb(case, rung), "*", "free")
