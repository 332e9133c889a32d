"""The same function, rounded otherwise: a ViT with its features in another order sums in another order.

What several such runs of a sound model differ by is rounding and nothing else: so far may a sound target stray.
"""

from collections.abc import Callable

import numpy as np

from conformance.sides import Gradients, Taps
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights


class Reordering:
    """Token features and each layer's hidden units in a random order, for weights, taps and gradients alike."""

    def __init__(self, config: ViTConfig, rng: np.random.Generator) -> None:
        self.config = config
        self.orders = {"token": rng.permutation(config.hidden_dim)}
        self.orders["patch"] = self.orders["token"] if config.embed_dim is None else rng.permutation(config.embed_dim)
        for layer in range(config.num_own_layers):
            self.orders[f"hidden {layer:02}"] = rng.permutation(config.mlp_dim)

    def weights(self, weights: Weights) -> Weights:
        return self._put(weights, self.orders, self._leaf_axes)

    def taps(self, taps: Taps) -> Taps:
        return self._put(taps, self.orders, self._tap_axes)

    def undone(self, gradients: Gradients) -> Gradients:
        """Gradients of the reordered model, in the order of the original."""
        back = {axis: np.argsort(order) for axis, order in self.orders.items()}
        inputs = self._put(gradients.inputs, back, self._tap_axes)
        return Gradients(inputs, self._put(gradients.parameters, back, self._leaf_axes))

    @staticmethod
    def _put(
        arrays: dict[str, np.ndarray],
        orders: dict[str, np.ndarray],
        axes_of: Callable[[str], tuple[str | None, ...]],
    ) -> dict[str, np.ndarray]:
        def reordered(name: str, array: np.ndarray) -> np.ndarray:
            axes = axes_of(name)
            for dimension, axis in enumerate(axes, start=array.ndim - len(axes)):
                array = array if axis is None else array.take(orders[axis], axis=dimension)
            return array

        return {name: reordered(name, array) for name, array in arrays.items()}

    @staticmethod
    def _tap_axes(name: str) -> tuple[str | None, ...]:
        """Which order the last dimension of a tap is in; None: its own."""
        return ({"images": None, "logits": None, "patches": "patch"}.get(name, "token"),)

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
