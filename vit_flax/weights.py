"""One canonical flat weight dict: the Linen parameter tree with path names, as NumPy arrays.

`encoder/03/attention/query/kernel` is the query kernel of the fourth layer, in Flax's axis order. Every
published layout (`vit_flax/layouts.py`) is read into and written from this one. Nothing is skipped,
filled in or reshaped on the way: a leaf that is missing, unknown or misshapen is an error that names it.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vit_flax.config import ViTConfig
from vit_flax.model import ViT

Weights = dict[str, np.ndarray]
LONGEST_QUOTE = 100  # characters

# Tap names count layers with two digits so that they sort; Linen names the members of a list as it likes.
_LAYER, _LINEN_LAYER = re.compile(r"^encoder/0*(\d+)/"), re.compile(r"^encoder_(\d+)/")


class Shaped(Protocol):
    """An array, or what stands for one that is not read yet."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class WeightError(ValueError):
    """Weights that do not fit: the message names the key or the file."""


@functools.cache
def canonical_shapes(config: ViTConfig) -> Mapping[str, tuple[int, ...]]:
    """Name and shape of every leaf that a ViT of this config has."""
    images = jax.ShapeDtypeStruct((1, *config.image_size, config.channels), jnp.float32)
    params = jax.eval_shape(ViT(config).init, jax.random.key(0), images)["params"]
    return {name: leaf.shape for name, leaf in _flatten(params).items()}


def count_parameters(config: ViTConfig) -> int:
    return sum(int(np.prod(shape)) for shape in canonical_shapes(config).values())


def from_params(params: Mapping[str, Any]) -> Weights:
    """The canonical dict of a Linen parameter tree."""
    return {name: np.asarray(leaf) for name, leaf in _flatten(params).items()}


def to_params(weights: Weights, config: ViTConfig) -> dict[str, Any]:
    """The Linen parameter tree of a canonical dict. Raises `WeightError` if the two do not match exactly."""
    check(weights, config)
    return unflatten_dict({_LAYER.sub(r"encoder_\1/", name): leaf for name, leaf in weights.items()}, sep="/")


def _flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    flat = flatten_dict(params, sep="/")
    return {_LINEN_LAYER.sub(lambda m: f"encoder/{int(m[1]):02}/", name): leaf for name, leaf in flat.items()}


def check(weights: Mapping[str, Shaped], config: ViTConfig) -> None:
    """Raise `WeightError` unless the dict has exactly the leaves and shapes of this config."""
    expected = canonical_shapes(config)
    check_keys(weights, expected, "canonical weights")
    for name, shape in expected.items():
        check_shape(weights[name], shape, f"canonical weights: {name!r}")


def check_keys(found: Mapping[str, Any], expected: Mapping[str, Any], what: str) -> None:
    """Raise `WeightError` naming the first missing and the first unused key, and how many there are."""
    missing = [key for key in expected if key not in found]
    unused = [key for key in found if key not in expected]
    both = (("missing", missing), ("unused", unused))
    faults = [f"{len(keys)} {kind}, first {quoted(keys[0])}" for kind, keys in both if keys]
    if faults:
        raise WeightError(f"{what}: keys do not match: {'; '.join(faults)}")


def check_shape(leaf: Shaped, shape: tuple[int, ...], what: str) -> None:
    if leaf.shape != shape:
        raise WeightError(f"{what} has shape {leaf.shape}, expected {shape}")


def quoted(name: Any) -> str:
    """A name as messages show it, cut where it is so long that nobody would read on."""
    text = repr(name)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…"
