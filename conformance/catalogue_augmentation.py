"""Faults of what a training step is shown: around `augment(images, labels, seed, step, recipe)`."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torchvision import transforms

from conformance.faults import Around, Fault, recipe_changed
from conformance.torch_side import seeded
from vit_flax.recipe import Recipe

Inputs = tuple[np.ndarray, np.ndarray]


def augmented(change: Callable[[Around, np.ndarray, np.ndarray, int, int, Recipe], Inputs]) -> dict[str, Around]:
    return {"augment": lambda method, config, *arguments: change(method, *arguments)}


def flipped_by(drawn: Callable[[np.random.Generator, int], np.ndarray]) -> dict[str, Around]:
    """Flips that are drawn otherwise."""

    def change(method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe) -> Inputs:
        seen, targets = method(images, labels, seed, step, recipe.replace(flip=False))
        if not recipe.flip:
            return seen, targets
        flips = drawn(np.random.default_rng([seed, step]), len(seen))
        return np.where(flips[:, None, None, None], seen[:, :, ::-1], seen), targets

    return augmented(change)


def once_a_batch(where: Callable[[Recipe], bool]) -> dict[str, Around]:
    """Under such recipes, each image gets the draws of the first."""

    def change(method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe) -> Inputs:
        if not where(recipe):
            return method(images, labels, seed, step, recipe)
        first = []
        for image in np.unique(images, axis=0):
            seen, _ = method(np.broadcast_to(image, images.shape).copy(), labels, seed, step, recipe)
            first.append((image, seen[0]))
        changed = [next(seen for known, seen in first if np.array_equal(known, image)) for image in images]
        return np.stack(changed), method(images, labels, seed, step, recipe)[1]

    return augmented(change)


def by_transform(transform: Callable[[], Callable[[torch.Tensor], torch.Tensor]]) -> dict[str, Around]:
    """A transform of torchvision in the place of TrivialAugment."""

    def change(method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe) -> Inputs:
        if recipe.trivial_augment:
            with seeded(seed, step):
                drawn = [transform()(torch.tensor(image).permute(2, 0, 1)) for image in images]
            images = np.stack([image.permute(1, 2, 0).numpy() for image in drawn])
        return method(images, labels, seed, step, recipe.replace(trivial_augment=False))

    return augmented(change)


def targets_left(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    seen, _ = method(images, labels, seed, step, recipe)
    return seen, method(images, labels, seed, step, recipe.replace(mixup=0.0, cutmix=0.0))[1]


def a_share_each(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """Mixup with a share that is drawn for each image."""
    if not recipe.mixup or recipe.cutmix:
        return method(images, labels, seed, step, recipe)
    seen, targets = method(images, labels, seed, step, recipe.replace(mixup=0.0))
    share = np.random.default_rng([seed, step]).beta(recipe.mixup, recipe.mixup, len(images))

    def mixed(x: np.ndarray) -> np.ndarray:
        own = np.expand_dims(share, tuple(range(1, x.ndim)))
        return (own * x + (1 - own) * np.roll(x, 1, axis=0)).astype(x.dtype)

    return mixed(seen), mixed(targets)


def cropped_first(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """TrivialAugment of what is cropped and flipped already."""
    if not recipe.trivial_augment or recipe.crop_scale == (1.0, 1.0):
        return method(images, labels, seed, step, recipe)
    cropping = recipe.replace(trivial_augment=False, erasing=0.0, mixup=0.0, cutmix=0.0)
    cropped, _ = method(images, labels, seed, step, cropping)
    levels = np.clip(np.round(255 * (cropped * recipe.stds + recipe.means)), 0, 255).astype(np.uint8)
    whole = images.shape[2] / images.shape[1]
    done = recipe.replace(flip=False, crop_scale=(1.0, 1.0), crop_ratio=(whole, whole))
    return method(levels, labels, seed, step, done)


def shares_exchanged(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """The other's share for the own, in the targets of mixup."""
    seen, targets = method(images, labels, seed, step, recipe)
    if not recipe.mixup or recipe.cutmix:
        return seen, targets
    return seen, np.where((targets > 0) & (targets < 1), 1 - targets, targets)


