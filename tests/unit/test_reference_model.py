"""The PyTorch twin by itself: the same names as the Flax side, and PyTorch's own habits."""

import dataclasses
import inspect
import math

import jax
import numpy as np
import pytest
import torch
from flax import linen

import reference.config
import reference.model
import vit_flax.config
import vit_flax.model
from vit_flax.config import preset

SMALL = dict(image_size=(16, 24), patch_size=8, hidden_dim=12, num_heads=3, mlp_dim=20, num_layers=2, num_classes=5)
CONFIGS = {
    "paper": preset("vit_ti16").replace(**SMALL),
    "article": preset("article").replace(**SMALL, embed_dim=8),
    "no final norm": preset("vit_ti16").replace(**SMALL, final_norm=False),
}
PRECISIONS = (torch.float64, torch.float32, torch.bfloat16)
WEIGHT_SHAPES = ((256, 128), (96, 3, 8, 8))  # a dense layer and a convolution, PyTorch's axis order
SIGMAS = 5  # one sound run in two million falls outside


def twin(config, **changes):
    torch.manual_seed(0)
    return reference.model.ViT(reference.config.ViTConfig(**dataclasses.asdict(config.replace(**changes))))


def images_of(config, dtype=torch.float32):
    shape = (2, *config.image_size, config.channels)
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape)).to(dtype)


def classes_in(module, base):
    members = inspect.getmembers(module, inspect.isclass)
    return [name for name, cls in members if cls.__module__ == module.__name__ and issubclass(cls, base)]


def fields_of(config):
    return [(field.name, field.type) for field in dataclasses.fields(config)]


def flax_taps(config):
    taps = []
    images = jax.numpy.zeros((1, *config.image_size, config.channels))
    tap = lambda name, x: (taps.append((name, x.shape[1:])), x)[1]  # noqa: E731
    jax.eval_shape(lambda key: vit_flax.model.ViT(config).init(key, images, tap=tap), jax.random.key(0))
    return taps


def test_the_twins_have_the_same_classes():
    names = classes_in(reference.model, torch.nn.Module)
    assert names == classes_in(vit_flax.model, linen.Module)
    assert "MultiHeadSelfAttention" in names


def test_the_twins_have_the_same_config_fields():
    assert fields_of(reference.config.ViTConfig) == fields_of(vit_flax.config.ViTConfig)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_twins_have_the_same_taps_in_the_same_order(config):
    taps = []
    twin(config)(images_of(config), tap=lambda name, x: (taps.append((name, x.shape[1:])), x)[1])
    assert taps == flax_taps(config)


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_looking_changes_no_bit_of_the_logits(config, dtype):
    model, images, taps = twin(config).eval().to(dtype), images_of(config, dtype), {}
    tapped = model(images, tap=lambda name, x: taps.setdefault(name, x))
    assert torch.equal(tapped, model(images))
    assert torch.equal(tapped, taps["logits"])
    assert {tap.dtype for tap in taps.values()} == {dtype}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_a_replaced_tap_changes_what_follows_and_nothing_else(config):
    model, images, before, after = twin(config).eval(), images_of(config), {}, {}
    model(images, tap=lambda name, x: before.setdefault(name, x))
    other = torch.randn_like(before["encoder/00/mlp"])
    model(images, tap=lambda name, x: other if after.setdefault(name, x) is x and name == "encoder/00/mlp" else x)
    unchanged = [name for name in before if torch.equal(before[name], after[name])]
    assert unchanged == list(before)[: list(before).index("encoder/00/mlp") + 1]


@pytest.mark.parametrize("rate", ("dropout", "attention_dropout"))
@pytest.mark.parametrize("place", ("weights", "output"))
@torch.no_grad()
def test_eval_has_no_dropout_and_train_has(rate, place):
    config = CONFIGS["paper"]
    rates = {"dropout": 0.0, "attention_dropout": 0.0} | {rate: 0.5}
    model, images = twin(config, **rates, attention_dropout_on=place), images_of(config)
    plain = twin(config, dropout=0.0, attention_dropout=0.0)(images)
    assert torch.equal(model.eval()(images), plain)
    assert not torch.equal(model.train()(images), plain)


@pytest.mark.parametrize("shape", WEIGHT_SHAPES)
def test_lecun_normal_has_a_variance_of_one_over_fan_in(shape):
    torch.manual_seed(0)
    weight, fan_in = torch.empty(shape), math.prod(shape[1:])
    reference.model.lecun_normal(weight)
    # The deviation of n normal numbers is known to one part in √(2n), of cut ones (no heavy tails) even better.
    deviation = weight.double().std().item() * math.sqrt(fan_in)
    assert abs(deviation - 1) < SIGMAS / math.sqrt(2 * weight.numel())
    assert abs(weight.double().mean().item()) * math.sqrt(fan_in) < SIGMAS / math.sqrt(weight.numel())


@pytest.mark.parametrize("shape", WEIGHT_SHAPES)
def test_lecun_normal_is_cut_where_flax_cuts_it(shape):
    torch.manual_seed(0)
    weight = torch.empty(shape)
    reference.model.lecun_normal(weight)
    out, *rest = shape
    flax = linen.initializers.lecun_normal()(jax.random.key(0), (*rest[1:], rest[0], out))
    std = 1 / math.sqrt(math.prod(rest)) / 0.87962566103423978  # of the normal that is cut
    cut = np.nextafter(np.float32(2 * std), np.float32(np.inf))
    for largest in (weight.abs().max().item(), float(abs(flax).max())):
        assert 1.9 * std < largest <= cut  # not one of 18,000 numbers past 1.9: a chance below e⁻²⁰⁰


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_fresh_twin_has_no_bias_and_plain_norms(config):
    fresh = dict(twin(config).named_parameters())
    assert all((leaf == 0).all() for name, leaf in fresh.items() if name.endswith((".bias", "cls_token")))
    assert all((leaf == 1).all() for name, leaf in fresh.items() if "norm" in name and name.endswith(".weight"))
