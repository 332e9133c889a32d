"""A Vision Transformer in Flax that proves itself against PyTorch, rung by rung."""

from typing import TYPE_CHECKING, Any

from vit_flax.config import PRESETS as PRESETS
from vit_flax.config import ViTConfig as ViTConfig
from vit_flax.config import preset as preset

if TYPE_CHECKING:
    from vit_flax.model import ViT as ViT


def __getattr__(name: str) -> Any:
    # The model imports JAX, which takes a second: not before it is asked for.
    if name == "ViT":
        from vit_flax.model import ViT

        return ViT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
