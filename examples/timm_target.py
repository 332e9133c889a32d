"""timm's `VisionTransformer` as a target: PyTorch against PyTorch.

    pytest conformance --target examples.timm_target:build --reference twin:vit_ti16

What a config says and timm takes as an argument is passed on. One thing is not an argument: timm computes stochastic
depth's rates with `torch.linspace` in PyTorch's default dtype, and float32 rounds them. The randomness rung sees it
(a rate of 0.1 is off by 1.7e-09), so the model is built with float64 as the default.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from conformance.precision import torch_device
from examples.torch_model import TorchModel
from reference.third_party import timm_vit
from vit_flax.config import ViTConfig
from vit_flax.layouts import TIMM


def build(config: ViTConfig, **changes: Any) -> TorchModel:
    """timm's ViT of that config; `changes` replace what timm is called with."""
    c = config
    options: dict[str, Any] = dict(
        img_size=c.image_size,
        patch_size=c.patch_size,
        in_chans=c.channels,
        num_classes=c.num_classes,
        embed_dim=c.hidden_dim,
        depth=c.num_layers,
        num_heads=c.num_heads,
        mlp_ratio=c.mlp_dim / c.hidden_dim,
        act_layer=partial(nn.GELU, approximate={"gelu": "none", "gelu_tanh": "tanh"}[c.activation]),
        norm_layer=partial(nn.LayerNorm, eps=c.norm_epsilon),
        pos_drop_rate=c.dropout,
        proj_drop_rate=c.dropout,
        attn_drop_rate=c.attention_dropout,
        drop_path_rate=c.drop_path,
    )
    with float64_by_default():
        hooked = timm_vit("vit_base_patch16_224", **options | changes)  # any plain ViT: every size is given
    return TorchModel(hooked, hooked.model, TIMM, config, torch_device())


@contextlib.contextmanager
def float64_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
