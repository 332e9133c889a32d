"""How large a parameter's gradient is if none of its terms cancel: rounding grows with them, not with what is left.

Two sums hide their terms. A parameter's gradient adds up tokens. And softmax's backward pass subtracts a mean over the
keys, `p · (dp - Σ p · dp)`, of which little is left where tokens are much alike, as in the later layers of a deep model
with random weights: there the gradients of queries and keys may be a hundredth of what they are made of, and the error
of two sound sides differed by a factor of four.

What that mean is off by, all keys of a query share, so that it does not average out over them: the shares add up to
one but for a rounding, and a fused kernel does not even take the mean of the dp, but what it is without rounding,
Σ do · o over the features of the output and its gradient (FlashAttention, arXiv:2205.14135, appendix B).
"""

import dataclasses
import math

import numpy as np
from einops import einsum, rearrange

from conformance.plain import Array, by_head, layer_norm, query_key_value, softmax
from conformance.sides import Taps, TrainableSide
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights


def with_random_signs(arriving: Taps, rng: np.random.Generator, alike: bool) -> Taps:
    """The gradients that arrive at each tap, each token's with a random sign, or if `alike` each image's.

    Under random signs a sum's mean square is the sum of its terms' squares, whatever cancels otherwise.
    """

    def signs(x: Array) -> Array:
        return rng.choice((-1.0, 1.0), size=(len(x), *([1] * (x.ndim - 1))) if alike else (*x.shape[:-1], 1))

    return {tap: x * signs(x) for tap, x in arriving.items()}


def uncancelled(
    reference: TrainableSide,
    config: ViTConfig,
    weights: Weights,
    images: Array,
    taps: Taps,
    arriving: Taps,
    rng: np.random.Generator,
) -> Weights:
    """Gradients of the size that those of the parameters have if their terms do not cancel; float64.

    Where the tokens of an image are much alike, so are their terms: the sum over them grows evenly, and a sum over the
    images cancels what was large before. So of each leaf the larger is taken, as terms cancel by token or by image.

    Args:
        taps: every tap, each block's input.
        arriving: the gradient of each tap, as it arrives from what follows.
        rng: for the signs. Where tokens are alike, one draw of them may cancel too: draw anew in each run.
    """

    def sizes(alike: bool) -> Weights:
        return dict(
            reference.gradients(weights, images, with_random_signs(arriving, rng, alike), given=taps).parameters
        )

    by_token, by_image = sizes(alike=False), sizes(alike=True)
    larger = {name: max(x, by_image[name], key=np.linalg.norm) for name, x in by_token.items()}
    return larger | of_queries_and_keys(config, weights, taps, arriving)


def of_queries_and_keys(config: ViTConfig, weights: Weights, taps: Taps, arriving: Taps) -> Weights:
    """For the leaves of queries and keys: the root of the sum of their terms' squares, each attention alone."""
    squares: Weights = {}
    for layer in range(config.num_layers):
        own = f"encoder/{0 if config.share_layers else layer:02}/attention"
        for leaf, square in Backward.of(config, weights, taps, arriving, layer).squares().items():
            name = f"{own}/{leaf}"
            squares[name] = squares.get(name, 0.0) + square  # those of layers that share their weights add up
    return {name: np.sqrt(square) for name, square in squares.items()}


@dataclasses.dataclass(frozen=True)
class Backward:
    """What meets in the backward pass of one attention's scores; all but `x` by head, (batch, head, token, ...)."""

    x: Array  # the normalised input, (batch, token, feature)
    query: Array
    key: Array
    shares: Array  # softmax's, of each query for each key
    gradients: Array  # of the shares
    scale: float  # of the scores

    @classmethod
    def of(cls, config: ViTConfig, weights: Weights, taps: Taps, arriving: Taps, layer: int) -> "Backward":
        own = f"encoder/{0 if config.share_layers else layer:02}"
        before, after = f"encoder/{layer - 1:02}" if layer else "embedding", f"encoder/{layer:02}/attention"
        leaves = {name.removeprefix(f"{own}/"): leaf for name, leaf in weights.items()}
        x = layer_norm(taps[before], leaves["norm1/scale"], leaves["norm1/bias"], config.norm_epsilon)
        query, key, value = query_key_value(x, leaves, "attention", config.num_heads)
        scale = 1 / math.sqrt(config.head_dim)
        shares = softmax(query @ key.swapaxes(-1, -2) * scale)
        heads = by_head(arriving[after] @ leaves["attention/projection/kernel"].T, config.num_heads)
        return cls(x, query, key, shares, heads @ value.swapaxes(-1, -2), scale)

    def squares(self) -> Weights:
        """The sum of squares of the terms that each leaf's gradient is made of: one a query and key, one a mean."""
        terms = (self.scale * self.shares * self.gradients) ** 2
        means = (self.scale * self.rough_means()) ** 2
        of_queries = terms @ self.key**2 + means * (self.shares @ self.key) ** 2
        of_keys = terms.swapaxes(-1, -2) @ self.query**2
        shared = means * self.query**2
        inputs = self.shares @ self.x[:, np.newaxis]  # what a query's keys were made of, by its shares
        tokens = "b t i, b h t k -> i h k"
        kernels = {
            "query/kernel": einsum(self.x**2, of_queries, tokens),
            "key/kernel": einsum(self.x**2, of_keys, tokens) + einsum(inputs**2, shared, "b h t i, b h t k -> i h k"),
        }
        biases = {"query/bias": of_queries, "key/bias": of_keys + shared}
        return {name: rearrange(square, "i h k -> i (h k)") for name, square in kernels.items()} | {
            name: rearrange(square.sum(axis=(0, 2)), "h k -> (h k)") for name, square in biases.items()
        }

    def rough_means(self) -> Array:
        """How large the mean over the keys is if its terms do not cancel, for each query.

        Sizes are taken for a sum over the tokens of all images. This one is a sum over features, and of outputs that
        are themselves sums over the tokens of one image: it errs by so much less.
        """
        tokens, features = self.query.shape[-2:]
        fewer = (features + tokens) / (len(self.x) * tokens)
        return np.sqrt(fewer * (self.shares * self.gradients**2).sum(axis=-1, keepdims=True))
