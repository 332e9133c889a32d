"""The Vision Transformer in plain PyTorch, in data order: patches, tokens, encoder, head.

The twin of `vit_flax/model.py`: the same classes, names and taps, to be read beside it. No fused
kernels and no speed tricks. Images come channels last, as on the Flax side; dropout follows
`train()` and `eval()`, as PyTorch users expect.

    B batch   N patches   T tokens = N + 1   E embed_dim   D hidden_dim   H num_heads   K head_dim
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from reference.config import ViTConfig
from reference.fast_norm import FastLayerNorm

Tap = Callable[[str, Tensor], Tensor]

ACTIVATIONS = {
    "gelu": partial(F.gelu, approximate="none"),
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


def untapped(name: str, x: Tensor) -> Tensor:
    """The tap that looks at nothing."""
    return x


def within(scope: str, tap: Tap) -> Tap:
    """The same tap for a part of the model: names get `scope/` in front."""
    return lambda name, x: tap(f"{scope}/{name}", x)


def lecun_normal(weight: Tensor) -> None:
    """Flax's default initialiser: a normal cut at two standard deviations, of variance 1 / fan_in."""
    fan_in = weight[0].numel()
    std = 1 / math.sqrt(fan_in) / 0.87962566103423978  # the standard deviation left after the cut
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def initialise(layer: nn.Linear | nn.Conv2d) -> None:
    lecun_normal(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def dense(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    initialise(layer)
    return layer


def layer_norm(config: ViTConfig) -> nn.LayerNorm:
    kind = FastLayerNorm if config.norm_variance == "fast" else nn.LayerNorm
    return kind(config.hidden_dim, eps=config.norm_epsilon)


class Patches(nn.Module):
    """Cut the image into patches and project each: a convolution whose stride is its kernel (section 3.1)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        c = config
        self.conv = nn.Conv2d(
            in_channels=c.channels,
            out_channels=c.embed_dim or c.hidden_dim,
            kernel_size=c.patch_size,
            stride=c.patch_size,
            padding=0,
        )
        initialise(self.conv)

    def forward(self, images: Float[Tensor, "B height width C"]) -> Float[Tensor, "B N E"]:
        return rearrange(self.conv(rearrange(images, "b h w c -> b c h w")), "b e h w -> b (h w) e")


class PatchEncoder(nn.Module):
    """Tokens from patches: prepend the class token, add the position embedding (eq. 1).

    The article projects once more before that; the paper's convolution has already done it.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        c = config
        num_patches = (c.image_size[0] // c.patch_size) * (c.image_size[1] // c.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.hidden_dim))
        self.position_embedding = nn.Parameter(torch.empty(1, num_patches + 1, c.hidden_dim).normal_(std=0.02))
        self.projection = nn.Identity() if c.embed_dim is None else dense(c.embed_dim, c.hidden_dim)

    def forward(self, patches: Float[Tensor, "B N E"]) -> Float[Tensor, "B T D"]:
        x = self.projection(patches)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        return x + self.position_embedding


class MultiHeadSelfAttention(nn.Module):
    """softmax(q kᵀ / √K) v in H heads side by side, then a projection (appendix A)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        c = config
        self.config = c
        self.query = dense(c.hidden_dim, c.hidden_dim)
        self.key = dense(c.hidden_dim, c.hidden_dim)
        self.value = dense(c.hidden_dim, c.hidden_dim)
        self.projection = dense(c.hidden_dim, c.hidden_dim)
        self.attention_dropout = nn.Dropout(c.attention_dropout)
        self.projection_dropout = nn.Dropout(c.dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        c = self.config
        q, k, v = (
            rearrange(project(x), "b t (h k) -> b h t k", h=c.num_heads)
            for project in (self.query, self.key, self.value)
        )
        weights = torch.softmax(q @ rearrange(k, "b h t k -> b h k t") / math.sqrt(q.shape[-1]), dim=-1)
        if c.attention_dropout_on == "weights":
            weights = self.attention_dropout(weights)
        heads = weights @ v
        if c.attention_dropout_on == "output":
            heads = self.attention_dropout(heads)
        return self.projection_dropout(self.projection(rearrange(heads, "b h t k -> b t (h k)")))


class MLP(nn.Module):
    """Two dense layers with a GELU between them, the same for every token (section 3.1)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.fc1 = dense(config.hidden_dim, config.mlp_dim)
        self.fc2 = dense(config.mlp_dim, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        x = self.dropout(self.activation(self.fc1(x)))
        return self.dropout(self.fc2(x))


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): training drops the whole branch of an image, and scales up what it keeps."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        if self.rate == 0 or not self.training:
            return branch
        keep = 1 - self.rate
        kept = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(keep)  # one draw for all tokens and features
        return branch * kept / keep


class TransformerEncoder(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)) (eq. 2 and 3).

    `drop_path` comes with the call, since layers that share their weights still have rates of their own.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.share_norm = config.share_norm
        self.norm1 = layer_norm(config)
        if not config.share_norm:
            self.norm2 = layer_norm(config)
        self.attention = MultiHeadSelfAttention(config)
        self.mlp = MLP(config)

    def forward(self, x: Float[Tensor, "B T D"], drop_path: DropPath, tap: Tap = untapped) -> Float[Tensor, "B T D"]:
        norm2 = self.norm1 if self.share_norm else self.norm2
        x = tap("middle", x + drop_path(tap("attention", self.attention(self.norm1(x)))))
        x = x + drop_path(tap("mlp", self.mlp(norm2(x))))
        return x


class ViT(nn.Module):
    """Images to logits (eq. 1 to 4), with the taps of the Flax side."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        c = config
        self.config = c
        self.patches = Patches(c)
        self.embedding = PatchEncoder(c)
        self.dropout = nn.Dropout(c.dropout)
        rates = np.linspace(0, c.drop_path, c.num_layers).tolist()
        self.drop_paths = nn.ModuleList(DropPath(rate) for rate in rates)
        self.encoder = nn.ModuleList(TransformerEncoder(c) for _ in range(1 if c.share_layers else c.num_layers))
        if c.final_norm:
            self.norm = layer_norm(c)
        self.head = dense(c.hidden_dim, c.num_classes)

    def forward(self, images: Float[Tensor, "B height width C"], tap: Tap = untapped) -> Float[Tensor, "B classes"]:
        x = tap("patches", self.patches(images))
        x = tap("embedding", self.dropout(self.embedding(x)))
        for i in range(self.config.num_layers):
            layer = self.encoder[i % len(self.encoder)]
            drop_path, inside = self.drop_paths[i], within(f"encoder/{i:02}", tap)
            x = tap(f"encoder/{i:02}", layer(x, drop_path, tap=inside))
        if self.config.final_norm:
            x = tap("norm", self.norm(x))
        return tap("logits", self.head(x[:, 0]))
