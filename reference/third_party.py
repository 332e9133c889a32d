"""ViTs that nobody here wrote, called like the twin: `model(images, tap=...)`, images channels last.

Their own code runs untouched. Taps are hooks, put on for one call and taken off after it; a hook hands the tap what
a module puts out, or takes in, as (batch, tokens, width) and gives the model back what the tap returns.
"""

from collections.abc import Callable
from typing import Any

import timm
import torchvision
from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from reference.model import Tap, untapped

Read = Callable[[Any], Tensor]
Write = Callable[[Tensor, Any], Any]  # (what the tap returned, the module's own output) -> what the model goes on with


class Point:
    """Where a tap sits in a foreign model: the module, and how its output is read and replaced."""

    def __init__(self, module: nn.Module, read: Read = lambda out: out, write: Write = lambda x, out: x) -> None:
        self.module, self.read, self.write = module, read, write

    def attach(self, name: str, tap: Tap) -> RemovableHandle:
        return self.module.register_forward_hook(lambda module, inputs, out: self.write(tap(name, self.read(out)), out))


class InputPoint:
    """Where a tap sees what goes into a module, and its caller goes on with it too: a residual sum at its norm.

    The sum has no module of its own. The tap's value is copied into the tensor itself, so that the caller, who adds
    the next branch to that same tensor, also goes on with it; gradients follow the copy.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def attach(self, name: str, tap: Tap) -> RemovableHandle:
        def before(module: nn.Module, inputs: tuple[Tensor]) -> None:
            inputs[0].copy_(tap(name, inputs[0].clone()))

        return self.module.register_forward_pre_hook(before)


Points = dict[str, Point | InputPoint]


class Hooked(nn.Module):
    """A foreign model with the twin's calling convention and tap names."""

    def __init__(self, model: nn.Module, points: Points) -> None:
        super().__init__()
        self.model = model
        self.points = points

    def forward(self, images: Tensor, tap: Tap = untapped) -> Tensor:
        points = {} if tap is untapped else self.points
        handles = [point.attach(name, tap) for name, point in points.items()]
        try:
            return self.model(rearrange(images, "b h w c -> b c h w"))
        finally:
            for handle in handles:
                handle.remove()


def timm_vit(architecture: str, **options: Any) -> Hooked:
    """timm's plain `VisionTransformer`, freshly initialised. `options` go to `timm.create_model`."""
    model: Any = timm.create_model(architecture, pretrained=False, **options)
    points: Points = {"patches": Point(model.patch_embed), "embedding": Point(model.norm_pre)}
    for i, block in enumerate(model.blocks):
        points[f"encoder/{i:02}/attention"] = Point(block.attn)
        points[f"encoder/{i:02}/middle"] = InputPoint(block.norm2)
        points[f"encoder/{i:02}/mlp"] = Point(block.mlp)
        points[f"encoder/{i:02}"] = Point(block)
    points |= {"norm": Point(model.norm), "logits": Point(model.head)}
    return Hooked(model, points)


def torchvision_vit(architecture: str, **options: Any) -> Hooked:
    """torchvision's `VisionTransformer`, freshly initialised. `options` replace its own sizes."""
    defaults = {"vit_b_16": (16, 12, 12, 768, 3072), "vit_b_32": (32, 12, 12, 768, 3072)}[architecture]
    sizes = dict(zip(("patch_size", "num_layers", "num_heads", "hidden_dim", "mlp_dim"), defaults, strict=True))
    model: Any = torchvision.models.VisionTransformer(**{"image_size": 224} | sizes | options)
    grid = model.image_size // model.patch_size
    points: Points = {
        "patches": Point(
            model.conv_proj,
            read=lambda out: rearrange(out, "b d h w -> b (h w) d"),
            write=lambda x, out: rearrange(x, "b (h w) d -> b d h w", h=grid),
        ),
        "embedding": Point(model.encoder.dropout),
    }
    for i, block in enumerate(model.encoder.layers):
        points[f"encoder/{i:02}/attention"] = Point(
            block.self_attention, read=lambda out: out[0], write=lambda x, out: (x, *out[1:])
        )
        points[f"encoder/{i:02}/middle"] = InputPoint(block.ln_2)
        points[f"encoder/{i:02}/mlp"] = Point(block.mlp)
        points[f"encoder/{i:02}"] = Point(block)
    points |= {"norm": Point(model.encoder.ln), "logits": Point(model.heads)}
    return Hooked(model, points)
