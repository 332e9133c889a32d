"""Every preset is the published model of its name, and no impossible one can be written down."""

import dataclasses
import re

import pytest
import timm
import torch
import torchvision

from vit_flax.config import PRESETS, preset
from vit_flax.weights import count_parameters

PARAMETERS = {
    "article": 632_266,
    "article-p4": 505_546,
    "article-p4-untied": 5_363_978,
    "vit_ti16": 5_717_416,
    "vit_s16": 22_050_664,
    "vit_b16": 86_567_656,
    "vit_b32": 88_224_232,
    "vit_l16": 304_326_632,
    "vit_h14": 632_045_800,
    "digits": 136_138,
}
TIMM = {
    "vit_ti16": "vit_tiny_patch16_224",
    "vit_s16": "vit_small_patch16_224",
    "vit_b16": "vit_base_patch16_224",
    "vit_b32": "vit_base_patch32_224",
    "vit_l16": "vit_large_patch16_224",
    "vit_h14": "vit_huge_patch14_224",
}
TORCHVISION = {"vit_b16": "vit_b_16", "vit_b32": "vit_b_32", "vit_l16": "vit_l_16", "vit_h14": "vit_h_14"}

# The article's choices, field by field; the comments say what the paper does instead.
ARTICLE = {
    "image_size": (32, 32),
    "channels": 3,
    "patch_size": 16,
    "embed_dim": 192,  # the paper projects once, not twice
    "hidden_dim": 192,
    "num_layers": 12,
    "num_heads": 3,
    "mlp_dim": 768,
    "num_classes": 10,
    "share_layers": True,  # twelve layers
    "share_norm": True,  # a norm for each sub-layer
    "final_norm": False,  # a norm before the head
    "norm_epsilon": 1e-6,
    "norm_variance": "two_pass",
    "activation": "gelu_tanh",  # the exact GELU
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "attention_dropout_on": "output",  # on the softmax weights
    "drop_path": 0.0,
}
PAPER = {
    "embed_dim": None,
    "share_layers": False,
    "share_norm": False,
    "final_norm": True,
    "activation": "gelu",
    "attention_dropout_on": "weights",
}
IMPOSSIBLE = (
    ({"channels": 0}, "channels is 0, but must be a whole number of at least 1"),
    ({"patch_size": 0}, "patch_size is 0, but must be a whole number of at least 1"),
    ({"hidden_dim": -192}, "hidden_dim is -192, but must be a whole number of at least 1"),
    ({"num_layers": 0}, "num_layers is 0, but must be a whole number of at least 1"),
    ({"num_heads": 0}, "num_heads is 0, but must be a whole number of at least 1"),
    ({"mlp_dim": 0}, "mlp_dim is 0, but must be a whole number of at least 1"),
    ({"num_classes": 0}, "num_classes is 0, but must be a whole number of at least 1"),
    ({"embed_dim": 0}, "embed_dim is 0, but must be a whole number of at least 1"),
    ({"image_size": (30, 32)}, "image height 30 is not a multiple of patch_size 16"),
    ({"image_size": (32, 40)}, "image width 40 is not a multiple of patch_size 16"),
    ({"image_size": (0, 32)}, "image height is 0, but must be a whole number of at least 1"),
    ({"image_size": (32, -16)}, "image width is -16, but must be a whole number of at least 1"),
    ({"patch_size": 64}, "image height 32 is not a multiple of patch_size 64"),
    ({"image_size": 32}, "image_size is 32, but must be a tuple (height, width)"),
    ({"image_size": [32, 32]}, "image_size is [32, 32], but must be a tuple (height, width)"),
    ({"image_size": (32, 32, 3)}, "image_size is (32, 32, 3), but must be a tuple (height, width)"),
    ({"image_size": (32.0, 32)}, "image height is 32.0, but must be a whole number of at least 1"),
    ({"num_layers": 2.5}, "num_layers is 2.5, but must be a whole number of at least 1"),
    ({"num_heads": True}, "num_heads is True, but must be a whole number of at least 1"),
    ({"norm_epsilon": float("inf")}, "norm_epsilon is inf, but must be positive and finite"),
    ({"num_heads": 5}, "hidden_dim 192 is not divisible by num_heads 5"),
    ({"norm_epsilon": 0.0}, "norm_epsilon is 0.0, but must be positive"),
    ({"norm_epsilon": float("nan")}, "norm_epsilon is nan, but must be positive"),
    ({"dropout": 1.0}, "dropout is 1.0, but must be in [0, 1)"),
    ({"dropout": float("nan")}, "dropout is nan, but must be in [0, 1)"),
    ({"attention_dropout": -0.1}, "attention_dropout is -0.1, but must be in [0, 1)"),
    ({"drop_path": 1.0}, "drop_path is 1.0, but must be in [0, 1)"),
    ({"drop_path": -0.1}, "drop_path is -0.1, but must be in [0, 1)"),
    ({"activation": "gelu-tanh"}, "unknown activation 'gelu-tanh': did you mean gelu_tanh or gelu?"),
    ({"activation": "relu6x"}, "unknown activation 'relu6x'"),
    ({"attention_dropout_on": "weight"}, "unknown attention_dropout_on 'weight': did you mean weights?"),
)


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_preset_has_the_parameters_it_is_known_for(name):
    assert count_parameters(preset(name)) == PARAMETERS[name]


