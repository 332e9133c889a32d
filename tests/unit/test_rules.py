"""Where the frameworks' rules differ, the reference follows one and the other is caught: both halves, for each rule."""

import dataclasses

import pytest

from conformance.faults import planted
from conformance.mutation import CONFIG, sound
from conformance.rules import RULES
from conformance.rungs import BY_NAME
from conformance.torch_side import Twin
from reference.train import TORCH_CLIP_EPSILON


@pytest.fixture(scope="module")
def ground():
    return sound()


def holds(rung, ground):
    return all(diff.passes for diff in BY_NAME[rung].climb(ground))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.what)
def test_one_rule_agrees_and_the_other_is_caught(rule, ground):
    other = dataclasses.replace(ground, reference_target=planted(rule.fault, ground.reference_target))

    assert holds(rule.fault.rung, ground)
    assert not holds(rule.fault.rung, other)


def test_pytorchs_own_clipping_is_told_from_optax():
    pytorch = dataclasses.replace(ground_of(), reference_target=lambda c: Twin(c, "cpu", TORCH_CLIP_EPSILON))

    assert not holds("clipping", pytorch)
    assert BY_NAME["clipping"].climb(pytorch)[0].error > 1e-8


def ground_of():
    ground = sound()
    assert ground.config == CONFIG
    return ground


def test_each_rule_is_said_of_both_frameworks_with_its_source():
    assert all(rule.torch and rule.optax and "https://" in rule.source for rule in RULES)
    assert len({rule.other for rule in RULES}) == len(RULES)