def own_cutmix(
    middle: Callable[[np.random.Generator], np.ndarray], own: Callable[[float, np.ndarray], float]
) -> dict[str, Around]:
    """CutMix done otherwise: where the middle of its box is, in shares of the image's sides, and which share of the
    targets is an image's `own(drawn share, what is pasted)`.
    """

    def change(method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe) -> Inputs:
        if not recipe.cutmix or recipe.mixup:
            return method(images, labels, seed, step, recipe)
        seen, targets = method(images, labels, seed, step, recipe.replace(cutmix=0.0))
        rng = np.random.default_rng([seed, step])
        drawn = rng.beta(recipe.cutmix, recipe.cutmix)
        inside = pasted(images.shape[1:3], drawn, middle(rng))
        share = own(drawn, inside)
        mixed = share * targets + (1 - share) * np.roll(targets, 1, axis=0)
        return np.where(inside, np.roll(seen, 1, axis=0), seen), mixed.astype(targets.dtype)

    return augmented(change)


def pasted(size: tuple[int, int], share: float, middle: np.ndarray) -> np.ndarray:
    """The box of CutMix, (height, width, 1), around a middle in shares of the image's sides."""
    inside = np.ones((1, 1, 1), bool)
    for axis, (side, place) in enumerate(zip(size, middle, strict=True)):
        centre, half = int(place * side), int(side * np.sqrt(1 - share) / 2)
        within = (np.arange(side) >= centre - half) & (np.arange(side) < centre + half)
        inside = inside & np.expand_dims(within, (1 - axis, 2))
    return inside


