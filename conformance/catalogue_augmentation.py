"""Faults of what a training step is shown: around `augment(images, labels, seed, step, recipe)`."""

from collections.abc import Callable
from functools import partial

import numpy as np

from conformance.faults import Around, Fault, recipe_changed
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


def one_crop_a_batch(
    method: Around, images: np.ndarray, labels: np.ndarray, seed: int, step: int, recipe: Recipe
) -> Inputs:
    """Each image gets the draws of the first."""
    if recipe.crop_scale == (1.0, 1.0):
        return method(images, labels, seed, step, recipe)
    first = []
    for image in np.unique(images, axis=0):
        seen, _ = method(np.broadcast_to(image, images.shape).copy(), labels, seed, step, recipe)
        first.append((image, seen[0]))
    cropped = [next(seen for known, seen in first if np.array_equal(known, image)) for image in images]
    return np.stack(cropped), method(images, labels, seed, step, recipe)[1]


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
        around=augmented(one_crop_a_batch),
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
)
