"""Ports that compute another model: patches, tokens, attention, MLP, sums, norms, head."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from conformance.rungs import Target
from reference import model as twin
from reference.model import MLP, PatchEncoder, Patches, Tap, TransformerEncoder
from reference.model import MultiHeadSelfAttention as Attention
from tests.unit.ports.port import forward_of, loaded, parts, written

# Patches and tokens


def without_bias(name: str, kind: type) -> Target:
    """A dense layer or a convolution that adds nothing."""

    def edit(model: nn.Module) -> None:
        for part in parts(model, kind):
            layer = getattr(part, name)
            if isinstance(layer, nn.Conv2d):
                layer.forward = lambda x, own=layer: F.conv2d(x, own.weight, stride=own.stride)
            else:
                layer.forward = lambda x, own=layer: F.linear(x, own.weight)

    return written(edit)


def channels_first(self: Patches, images: Tensor) -> Tensor:
    size = self.conv.kernel_size[0]
    flat = rearrange(images, "b (h p) (w q) c -> b (h w) (c p q)", p=size, q=size)
    return flat @ rearrange(self.conv.weight, "o c p q -> (p q c) o") + self.conv.bias


def turned(self: Patches, images: Tensor) -> Tensor:
    x = F.conv2d(rearrange(images, "b h w c -> b c h w"), self.conv.weight.mT, self.conv.bias, self.conv.stride)
    return rearrange(x, "b e h w -> b (h w) e")


def by_column(self: Patches, images: Tensor) -> Tensor:
    return self.conv(rearrange(images, "b h w c -> b c h w")).transpose(2, 3).flatten(2).transpose(1, 2)


def from_bgr(self: Patches, images: Tensor) -> Tensor:
    return rearrange(self.conv(rearrange(images.flip(-1), "b h w c -> b c h w")), "b e h w -> b (h w) e")


def embedding(tokens: Callable[[PatchEncoder, Tensor, Tensor], Tensor]) -> Target:
    """`tokens(part, class token, projected patches)`."""

    def forward(self: PatchEncoder, patches: Tensor) -> Tensor:
        x = self.projection(patches)
        return tokens(self, self.cls_token.expand(len(x), -1, -1), x)

    return forward_of(PatchEncoder, forward)


def positions_by_column(model: nn.Module) -> None:
    """The model is built with a grid that was counted the other way."""
    height, width = (side // model.config.patch_size for side in model.config.image_size)
    positions = model.embedding.position_embedding
    first, rest = positions[:, :1], rearrange(positions[:, 1:], "b (w h) d -> b (h w) d", h=height, w=width)
    model.embedding.position_embedding = nn.Parameter(torch.cat([first, rest], dim=1))


# Attention


def attention(
    *,
    split: str = "(h k)",
    scale: Callable[[Attention, int], float] = lambda self, head_dim: 1 / math.sqrt(head_dim),
    query_key: Callable[[Tensor], Tensor] = lambda x: x,
    scores: Callable[[Tensor], Tensor] = lambda x: x,
    softmax: Callable[[Tensor], Tensor] = lambda x: x.softmax(dim=-1),
    merge: Callable[[Tensor], Tensor] = lambda x: rearrange(x, "b h t k -> b t (h k)"),
) -> Target:
    def forward(self: Attention, x: Tensor) -> Tensor:
        heads = self.config.num_heads
        q, k, v = (
            rearrange(project(x), f"b t {split} -> b h t k", h=heads) for project in (self.query, self.key, self.value)
        )
        weights = softmax(scores(query_key(q) @ query_key(k).mT * scale(self, q.shape[-1])))
        return self.projection(merge(weights @ v))

    return forward_of(Attention, forward)


def causal(scores: Tensor) -> Tensor:
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(ahead, -torch.inf)


def softmax_one(scores: Tensor) -> Tensor:
    return F.pad(scores, (0, 1)).softmax(dim=-1)[..., :-1]


def of_attention(edit: Callable[[Attention], Any]) -> Target:
    """Weights changed in each attention, once they are loaded."""
    return loaded(lambda model: [edit(part) for part in parts(model, Attention)])


def transpose(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(layer.weight.T.contiguous())


def no_bias(*names: str) -> Callable[[Attention], None]:
    def edit(part: Attention) -> None:
        for name in names:
            nn.init.zeros_(getattr(part, name).bias)

    return edit


def from_other_layer(source: Callable[[int, int], int]) -> Target:
    def edit(model: nn.Module) -> None:
        states = [{name: leaf.clone() for name, leaf in layer.state_dict().items()} for layer in model.encoder]
        for i, layer in enumerate(model.encoder):
            layer.load_state_dict(states[source(i, len(states))], assign=True)

    return loaded(edit)


# Norms


def norm(compute: Callable[[Tensor, float], Tensor]) -> Target:
    """`compute(x, eps)`, then scale and bias."""
    return forward_of(nn.LayerNorm, lambda self, x: compute(x, self.eps) * self.weight + self.bias)


def epsilon(value: float) -> Target:
    def edit(model: nn.Module) -> None:
        for part in parts(model, nn.LayerNorm):
            part.eps = value

    return written(edit)


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def unbiased(x: Tensor, eps: float) -> Tensor:
    return centred(x) / torch.sqrt(x.var(-1, keepdim=True) + eps)


def outside(x: Tensor, eps: float) -> Tensor:
    return centred(x) / (x.std(-1, keepdim=True, correction=0) + eps)


def floor(x: Tensor, eps: float) -> Tensor:
    return centred(x) * x.var(-1, keepdim=True, correction=0).clamp(min=eps).rsqrt()


def annotated(x: Tensor, eps: float) -> Tensor:
    return centred(x) / (x.std(-1, keepdim=True) + eps)


def rms(x: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def fast(x: Tensor, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) * torch.rsqrt((x * x).mean(-1, keepdim=True) - mean * mean + eps)


def narrow_norm(self: nn.LayerNorm, x: Tensor) -> Tensor:
    leaves = self.weight.float(), self.bias.float()
    return F.layer_norm(x.float(), self.normalized_shape, *leaves, self.eps).to(x.dtype)


# MLP and sums


def activation(function: Callable[[Tensor], Tensor]) -> Target:
    def edit(model: nn.Module) -> None:
        for part in parts(model, MLP):
            part.activation = function

    return written(edit)


def polynomial_gelu(x: Tensor) -> Tensor:
    z = x.abs() / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * z)
    a1, a2, a3, a4, a5 = 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429
    erf = torch.sign(x) * (1 - ((((a5 * t + a4) * t + a3) * t + a2) * t + a1) * t * torch.exp(-z * z))
    return 0.5 * x * (1 + erf)


def narrow_root_gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.erf(x * torch.tensor(0.5).sqrt()))


def layer(forward: Callable[[TransformerEncoder, Tensor, Tap], Tensor]) -> Target:
    return forward_of(TransformerEncoder, lambda self, x, drop_path, tap=twin.untapped: forward(self, x, tap))


def no_residuals(self: Any, x: Tensor, tap: Tap) -> Tensor:
    x = tap("middle", tap("attention", self.attention(self.norm1(x))))
    return tap("mlp", self.mlp(self.norm2(x)))


def no_attention_residual(self: Any, x: Tensor, tap: Tap) -> Tensor:
    x = tap("middle", tap("attention", self.attention(self.norm1(x))))
    return x + tap("mlp", self.mlp(self.norm2(x)))


def normed_residuals(self: Any, x: Tensor, tap: Tap) -> Tensor:
    x = self.norm1(x)
    x = tap("middle", x + tap("attention", self.attention(x)))
    x = self.norm2(x)
    return x + tap("mlp", self.mlp(x))


def no_mlp_residual(self: Any, x: Tensor, tap: Tap) -> Tensor:
    x = tap("middle", x + tap("attention", self.attention(self.norm1(x))))
    return tap("mlp", self.mlp(self.norm2(x)))


def old_residual(self: Any, x: Tensor, tap: Tap) -> Tensor:
    middle = tap("middle", x + tap("attention", self.attention(self.norm1(x))))
    return x + tap("mlp", self.mlp(self.norm2(middle)))


def side_by_side(self: Any, x: Tensor, tap: Tap) -> Tensor:
    middle = tap("middle", x + tap("attention", self.attention(self.norm1(x))))
    return middle + tap("mlp", self.mlp(self.norm2(x)))


def norm_after(self: Any, x: Tensor, tap: Tap) -> Tensor:
    x = tap("middle", self.norm1(x + tap("attention", self.attention(x))))
    return self.norm2(x + tap("mlp", self.mlp(x)))


def one_norm(model: nn.Module) -> None:
    for part in parts(model, TransformerEncoder):
        part.share_norm = True


# Head


def head(change: Callable[[Tensor], Tensor]) -> Target:
    """Something done to the logits."""

    def edit(model: nn.Module) -> None:
        model.head.forward = lambda x, own=model.head: change(F.linear(x, own.weight, own.bias))

    return written(edit)


def last_norm_without_bias(model: nn.Module) -> None:
    model.norm.forward = lambda x, own=model.norm: F.layer_norm(x, own.normalized_shape, own.weight, eps=own.eps)


def head_without_bias(model: nn.Module) -> None:
    model.head.forward = lambda x, own=model.head: F.linear(x, own.weight)


def last_block_skipped(model: nn.Module) -> None:
    model.config = dataclasses.replace(model.config, num_layers=model.config.num_layers - 1)
