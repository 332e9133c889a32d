"""Evaluation metric: accuracy, exactly, with and without padding."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["metric"])
def test_accuracy_counts_the_same_images(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