def test_no_preset_is_left_uncounted():
    assert set(PARAMETERS) == set(PRESETS)


@pytest.mark.parametrize("name", TIMM)
def test_a_preset_is_as_large_as_the_model_in_timm(name):
    with torch.device("meta"):
        model = timm.create_model(TIMM[name], num_classes=1000)
    assert count(model) == PARAMETERS[name]


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_preset_is_as_large_as_the_model_in_torchvision(name):
    with torch.device("meta"):
        model = torchvision.models.get_model(TORCHVISION[name], weights=None)
    assert count(model) == PARAMETERS[name]


@pytest.mark.parametrize(("wrong", "right"), (("vit_b61", "vit_b16"), ("artcle", "article"), ("vit-h14", "vit_h14")))
def test_an_unknown_preset_is_answered_with_near_names(wrong, right):
    with pytest.raises(ValueError, match=rf"unknown preset '{wrong}': did you mean .*\b{right}\b.*\?"):
        preset(wrong)


def test_an_unknown_preset_with_no_near_name_is_answered_with_all_of_them():
    with pytest.raises(ValueError, match=f"unknown preset 'zzz': choose from {', '.join(PRESETS)}"):
        preset("zzz")


@pytest.mark.parametrize(("changes", "sentence"), IMPOSSIBLE, ids=lambda value: str(value)[:40])
def test_an_impossible_config_is_refused_naming_the_numbers_that_clash(changes, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        preset("article").replace(**changes)


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("article").num_layers = 1


def test_a_config_has_no_defaults():
    with pytest.raises(TypeError, match="num_heads"):
        type(preset("article"))(**{name: value for name, value in ARTICLE.items() if name != "num_heads"})


def test_replacing_a_field_that_does_not_exist_is_an_error():
    with pytest.raises(TypeError, match="num_layer"):
        preset("article").replace(num_layer=2)


def test_replacing_a_field_leaves_the_preset_alone():
    assert preset("article").replace(num_layers=2).num_layers == 2
    assert preset("article").num_layers == ARTICLE["num_layers"]


@pytest.mark.parametrize("field", ARTICLE)
def test_the_article_makes_its_own_choices(field):
    assert getattr(preset("article"), field) == ARTICLE[field]


def test_no_choice_of_the_article_is_left_out():
    assert list(ARTICLE) == [field.name for field in dataclasses.fields(preset("article"))]


def test_the_variants_of_the_article_change_only_what_they_say():
    assert preset("article-p4") == preset("article").replace(patch_size=4)
    untied = preset("article").replace(patch_size=4, embed_dim=64, share_layers=False)
    assert preset("article-p4-untied") == untied


@pytest.mark.parametrize("name", (*TIMM, "digits"))
def test_presets_that_are_not_the_articles_make_the_choices_of_the_paper(name):
    assert {field: getattr(preset(name), field) for field in PAPER} == PAPER


def test_the_derived_sizes_keep_height_and_width_apart():
    config = preset("article").replace(image_size=(32, 48), share_layers=False)
    assert config.grid == (2, 3)
    assert config.num_patches == 6
    assert config.head_dim == 64
    assert config.num_own_layers == 12
    assert preset("article").num_own_layers == 1
