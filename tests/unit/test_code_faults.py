"""Faults as people write them, in code: each is caught at its place, and the catalogue's fault of its name explains it.

So what the catalogue plants by editing what goes into a side, and what comes out of it, is what the code does.
"""

import dataclasses
import functools

import pytest

from conformance.catalogue import MODEL, TRAINING, fault_named
from conformance.compare import causes_first
from conformance.diagnose import diagnose
from conformance.faults import is_at
from conformance.mutation import CONFIG, remembering, sound
from conformance.rungs import BY_NAME
from tests.unit.ports.of_course import COURSE
from tests.unit.ports.of_dropout import DROPOUT
from tests.unit.ports.of_images import INITIAL, PIXELS
from tests.unit.ports.of_model import FORWARD
from tests.unit.ports.of_optimizer import OPTIMIZER
from tests.unit.ports.of_precision import PRECISION
from tests.unit.ports.of_rules import CLIPPING, LOSS, SCHEDULE

pytestmark = pytest.mark.suite

CHEAP = FORWARD | PIXELS | INITIAL | LOSS | CLIPPING | SCHEDULE
COSTLY = PRECISION | OPTIMIZER | DROPOUT | COURSE
PORTS = CHEAP | COSTLY
# Of what takes seconds each, one for each way to plant a fault.
QUICK = (
    *CHEAP,
    "float32 products in TF32",
    "float32 blocks kept in bfloat16",
    "patch projection frozen",
    "no bias correction",
    "momentum dampened",
    "decay of the other framework",
    "never dropped",
    "attention mask shared",
    "no dropout after the embedding",
    "stochastic depth not scaled",
)
SMALL = CONFIG.replace(num_layers=2)


@functools.cache
def ground(config):
    return remembering(sound(config))


def ported(name):
    """The fault, and its port held against the twin, on a model that does not do the same anyway."""
    fault = fault_named(name)
    config = SMALL if fault.applies(SMALL) else SMALL.replace(norm_epsilon=1e-5)
    return fault, dataclasses.replace(ground(config), target=PORTS[name])


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PORTS]
)
def test_a_fault_in_code_is_caught_at_its_place_and_is_what_the_catalogue_plants(name):
    fault, found_on = ported(name)
    rung = BY_NAME[fault.rung]

    assert is_at(causes_first(rung.climb(found_on))[0].tap, fault.first_place(found_on.config))
    if not fault.float32_inside:  # two ways to compute in float32 differ by as much as that differs from float64
        assert diagnose(found_on, rung, first=[fault]).causes == (fault,)


@pytest.mark.slow
@pytest.mark.parametrize("name", PORTS)
def test_a_fault_in_code_is_named_and_no_other_one_is(name):
    fault, found_on = ported(name)

    causes = diagnose(found_on, BY_NAME[fault.rung]).causes

    assert causes == (fault,) or (fault.float32_inside and not causes)


def test_every_fault_of_the_catalogue_is_written_in_code():
    by_other_tests = {"drops at evaluation", "ratio of crops drawn uniformly"}  # test_randomness, test_pixels
    assert set(PORTS) == {fault.name for fault in MODEL + TRAINING} - by_other_tests
