"""The Vision Transformer in Flax, in data order: patches, tokens, encoder, head.

The paper is arXiv:2010.11929; the class names are those of the article this project reproduces, whose
quirks are fields of `ViTConfig`. `reference/model.py` is the same model in plain PyTorch: read them side by side.

A model computes in the dtype of its images and parameters: cast both to compute in another precision.
It returns logits. To see inside, pass `tap`: it is called with the name and value of every intermediate
output, in data order, and what it returns is what the model goes on with.

    B batch   N patches   T tokens = N + 1   E embed_dim   D hidden_dim   H num_heads   K head_dim
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float

from vit_flax.config import ViTConfig
from vit_flax.dropout import Dropout

Tap = Callable[[str, jax.Array], jax.Array]

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
}


def untapped(name: str, x: jax.Array) -> jax.Array:
    """The tap that looks at nothing and costs nothing."""
    return x


def within(scope: str, tap: Tap) -> Tap:
    """The same tap for a part of the model: names get `scope/` in front."""
    return lambda name, x: tap(f"{scope}/{name}", x)


def stored(x: jax.Array) -> jax.Array:
    """The same values, computed once."""
    # Left to itself, XLA computes a residual sum, and its gradient, anew for each of its readers, with all the sums
    # that it is made of: training takes half as long again (docs/performance.md).
    return jax.lax.optimization_barrier(x)


def dense(features: int, name: str | None = None) -> nn.Dense:
    kernel_init, bias_init = nn.initializers.lecun_normal(), nn.initializers.zeros
    return nn.Dense(features, kernel_init=kernel_init, bias_init=bias_init, name=name)


def layer_norm(config: ViTConfig) -> nn.LayerNorm:
    # Flax's own default is the fast variance.
    return nn.LayerNorm(epsilon=config.norm_epsilon, use_fast_variance=config.norm_variance == "fast")


class Patches(nn.Module):
    """Cut the image into patches and project each: a convolution whose stride is its kernel (section 3.1)."""

    config: ViTConfig

    @nn.compact
    def __call__(self, images: Float[Array, "B height width C"]) -> Float[Array, "B N E"]:
        c = self.config
        conv = nn.Conv(
            features=c.embed_dim or c.hidden_dim,
            kernel_size=(c.patch_size, c.patch_size),
            strides=(c.patch_size, c.patch_size),
            padding="VALID",
            kernel_init=nn.initializers.lecun_normal(),
            bias_init=nn.initializers.zeros,
            name="conv",
        )
        return rearrange(conv(images), "b h w e -> b (h w) e")


class PatchEncoder(nn.Module):
    """Tokens from patches: prepend the class token, add the position embedding (eq. 1).

    The article projects once more before that; the paper's convolution has already done it.
    """

    config: ViTConfig

    @nn.compact
    def __call__(self, patches: Float[Array, "B N E"]) -> Float[Array, "B T D"]:
        c = self.config
        position_init = nn.initializers.normal(stddev=0.02)
        cls_token = self.param("cls_token", nn.initializers.zeros, (1, 1, c.hidden_dim))
        position_embedding = self.param("position_embedding", position_init, (1, c.num_patches + 1, c.hidden_dim))
        x = patches if c.embed_dim is None else dense(c.hidden_dim, name="projection")(patches)
        x = jnp.concatenate([jnp.tile(cls_token, (x.shape[0], 1, 1)), x], axis=1)
        return x + position_embedding


class MultiHeadSelfAttention(nn.Module):
    """softmax(q kᵀ / √K) v in H heads side by side, then a projection (appendix A)."""

    config: ViTConfig

    def setup(self) -> None:
        c = self.config
        self.query = dense(c.hidden_dim)
        self.key = dense(c.hidden_dim)
        self.value = dense(c.hidden_dim)
        self.projection = dense(c.hidden_dim)
        self.attention_dropout = Dropout(c.attention_dropout)
        self.projection_dropout = Dropout(c.dropout)

    def __call__(self, x: Float[Array, "B T D"], *, train: bool = False) -> Float[Array, "B T D"]:
        c = self.config
        q, k, v = (
            rearrange(project(x), "b t (h k) -> b h t k", h=c.num_heads)
            for project in (self.query, self.key, self.value)
        )
        weights = self.softmax(q @ rearrange(k, "b h t k -> b h k t") / math.sqrt(c.head_dim))
        if c.attention_dropout_on == "weights":
            weights = self.attention_dropout(weights, train=train)
        heads = weights @ v
        if c.attention_dropout_on == "output":
            heads = self.attention_dropout(heads, train=train)
        out = self.projection(rearrange(heads, "b h t k -> b t (h k)"))
        return self.projection_dropout(out, train=train)

    @staticmethod
    def softmax(scores: Float[Array, "B H T T"]) -> Float[Array, "B H T T"]:
        # At least float32 inside: exponentials summed in bfloat16 lose two of its eight bits.
        wide = jnp.promote_types(scores.dtype, jnp.float32)
        return jax.nn.softmax(scores.astype(wide), axis=-1).astype(scores.dtype)


class MLP(nn.Module):
    """Two dense layers with a GELU between them, the same for every token (section 3.1)."""

    config: ViTConfig

    def setup(self) -> None:
        self.fc1 = dense(self.config.mlp_dim)
        self.fc2 = dense(self.config.hidden_dim)
        self.dropout = Dropout(self.config.dropout)

    def __call__(self, x: Float[Array, "B T D"], *, train: bool = False) -> Float[Array, "B T D"]:
        x = ACTIVATIONS[self.config.activation](self.fc1(x))
        x = self.dropout(x, train=train)
        return self.dropout(self.fc2(x), train=train)


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): training drops the whole branch of an image, and scales up what it keeps."""

    rate: float

    def setup(self) -> None:
        self.dropout = Dropout(self.rate, broadcast_dims=(1, 2))  # one draw for all tokens and features

    def __call__(self, branch: Float[Array, "B T D"], *, train: bool = False) -> Float[Array, "B T D"]:
        return self.dropout(branch, train=train)


