"""How large a parameter's gradient is if none of its terms cancel: rounding grows with them, not with what is left.

Two sums hide their terms. A parameter's gradient adds up tokens. And softmax's backward pass subtracts a mean over the
keys, `p · (dp - Σ p · dp)`, of which little is left where tokens are much alike, as in the later layers of a deep model
with random weights: there the gradients of queries and keys may be a hundredth of what they are made of, and the error
of two sound sides differed by a factor of four.
"""

import math
from collections.abc import Callable

import numpy as np
from einops import einsum, rearrange

from conformance.plain import Array, by_head, layer_norm, query_key_value, softmax
from conformance.sides import Taps, TrainableSide
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

Through = Callable[[Array, Array], Array]  # (softmax's shares, their gradients): the scores' gradients


def with_random_signs(arriving: Taps, rng: np.random.Generator) -> Taps:
    """The gradients that arrive at each tap, those of each token with a random sign.

    Under random signs a sum's mean square is the sum of its terms' squares, whatever cancels otherwise.
    """
    return {tap: x * rng.choice((-1.0, 1.0), size=(*x.shape[:-1], 1)) for tap, x in arriving.items()}


def uncancelled(
    reference: TrainableSide, config: ViTConfig, weights: Weights, images: Array, taps: Taps, arriving: Taps
) -> Weights:
    """Gradients of the size that those of the parameters have if their terms do not cancel; float64.

    Args:
        taps: every tap, each block's input.
        arriving: the gradient of each tap, as it arrives from what follows.
    """
    rng = np.random.default_rng(0)
    signed = with_random_signs(arriving, rng)

    def nothing_subtracted(shares: Array, gradients: Array) -> Array:
        return shares * gradients * rng.choice((-1.0, 1.0), size=shares.shape)

    sizes = dict(reference.gradients(weights, images, signed, given=taps).parameters)
    return sizes | of_queries_and_keys(config, weights, taps, signed, nothing_subtracted)


def of_queries_and_keys(config: ViTConfig, weights: Weights, taps: Taps, arriving: Taps, through: Through) -> Weights:
    """The gradients of the queries' and keys' leaves, each attention alone; softmax's backward pass is `through`."""
    found: Weights = {}
    for layer in range(config.num_layers):
        for leaf, gradient in _of_layer(config, weights, taps, arriving, layer, through).items():
            found[leaf] = found.get(leaf, 0.0) + gradient  # those of layers that share their weights add up
    return found


def _of_layer(config: ViTConfig, weights: Weights, taps: Taps, arriving: Taps, layer: int, through: Through) -> Weights:
    own = f"encoder/{0 if config.share_layers else layer:02}"
    before, after = f"encoder/{layer - 1:02}" if layer else "embedding", f"encoder/{layer:02}/attention"
    leaves = {name.removeprefix(f"{own}/"): leaf for name, leaf in weights.items()}
    x = layer_norm(taps[before], leaves["norm1/scale"], leaves["norm1/bias"], config.norm_epsilon)
    query, key, value = query_key_value(x, leaves, "attention", config.num_heads)
    scale = 1 / math.sqrt(config.head_dim)
    shares = softmax(query @ key.swapaxes(-1, -2) * scale)
    heads = by_head(arriving[after] @ leaves["attention/projection/kernel"].T, config.num_heads)
    scores = scale * through(shares, heads @ value.swapaxes(-1, -2))
    found: Weights = {}
    for part, of_heads in (("query", scores @ key), ("key", scores.swapaxes(-1, -2) @ query)):
        of_tokens = rearrange(of_heads, "b h t k -> b t (h k)")
        found[f"{own}/attention/{part}/kernel"] = einsum(x, of_tokens, "b t i, b t o -> i o")
        found[f"{own}/attention/{part}/bias"] = of_tokens.sum(axis=(0, 1))
    return found
