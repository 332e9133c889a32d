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


def rand_augment(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """torchvision's RandAugment, with its defaults: two operations of one strength."""
    if recipe.trivial_augment:
        with seeded(seed, step):
            drawn = [transforms.RandAugment()(torch.tensor(image).permute(2, 0, 1)) for image in images]
        images = np.stack([image.permute(1, 2, 0).numpy() for image in drawn])
    return method(images, labels, seed, step, recipe.replace(trivial_augment=False))


def targets_left(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    seen, _ = method(images, labels, seed, step, recipe)
    return seen, method(images, labels, seed, step, recipe.replace(mixup=0.0, cutmix=0.0))[1]


def shares_exchanged(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """The other's share for the own, in the targets of mixup."""
    seen, targets = method(images, labels, seed, step, recipe)
    if not recipe.mixup or recipe.cutmix:
        return seen, targets
    return seen, np.where((targets > 0) & (targets < 1), 1 - targets, targets)


def share_as_drawn(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """CutMix whose targets have the share that was drawn, also where the box ends with the image."""
    if not recipe.cutmix or recipe.mixup:
        return method(images, labels, seed, step, recipe)
    seen, targets = method(images, labels, seed, step, recipe.replace(cutmix=0.0))
    rng = np.random.default_rng([seed, step])
    share = rng.beta(recipe.cutmix, recipe.cutmix)
    inside = np.ones((1, 1, 1), bool)
    for size, axis in ((images.shape[1], 0), (images.shape[2], 1)):
        centre, half = rng.integers(size), int(size * np.sqrt(1 - share) / 2)
        side = (np.arange(size) >= centre - half) & (np.arange(size) < centre + half)
        inside = inside & np.expand_dims(side, (1 - axis, 2))
    mixed = share * targets + (1 - share) * np.roll(targets, 1, axis=0)
    return np.where(inside, np.roll(seen, 1, axis=0), seen), mixed.astype(targets.dtype)


Rectangle = tuple[int, int, int, int]  # top, left, height, width


def rectangle(rng: np.random.Generator, size: tuple[int, int], area: tuple[float, float], by_log: bool) -> Rectangle:
    """As torchvision draws it, but for the range of its area; or with a ratio that is drawn uniformly."""
    low, high = 0.3, 3.3
    for _ in range(10):
        pixels = size[0] * size[1] * rng.uniform(*area)
        ratio = np.exp(rng.uniform(np.log(low), np.log(high))) if by_log else rng.uniform(low, high)
        height, width = round(np.sqrt(pixels * ratio)), round(np.sqrt(pixels / ratio))
        if height < size[0] and width < size[1]:
            return int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1)), height, width
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
) -> dict[str, Around]:
    """Erased otherwise: `fill(rng, (height, width, channels), recipe)` is what a rectangle is filled with."""

    def change(method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe) -> Inputs:
        seen, targets = method(images, labels, seed, step, recipe.replace(erasing=0.0))
        if not recipe.erasing:
            return seen, targets
        rng, seen = np.random.default_rng([seed, step]), np.array(seen)
        for part in [seen] if by_batch else seen[:, None]:
            if rng.random() < recipe.erasing:
                top, left, height, width = rectangle(rng, images.shape[1:3], area, by_log)
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
        name="the same draws for every seed",
        place="flips, steps that another seed changes",
        seen="NumPy's state copied to each worker",
        around=augmented(lambda m, x, y, seed, step, r: m(x, y, 0, step, r)),
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
        around=augmented(share_as_drawn),
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
        around=augmented(rand_augment),
    ),
)
