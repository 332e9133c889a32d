"""Every recipe is the published one of its name, and no impossible one can be written down."""

import dataclasses
import math
import re

import pytest

from vit_flax.config import preset
from vit_flax.recipe import RECIPES, Recipe, recipe

# The article's choices, field by field.
ARTICLE = {
    "epochs": 100,
    "batch_size": 128,
    "optimizer": "adam",
    "momentum": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "learning_rate": 3e-4,
    "schedule": "constant",
    "warmup_epochs": 0.0,
    "weight_decay": 0.0,
    "clip_norm": None,
    "label_smoothing": 0.0,
    "ema_decay": None,
    "means": (0.49139968, 0.48215841, 0.44653091),
    "stds": (0.24703223, 0.24348513, 0.26158784),
    "flip": True,
    "crop_scale": (0.8, 1.0),
    "crop_ratio": (0.9, 1.1),
    "trivial_augment": False,
    "erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "dropout": None,
    "drop_path": 0.0,
    "compute_dtype": "float32",
}
# What the others change about them.
CHANGES = {
    "article": {},
    "modern": {
        "epochs": 300,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "schedule": "cosine",
        "warmup_epochs": 10.0,
        "weight_decay": 0.05,
        "clip_norm": 1.0,
        "label_smoothing": 0.1,
        "ema_decay": 0.9998,
        "trivial_augment": True,
        "erasing": 0.25,
        "mixup": 1.0,
        "cutmix": 1.0,
        "dropout": 0.0,
        "drop_path": 0.1,
        "compute_dtype": "bfloat16",
    },
    "digits": {
        "epochs": 60,
        "optimizer": "adamw",
        "batch_size": 64,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "warmup_epochs": 2.0,
        "weight_decay": 0.1,
        "label_smoothing": 0.1,
        "means": (0.3057,),
        "stds": (0.3761,),
        "flip": False,
    },
}
INF, NAN = math.inf, math.nan
IMPOSSIBLE = (
    ({"epochs": 0}, "epochs is 0, but must be a whole number of at least 1"),
    ({"epochs": 2.0}, "epochs is 2.0, but must be a whole number of at least 1"),
    ({"epochs": True}, "epochs is True, but must be a whole number of at least 1"),
    ({"batch_size": -128}, "batch_size is -128, but must be a whole number of at least 1"),
    ({"batch_size": "128"}, "batch_size is '128', but must be a whole number of at least 1"),
    ({"learning_rate": 0.0}, "learning_rate is 0.0, but must be positive and finite"),
    ({"learning_rate": INF}, "learning_rate is inf, but must be positive and finite"),
    ({"learning_rate": NAN}, "learning_rate is nan, but must be positive and finite"),
    ({"warmup_epochs": -1.0}, "warmup_epochs is -1.0, but must be in [0, 100), the epochs"),
    ({"warmup_epochs": 100.0}, "warmup_epochs is 100.0, but must be in [0, 100), the epochs"),
    ({"warmup_epochs": 2.0, "epochs": 2}, "warmup_epochs is 2.0, but must be in [0, 2), the epochs"),
    ({"warmup_epochs": NAN}, "warmup_epochs is nan, but must be in [0, 100), the epochs"),
    ({"weight_decay": -0.05}, "weight_decay is -0.05, but must be finite and not negative"),
    ({"weight_decay": INF}, "weight_decay is inf, but must be finite and not negative"),
    ({"weight_decay": 0.1}, "weight_decay is 0.1, but only adamw has it, not adam"),
    ({"optimizer": "sgd", "weight_decay": 0.1}, "weight_decay is 0.1, but only adamw has it, not sgd"),
    ({"optimizer": "adamax"}, "unknown optimizer 'adamax': did you mean adam"),
    ({"momentum": 1.0}, "momentum is 1.0, but must be in [0, 1)"),
    ({"beta2": -0.1}, "beta2 is -0.1, but must be in [0, 1)"),
    ({"epsilon": 0.0}, "epsilon is 0.0, but must be positive and finite"),
    ({"mixup": -1.0}, "mixup is -1.0, but must be finite and not negative"),
    ({"mixup": NAN}, "mixup is nan, but must be finite and not negative"),
    ({"cutmix": INF}, "cutmix is inf, but must be finite and not negative"),
    ({"label_smoothing": 1.1}, "label_smoothing is 1.1, but must be in [0, 1]"),
    ({"label_smoothing": -0.1}, "label_smoothing is -0.1, but must be in [0, 1]"),
    ({"erasing": 25.0}, "erasing is 25.0, but must be in [0, 1]"),
    ({"erasing": NAN}, "erasing is nan, but must be in [0, 1]"),
    ({"ema_decay": 1.0}, "ema_decay is 1.0, but must be in [0, 1)"),
    ({"ema_decay": -0.5}, "ema_decay is -0.5, but must be in [0, 1)"),
    ({"clip_norm": 0.0}, "clip_norm is 0.0, but must be positive"),
    ({"clip_norm": NAN}, "clip_norm is nan, but must be positive"),
    ({"means": (0.5,)}, "means (0.5,) and stds (0.24703223, 0.24348513, 0.26158784) must have one entry a channel"),
    ({"means": (0.5,), "stds": (0.0,)}, "means (0.5,) and stds (0.0,) must have one entry a channel, stds above 0"),
    ({"crop_scale": (0.0, 1.0)}, "crop_scale is (0.0, 1.0), but must rise within (0, 1]"),
    ({"crop_scale": (0.8, 1.2)}, "crop_scale is (0.8, 1.2), but must rise within (0, 1]"),
    ({"crop_scale": (1.0, 0.8)}, "crop_scale is (1.0, 0.8), but must rise within (0, 1]"),
    ({"crop_scale": (NAN, 1.0)}, "crop_scale is (nan, 1.0), but must rise within (0, 1]"),
    ({"crop_ratio": (-0.9, 1.1)}, "crop_ratio is (-0.9, 1.1), but must rise within (0, inf]"),
    ({"crop_ratio": (1.1, 0.9)}, "crop_ratio is (1.1, 0.9), but must rise within (0, inf]"),
    ({"schedule": "cosin"}, "unknown schedule 'cosin': did you mean cosine?"),
    ({"compute_dtype": "float16"}, "unknown compute_dtype 'float16': did you mean bfloat16"),
)
# At the edge of what is allowed.
POSSIBLE = (
    {"warmup_epochs": 99.5},
    {"label_smoothing": 1.0, "erasing": 1.0},
    {"ema_decay": 0.0},
    {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0)},
    {"mixup": 0.0, "cutmix": 0.8},
)


