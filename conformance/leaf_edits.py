"""Edits of single leaves, in one layer or in each: what most faults of a model come down to."""

from collections.abc import Callable

import numpy as np

from conformance.faults import Around, Edit, edited
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

LayerEdit = Callable[[Weights, str, ViTConfig], Weights]


def each_layer(change: LayerEdit) -> dict[str, Around]:
    """The same change in each layer: `change(weights, "encoder/00", config)` returns the leaves it replaces."""

    def edit(weights: Weights, config: ViTConfig) -> Weights:
        changed: Weights = {}
        for i in range(config.num_own_layers):
            changed |= change(weights, f"encoder/{i:02}", config)
        return weights | changed

    return edited(edit)


def leaf(name: str, change: Callable[[np.ndarray, ViTConfig], np.ndarray]) -> dict[str, Around]:
    """One leaf is another; `{layer}` in its name stands for each layer."""
    if "{layer}" in name:

        def in_layer(weights: Weights, layer: str, config: ViTConfig) -> Weights:
            full = name.format(layer=layer)
            return {full: change(weights[full], config)}

        return each_layer(in_layer)
    return edited(lambda weights, config: weights | {name: change(weights[name], config)})


def leaves_ending(ending: str, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Around]:
    """Every leaf whose name ends so is another."""

    def edit(weights: Weights, config: ViTConfig) -> Weights:
        return {name: change(x) if name.endswith(ending) else x for name, x in weights.items()}

    return edited(edit)


def swapped(a: str, b: str) -> dict[str, Around]:
    """Two parts of each layer change places."""

    def change(weights: Weights, layer: str, config: ViTConfig) -> Weights:
        kinds = [name.rsplit("/", 1)[-1] for name in weights if name.startswith(f"{layer}/{a}/")]
        return {f"{layer}/{x}/{kind}": weights[f"{layer}/{y}/{kind}"] for kind in kinds for x, y in ((a, b), (b, a))}

    return each_layer(change)


def from_layer(source: Callable[[int, int], int]) -> Edit:
    """Layer i gets the weights of layer `source(i, number of layers)`."""

    def edit(weights: Weights, config: ViTConfig) -> Weights:
        layers = config.num_own_layers
        sources = {f"encoder/{i:02}/": f"encoder/{source(i, layers):02}/" for i in range(layers)}
        moved = {name: weights[sources[name[:11]] + name[11:]] for name in weights if name[:11] in sources}
        return weights | moved

    return edit


def zeroed(x: np.ndarray, config: ViTConfig) -> np.ndarray:
    return np.zeros_like(x)


def transposed(x: np.ndarray, config: ViTConfig) -> np.ndarray:
    return np.ascontiguousarray(x.T)
