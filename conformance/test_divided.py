"""Each batch divided among all devices: still the same model, to the end of the ladder."""

import pytest

from conformance.cases import Case
from conformance.check import assert_taps_match
from conformance.flax_side import DividedSide
from conformance.ladder import Ladder
from conformance.rungs import RUNGS

pytestmark = pytest.mark.suite

CASES = (Case("twin:digits", num_layers=2), Case("twin:article", num_layers=2))  # layers of their own, and one shared


@pytest.fixture(scope="module")
def ladder(pytestconfig):
    return Ladder(DividedSide, name="divided", cases=CASES, data=pytestconfig.option.data)


@pytest.mark.parametrize("rung", [rung for rung in RUNGS if not rung.gpu_only], ids=lambda rung: rung.name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_divided_model_climbs_the_ladder(case, rung, ladder):
    assert_taps_match(ladder.outcome(case, rung.name), "*")
