"""The variance that Flax forms by default, and that PyTorch has no layer for."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FastLayerNorm(nn.LayerNorm):
    """LayerNorm with the variance as E[x²] - E[x]²."""

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        mean = x.mean(dim=-1, keepdim=True)
        variance = ((x * x).mean(dim=-1, keepdim=True) - mean * mean).clamp(min=0)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias
