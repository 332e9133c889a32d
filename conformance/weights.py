"""Weights that hide nothing: random in every leaf, or unique in every entry."""

import functools

import numpy as np

from vit_flax.config import ViTConfig
from vit_flax.weights import Weights, canonical_shapes


def random_weights(config: ViTConfig, seed: int) -> Weights:
    """Random float32 weights of a size that keeps every tap of order one; the arrays are read-only.

    No leaf is constant: zero biases and identical norms, as fresh models have them, hide dropped biases,
    shared norms and swapped layers.
    """
    return dict(_random_weights(config, seed))


@functools.lru_cache(maxsize=1)  # the rungs of a case follow one another; the largest dict takes 350 MB
def _random_weights(config: ViTConfig, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    weights = {name: _random_leaf(rng, name, shape) for name, shape in canonical_shapes(config).items()}
    for leaf in weights.values():
        leaf.setflags(write=False)
    return weights


def _random_leaf(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    leaf = rng.standard_normal(shape, dtype=np.float32)
    match name.rsplit("/", 1)[-1]:
        case "kernel":  # variance 1 / fan_in
            return leaf / np.float32(np.sqrt(np.prod(shape[:-1])))
        case "scale":
            return 1 + leaf / 4
        case "bias":
            return leaf / 4
        case _:  # class token, position embedding
            return leaf / 2


def offset(weights: Weights) -> Weights:
    """Weights whose tokens all have a mean of about 60, where they vary by about one: a careless variance cancels."""
    name = "embedding/position_embedding"
    return weights | {name: weights[name] + weights[name].dtype.type(60)}


def unique_weights(config: ViTConfig) -> Weights:
    """Consecutive whole numbers through all leaves: any entry that strays is seen, whatever the shapes."""
    weights: Weights = {}
    start = 0
    for name, shape in canonical_shapes(config).items():
        size = int(np.prod(shape))
        weights[name] = np.arange(start, start + size, dtype=np.float64).reshape(shape)
        start += size
    return weights
