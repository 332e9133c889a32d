"""Foreign ViTs behind the twin's calling convention: seen through hooks, and otherwise untouched."""

import dataclasses

import pytest
import torch

import reference.config
import reference.model
from reference.third_party import timm_vit, torchvision_vit
from vit_flax.config import preset

SIZES = {"timm": (32, 48), "torchvision": (32, 32)}  # torchvision takes square images only
BUILD = {
    "timm": lambda: timm_vit("vit_tiny_patch16_224", img_size=SIZES["timm"], depth=2),
    "torchvision": lambda: torchvision_vit(
        "vit_b_16", image_size=32, num_layers=2, hidden_dim=192, num_heads=3, mlp_dim=768
    ),
}
LIBRARIES = tuple(BUILD)
TAPS = [
    "patches",
    "embedding",
    *(f"encoder/{i:02}{part}" for i in range(2) for part in ("/attention", "/middle", "/mlp", "")),
    "norm",
    "logits",
]


@pytest.fixture(params=LIBRARIES, scope="module")
def library(request):
    return request.param


@pytest.fixture(scope="module")
def model(library):
    torch.manual_seed(0)
    model = BUILD[library]().eval()
    for leaf in model.parameters():  # a fresh head of torchvision's is zero and would hide everything before it
        leaf.data += torch.randn_like(leaf) / 16
    return model


@pytest.fixture
def images(library):
    return torch.randn(2, *SIZES[library], 3, generator=torch.Generator().manual_seed(0))


def hooks_on(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def seen_by(model, images):
    taps = {}
    model(images, tap=lambda name, x: taps.setdefault(name, x))
    return taps


@torch.no_grad()
def test_taps_are_those_of_the_twin_in_the_same_order(model, images):
    config = preset("vit_ti16").replace(image_size=(32, 32), num_layers=2)
    twin = reference.model.ViT(reference.config.ViTConfig(**dataclasses.asdict(config)))
    assert list(seen_by(model, images)) == list(seen_by(twin, images[:, :32, :32])) == TAPS


@torch.no_grad()
def test_taps_are_batch_tokens_width(model, images, library):
    taps = seen_by(model, images)
    patches = SIZES[library][0] * SIZES[library][1] // 16**2
    shapes = {name: tuple(tap.shape) for name, tap in taps.items()}
    assert shapes.pop("patches") == (2, patches, 192)
    assert shapes.pop("logits") == (2, 1000)
    assert set(shapes.values()) == {(2, patches + 1, 192)}


@pytest.mark.parametrize("gradients", (False, True))
def test_looking_changes_no_bit_of_the_logits(model, images, gradients):
    with torch.set_grad_enabled(gradients):
        tapped = model(images, tap=lambda name, x: x)
        assert torch.equal(tapped, model(images))
        assert torch.equal(tapped, model.model(images.permute(0, 3, 1, 2)))


@pytest.mark.parametrize("name", TAPS)
@torch.no_grad()
def test_a_replaced_tap_changes_what_follows_and_nothing_else(model, images, name):
    before, after = seen_by(model, images), {}
    other = torch.randn_like(before[name])
    logits = model(images, tap=lambda tap, x: other if after.setdefault(tap, x) is x and tap == name else x)
    assert [tap for tap in TAPS if torch.equal(before[tap], after[tap])] == TAPS[: TAPS.index(name) + 1]
    assert not torch.equal(logits, before["logits"])


@torch.no_grad()
def test_a_patch_is_put_back_where_it_was(model, images):
    before, after = seen_by(model, images), {}
    model(images, tap=lambda name, x: x.clone() if after.setdefault(name, x) is x else x)
    assert all(torch.equal(before[name], after[name]) for name in TAPS)


@torch.no_grad()
def test_hooks_are_gone_after_the_call(model, images):
    during = []
    model(images, tap=lambda name, x: (during.append(hooks_on(model)), x)[1])
    assert set(during) == {len(TAPS)}
    assert hooks_on(model) == 0


@torch.no_grad()
def test_hooks_are_gone_after_a_tap_that_fails(model, images):
    def fails(name, x):
        raise KeyError(name)

    with pytest.raises(KeyError, match="patches"):
        model(images, tap=fails)
    assert hooks_on(model) == 0


def test_an_untapped_call_puts_on_no_hooks(model, images):
    during = []
    handle = model.model.register_forward_pre_hook(lambda module, inputs: during.append(hooks_on(model) - 1))  # its own
    model(images)
    handle.remove()
    assert during == [0]
