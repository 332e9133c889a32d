"""Models that round worse in ways no catalogue has, written as people write them: in the model's own code.

Each is the twin with a part of it replaced. In float64 all are the twin.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from conformance.torch_side import Twin
from vit_flax.config import ViTConfig

Change = Callable[[nn.Module], None]


def coded(change: Change) -> Callable[[ViTConfig], Twin]:
    """A target: the twin after that change of its model."""

    def build(config: ViTConfig) -> Twin:
        side = Twin(config, "cpu")
        change(side.model)
        return side

    return build


def to_bits(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Rounded to so many significant bits, where x is in float32."""
    if x.dtype != torch.float32:
        return x
    mantissa, exponent = torch.frexp(x.detach())
    return x + (torch.ldexp(torch.round(mantissa * 2**bits) / 2**bits, exponent) - x).detach()


def narrow(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Through another dtype and back, where x is in float32."""
    return x.to(dtype).to(x.dtype) if x.dtype == torch.float32 else x


def one_block_in_ten_bits(model: nn.Module) -> None:
    """The products of the second block."""
    for module in model.encoder[1].modules():
        if isinstance(module, nn.Linear):
            replace_linear(module, lambda x, w, b: F.linear(to_bits(x, 10), to_bits(w, 10), b))


def replace_linear(module: nn.Linear, product: Callable[..., torch.Tensor]) -> None:
    module.forward = lambda x: product(x, module.weight, module.bias)


def replace_softmax(model: nn.Module, softmax: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Attention as in the twin, with another softmax."""
    for layer in model.encoder:
        attention = layer.attention

        def forward(x: torch.Tensor, attention: nn.Module = attention) -> torch.Tensor:
            heads = attention.config.num_heads
            q, k, v = (
                project(x).unflatten(-1, (heads, -1)).transpose(1, 2)
                for project in (attention.query, attention.key, attention.value)
            )
            weights = softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]))
            return attention.projection((weights @ v).transpose(1, 2).flatten(-2))

        attention.forward = forward


class BackwardInBfloat16(torch.autograd.Function):
    """A softmax whose gradient is formed in bfloat16."""

    @staticmethod
    def forward(ctx, scores):
        weights = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx, upstream):
        (weights,) = ctx.saved_tensors
        w, g = narrow(weights, torch.bfloat16), narrow(upstream, torch.bfloat16)
        return narrow(w * (g - narrow((w * g).sum(-1, keepdim=True), torch.bfloat16)), torch.bfloat16)


class SummedInBfloat16(torch.autograd.Function):
    """A linear layer whose parameters' gradients are summed over the images in bfloat16."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, upstream):
        x, weight = ctx.saved_tensors
        rows = x.flatten(1, -2) if x.ndim > 2 else x[:, None]
        ups = upstream.flatten(1, -2) if upstream.ndim > 2 else upstream[:, None]
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
        for image, up in zip(rows, ups, strict=True):
            d_weight = narrow(d_weight + up.T @ image, torch.bfloat16)
            d_bias = narrow(d_bias + up.sum(0), torch.bfloat16)
        return upstream @ weight, d_weight, d_bias


def gradients_summed_in_bfloat16(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            replace_linear(module, SummedInBfloat16.apply)


def fast_softmax(scores: torch.Tensor) -> torch.Tensor:
    """Exponentials by a short polynomial in the fraction of the power of two (Schraudolph's idea)."""
    if scores.dtype != torch.float32:
        return torch.softmax(scores, dim=-1)
    power = (scores - scores.amax(-1, keepdim=True)) / math.log(2)
    whole = power.floor()
    part = power - whole
    exponential = torch.exp2(whole) * (1 + part * (0.6951786 + part * (0.2276 + part * 0.0779)))
    return exponential / exponential.sum(-1, keepdim=True)


def softmax_in(dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda scores: narrow(torch.softmax(narrow(scores, dtype), dim=-1), dtype)


def norms_in_bfloat16(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            plain = module.forward
            module.forward = lambda x, plain=plain: narrow(plain(narrow(x, torch.bfloat16)), torch.bfloat16)


def gelu_in_float16(model: nn.Module) -> None:
    for layer in model.encoder:
        plain = layer.mlp.activation
        layer.mlp.activation = lambda x, plain=plain: narrow(plain(narrow(x, torch.float16)), torch.float16)


def hidden_units_in_bfloat16(model: nn.Module) -> None:
    for layer in model.encoder:
        layer.mlp.fc1.register_forward_hook(lambda module, _, x: narrow(x, torch.bfloat16))


def first_kernel_in_bfloat16(model: nn.Module) -> None:
    """One kernel of the first block kept in bfloat16."""
    fc1 = model.encoder[0].mlp.fc1
    replace_linear(fc1, lambda x, w, b: F.linear(x, narrow(w, torch.bfloat16), b))


ROUND_FORWARD = {
    "one block's products in 10 bits": one_block_in_ten_bits,
    "a fast softmax": lambda model: replace_softmax(model, fast_softmax),
    "softmax in float16": lambda model: replace_softmax(model, softmax_in(torch.float16)),
    "softmax in bfloat16": lambda model: replace_softmax(model, softmax_in(torch.bfloat16)),
    "norms in bfloat16": norms_in_bfloat16,
    "GELU in float16": gelu_in_float16,
    "hidden units in bfloat16": hidden_units_in_bfloat16,
    "one kernel in bfloat16": first_kernel_in_bfloat16,
}
ROUND_BACKWARD = {
    "softmax's backward pass in bfloat16": lambda model: replace_softmax(model, BackwardInBfloat16.apply),
    "gradients summed in bfloat16": gradients_summed_in_bfloat16,
}
ROUND_TRAINING = {"gradients summed in bfloat16": gradients_summed_in_bfloat16}
