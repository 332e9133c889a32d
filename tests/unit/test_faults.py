"""The suite can fail: every known fault is caught in float64, at the block where it begins."""

from functools import partial

import pytest

from conformance import tolerances
from conformance.cases import Case
from conformance.check import assert_taps_match
from conformance.compare import causes_first
from conformance.faults import FAULTS, Planted
from conformance.ladder import Ladder
from conformance.sides import FlaxSide

# Small and not square; between them they have every part that a fault can be planted in.
CASES = (
    Case("twin:article", image_size=(32, 48), num_layers=3),
    Case("timm:vit_tiny_patch16_224", image_size=(32, 48), num_layers=3),
)
PLANTS = [(case, fault) for case in CASES for fault in FAULTS if fault.applies(case.config)]


@pytest.fixture(scope="module")
def sound():
    return Ladder(FlaxSide, name="vit_flax", cases=CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_sound_model_passes_with_room_to_spare(case, sound):
    outcome = sound.outcome(case, "float64")

    assert outcome.status == "pass"
    assert max(diff.severity for diff in outcome.diffs) * tolerances.FLOAT64_MARGIN <= 1


@pytest.mark.parametrize(("case", "fault"), PLANTS, ids=lambda value: getattr(value, "name", str(value)))
def test_fault_is_caught_where_it_begins(case, fault, sound):
    faulty = Ladder(partial(Planted, fault, FlaxSide), name=fault.name, cases=[case])

    caught = faulty.outcome(case, "float64")

    first = causes_first(caught.diffs)[0]
    assert sound.outcome(case, "float64").status == "pass"
    assert (caught.status, first.tap, first.mode) == ("fail", fault.first_tap(case.config), "alone")
    assert first.severity >= tolerances.FLOAT64_MARGIN
    assert faulty.outcome(case, "float32").status == "blocked"
    with pytest.raises(AssertionError, match=first.tap):
        assert_taps_match(caught, "*")


def test_every_fault_is_planted_somewhere():
    assert {fault.name for _, fault in PLANTS} == {fault.name for fault in FAULTS}
