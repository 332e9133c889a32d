"""Every field of recipe and model can be set in words, and what is no value of it is refused by its name."""

import dataclasses
import re

import pytest

from vit_flax.config import PRESETS, ViTConfig
from vit_flax.fields import OF_THE_DATA, PARTS, field_names, read_fields
from vit_flax.recipe import RECIPES, Recipe


def in_words(value):
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_of_every_recipe_comes_back_from_words(name):
    recipe = RECIPES[name]
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(Recipe)}
    changes, of_model = read_fields([f"{field}={in_words(value)}" for field, value in values.items()])
    assert (recipe.replace(**changes), changes.keys(), of_model) == (recipe, values.keys(), {})


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_of_every_model_comes_back_from_words(name):
    config = PRESETS[name]
    fields = {field.name for field in dataclasses.fields(ViTConfig)} - set(OF_THE_DATA)
    _, changes = read_fields([f"model.{field}={in_words(getattr(config, field))}" for field in fields])
    assert (config.replace(**changes), set(changes)) == (config, fields)


def test_all_fields_are_offered():
    fields = [field.name for kind in PARTS.values() for field in dataclasses.fields(kind)]
    assert set(field_names()) == set(fields) - set(OF_THE_DATA)


def test_what_both_have_is_the_recipe_s_unless_it_says_so():
    assert read_fields(["dropout=0.1"]) == ({"dropout": 0.1}, {})
    assert read_fields(["model.dropout=0.1", "recipe.dropout=none"]) == ({"dropout": None}, {"dropout": 0.1})
    assert read_fields(["num_layers=4"]) == ({}, {"num_layers": 4})


def test_the_last_of_two_counts():
    assert read_fields(["epochs=1", "epochs=2"]) == ({"epochs": 2}, {})


WRONG = {
    "epochs": "--set epochs has no =: give it as FIELD=VALUE",
    "epoch=3": "unknown field 'epoch': did you mean epochs",
    "epochs=many": "epochs is 'many', but must be a whole number",
    "epochs=1.5": "epochs is '1.5', but must be a whole number",
    "learning_rate=fast": "learning_rate is 'fast', but must be a number",
    "flip=maybe": "flip is 'maybe', but must be true or false",
    "clip_norm=off": "clip_norm is 'off', but must be a number or none",
    "optimizer=lion": "optimizer is 'lion', but must be adam or adamw or sgd",
    "crop_scale=0.8": "crop_scale is '0.8', but must be 2 numbers, as 0.8,1",
    "means=a,b": "means is 'a,b', but must be numbers with commas between them",
    "num_classes=4": "num_classes follows from the data, and cannot be set",
    "model.epochs=4": "unknown field of the model 'epochs': ",
    "optimiser.epochs=4": "unknown part 'optimiser': choose from recipe, model",
}


@pytest.mark.parametrize(("text", "sentence"), WRONG.items(), ids=WRONG)
def test_what_cannot_be_set_is_refused_by_name(text, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        read_fields([text])
