"""The functions of a ViT in plain NumPy, in the dtype of what they are given."""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

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
