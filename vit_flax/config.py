"""What a Vision Transformer is made of: one frozen `ViTConfig`, and the named presets with their sources.

Every choice on which published ViTs differ is a field without a default, so a preset says all of it.
"""

import dataclasses
import difflib
import math
from collections.abc import Collection
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """One Vision Transformer, as plain data.

    Raises `ValueError` for sizes that cannot work together, naming the numbers that clash.
    """

    image_size: tuple[int, int]  # height, width in pixels
    channels: int
    patch_size: int  # side of a square patch in pixels
    embed_dim: int | None  # width of the patch convolution when a second projection follows it; None: no second one
    hidden_dim: int  # width of a token inside the encoder
    num_layers: int
    num_heads: int
    mlp_dim: int
    num_classes: int
    share_layers: bool  # True: every layer is the same one, with the same weights
    share_norm: bool  # True: one LayerNorm serves both sub-layers of a block
    final_norm: bool  # a LayerNorm after the last layer
    norm_epsilon: float
    norm_variance: Literal["two_pass", "fast"]  # fast: E[x²] - E[x]², which cancels where the mean is large
    activation: Literal["gelu", "gelu_tanh"]  # exact (erf), or its tanh approximation
    dropout: float  # after the embedding, the attention projection and both MLP layers
    attention_dropout: float
    attention_dropout_on: Literal["weights", "output"]  # softmax weights, or the heads' output before projection
    drop_path: float  # of the last layer's branches, per image; rising linearly from 0 at the first (arXiv:1603.09382)

    def __post_init__(self) -> None:
        self._check_sizes()
        for side, pixels in zip(("height", "width"), self.image_size, strict=True):
            if pixels % self.patch_size:
                raise ValueError(f"image {side} {pixels} is not a multiple of patch_size {self.patch_size}")
        if self.hidden_dim % self.num_heads:
            raise ValueError(f"hidden_dim {self.hidden_dim} is not divisible by num_heads {self.num_heads}")
        if not 0 < self.norm_epsilon < math.inf:
            raise ValueError(f"norm_epsilon is {self.norm_epsilon}, but must be positive and finite")
        for name in ("dropout", "attention_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be in [0, 1)")
        one_of("norm_variance", self.norm_variance, ("two_pass", "fast"))
        one_of("activation", self.activation, ("gelu", "gelu_tanh"))
        one_of("attention_dropout_on", self.attention_dropout_on, ("weights", "output"))

    def _check_sizes(self) -> None:
        if not isinstance(self.image_size, tuple) or len(self.image_size) != 2:
            raise ValueError(f"image_size is {self.image_size!r}, but must be a tuple (height, width)")
        sizes = ("channels", "patch_size", "hidden_dim", "num_layers", "num_heads", "mlp_dim", "num_classes")
        named = {name: getattr(self, name) for name in sizes}
        named |= dict(zip(("image height", "image width"), self.image_size, strict=True))
        named |= {} if self.embed_dim is None else {"embed_dim": self.embed_dim}
        for name, value in named.items():
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 1")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across the image."""
        height, width = self.image_size
        return height // self.patch_size, width // self.patch_size

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def head_dim(self) -> int:
        return self.hidden_dim // self.num_heads

    @property
    def num_own_layers(self) -> int:
        """Layers that have weights of their own: 1 when all layers share them."""
        return 1 if self.share_layers else self.num_layers

    def replace(self, **changes: Any) -> "ViTConfig":
        """The same ViT with some fields changed; a wrong field name or value is an error."""
        return dataclasses.replace(self, **changes)


def preset(name: str) -> ViTConfig:
    """The preset of that name. Raises `ValueError`, listing the near names, if there is none."""
    one_of("preset", name, PRESETS)
    return PRESETS[name]


def one_of(what: str, value: str, allowed: Collection[str]) -> None:
    """Raise `ValueError`, listing the near names, unless the value is allowed."""
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(allowed)}"
        raise ValueError(f"unknown {what} {value!r}: {hint}")


# The article "Implementing ViT in JAX/Flax" (satojkovic, 2023), with six choices that the paper makes otherwise. Its
# norms have Flax's default, the fast variance, which is the same but for rounding; ours does not lose digits.
_ARTICLE: dict[str, Any] = dict(
    image_size=(32, 32),
    channels=3,
    patch_size=16,
    embed_dim=192,
    hidden_dim=192,
    num_layers=12,
    num_heads=3,
    mlp_dim=768,
    num_classes=10,
    share_layers=True,
    share_norm=True,
    final_norm=False,
    norm_epsilon=1e-6,
    norm_variance="two_pass",
    activation="gelu_tanh",
    dropout=0.1,
    attention_dropout=0.1,
    attention_dropout_on="output",
    drop_path=0.0,
)

# "An Image is Worth 16x16 Words" (arXiv:2010.11929), with the choices of timm's and torchvision's VisionTransformer.
_PAPER: dict[str, Any] = dict(
    image_size=(224, 224),
    channels=3,
    patch_size=16,
    embed_dim=None,
    num_layers=12,
    num_classes=1000,
    share_layers=False,
    share_norm=False,
    final_norm=True,
    norm_epsilon=1e-6,
    norm_variance="two_pass",
    activation="gelu",
    dropout=0.0,
    attention_dropout=0.0,
    attention_dropout_on="weights",
    drop_path=0.0,
)

_TINY = dict(hidden_dim=192, num_heads=3, mlp_dim=768)  # DeiT, arXiv:2012.12877, table 1
_SMALL = dict(hidden_dim=384, num_heads=6, mlp_dim=1536)  # DeiT, arXiv:2012.12877, table 1
_BASE = dict(hidden_dim=768, num_heads=12, mlp_dim=3072)  # arXiv:2010.11929, table 1
_LARGE = dict(hidden_dim=1024, num_heads=16, mlp_dim=4096, num_layers=24)  # arXiv:2010.11929, table 1
_HUGE = dict(hidden_dim=1280, num_heads=16, mlp_dim=5120, num_layers=32)  # arXiv:2010.11929, table 1

# For scikit-learn's digits: the paper's choices, sized to train in a minute on two CPU cores.
_DIGITS: dict[str, Any] = _PAPER | dict(
    image_size=(8, 8),
    channels=1,
    patch_size=4,
    hidden_dim=64,
    num_layers=4,
    num_heads=4,
    mlp_dim=128,
    num_classes=10,
)

PRESETS: dict[str, ViTConfig] = {
    "article": ViTConfig(**_ARTICLE),  # the article as printed
    # As printed but for one change: 65 tokens an image instead of 5. (The author's notebook of 2023-01-09 narrows
    # embed_dim to 64 as well, which makes 474,698 parameters.)
    "article-p4": ViTConfig(**_ARTICLE | dict(patch_size=4)),
    # The author's notebook (github.com/satojkovic/vit-jax-flax) as of 2024-01-15: narrow patches, layers of their own.
    "article-p4-untied": ViTConfig(**_ARTICLE | dict(patch_size=4, embed_dim=64, share_layers=False)),
    "vit_ti16": ViTConfig(**_PAPER | _TINY),
    "vit_s16": ViTConfig(**_PAPER | _SMALL),
    "vit_b16": ViTConfig(**_PAPER | _BASE),
    "vit_b32": ViTConfig(**_PAPER | _BASE | dict(patch_size=32)),
    "vit_l16": ViTConfig(**_PAPER | _LARGE),
    "vit_h14": ViTConfig(**_PAPER | _HUGE | dict(patch_size=14)),
    "digits": ViTConfig(**_DIGITS),
}
