"""The same function, rounded otherwise: a ViT with its features in another order sums in another order.

What several such runs of a sound model differ by is rounding and nothing else: so far may a sound target stray. That
holds in float32. Half precisions are summed in float32 and rounded once, to nearly the same numbers in any order.
"""

import numpy as np

from vit_flax.config import ViTConfig
from vit_flax.weights import Weights


class Reordering:
    """Token features and each layer's hidden units in a random order."""

    def __init__(self, config: ViTConfig, rng: np.random.Generator) -> None:
        self.orders = {"token": rng.permutation(config.hidden_dim)}
        self.orders["patch"] = self.orders["token"] if config.embed_dim is None else rng.permutation(config.embed_dim)
        for layer in range(config.num_own_layers):
            self.orders[f"hidden {layer:02}"] = rng.permutation(config.mlp_dim)

    def weights(self, weights: Weights) -> Weights:
        return {name: self._reordered(name, leaf) for name, leaf in weights.items()}

    def _reordered(self, name: str, leaf: np.ndarray) -> np.ndarray:
        axes = self._leaf_axes(name)
        for dimension, axis in enumerate(axes, start=leaf.ndim - len(axes)):
            leaf = leaf if axis is None else leaf.take(self.orders[axis], axis=dimension)
        return leaf

    def _leaf_axes(self, name: str) -> tuple[str | None, ...]:
        """Which order each of the last dimensions of a leaf is in."""
        parts = name.split("/")
        hidden = f"hidden {parts[1]}"
        match parts[-2:]:
            case ["conv", _]:
                return ("patch",)
            case ["query" | "key" | "value", "kernel"] | ["head", "kernel"]:
                return "token", None
            case ["query" | "key" | "value", "bias"] | ["head", "bias"]:
                return (None,)
            case ["fc1", "kernel"]:
                return "token", hidden
            case ["fc1", "bias"]:
                return (hidden,)
            case ["fc2", "kernel"]:
                return hidden, "token"
            case ["projection", "kernel"]:
                return ("patch" if parts[0] == "embedding" else None), "token"
        return ("token",)  # class token, positions, norms, and biases of what adds to the tokens
