"""Known ways for two ViTs to differ, as data: what each changes, and the tap it must be caught at.

A fault changes the config or the weights that the candidate is built with, never its code, so it can be
planted in any implementation: dropping a bias and zeroing it are the same function of the image.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from einops import rearrange

from conformance.sides import Side, Taps
from vit_flax.config import ViTConfig, one_of
from vit_flax.weights import Weights, canonical_shapes

Target = Callable[[ViTConfig], Side]


def _always(config: ViTConfig) -> bool:
    return True


def _same_config(config: ViTConfig) -> ViTConfig:
    return config


def _same_weights(weights: Weights, config: ViTConfig) -> Weights:
    return weights


@dataclasses.dataclass(frozen=True)
class Fault:
    """One known difference. `tap` is where it begins; `{last}` stands for the number of the last layer."""

    name: str
    tap: str
    config: Callable[[ViTConfig], ViTConfig] = _same_config
    weights: Callable[[Weights, ViTConfig], Weights] = _same_weights
    applies: Callable[[ViTConfig], bool] = _always  # to a ViT of this config: some have no final norm to skip

    def first_tap(self, config: ViTConfig) -> str:
        return self.tap.format(last=f"{config.num_layers - 1:02}")


class Planted:
    """A target with one fault in it. It is given sound weights, as any target is."""

    def __init__(self, fault: Fault, target: Target, config: ViTConfig) -> None:
        self.fault, self.config = fault, config
        self.faulty_config = fault.config(config)
        self.side = target(self.faulty_config)

    def taps(self, weights: Weights, images: np.ndarray, given: Taps | None = None) -> Taps:
        faulty = self.fault.weights(weights, self.config)
        kept = {name: faulty[name] for name in canonical_shapes(self.faulty_config)}
        return self.side.taps(kept, images, given)


def _in_every_layer(change: Callable[[Weights, str, ViTConfig], Weights]) -> Callable[[Weights, ViTConfig], Weights]:
    """The same change in each layer: `change(weights, "encoder/00", config)` returns the leaves it replaces."""

    def apply(weights: Weights, config: ViTConfig) -> Weights:
        layers = [f"encoder/{i:02}" for i in range(config.num_own_layers)]
        return weights | {name: leaf for layer in layers for name, leaf in change(weights, layer, config).items()}

    return apply


def _other_gelu(config: ViTConfig) -> ViTConfig:
    return config.replace(activation="gelu" if config.activation == "gelu_tanh" else "gelu_tanh")


def _swap_query_key(weights: Weights, layer: str, config: ViTConfig) -> Weights:
    query, key = f"{layer}/attention/query", f"{layer}/attention/key"
    return {
        f"{a}/{kind}": weights[f"{b}/{kind}"] for kind in ("kernel", "bias") for a, b in ((query, key), (key, query))
    }


def _split_heads_last(weights: Weights, layer: str, config: ViTConfig) -> Weights:
    """Features read as (head_dim, heads) where they are (heads, head_dim)."""
    pattern, heads = "... (k h) -> ... (h k)", config.num_heads
    names = [f"{layer}/attention/{part}/{kind}" for part in ("query", "key", "value") for kind in ("kernel", "bias")]
    return {name: rearrange(weights[name], pattern, h=heads) for name in names}


def _scale_by_width(weights: Weights, layer: str, config: ViTConfig) -> Weights:
    """Scores divided by √hidden_dim where √head_dim is due: the same as a query smaller by √num_heads."""
    names = [f"{layer}/attention/query/{kind}" for kind in ("kernel", "bias")]
    return {name: (weights[name] / math.sqrt(config.num_heads)).astype(weights[name].dtype) for name in names}


def _drop_projection_bias(weights: Weights, layer: str, config: ViTConfig) -> Weights:
    name = f"{layer}/attention/projection/bias"
    return {name: np.zeros_like(weights[name])}


def _share_norm(weights: Weights, layer: str, config: ViTConfig) -> Weights:
    return {f"{layer}/norm2/{kind}": weights[f"{layer}/norm1/{kind}"] for kind in ("scale", "bias")}


def _transpose_grid(weights: Weights, config: ViTConfig) -> Weights:
    name, (height, width) = "embedding/position_embedding", config.grid
    cls_token, grid = weights[name][:, :1], weights[name][:, 1:]
    grid = rearrange(grid, "b (w h) d -> b (h w) d", h=height, w=width)
    return weights | {name: np.concatenate([cls_token, grid], axis=1)}


def _swap_kernel_sides(weights: Weights, config: ViTConfig) -> Weights:
    return weights | {"patches/conv/kernel": rearrange(weights["patches/conv/kernel"], "h w i o -> w h i o")}


FAULTS = (
    Fault("the other GELU", "encoder/00/mlp", config=_other_gelu),
    Fault("LayerNorm eps 1e-5", "encoder/00/attention", config=lambda c: c.replace(norm_epsilon=1e-5)),
    Fault("LayerNorm eps 1e-12", "encoder/00/attention", config=lambda c: c.replace(norm_epsilon=1e-12)),
    Fault("query and key swapped", "encoder/00/attention", weights=_in_every_layer(_swap_query_key)),
    Fault("heads split in the wrong order", "encoder/00/attention", weights=_in_every_layer(_split_heads_last)),
    Fault("scores scaled by width", "encoder/00/attention", weights=_in_every_layer(_scale_by_width)),
    Fault("attention bias dropped", "encoder/00/attention", weights=_in_every_layer(_drop_projection_bias)),
    Fault(
        "one norm for both sub-layers",
        "encoder/00/mlp",
        weights=_in_every_layer(_share_norm),
        applies=lambda c: not c.share_norm,
    ),
    Fault("position grid transposed", "embedding", weights=_transpose_grid, applies=lambda c: min(c.grid) > 1),
    Fault("patch kernel sides swapped", "patches", weights=_swap_kernel_sides, applies=lambda c: c.patch_size > 1),
    Fault(
        "last block skipped",
        "encoder/{last}/attention",
        config=lambda c: c.replace(num_layers=c.num_layers - 1),
        applies=lambda c: c.num_layers > 1,
    ),
    Fault(
        "final norm skipped",
        "norm",
        config=lambda c: c.replace(final_norm=False),
        applies=lambda c: c.final_norm,
    ),
)


def fault_named(name: str) -> Fault:
    """The fault of that name. Raises `ValueError`, listing the near names, if there is none."""
    by_name = {fault.name: fault for fault in FAULTS}
    one_of("fault", name, by_name)
    return by_name[name]
