"""Weights keep every bit into a model and out of it; what does not fit is refused by name."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conformance.weights import random_weights
from vit_flax.config import preset
from vit_flax.model import ViT
from vit_flax.weights import WeightError, canonical_shapes, check, from_params, to_params

SMALL = dict(image_size=(16, 24), patch_size=8, hidden_dim=12, num_heads=3, mlp_dim=20, num_layers=2, num_classes=5)
CONFIGS = {
    "paper": preset("vit_ti16").replace(**SMALL),
    "article": preset("article").replace(**SMALL, embed_dim=8),
}
CONFIG = CONFIGS["article"]
NAME = re.compile(
    r"patches/conv/(kernel|bias)"
    r"|embedding/(cls_token|position_embedding|projection/(kernel|bias))"
    r"|encoder/\d\d/(norm[12]/(scale|bias)"
    r"|attention/(query|key|value|projection)/(kernel|bias)|mlp/fc[12]/(kernel|bias))"
    r"|norm/(scale|bias)|head/(kernel|bias)"
)
WRONG = (
    (lambda w: w.pop("head/bias"), "1 missing, first 'head/bias'"),
    (lambda w: w.update({"head/biass": w["head/bias"]}), "1 unused, first 'head/biass'"),
    (
        lambda w: w.update({"head/biass": w.pop("head/bias")}),
        "1 missing, first 'head/bias'; 1 unused, first 'head/biass'",
    ),
    (lambda w: w.update({"head/kernel": w["head/kernel"].T}), "'head/kernel' has shape (5, 12), expected (12, 5)"),
    (lambda w: w.update({"head/bias": w["head/bias"][None]}), "'head/bias' has shape (1, 5), expected (5,)"),
)


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True)


@functools.cache
def params_of(config):
    """Parameters as the model makes them, but no two alike: it begins with many zeros and ones."""
    images, rng = jnp.zeros((1, *config.image_size, config.channels)), np.random.default_rng(0)
    shapes = jax.eval_shape(ViT(config).init, jax.random.key(0), images)["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), shapes)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parameters_come_back_bit_for_bit(config):
    params = params_of(config)
    jax.tree.map(same, to_params(from_params(params), config), params)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_weights_come_back_bit_for_bit(config):
    weights = random_weights(config, seed=0)
    back = from_params(to_params(weights, config))
    assert set(back) == set(weights)
    jax.tree.map(same, back, weights)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_canonical_names_have_the_expected_form(config):
    names = list(from_params(params_of(config)))
    assert [name for name in names if not NAME.fullmatch(name)] == []
    assert set(names) == set(canonical_shapes(config))


def test_layers_are_counted_from_zero_with_two_digits():
    config = CONFIGS["paper"].replace(num_layers=11)
    weights = random_weights(config, seed=0)
    assert {name.split("/")[1] for name in weights if name.startswith("encoder/")} == {f"{i:02}" for i in range(11)}
    assert set(from_params(to_params(weights, config))) == set(weights)


@pytest.mark.parametrize("use", (check, to_params), ids=("check", "to_params"))
@pytest.mark.parametrize(("change", "sentence"), WRONG, ids=("missing", "unused", "renamed", "transposed", "deeper"))
def test_a_leaf_that_does_not_fit_is_named(change, sentence, use):
    weights = dict(random_weights(CONFIG, seed=0))
    change(weights)
    with pytest.raises(WeightError, match=re.escape(sentence)):
        use(weights, CONFIG)


def test_weights_that_fit_pass_the_check():
    check(random_weights(CONFIG, seed=0), CONFIG)
