"""Faults of attention, and of the norm before it."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from einops import rearrange, reduce

from conformance.faults import Around, Fault, edited
from conformance.leaf_edits import each_layer, from_layer, leaf, leaves_ending, swapped, transposed, zeroed
from conformance.plain import layer_norm
from conformance.sides import Taps
from conformance.variations import Variation, varied
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights


def query_times(factor: Callable[[ViTConfig], float]) -> dict[str, Around]:
    """Scores scaled otherwise: the same as a larger or smaller query."""

    def change(weights: Weights, layer: str, config: ViTConfig) -> Weights:
        names = [f"{layer}/attention/query/{kind}" for kind in ("kernel", "bias")]
        return {name: (weights[name] * factor(config)).astype(weights[name].dtype) for name in names}

    return each_layer(change)


def split_heads_last(weights: Weights, layer: str, config: ViTConfig) -> Weights:
    """Features read as (head_dim, heads) where they are (heads, head_dim)."""
    names = [f"{layer}/attention/{part}/{kind}" for part in ("query", "key", "value") for kind in ("kernel", "bias")]
    return {name: rearrange(weights[name], "... (k h) -> ... (h k)", h=config.num_heads) for name in names}


def swap_in_last_layer(weights: Weights, config: ViTConfig) -> Weights:
    names = [f"encoder/{config.num_own_layers - 1:02}/attention/{part}/kernel" for part in ("query", "key")]
    return weights | {a: weights[b] for a, b in (names, names[::-1])}


def blank_masked(method: Around, config: ViTConfig, weights: Weights, images: np.ndarray, **named: object) -> Taps:
    """Nothing attends to patches of zeros, unless there are no others."""
    sides = {"p": config.patch_size, "q": config.patch_size}
    seen = reduce(images != 0, "b (i p) (j q) c -> b (i j)", "max", **sides)
    hidden = ~seen & seen.any(axis=1, keepdims=True)
    if named.get("draw") is not None or not hidden.any():
        return method(weights, images, **named)
    keys = np.concatenate([np.zeros((len(images), 1), bool), hidden], axis=1)[:, np.newaxis, np.newaxis]
    masked = varied(Variation(scores=lambda scores: np.where(keys, -np.inf, scores)))["taps"]
    return masked(method, config, weights, images, **named)


def causal(scores: np.ndarray) -> np.ndarray:
    """Each token attends to itself and to those before it."""
    return np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)


def normalised(x: np.ndarray) -> np.ndarray:
    """As a fresh LayerNorm does."""
    return layer_norm(x, np.ones((), x.dtype), np.zeros((), x.dtype), 1e-6)


def rms_normalised(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)


def softmax_with_a_zero(scores: np.ndarray) -> np.ndarray:
    """As over one more score, which is zero and has no value."""
    largest = np.maximum(scores.max(axis=-1, keepdims=True), 0)
    exponentials = np.exp(scores - largest)
    return exponentials / (exponentials.sum(axis=-1, keepdims=True) + np.exp(-largest))


def merged_as_they_lie(heads: np.ndarray) -> np.ndarray:
    batch, count, tokens, features = heads.shape
    return np.ascontiguousarray(heads).reshape(batch, tokens, count * features)


def many_layers(config: ViTConfig) -> bool:
    return config.num_own_layers > 1


def many_heads(config: ViTConfig) -> bool:
    return config.num_heads > 1


fault = partial(Fault, rung="float64", place="encoder/00/attention")

ATTENTION = (
    fault(
        name="query and key swapped",
        seen="the order of a fused kernel",
        around=swapped("attention/query", "attention/key"),
    ),
    fault(
        name="key and value swapped",
        seen="the order of a fused kernel",
        around=swapped("attention/key", "attention/value"),
    ),
    fault(
        name="query and key swapped in the last layer",
        place="encoder/{last}/attention",
        seen="a layer forgotten in a loop",
        around=edited(swap_in_last_layer),
        applies=many_layers,
    ),
    fault(
        name="heads split in the wrong order",
        seen="(head_dim, heads) for (heads, head_dim)",
        around=each_layer(split_heads_last),
        applies=lambda c: many_heads(c) and c.head_dim > 1,
    ),
    fault(
        name="scores scaled by width",
        seen="√hidden_dim for √head_dim",
        around=query_times(lambda c: 1 / math.sqrt(c.num_heads)),
        applies=many_heads,
    ),
    fault(
        name="scores not scaled",
        seen="a scale left to a kernel that has none",
        around=query_times(lambda c: math.sqrt(c.head_dim)),
        applies=lambda c: c.head_dim > 1,
    ),
    fault(
        name="scores scaled twice",
        seen="a scaled query given to scaled attention",
        around=query_times(lambda c: 1 / math.sqrt(c.head_dim)),
        applies=lambda c: c.head_dim > 1,
    ),
    fault(
        name="scores soft-capped at 50",
        seen="50 tanh(scores / 50), as in Gemma 2",
        around=varied(Variation(scores=lambda scores: 50 * np.tanh(scores / 50))),
    ),
    fault(
        name="causal mask",
        seen="a decoder's attention",
        around=varied(Variation(scores=causal)),
    ),
    Fault(
        name="blank patches masked",
        rung="hostile",
        place="blank patches: encoder/00/attention",
        seen="a mask of padding, made from the pixels",
        around={"taps": blank_masked},
        applies=lambda c: c.image_size[1] > c.patch_size,
    ),
    fault(
        name="softmax with a zero more",
        seen="add_zero_attn=True, softmax_one",
        around=varied(Variation(softmax=softmax_with_a_zero)),
    ),
    fault(
        name="heads merged as they lie",
        seen="reshape without transpose(1, 2) before it",
        around=varied(Variation(merge=merged_as_they_lie)),
        applies=many_heads,
    ),
    fault(
        name="queries and keys normalised",
        seen="ViT-22B, timm's qk_norm",
        around=varied(Variation(query_key=normalised)),
    ),
    fault(
        name="queries and keys normalised by root mean square",
        seen="qk_norm of recent language models",
        around=varied(Variation(query_key=rms_normalised)),
    ),
    fault(
        name="attention bias dropped",
        seen="invisible while biases are zero",
        around=leaf("{layer}/attention/projection/bias", zeroed),
    ),
    fault(
        name="query bias dropped",
        seen="qkv_bias=False in part",
        around=leaf("{layer}/attention/query/bias", zeroed),
    ),
    fault(
        name="value bias dropped",
        seen="qkv_bias=False in part",
        around=leaf("{layer}/attention/value/bias", zeroed),
    ),
    fault(
        name="query, key and value biases dropped",
        seen="qkv_bias=False",
        around=each_layer(
            lambda weights, layer, config: {
                name: np.zeros_like(weights[name])
                for name in (f"{layer}/attention/{part}/bias" for part in ("query", "key", "value"))
            }
        ),
    ),
    fault(
        name="query kernel not transposed",
        seen="square, so every shape check passes",
        around=leaf("{layer}/attention/query/kernel", transposed),
    ),
    fault(
        name="projection not transposed",
        seen="square, so every shape check passes",
        around=leaf("{layer}/attention/projection/kernel", transposed),
    ),
    fault(
        name="norm scale counted from one",
        seen="x · (1 + scale), as in Gemma",
        around=leaves_ending("/scale", lambda x: x + 1),
    ),
    fault(
        name="norms swapped",
        seen="Linen's automatic names",
        around=swapped("norm1", "norm2"),
        applies=lambda c: not c.share_norm,
    ),
    fault(
        name="layers off by one",
        seen="counting layers from one",
        around=edited(from_layer(lambda i, n: (i + 1) % n)),
        applies=many_layers,
    ),
    fault(
        name="layers tied",
        place="encoder/01/attention",
        seen="one layer object called in a loop",
        around=edited(from_layer(lambda i, n: 0)),
        applies=many_layers,
    ),
    fault(
        name="last block skipped",
        place="encoder/{last}/attention",
        seen="range(num_layers - 1)",
        config=lambda c: c.replace(num_layers=c.num_layers - 1),
        applies=lambda c: c.num_layers > 1,
    ),
)
