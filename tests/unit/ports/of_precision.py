"""For each known fault of precision and of gradients, a port that has it in its code."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from conformance.precision import from_torch, to_torch
from conformance.rungs import Target
from conformance.sides import Gradients
from reference import model as twin
from reference.model import MultiHeadSelfAttention as Attention
from tests.unit.ports.blocks import embedding
from tests.unit.ports.port import Port, course, forward_of, loaded, parts, written

Round = Callable[[Tensor], Tensor]


def through(dtype: torch.dtype) -> Round:
    """Straight through backwards."""
    return lambda x: x + (x.detach().to(dtype).to(x.dtype) - x.detach())


def tf32(x: Tensor) -> Tensor:
    """10 bits behind the point, rounded to the nearest."""
    bits = x.detach().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def products(dtype: torch.dtype, narrow: Round) -> Target:
    """Both factors of every product are rounded, in one precision."""

    def rounded(x: Tensor) -> Tensor:
        return narrow(x) if x.dtype == dtype else x

    def attend(self: Attention, x: Tensor) -> Tensor:
        q, k, v = (
            rounded(rearrange(project(x), "b t (h k) -> b h t k", h=self.config.num_heads))
            for project in (self.query, self.key, self.value)
        )
        weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
        return self.projection(rearrange(rounded(weights) @ v, "b h t k -> b t (h k)"))

    def edit(model: nn.Module) -> None:
        for part in parts(model, nn.Linear):
            part.forward = lambda x, own=part: F.linear(rounded(x), rounded(own.weight), own.bias)
        conv = model.patches.conv
        conv.forward = lambda x: F.conv2d(rounded(x), rounded(conv.weight), conv.bias, conv.stride)
        for part in parts(model, Attention):
            part.forward = functools.partial(attend, part)

    return written(edit)


def blocks_kept_in(dtype: torch.dtype, narrow: torch.dtype) -> Target:
    """What goes from block to block is rounded, and what is seen of it."""

    def forward(self: Any, images: Tensor, tap: twin.Tap = twin.untapped) -> Tensor:
        def kept(name: str, x: Tensor) -> Tensor:
            return tap(name, x.to(narrow).to(x.dtype) if x.dtype == dtype else x)

        return twin.ViT.forward(self, images, kept)

    return forward_of(twin.ViT, forward)


class Stop(torch.autograd.Function):
    """jax.lax.stop_gradient, whose gradient is zero where PyTorch's detach has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.zeros_like(grad)


def frozen_convolution(self: twin.Patches, images: Tensor) -> Tensor:
    x = rearrange(images, "b h w c -> b c h w")
    return rearrange(F.conv2d(x, self.conv.weight.detach(), self.conv.bias, self.conv.stride), "b e h w -> b (h w) e")


def hooked(find: Callable[[nn.Module], list[Tensor]], change: Callable[[Tensor], Tensor]) -> Target:
    def edit(model: nn.Module) -> None:
        for leaf in find(model):
            leaf.register_hook(change)

    return loaded(edit)


def sent_in(dtype: torch.dtype, narrow: torch.dtype) -> Target:
    class Reducing(Port):
        def gradients(self, *arguments: Any, **named: Any) -> Gradients:
            found = super().gradients(*arguments, **named)
            tensors = {name: to_torch(g, "cpu") for name, g in found.parameters.items()}
            sent = {name: g.to(narrow).to(g.dtype) if g.dtype == dtype else g for name, g in tensors.items()}
            return found._replace(parameters={name: from_torch(g) for name, g in sent.items()})

    return Reducing


PRECISION: dict[str, Target] = {
    "float32 products in TF32": products(torch.float32, tf32),
    "float32 products in bfloat16": products(torch.float32, through(torch.bfloat16)),
    "float32 blocks kept in bfloat16": blocks_kept_in(torch.float32, torch.bfloat16),
    "bfloat16 products in 4 bits": products(torch.bfloat16, through(torch.float8_e4m3fn)),
    "bfloat16 blocks kept in 4 bits": blocks_kept_in(torch.bfloat16, torch.float8_e4m3fn),
    "float16 products in bfloat16": products(torch.float16, through(torch.bfloat16)),
    "float16 blocks kept in bfloat16": blocks_kept_in(torch.float16, torch.bfloat16),
    "positions frozen": embedding(lambda self, cls, x: torch.cat([cls, x], dim=1) + self.position_embedding.detach()),
    "class token frozen": embedding(lambda self, cls, x: torch.cat([cls.detach(), x], dim=1) + self.position_embedding),
    "patch projection frozen": forward_of(twin.Patches, frozen_convolution),
    "head gradient of the wrong sign": hooked(lambda model: [model.head.weight], torch.neg),
    "norm gradient halved": hooked(lambda model: [part.weight for part in parts(model, nn.LayerNorm)], lambda g: g / 2),
    "gradient stopped at the embedding": course(embedded=Stop.apply),
    "float32 gradients in bfloat16": sent_in(torch.float32, torch.bfloat16),
    "bfloat16 gradients in 3 bits": sent_in(torch.bfloat16, torch.float8_e5m2),
}
