"""The PyTorch twin by itself: the same names and stochastic depth as the Flax side, and PyTorch's own habits."""

import dataclasses
import inspect
import math

import jax
import numpy as np
import pytest
import torch
from flax import linen
from torch.nn import functional as F

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
NO_DROPOUT = dict(dropout=0.0, attention_dropout=0.0, drop_path=0.0)
PRECISIONS = (torch.float64, torch.float32, torch.bfloat16)
WEIGHT_SHAPES = ((256, 128), (96, 3, 8, 8))  # a dense layer and a convolution, PyTorch's axis order
SIGMAS = 5  # one sound run in two million falls outside
DROPPED_IMAGES = 4096
DROP_PATHS = {1: (0.0,), 2: (0.0, 0.5), 3: (0.0, 0.25, 0.5)}  # depth -> rates of its layers where drop_path is 0.5


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


@pytest.mark.parametrize("rate", NO_DROPOUT)
@pytest.mark.parametrize("place", ("weights", "output"))
@torch.no_grad()
def test_eval_has_no_dropout_and_train_has(rate, place):
    config = CONFIGS["paper"]
    model, images = twin(config, **NO_DROPOUT | {rate: 0.5}, attention_dropout_on=place), images_of(config)
    plain = twin(config, **NO_DROPOUT)(images)
    assert torch.equal(model.eval()(images), plain)
    assert not torch.equal(model.train()(images), plain)


@pytest.mark.parametrize("rate", NO_DROPOUT)
def test_no_rate_changes_a_weight(rate):
    config = CONFIGS["paper"]
    assert list(twin(config, **{rate: 0.5}).state_dict()) == list(twin(config).state_dict())


def flax_forward(config, images, tap):
    model, key = vit_flax.model.ViT(config), jax.random.key(0)
    params = model.init(key, images[:1])["params"]
    model.apply({"params": params}, images, train=True, tap=tap, rngs={"dropout": key})


@torch.no_grad()
def torch_forward(config, images, tap):
    twin(config).train()(torch.from_numpy(images), tap=tap)


FORWARDS = {"flax": flax_forward, "torch": torch_forward}


def trained_layers(forward, config):
    """Each layer's output in training, from an input of zeros, an attention of threes and an MLP of sixes."""
    layers, branches = [], {"attention": 3, "mlp": 6}

    def tap(name, x):
        parent, _, part = name.rpartition("/")
        if parent == "encoder":
            layers.append(np.asarray(x))
        return 0 * x + branches.get(part, 0) if part != "middle" else x

    forward(config, np.zeros((DROPPED_IMAGES, *config.image_size, config.channels), np.float32), tap)
    return np.stack(layers)


def first_broken_law(layers, rates):
    """What is wrong with the stochastic depth of these `trained_layers`: a few words, or None."""
    keep = 1 - np.array(rates)[:, None, None, None]
    layers = layers * keep / 3  # exact for these rates: 1 where attention is kept, plus 2 where the MLP is
    if np.ptp(layers, axis=(2, 3)).any():
        return "tokens or features of an image differ"
    layers = layers[:, :, 0, 0]
    if not np.isin(layers, (0, 1, 2, 3)).all():
        return "kept branches have the wrong scale"
    dropped = 1 - np.concatenate([layers % 2, layers // 2])
    both = dropped @ dropped.T / DROPPED_IMAGES  # on the diagonal, how often each branch is dropped
    expected = np.tile(rates, 2)
    chance = np.outer(expected, expected)
    np.fill_diagonal(chance, expected)
    off = abs(both - chance) > SIGMAS * np.sqrt(chance * (1 - chance) / DROPPED_IMAGES)
    if off.diagonal().any():
        return "the rates are wrong"
    return "two branches are not independent" if off.any() else None


def deep(num_layers, **changes):
    sizes = dict(image_size=(4, 2), patch_size=2, hidden_dim=4, num_heads=1, mlp_dim=4, num_layers=num_layers)
    return preset("digits").replace(**sizes, drop_path=0.5, **changes)


@pytest.mark.parametrize("forward", FORWARDS.values(), ids=FORWARDS)
@pytest.mark.parametrize("share_layers", (True, False))
@pytest.mark.parametrize("num_layers", DROP_PATHS)
def test_stochastic_depth_drops_whole_branches_of_an_image_by_themselves(num_layers, share_layers, forward):
    layers = trained_layers(forward, deep(num_layers, share_layers=share_layers))
    assert first_broken_law(layers, DROP_PATHS[num_layers]) is None


def draws(images, rate):
    return (torch.rand(images, 1, 1) >= rate).float()


def the_same_draws(images, rate):
    return (torch.rand(images, 1, 1, generator=torch.Generator().manual_seed(0)) >= rate).float()


# In place of `DropPath.forward` -> the law that it breaks
BROKEN = (
    (lambda self, x: F.dropout(x, self.rate), "tokens or features of an image differ"),
    (lambda self, x: F.dropout1d(x, self.rate), "tokens or features of an image differ"),
    (lambda self, x: x * draws(len(x), self.rate), "kept branches have the wrong scale"),
    (lambda self, x: x * draws(len(x), 0.5) / (1 - 0.5), "kept branches have the wrong scale"),
    (lambda self, x: x * draws(len(x), self.rate**2) / (1 - self.rate), "the rates are wrong"),
    (lambda self, x: x * draws(1, self.rate) / (1 - self.rate), "the rates are wrong"),
    (lambda self, x: x * the_same_draws(len(x), self.rate) / (1 - self.rate), "two branches are not independent"),
)


@pytest.mark.parametrize(("broken", "law"), BROKEN, ids=range(len(BROKEN)))
def test_broken_stochastic_depth_is_seen(broken, law, monkeypatch):
    monkeypatch.setattr(reference.model.DropPath, "forward", broken)
    assert first_broken_law(trained_layers(torch_forward, deep(3)), DROP_PATHS[3]) == law


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
