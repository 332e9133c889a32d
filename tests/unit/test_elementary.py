"""Each elementary change is one: at its place, unlike every other, and named where nothing known explains a failure."""

import dataclasses
import functools

import numpy as np
import pytest

from conformance import tolerances
from conformance.catalogue import FAULTS
from conformance.diagnose import diagnose
from conformance.elementary import ELEMENTARY, KNOWN
from conformance.faults import edited, planted
from conformance.flax_side import FlaxSide
from conformance.mutation import HABITATS, sound
from conformance.precision import rounded
from conformance.rungs import BY_NAME
from tests.unit.ports.port import loaded

pytestmark = pytest.mark.suite

OF_TAPS = [fault for fault in ELEMENTARY if fault.rung == "float64"]
OF_GRADIENTS = [fault for fault in ELEMENTARY if fault.rung == "gradients float64"]


@functools.cache
def ground(habitat="oblong, in colour"):
    return sound(HABITATS[habitat])


def against(target, rung="float64"):
    return diagnose(dataclasses.replace(ground(), target=target), BY_NAME[rung])


@functools.cache
def alone(habitat):
    """Every tap of the reference on its own inputs, sound and with each change that is to be told from all others."""
    g = ground(habitat)
    weights, images = rounded(g.weights, "float64"), g.images.astype(np.float64)
    base = g.reference.taps(weights, images)
    known = [fault for fault in FAULTS if fault.rung == "float64" and not fault.float32_inside]
    return base, {
        fault: planted(fault, g.reference_target)(g.config).taps(weights, images, given=base)
        for fault in (*known, *OF_TAPS)
        if fault.applies(g.config)
    }


def apart(one, other):
    """The first tap at which two answers differ by more than rounding; a tap that one of them lacks is one."""
    for tap in one:
        if tap not in other:
            return tap
        if np.abs(one[tap] - other[tap]).max() > tolerances.FLOAT64 * np.abs(one[tap]).max():
            return tap
    return None


def test_all_are_of_the_rungs_that_are_searched_and_have_names_of_their_own():
    assert len(OF_TAPS) + len(OF_GRADIENTS) == len(ELEMENTARY)
    assert len({fault.name for fault in (*FAULTS, *ELEMENTARY)}) == len(FAULTS) + len(ELEMENTARY)
    assert not KNOWN & {fault.name for fault in ELEMENTARY}


@pytest.mark.parametrize("habitat", HABITATS)
def test_each_shows_first_at_its_place(habitat):
    base, answers = alone(habitat)
    for fault in set(OF_TAPS) & answers.keys():
        assert apart(base, answers[fault]) == fault.first_place(ground(habitat).config), fault.name


def test_each_is_unlike_every_other_and_unlike_what_is_known_somewhere():
    somewhere = set()
    for habitat in HABITATS:
        _, answers = alone(habitat)
        somewhere |= {
            frozenset((one, other))
            for one in set(OF_TAPS) & answers.keys()
            for other in answers
            if apart(answers[one], answers[other])
        }
    together = {
        frozenset((one, other))
        for habitat in HABITATS
        for one in set(OF_TAPS) & alone(habitat)[1].keys()
        for other in alone(habitat)[1].keys() - {one}
    }
    assert {tuple(sorted(fault.name for fault in pair)) for pair in together - somewhere} == set()


def test_each_of_a_gradient_changes_that_gradient_alone():
    g = ground()
    weights, images = rounded(g.weights, "float64"), g.images.astype(np.float64)
    upstream = {"logits": np.ones((len(images), g.config.num_classes))}
    base = g.reference.gradients(weights, images, upstream)
    for fault in (fault for fault in OF_GRADIENTS if fault.applies(g.config)):
        found = planted(fault, g.reference_target)(g.config).gradients(weights, images, upstream)
        changed = [leaf for leaf, x in base.parameters.items() if not np.array_equal(x, found.parameters[leaf])]
        changed += [tap for tap, x in base.inputs.items() if not np.array_equal(x, found.inputs[tap])]
        last = fault.place.split("}")[-1]
        assert changed and all(name.endswith(last) for name in changed), fault.name


def test_what_is_done_to_one_leaf_of_one_layer_is_said():
    def edit(model):
        model.encoder[1].mlp.fc2.bias.data *= 2

    found = against(loaded(edit))

    assert found.text == "in encoder/01/mlp, as if 'mlp/fc2/bias doubled' (found by trying every change of every leaf)"


def test_what_is_done_in_every_layer_is_said_with_the_error_before_and_after():
    def edit(model):
        for layer in model.encoder:
            layer.norm1.bias.data.neg_()

    found = against(loaded(edit))

    assert [cause.name for cause in found.causes] == ["norm1/bias negated"]
    assert found.after < 0.1


def test_a_known_fault_and_an_elementary_one_are_named_together():
    def edit(model):
        model.head.bias.data.zero_()
        model.patches.conv.bias.data *= 2

    assert {cause.name for cause in against(loaded(edit)).causes} == {"head bias dropped", "patches/conv/bias doubled"}


def test_another_epsilon_is_said():
    def edit(model):
        model.norm.eps = 1e-7

    assert "in norm, as if 'LayerNorm eps 1e-7'" in against(loaded(edit)).text


def test_a_gradient_that_is_missing_is_said():
    class Frozen(FlaxSide):
        def gradients(self, *arguments, **named):
            found = super().gradients(*arguments, **named)
            missing = np.zeros_like(found.parameters["encoder/01/norm2/bias"])
            return found._replace(parameters=found.parameters | {"encoder/01/norm2/bias": missing})

    text = against(Frozen, "gradients float64").text

    assert text.startswith("in encoder/01/norm2/bias, as if 'no gradient of norm2/bias'")


def test_what_is_nearly_an_elementary_change_is_none():
    nearly = edited(lambda weights, config: weights | {"head/kernel": weights["head/kernel"] * (2 + 1e-9)})
    odd = dataclasses.replace(OF_TAPS[0], around=nearly)

    assert against(planted(odd, FlaxSide)).text == "no known cause explains it"
