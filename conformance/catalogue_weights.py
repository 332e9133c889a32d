"""Faults of what the model is given: its weights, its patches, its tokens."""

from functools import partial

import numpy as np
from einops import rearrange

from conformance.faults import Around, Fault, Site, edited, recomputed
from conformance.leaf_edits import leaf, zeroed
from conformance.rounding import to_bits
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights


def forget_last_leaf(method: Around, config: ViTConfig, weights: Weights) -> Weights:
    """A leaf that the port skips keeps its initial value."""
    return method(weights) | {"head/bias": np.zeros_like(weights["head/bias"])}


def hold_in_half(method: Around, config: ViTConfig, weights: Weights) -> Weights:
    return method({name: to_bits(x, 8) for name, x in weights.items()})


def flatten_channels_first(x: np.ndarray, config: ViTConfig) -> np.ndarray:
    """A patch flattened as (channels, height, width) meets a kernel for (height, width, channels)."""
    height, width, channels, _ = x.shape
    return rearrange(x, "h w c o -> (h w c) o").reshape(channels, height, width, -1).transpose(1, 2, 0, 3)


def transpose_grid(weights: Weights, config: ViTConfig) -> Weights:
    name, (height, width) = "embedding/position_embedding", config.grid
    cls_token, grid = weights[name][:, :1], weights[name][:, 1:]
    grid = rearrange(grid, "b (w h) d -> b (h w) d", h=height, w=width)
    return weights | {name: np.concatenate([cls_token, grid], axis=1)}


def no_position_for_class(x: np.ndarray, config: ViTConfig) -> np.ndarray:
    return np.concatenate([np.zeros_like(x[:, :1]), x[:, 1:]], axis=1)


def class_token_last(site: Site) -> np.ndarray:
    """The tokens in another order meet positions in the old one."""
    positions = site.weights["embedding/position_embedding"]
    return np.roll(site.value - positions, -1, axis=1) + positions


def counted_by_column(site: Site) -> np.ndarray:
    height, width = site.config.grid
    return np.ascontiguousarray(rearrange(site.value, "b (h w) d -> b (w h) d", h=height, w=width))


def colour(config: ViTConfig) -> bool:
    return config.channels > 1


at_patches = partial(Fault, rung="float64", place="patches")
at_embedding = partial(Fault, rung="float64", place="embedding")

WEIGHTS = (
    Fault(
        name="a leaf forgotten",
        rung="weights",
        place="head/bias",
        seen="loaders that only warn of missing keys",
        around={"held": forget_last_leaf},
    ),
    Fault(
        name="weights kept in bfloat16",
        rung="weights",
        place="embedding/cls_token",
        seen="a checkpoint cast on the way",
        around={"held": hold_in_half},
    ),
    at_patches(
        name="patch kernel sides swapped",
        seen="HWIO taken for WHIO",
        around=leaf("patches/conv/kernel", lambda x, c: rearrange(x, "h w i o -> w h i o")),
        applies=lambda c: c.patch_size > 1,
    ),
    at_patches(
        name="colours reversed",
        seen="OpenCV reads BGR",
        around=leaf("patches/conv/kernel", lambda x, c: x[:, :, ::-1].copy()),
        applies=colour,
    ),
    at_patches(
        name="patches flattened channels first",
        seen="NCHW flattened for a kernel of NHWC",
        around=leaf("patches/conv/kernel", flatten_channels_first),
        applies=lambda c: colour(c) and c.patch_size > 1,
    ),
    at_patches(
        name="patches counted by column",
        seen="b e w h -> b (w h) e, a transposition too many",
        around=recomputed(counted_by_column, lambda tap: tap == "patches"),
        applies=lambda c: min(c.grid) > 1,
    ),
    at_patches(
        name="patch bias dropped",
        seen="Conv(use_bias=False)",
        around=leaf("patches/conv/bias", zeroed),
    ),
    at_embedding(
        name="position grid transposed",
        seen="positions counted by column",
        around=edited(transpose_grid),
        applies=lambda c: min(c.grid) > 1,
    ),
    at_embedding(
        name="class token without position",
        seen="timm's no_embed_class",
        around=leaf("embedding/position_embedding", no_position_for_class),
    ),
    at_embedding(
        name="positions left out",
        seen="added to a copy that is not used",
        around=leaf("embedding/position_embedding", zeroed),
    ),
    at_embedding(
        name="class token zeroed",
        seen="a fresh class token",
        around=leaf("embedding/cls_token", zeroed),
    ),
    at_embedding(
        name="class token last",
        seen="tokens appended, not prepended",
        around=recomputed(class_token_last, lambda tap: tap == "embedding"),
    ),
)
