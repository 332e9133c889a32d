"""A diagnosis names the cause, both causes, or none."""

import dataclasses

import numpy as np
import pytest

from conformance.catalogue import fault_named
from conformance.compare import Diff
from conformance.diagnose import Remembered, _pairs, diagnose
from conformance.faults import planted
from conformance.flax_side import FlaxSide
from conformance.mutation import kill, pair_named, remembering, sound
from conformance.rungs import BY_NAME
from conformance.sides import Masks


@pytest.fixture(scope="module")
def ground():
    return sound()


class Odd(FlaxSide):
    """Wrong in a way that is in no catalogue."""

    def taps(self, weights, images, given=None, draw=None):
        return super().taps(weights | {"norm/bias": weights["norm/bias"] ** 3}, images, given, draw)


def test_the_cause_is_named_with_what_it_explains(ground):
    faulty = dataclasses.replace(ground, target=planted(fault_named("the other GELU"), FlaxSide))

    found = diagnose(faulty, BY_NAME["float64"])

    assert [cause.name for cause in found.causes] == ["the other GELU"]
    assert found.before > 1e6
    assert found.after < 0.1
    assert found.text.startswith("explained by 'the other GELU' (jax.nn.gelu's default is ")


def test_two_faults_of_one_rung_are_named_together(ground):
    both = fault_named("LayerNorm eps 1e-5"), fault_named("head bias dropped")
    faulty = dataclasses.replace(ground, target=planted(both[1], planted(both[0], FlaxSide)))

    assert set(diagnose(faulty, BY_NAME["float64"]).causes) == set(both)


def test_faults_of_two_rungs_are_named_on_the_way_up(ground):
    both = fault_named("the other GELU"), fault_named("class token frozen")

    assert pair_named(*both, ground) == {fault.name for fault in both}


def test_a_pair_is_tried_unless_one_half_breaks_what_the_other_does_not():
    def diffs(*failing):
        return tuple(Diff(tap, "alone", float(tap in failing), None, 0.0) for tap in ("mlp", "norm", "logits"))

    gelu, eps, bias = (fault_named(name) for name in ("the other GELU", "LayerNorm eps 1e-5", "head bias dropped"))

    def tried(*of_bias):
        return _pairs(diffs("mlp", "norm"), {gelu: diffs("norm"), eps: diffs("mlp", "norm"), bias: diffs(*of_bias)})

    assert tried("mlp") == [(gelu, bias), (gelu, eps), (bias, eps)]
    assert tried("mlp", "logits") == [(gelu, eps)]


def test_no_known_cause_is_an_honest_answer(ground):
    found = diagnose(dataclasses.replace(ground, target=Odd), BY_NAME["float64"])

    assert found.causes == ()
    assert found.text == "no known cause explains it"


def test_a_known_cause_is_tried_first_and_only_taken_if_it_explains(ground):
    gelu, other = fault_named("the other GELU"), fault_named("head bias dropped")
    faulty = dataclasses.replace(ground, target=planted(gelu, FlaxSide))

    assert diagnose(faulty, BY_NAME["float64"], first=[other]).causes == (gelu,)
    assert diagnose(faulty, BY_NAME["float64"], first=[gelu]).causes == (gelu,)


def test_a_remembered_answer_is_given_to_the_same_question_only(ground):
    side = Remembered(FlaxSide(ground.config))
    first = side.taps(ground.weights, ground.images)

    assert side.taps(ground.weights, ground.images) is first
    assert side.taps(ground.weights, ground.images, given=first) is not first
    assert side.taps(ground.weights | {"head/bias": ground.weights["head/bias"] + 1}, ground.images) is not first
    assert side.taps(ground.weights, ground.images.astype(np.float64))["logits"].dtype == np.float64
    masks = Masks(0)
    side.taps(ground.weights, ground.images, draw=masks)
    assert side.taps(ground.weights, ground.images, draw=masks) is not first


def test_a_fault_is_killed_alike_where_the_reference_remembers(ground):
    gelu, known = fault_named("the other GELU"), remembering(ground)
    first, again, plain = (kill(gelu, on) for on in (known, known, ground))
    assert known.reference_target(ground.config) is known.reference_target(ground.config)
    assert {(k.caught_by, k.place, k.severity, k.named) for k in (first, again, plain)} == {
        ("float64", "encoder/00/mlp", plain.severity, (gelu.name,))
    }