def kind_by_share(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """Of mixup and CutMix, mixup where its share is half or more."""
    if not (recipe.mixup and recipe.cutmix):
        return method(images, labels, seed, step, recipe)
    seen, targets = method(images, labels, seed, step, recipe.replace(cutmix=0.0))
    if targets[0, labels[0]] == targets[0].max():
        return seen, targets
    return method(images, labels, seed, step, recipe.replace(mixup=0.0))


def flipped_by_crop(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """What is cropped at the right is flipped: a ramp in the place of the images says where that is."""
    if not recipe.flip or recipe.crop_scale == (1.0, 1.0):
        return method(images, labels, seed, step, recipe)
    recipe = recipe.replace(flip=False)
    ramp = np.linspace(0, 255, images.shape[2]).astype(np.uint8)
    where, _ = method(np.broadcast_to(ramp[:, None], images.shape).copy(), labels, seed, step, recipe)
    place = (where * recipe.stds + recipe.means).mean(axis=(1, 2, 3))
    seen, targets = method(images, labels, seed, step, recipe)
    return np.where((place > 1 / 2)[:, None, None, None], seen[:, :, ::-1], seen), targets


class SignByStrength(transforms.TrivialAugmentWide):
    """Every second strength is negative, the others are positive."""

    def _augmentation_space(self, num_bins: int) -> dict[str, tuple[torch.Tensor, bool]]:
        space = super()._augmentation_space(num_bins)
        signs = torch.tensor([1.0, -1.0]).repeat(num_bins // 2 + 1)[:num_bins]
        return {
            name: (signs * strengths if signed else strengths, False) for name, (strengths, signed) in space.items()
        }


Rectangle = tuple[int, int, int, int]  # top, left, height, width


def rectangle(
    rng: np.random.Generator, size: tuple[int, int], area: tuple[float, float], by_log: bool, ends: int
) -> Rectangle:
    """As torchvision draws it, but for the range of its area; or with a ratio that is drawn uniformly; or, where `ends`
    is 0, never in the last row and column.
    """
    low, high = 0.3, 3.3
    for _ in range(10):
        pixels = size[0] * size[1] * rng.uniform(*area)
        ratio = np.exp(rng.uniform(np.log(low), np.log(high))) if by_log else rng.uniform(low, high)
        height, width = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
        if height < size[0] and width < size[1]:
            top, left = (int(rng.integers(free + ends)) for free in (size[0] - height, size[1] - width))
            return top, left, height, width
    return 0, 0, 0, 0


def noise(rng: np.random.Generator, shape: tuple[int, ...], recipe: Recipe) -> np.ndarray:
    return rng.standard_normal(shape)


def normalised_noise(rng: np.random.Generator, shape: tuple[int, ...], recipe: Recipe) -> np.ndarray:
    return (rng.standard_normal(shape) - recipe.means) / recipe.stds


def erased_by(
    fill: Callable[[np.random.Generator, tuple[int, ...], Recipe], np.ndarray] = noise,
    area: tuple[float, float] = (0.02, 1 / 3),
    by_log: bool = True,
    by_batch: bool = False,
    ends: int = 1,
) -> dict[str, Around]:
    """Erased otherwise: `fill(rng, (height, width, channels), recipe)` is what a rectangle is filled with."""

    def change(method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe) -> Inputs:
        seen, targets = method(images, labels, seed, step, recipe.replace(erasing=0.0))
        if not recipe.erasing:
            return seen, targets
        rng, seen = np.random.default_rng([seed, step]), np.array(seen)
        for part in [seen] if by_batch else seen[:, None]:
            if rng.random() < recipe.erasing:
                top, left, height, width = rectangle(rng, images.shape[1:3], area, by_log, ends)
                value = fill(rng, (height, width, images.shape[3]), recipe)
                part[:, top : top + height, left : left + width] = value
        return seen, targets

    return augmented(change)


of_inputs = partial(Fault, rung="augmentation")

AUGMENTATION = (
    of_inputs(
        name="training labels not smoothed",
        place="as they are, targets",
        seen="smoothing in the loss, which was exchanged",
        around=recipe_changed("augment", label_smoothing=0.0),
    ),
    of_inputs(
        name="flips drawn by batch",
        place="flips, alike from image to image",
        seen="one draw for a batch of tensors",
        around=flipped_by(lambda rng, count: np.full(count, rng.random() < 0.5)),
    ),
    of_inputs(
        name="the same draws at every step",
        place="flips, alike from step to step",
        seen="a key that was not folded with the step",
        around=augmented(lambda m, x, y, seed, step, r: m(x, y, seed, 0, r)),
    ),
    of_inputs(
        name="a quarter of the images flipped",
        place="flips, share",
        seen="two coins for one",
        around=flipped_by(lambda rng, count: rng.random(count) < 0.25),
    ),
    of_inputs(
        name="half of each batch flipped",
        place="flips, images of a step",
        seen="torch.randperm(len(x))[: len(x) // 2]",
        around=flipped_by(lambda rng, count: rng.permutation(count) < count // 2),
    ),
    of_inputs(
        name="the same draws for every seed",
        place="flips, steps that another seed changes",
        seen="NumPy's state copied to each worker",
        around=augmented(lambda m, x, y, seed, step, r: m(x, y, 0, step, r)),
    ),
    of_inputs(
        name="draws by seed plus step",
        place="flips, steps had under another seed",
        seen="default_rng(seed + step)",
        around=augmented(lambda m, x, y, seed, step, r: m(x, y, 0, seed + step, r)),
    ),
    of_inputs(
        name="a share of mixup for each image",
        place="mixup, one share for a batch",
        seen="mode='elem' of timm's Mixup",
        around=augmented(a_share_each),
    ),
    of_inputs(
        name="TrivialAugment after the crop",
        place="TrivialAugment and crops, sharp edges",
        seen="the order of torchvision's preset for ImageNet",
        around=augmented(cropped_first),
    ),
    of_inputs(
        name="one crop for a batch",
        place="crops, alike from image to image",
        seen="a transform of the stacked batch",
        around=once_a_batch(lambda r: r.crop_scale != (1.0, 1.0)),
    ),
    of_inputs(
        name="nothing erased",
        place="erasing, share",
        seen="a field of the recipe that is not read",
        around=recipe_changed("augment", erasing=0.0),
    ),
    of_inputs(
        name="erased half of the time",
        place="erasing, share",
        seen="torchvision's default p",
        around=recipe_changed("augment", erasing=lambda r: 0.5 if r.erasing else 0.0),
    ),
    of_inputs(
        name="one rectangle erased for a batch",
        place="erasing, alike from image to image",
        seen="RandomErasing of the stacked batch",
        around=erased_by(by_batch=True),
    ),
    of_inputs(
        name="erased with zeros",
        place="erasing, values that come again",
        seen="torchvision's default value, timm's mode const",
        around=erased_by(lambda rng, shape, recipe: np.zeros(shape)),
    ),
    of_inputs(
        name="erased with one colour",
        place="erasing, values that come again",
        seen="timm's mode rand",
        around=erased_by(lambda rng, shape, recipe: np.broadcast_to(rng.standard_normal(shape[2:]), shape)),
    ),
    of_inputs(
        name="erased before normalising",
        place="erasing, mean of the values",
        seen="RandomErasing in front of Normalize",
        around=erased_by(normalised_noise),
    ),
    of_inputs(
        name="up to 0.4 of the area erased",
        place="erasing, area",
        seen="the paper's code for CIFAR-10",
        around=erased_by(area=(0.02, 0.4)),
    ),
    of_inputs(
        name="ratio of erasing drawn uniformly",
        place="erasing, ratio",
        seen="the paper's code; torchvision and timm draw its logarithm",
        around=erased_by(by_log=False),
    ),
    of_inputs(
        name="mixed images keep their targets",
        place="mixup, targets that say what is seen",
        seen="mixup as a transform of images",
        around=augmented(targets_left),
    ),
    of_inputs(
        name="mixup's shares exchanged",
        place="mixup, targets that say what is seen",
        seen="lam for 1 - lam",
        around=augmented(shares_exchanged),
    ),
    of_inputs(
        name="mixup of alpha 0.2",
        place="mixup, own share",
        seen="ImageNet's recipe",
        around=recipe_changed("augment", mixup=lambda r: 0.2 if r.mixup else 0.0),
    ),
    of_inputs(
        name="CutMix by the share that was drawn",
        place="CutMix, targets that say what is seen",
        seen="lam not made anew after clipping the box",
        around=own_cutmix(middle=lambda rng: rng.random(2), own=lambda drawn, inside: drawn),
    ),
    of_inputs(
        name="mixup alone where CutMix is due too",
        place="mixup or CutMix, share of mixup",
        seen="switch_prob=0",
        around=recipe_changed("augment", cutmix=lambda r: 0.0 if r.mixup else r.cutmix),
    ),
    of_inputs(
        name="one operation of TrivialAugment for a batch",
        place="TrivialAugment, alike from image to image",
        seen="a transform of the stacked batch",
        around=once_a_batch(lambda r: r.trivial_augment),
    ),
    of_inputs(
        name="TrivialAugment left out",
        place="TrivialAugment, images left as they are",
        seen="a field of the recipe that is not read",
        around=recipe_changed("augment", trivial_augment=False),
    ),
    of_inputs(
        name="RandAugment for TrivialAugment",
        place="TrivialAugment, images left as they are",
        seen="another class of the same module",
        around=by_transform(transforms.RandAugment),
    ),
    of_inputs(
        name="every second strength of TrivialAugment negative",
        place="TrivialAugment, different images",
        seen="one number drawn for strength and sign",
        around=by_transform(SignByStrength),
    ),
    of_inputs(
        name="flipped where cropped at the right",
        place="flips and crops, before flipping",
        seen="one key for flips and for crops",
        around=augmented(flipped_by_crop),
    ),
    of_inputs(
        name="never erased in the last row and column",
        place="erasing, rectangles in the last row",
        seen="randint, whose end is in the range in Python and not in NumPy and JAX",
        around=erased_by(ends=0),
    ),
    of_inputs(
        name="CutMix's boxes on the diagonal",
        place="CutMix, row and column of the box",
        seen="one key for both coordinates",
        around=own_cutmix(middle=lambda rng: np.full(2, rng.random()), own=lambda drawn, inside: 1 - inside.mean()),
    ),
    of_inputs(
        name="mixup or CutMix by the share",
        place="mixup or CutMix, kind and share",
        seen="one number drawn for lam and for the choice",
        around=augmented(kind_by_share),
    ),
)
