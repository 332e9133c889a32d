"""The functions of a ViT in plain NumPy, in the dtype of what they are given."""

import math
from collections.abc import Callable

import numpy as np
from einops import rearrange
from scipy import special

from vit_flax.weights import Weights

Array = np.ndarray
Change = Callable[[Array], Array]


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon) * scale + bias


def gelu(x: Array) -> Array:
    return x * (1 + special.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: Array) -> Array:
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


ACTIVATIONS: dict[str, Change] = {"gelu": gelu, "gelu_tanh": gelu_tanh}


def softmax(scores: Array) -> Array:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def dense(x: Array, weights: Weights, name: str) -> Array:
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def by_head(x: Array, heads: int) -> Array:
    """(batch, token, features) to (batch, head, token, feature)."""
    return rearrange(x, "b t (h k) -> b h t k", h=heads)


def query_key_value(x: Array, weights: Weights, attention: str, heads: int) -> tuple[Array, Array, Array]:
    """What an attention of that name projects tokens to, by head."""
    query = by_head(dense(x, weights, f"{attention}/query"), heads)
    key = by_head(dense(x, weights, f"{attention}/key"), heads)
    value = by_head(dense(x, weights, f"{attention}/value"), heads)
    return query, key, value
