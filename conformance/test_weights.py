"""Weights rung: the canonical dict goes into the reference and comes back, bit for bit."""


def test_weights_arrive_in_the_reference_and_return(case, climb):
    outcome = climb(case, "weights")
    assert outcome.status == "pass", outcome.headline
