"""Loss: value and gradient, with and without label smoothing and padding; and of logits in half precision."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ["loss", "loss bfloat16"])
def test_the_loss_is_the_same_rule(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
