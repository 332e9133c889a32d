"""What surrounds the training step: epochs, augmentation, draws from step to step, running average, evaluation."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["epochs", "augmentation", "noise", "average", "evaluation"])
def test_what_surrounds_the_training_step_is_the_same(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
