"""Where faults are planted: small models that together have every part."""

import dataclasses

import pytest

from conformance.catalogue import FAULTS
from conformance.mutation import HABITATS, faults_in, habitat
from vit_flax.config import PRESETS

CHOICES = ("share_layers", "share_norm", "final_norm", "activation", "attention_dropout_on")


@pytest.mark.parametrize("field", CHOICES)
def test_habitats_have_whatever_a_preset_chooses(field):
    values = {getattr(config, field) for config in HABITATS.values()}
    assert values >= {getattr(config, field) for config in PRESETS.values()}


def test_habitats_are_square_and_not_grey_and_in_colour_shallow_and_deep_projected_once_and_twice():
    shapes = [dataclasses.asdict(config) for config in HABITATS.values()]
    assert {shape["image_size"][0] == shape["image_size"][1] for shape in shapes} == {True, False}
    assert {shape["channels"] for shape in shapes} == {1, 3}
    assert max(shape["num_layers"] for shape in shapes) >= 6
    assert {shape["embed_dim"] is None for shape in shapes} == {True, False}


def test_every_fault_can_be_planted_in_the_habitat_that_its_turn_gives_it_and_each_has_a_turn():
    assert all(fault in faults_in(HABITATS[habitat(fault)]) for fault in FAULTS)
    assert {habitat(fault) for fault in FAULTS} == set(HABITATS)


def test_a_fault_of_a_part_is_planted_only_where_that_part_is():
    final_norm = next(fault for fault in FAULTS if fault.name == "final norm skipped")
    assert final_norm in faults_in(HABITATS["deep"])
    assert final_norm not in faults_in(HABITATS["tied"])
