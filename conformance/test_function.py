"""A side is a function: the same question has the same answer, and nothing it is lent is changed."""

import pytest

from conformance.check import assert_taps_match


@pytest.mark.parametrize("rung", ("function", "gradients function"))
def test_a_question_has_one_answer(case, rung, climb):
    assert_taps_match(climb(case, rung), "*")
