"""How a Vision Transformer is trained: one frozen `Recipe`, and the named recipes with their sources.

Every choice on which published recipes differ is a field without a default, so a recipe says all of it.
"""

import dataclasses
import math
from typing import Any, Literal

from vit_flax.config import ViTConfig, one_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train, as plain data.

    Raises `ValueError` for a value that cannot work, naming the field and the number.
    """

    epochs: int
    batch_size: int
    optimizer: Literal["adam", "adamw", "sgd"]  # arXiv:1412.6980; arXiv:1711.05101; momentum without dampening
    momentum: float  # SGD's, and Adam's beta1
    beta2: float  # Adam's
    epsilon: float  # Adam's, added to the root
    learning_rate: float  # the highest
    schedule: Literal["constant", "cosine"]  # cosine: down to zero after the last step
    warmup_epochs: float  # linear, from zero; rounded to whole steps, halves to even
    weight_decay: float  # AdamW's, decoupled, of kernels only
    clip_norm: float | None  # of the whole gradient; None: not clipped
    label_smoothing: float
    ema_decay: float | None  # of a running average of the parameters, which is then what is evaluated; None: none
    means: tuple[float, ...]  # per channel, of pixels in [0, 1]
    stds: tuple[float, ...]
    flip: bool  # left to right, half of the time
    crop_scale: tuple[float, float]  # area of a random crop, as a share of the image's
    crop_ratio: tuple[float, float]  # width over height of a random crop
    trivial_augment: bool  # one random operation of random strength an image (TrivialAugment, arXiv:2103.10158)
    erasing: float  # probability that a rectangle is replaced by noise (random erasing, arXiv:1708.04896)
    mixup: float  # alpha of mixup (arXiv:1710.09412); 0: none
    cutmix: float  # alpha of CutMix (arXiv:1905.04899); 0: none; with both, each batch draws one of the two
    dropout: float | None  # the model's dropout rates, where not None
    drop_path: float  # stochastic depth (arXiv:1603.09382): the last layer's rate, rising linearly from 0 at the first
    compute_dtype: Literal["float32", "bfloat16", "float64"]  # of activations, gradients; parameters keep theirs

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 1")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}, but must be positive and finite")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, but must be in [0, {self.epochs}), the epochs")
        for name in ("weight_decay", "mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be finite and not negative")
        for name in ("label_smoothing", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be in [0, 1]")
        for name in ("momentum", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be in [0, 1)")
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon is {self.epsilon}, but must be positive and finite")
        if self.weight_decay and self.optimizer != "adamw":
            raise ValueError(f"weight_decay is {self.weight_decay}, but only adamw has it, not {self.optimizer}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}, but must be in [0, 1)")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm is {self.clip_norm}, but must be positive")
        for name in ("means", "stds", "crop_scale", "crop_ratio"):
            if not isinstance(getattr(self, name), tuple):
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be a tuple")
        if len(self.means) != len(self.stds) or not all(std > 0 for std in self.stds):
            raise ValueError(f"means {self.means} and stds {self.stds} must have one entry a channel, stds above 0")
        for name, top in (("crop_scale", 1.0), ("crop_ratio", math.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= top:
                raise ValueError(f"{name} is ({low}, {high}), but must rise within (0, {top:g}]")
        one_of("schedule", self.schedule, ("constant", "cosine"))
        one_of("optimizer", self.optimizer, ("adam", "adamw", "sgd"))
        one_of("compute_dtype", self.compute_dtype, ("float32", "bfloat16", "float64"))

    def replace(self, **changes: Any) -> "Recipe":
        """The same recipe with some fields changed; a wrong field name or value is an error."""
        return dataclasses.replace(self, **changes)

    def steps_per_epoch(self, images: int) -> int:
        """Complete batches in so many images. Raises `ValueError` if there is none."""
        if images < self.batch_size:
            raise ValueError(f"{images} training images are not enough for a batch of {self.batch_size}")
        return images // self.batch_size

    def regularised(self, config: ViTConfig) -> ViTConfig:
        """The model as this recipe trains it: with its rates of dropout and stochastic depth."""
        if self.dropout is None:
            return config.replace(drop_path=self.drop_path)
        return config.replace(drop_path=self.drop_path, dropout=self.dropout, attention_dropout=self.dropout)


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises `ValueError`, listing the near names, if there is none."""
    one_of("recipe", name, RECIPES)
    return RECIPES[name]


# The article "Implementing ViT in JAX/Flax" (satojkovic, 2023); batch size and crop from its author's notebook
# (github.com/satojkovic/vit-jax-flax), means and stds those of CIFAR-10's training images.
_ARTICLE: dict[str, Any] = dict(
    epochs=100,
    batch_size=128,
    optimizer="adam",
    momentum=0.9,
    beta2=0.999,
    epsilon=1e-8,
    learning_rate=3e-4,
    schedule="constant",
    warmup_epochs=0.0,
    weight_decay=0.0,
    clip_norm=None,
    label_smoothing=0.0,
    ema_decay=None,
    means=(0.49139968, 0.48215841, 0.44653091),
    stds=(0.24703223, 0.24348513, 0.26158784),
    flip=True,
    crop_scale=(0.8, 1.0),
    crop_ratio=(0.9, 1.1),
    trivial_augment=False,
    erasing=0.0,
    mixup=0.0,
    cutmix=0.0,
    dropout=None,
    drop_path=0.0,
    compute_dtype="float32",
)

# What small ViTs are trained with when accuracy counts: DeiT's ingredients (arXiv:2012.12877) in the sizes that
# "Vision Transformer for Small-Size Datasets" (arXiv:2112.13492) gives for CIFAR-10; TrivialAugment for AutoAugment.
_MODERN: dict[str, Any] = _ARTICLE | dict(
    epochs=300,
    optimizer="adamw",
    learning_rate=1e-3,
    schedule="cosine",
    warmup_epochs=10.0,
    weight_decay=0.05,
    clip_norm=1.0,
    label_smoothing=0.1,
    ema_decay=0.9998,
    trivial_augment=True,
    erasing=0.25,
    mixup=1.0,
    cutmix=1.0,
    dropout=0.0,
    drop_path=0.1,
    compute_dtype="bfloat16",
)

# The article's augmentation, for scikit-learn's digits: they have no mirror images, and so few of them are learnt by
# heart unless weight decay and label smoothing are in the way.
_DIGITS: dict[str, Any] = _ARTICLE | dict(
    epochs=60,
    batch_size=64,
    optimizer="adamw",
    learning_rate=2e-3,
    schedule="cosine",
    warmup_epochs=2.0,
    weight_decay=0.1,
    label_smoothing=0.1,
    means=(0.3057,),
    stds=(0.3761,),
    flip=False,
)

RECIPES: dict[str, Recipe] = {
    "article": Recipe(**_ARTICLE),
    "modern": Recipe(**_MODERN),
    "digits": Recipe(**_DIGITS),
}