@pytest.mark.parametrize("name", CHANGES)
def test_a_recipe_is_what_its_source_says(name):
    assert dataclasses.asdict(recipe(name)) == ARTICLE | CHANGES[name]


def test_no_recipe_and_no_choice_is_left_unpinned():
    assert set(CHANGES) == set(RECIPES)
    assert list(ARTICLE) == [field.name for field in dataclasses.fields(Recipe)]


@pytest.mark.parametrize(("changes", "sentence"), IMPOSSIBLE, ids=lambda value: str(value)[:40])
def test_an_impossible_recipe_is_refused_naming_field_and_number(changes, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        recipe("article").replace(**changes)


@pytest.mark.parametrize("changes", POSSIBLE, ids=str)
def test_the_edges_of_what_is_possible_are_allowed(changes):
    assert dataclasses.asdict(recipe("article").replace(**changes)) == ARTICLE | changes


@pytest.mark.parametrize(("wrong", "right"), (("artcle", "article"), ("digit", "digits"), ("moderne", "modern")))
def test_an_unknown_recipe_is_answered_with_near_names(wrong, right):
    with pytest.raises(ValueError, match=rf"^unknown recipe '{wrong}': did you mean .*\b{right}\b.*\?"):
        recipe(wrong)


def test_an_unknown_recipe_with_no_near_name_is_answered_with_all_of_them():
    with pytest.raises(ValueError, match=f"^unknown recipe 'zzz': choose from {', '.join(RECIPES)}"):
        recipe("zzz")


def test_a_recipe_is_frozen_and_has_no_defaults():
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe("article").epochs = 1
    with pytest.raises(TypeError, match="mixup"):
        Recipe(**{name: value for name, value in ARTICLE.items() if name != "mixup"})


def test_replacing_a_field_that_does_not_exist_is_an_error():
    with pytest.raises(TypeError, match="epoch"):
        recipe("article").replace(epoch=2)


def test_replacing_a_field_leaves_the_recipe_alone():
    assert recipe("article").replace(epochs=2).epochs == 2
    assert recipe("article").epochs == ARTICLE["epochs"]


@pytest.mark.parametrize(
    ("changes", "rates"),
    (
        ({}, (0.1, 0.1, 0.0)),  # the model's own
        ({"drop_path": 0.2}, (0.1, 0.1, 0.2)),
        ({"dropout": 0.0}, (0.0, 0.0, 0.0)),  # none is not the same as nothing said
        ({"dropout": 0.3, "drop_path": 0.2}, (0.3, 0.3, 0.2)),
    ),
    ids=str,
)
def test_a_recipe_says_the_models_rates_and_nothing_else(changes, rates):
    article = preset("article")
    regularised = recipe("article").replace(**changes).regularised(article)
    assert (regularised.dropout, regularised.attention_dropout, regularised.drop_path) == rates
    assert regularised.replace(dropout=0.1, attention_dropout=0.1, drop_path=0.0) == article


@pytest.mark.parametrize(("images", "steps"), ((128, 1), (255, 1), (256, 2), (45_000, 351)))
def test_an_epoch_has_a_step_for_every_complete_batch(images, steps):
    assert recipe("article").steps_per_epoch(images) == steps


@pytest.mark.parametrize("images", (0, 127))
def test_too_few_images_for_a_batch_are_refused_naming_both_numbers(images):
    with pytest.raises(ValueError, match=f"^{images} training images are not enough for a batch of 128$"):
        recipe("article").steps_per_epoch(images)


@pytest.mark.parametrize("field", ("dropout", "drop_path"))
def test_an_impossible_rate_is_refused_by_the_model_that_gets_it(field):
    with pytest.raises(ValueError, match=f"^{field} is 1.0, but must be in \\[0, 1\\)"):
        recipe("article").replace(**{field: 1.0}).regularised(preset("article"))
