"""What the class token looks at: its attention to each patch, layer by layer, as numbers and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vit_flax.config import ViTConfig
from vit_flax.model import ViT


def class_attention(
    params: Any, config: ViTConfig, images: Float[Array, "B height width C"]
) -> Float[np.ndarray, "layers B heads tokens"]:
    """The shares of the class token's attention, which go to itself (token 0) and to each patch; each sums to one."""
    inputs: dict[str, Array] = {}

    def tap(name: str, x: Array) -> Array:
        inputs[name] = x
        return x

    model = ViT(config).bind({"params": params})
    model(images, tap=tap)
    shares = []
    for i in range(config.num_layers):
        layer = model.encoder[i % len(model.encoder)]
        x = layer.norm1(inputs[f"encoder/{i - 1:02}" if i else "embedding"])
        query, key = (
            rearrange(part(x), "b t (h k) -> b h t k", h=config.num_heads)
            for part in (layer.attention.query, layer.attention.key)
        )
        scores = jnp.einsum("bhk,bhtk->bht", query[:, :, 0], key) / jnp.sqrt(config.head_dim)
        shares.append(jax.nn.softmax(scores, axis=-1))
    return np.asarray(jnp.stack(shares))


def draw(
    shares: Float[np.ndarray, "layers B heads tokens"],
    images: np.ndarray,
    grid: tuple[int, int],
    names: Sequence[str],
    file: Path,
) -> None:
    """A row an image: as the model takes it, and where the class token looks in the first, middle and last layer.

    Each map is the mean over the heads, of what goes to the patches, from none to the largest share in it.
    """
    layers = sorted({0, (len(shares) - 1) // 2, len(shares) - 1})
    figure = Figure(figsize=(2.2 * (1 + len(layers)), 2.4 * len(images)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(images), 1 + len(layers), squeeze=False)
    height, width = images.shape[1:3]
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        grey = images.shape[-1] == 1
        row[0].imshow(images[i].squeeze(), cmap="gray" if grey else None, vmin=0, vmax=255)
        row[0].set_title(name, fontsize=8)
        for axes, layer in zip(row[1:], layers, strict=True):
            looked = shares[layer, i, :, 1:].mean(axis=0).reshape(grid)
            axes.imshow(images[i].mean(axis=-1), cmap="gray", vmin=0, vmax=255)
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axes.imshow(looked, cmap="inferno", vmin=0, alpha=0.6, extent=extent, interpolation="nearest")
            axes.set_title(f"layer {layer + 1} of {len(shares)}", fontsize=8)
        for axes in row:
            axes.set_axis_off()
    figure.savefig(file, dpi=120)
