"""What the PyTorch twin is made of: the fields of `vit_flax.config.ViTConfig`, written out again.

The twins share no code, so that a slip in one is not a slip in both. A test compares the fields.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    image_size: tuple[int, int]  # height, width
    channels: int
    patch_size: int
    embed_dim: int | None  # None: the patch convolution projects straight to hidden_dim
    hidden_dim: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    num_classes: int
    share_layers: bool
    share_norm: bool
    final_norm: bool
    norm_epsilon: float
    norm_variance: Literal["two_pass", "fast"]
    activation: Literal["gelu", "gelu_tanh"]
    dropout: float
    attention_dropout: float
    attention_dropout_on: Literal["weights", "output"]
    drop_path: float  # the last layer's; 0 at the first


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What both sides' training reads: these fields of `vit_flax.recipe.Recipe`."""

    epochs: int
    batch_size: int
    optimizer: Literal["adam", "adamw", "sgd"]
    momentum: float  # SGD's, and Adam's beta1
    beta2: float
    epsilon: float
    learning_rate: float
    schedule: Literal["constant", "cosine"]
    warmup_epochs: float
    weight_decay: float
    clip_norm: float | None
    label_smoothing: float
    ema_decay: float | None
    means: tuple[float, ...]
    stds: tuple[float, ...]
    flip: bool
    crop_scale: tuple[float, float]
    crop_ratio: tuple[float, float]
    trivial_augment: bool
    erasing: float
    mixup: float
    cutmix: float
