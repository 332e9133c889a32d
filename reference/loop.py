"""What surrounds the training step, in plain PyTorch and NumPy: epochs, augmentation, evaluation, running average.

What is random draws from torch's global generator, but for the order of an epoch. Images are (B, height, width, C):
uint8 in the data, float32 once they are normalised.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from reference.config import Recipe
from reference.data import crop_and_flip, crop_boxes, erased, trivially_augmented

Batch = tuple[np.ndarray, np.ndarray]  # images, and for each a distribution over the classes
Weights = dict[str, np.ndarray]


def epoch_rows(seed: int, epoch: int, examples: int, batch_size: int) -> list[np.ndarray]:
    """The numbers of the examples in each batch: all of them shuffled, without the last incomplete batch."""
    order = np.random.default_rng([seed, epoch]).permutation(examples)
    batches = [order[start : start + batch_size] for start in range(0, examples, batch_size)]
    return [batch for batch in batches if len(batch) == batch_size]


def normalised(images: np.ndarray, recipe: Recipe) -> np.ndarray:
    """float32, (x / 255 - mean) / std."""
    means, stds = np.array(recipe.means, np.float32), np.array(recipe.stds, np.float32)
    return (images.astype(np.float32) / np.float32(255) - means) / stds


def augment(images: np.ndarray, labels: np.ndarray, classes: int, recipe: Recipe) -> Batch:
    """A batch as a training step sees it: each image augmented, flipped, cropped, normalised and erased; then mixed."""
    count, height, width, _ = images.shape
    if recipe.trivial_augment:
        images = np.stack([trivially_augmented(image) for image in images])
    if recipe.flip:
        flips = torch.rand(count) < 0.5
        images = np.where(flips.numpy()[:, None, None, None], images[:, :, ::-1], images)
    if recipe.crop_scale != (1.0, 1.0):
        boxes = crop_boxes(count, (height, width), recipe.crop_scale, recipe.crop_ratio)
        images = np.stack([crop_and_flip(image, box, flip=False) for image, box in zip(images, boxes, strict=True)])
    seen = normalised(images, recipe)
    if recipe.erasing:
        seen = np.stack([erased(image, recipe.erasing) for image in seen])
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    targets = (1 - recipe.label_smoothing) * one_hot + recipe.label_smoothing / classes
    return mixed(seen, targets.astype(np.float32), recipe)


def mixed(images: np.ndarray, targets: np.ndarray, recipe: Recipe) -> Batch:
    """mixup or CutMix; one of the two at random, where the recipe has both."""
    ways = [(mixup, recipe.mixup)] * (recipe.mixup > 0) + [(cutmix, recipe.cutmix)] * (recipe.cutmix > 0)
    if not ways:
        return images, targets
    way, alpha = ways[int(torch.randint(len(ways), ()))]
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    return way(images, targets, share)


def mixup(images: np.ndarray, targets: np.ndarray, share: float) -> Batch:
    """`share` of each image and of its target; the rest is the previous one's (arXiv:1710.09412)."""
    return blended(images, share), blended(targets, share)


def cutmix(images: np.ndarray, targets: np.ndarray, share: float) -> Batch:
    """A box of 1 - `share` of the area, of the image's shape and around any pixel, is the previous image's.

    Where the image ends, so does the box: the targets are mixed by the area that is left of it (arXiv:1905.04899).
    """
    height, width = images.shape[1:3]
    top, bottom = box_side(height, share)
    left, right = box_side(width, share)
    pasted = images.copy()
    pasted[:, top:bottom, left:right] = np.roll(images, 1, axis=0)[:, top:bottom, left:right]
    return pasted, blended(targets, 1 - (bottom - top) * (right - left) / (height * width))


def box_side(size: int, share: float) -> tuple[int, int]:
    centre, half = int(torch.randint(size, ())), int(size * (1 - share) ** 0.5 / 2)
    return max(centre - half, 0), min(centre + half, size)


def blended(x: np.ndarray, share: float) -> np.ndarray:
    return (share * x + (1 - share) * np.roll(x, 1, axis=0)).astype(x.dtype)


@torch.no_grad()
def evaluate(model: Callable[[Tensor], Tensor], images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> float:
    """The share of all images whose largest logit is their label's; the last batch may be smaller than the others."""
    right = 0
    for start in range(0, len(images), recipe.batch_size):
        batch = slice(start, start + recipe.batch_size)
        logits = model(torch.from_numpy(normalised(images[batch], recipe)))
        right += int((logits.argmax(dim=-1).numpy() == labels[batch]).sum())
    return right / len(images)


def averaged(average: Weights, weights: Weights, step: int, decay: float) -> Weights:
    """The running average after an update, the first of which is step 1; before it, the average is the weights.

    It starts short and grows, as TensorFlow's does: else it would mostly remember the initialisation.
    """
    decay = min(decay, (1 + step) / (10 + step))
    return {name: decay * average[name] + (1 - decay) * weights[name] for name in weights}