class TransformerEncoder(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)) (eq. 2 and 3).

    `drop_path` comes with the call, since layers that share their weights still have rates of their own.
    """

    config: ViTConfig

    def setup(self) -> None:
        c = self.config
        self.norm1 = layer_norm(c)
        if not c.share_norm:
            self.norm2 = layer_norm(c)
        self.attention = MultiHeadSelfAttention(c)
        self.mlp = MLP(c)

    def __call__(
        self, x: Float[Array, "B T D"], drop_path: DropPath, *, train: bool = False, tap: Tap = untapped
    ) -> Float[Array, "B T D"]:
        norm2 = self.norm1 if self.config.share_norm else self.norm2
        x = stored(x + drop_path(tap("attention", self.attention(self.norm1(x), train=train)), train=train))
        x = tap("middle", x)
        return stored(x + drop_path(tap("mlp", self.mlp(norm2(x), train=train)), train=train))


class ViT(nn.Module):
    """Images to logits (eq. 1 to 4).

    Taps, in order: `patches`, `embedding`, then per layer `encoder/00/attention`, `encoder/00/middle`,
    `encoder/00/mlp`, `encoder/00`, and last `norm` (where the config has a final norm) and `logits`. The branches,
    `attention` and `mlp`, are seen before stochastic depth drops them; `middle` is the sum between the two.
    """

    config: ViTConfig

    def setup(self) -> None:
        c = self.config
        self.patches = Patches(c)
        self.embedding = PatchEncoder(c)
        self.dropout = Dropout(c.dropout)
        rates = np.linspace(0, c.drop_path, c.num_layers).tolist()
        self.drop_paths = [DropPath(rate) for rate in rates]
        self.encoder = [TransformerEncoder(c) for _ in range(c.num_own_layers)]
        if c.final_norm:
            self.norm = layer_norm(c)
        self.head = dense(c.num_classes)

    def __call__(
        self, images: Float[Array, "B height width C"], *, train: bool = False, tap: Tap = untapped
    ) -> Float[Array, "B classes"]:
        x = tap("patches", self.patches(images))
        x = tap("embedding", self.dropout(self.embedding(x), train=train))
        for i in range(self.config.num_layers):
            layer = self.encoder[i % len(self.encoder)]
            drop_path, inside = self.drop_paths[i], within(f"encoder/{i:02}", tap)
            x = tap(f"encoder/{i:02}", layer(x, drop_path, train=train, tap=inside))
        if self.config.final_norm:
            x = tap("norm", self.norm(x))
        return tap("logits", self.head(x[:, 0]))
