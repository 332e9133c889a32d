"""A Vision Transformer in Flax that proves itself against PyTorch, rung by rung."""

from vit_flax.config import PRESETS as PRESETS
from vit_flax.config import ViTConfig as ViTConfig
from vit_flax.config import preset as preset
from vit_flax.model import ViT as ViT
