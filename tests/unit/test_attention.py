"""The shares that are drawn are those that the model attends with, in every preset's kind of layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import einsum, rearrange
from PIL import Image

from conformance.flax_side import FlaxSide
from conformance.mutation import HABITATS, sound
from conformance.plain import layer_norm
from conformance.precision import rounded
from conformance.tolerances import FLOAT64
from vit_flax.attention import class_attention, draw
from vit_flax.weights import to_params


def in_float64(ground):
    weights, images = rounded(ground.weights, "float64"), ground.images.astype(np.float64)
    with jax.enable_x64(True):
        shares = class_attention(to_params(weights, ground.config), ground.config, jnp.asarray(images))
    return weights, images, shares


@pytest.mark.parametrize("habitat", HABITATS)
def test_with_these_shares_the_values_make_what_attention_gives(habitat):
    ground = sound(HABITATS[habitat])
    config = ground.config
    weights, images, shares = in_float64(ground)
    taps = FlaxSide(config).taps(weights, images)

    assert shares.shape == (config.num_layers, len(images), config.num_heads, 1 + config.num_patches)
    for i in range(config.num_layers):
        own = f"encoder/{0 if config.share_layers else i:02}"
        leaves = {name.removeprefix(f"{own}/"): leaf for name, leaf in weights.items()}
        x = taps[f"encoder/{i - 1:02}" if i else "embedding"]
        x = layer_norm(x, leaves["norm1/scale"], leaves["norm1/bias"], config.norm_epsilon)
        value = x @ leaves["attention/value/kernel"] + leaves["attention/value/bias"]
        value = rearrange(value, "b t (h k) -> b h t k", h=config.num_heads)
        heads = rearrange(einsum(shares[i], value, "b h t, b h t k -> b h k"), "b h k -> b (h k)")
        made = heads @ leaves["attention/projection/kernel"] + leaves["attention/projection/bias"]
        expected = taps[f"encoder/{i:02}/attention"][:, 0]
        assert np.abs(made - expected).max() <= FLOAT64 * np.abs(expected).max()


def test_another_order_of_heads_would_be_seen():
    _, _, shares = in_float64(sound(HABITATS["square, grey"]))
    assert np.abs(shares - shares[:, :, ::-1]).max() > 1e9 * FLOAT64


@pytest.mark.parametrize("channels", (1, 3))
def test_a_row_for_each_image_is_drawn(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 12, channels), dtype=np.uint8)
    shares = np.asarray(jax.nn.softmax(np.random.default_rng(0).standard_normal((4, 2, 3, 7)), axis=-1))

    draw(shares, images, (2, 3), ["one.png", "two.png"], tmp_path / "attention.png")

    with Image.open(tmp_path / "attention.png") as picture:
        assert picture.size == (round(2.2 * 4 * 120), round(2.4 * 2 * 120))
