"""Faults as people write them, in code: each is caught at its place, and the catalogue's fault of its name explains it.

So what the catalogue plants by editing what goes into a side, and what comes out of it, is what the code does.
"""

import dataclasses

import pytest

from conformance.catalogue import fault_named
from conformance.compare import causes_first
from conformance.diagnose import diagnose
from conformance.mutation import CONFIG, remembering, sound
from conformance.rungs import BY_NAME
from tests.unit.ports.of_dropout import DROPOUT
from tests.unit.ports.of_images import INITIAL, PIXELS
from tests.unit.ports.of_model import FORWARD
from tests.unit.ports.of_optimizer import OPTIMIZER
from tests.unit.ports.of_precision import PRECISION
from tests.unit.ports.of_rules import CLIPPING, LOSS, SCHEDULE

PORTS = FORWARD | PRECISION | PIXELS | INITIAL | LOSS | CLIPPING | SCHEDULE | OPTIMIZER | DROPOUT
SMALL = CONFIG.replace(num_layers=2)


@pytest.fixture(scope="module")
def ground():
    return remembering(sound(SMALL))


def failing(ground, name):
    fault = fault_named(name)
    ported = dataclasses.replace(ground, target=PORTS[name])
    failures = causes_first(BY_NAME[fault.rung].climb(ported))
    return fault, ported, failures


@pytest.mark.parametrize("name", PORTS)
def test_a_fault_in_code_is_caught_at_its_place_and_is_what_the_catalogue_plants(name, ground):
    fault, ported, failures = failing(ground, name)

    assert failures[0].tap == fault.first_place(SMALL)
    found = diagnose(ported, BY_NAME[fault.rung], first=[fault]).causes
    assert found == (fault,) or (fault.float32_inside and not found)
