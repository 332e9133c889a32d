"""Faults of preprocessing and augmentation: around `pixels(images, boxes, flips, recipe)` and `crops(...)`."""

from collections.abc import Callable
from functools import partial

import numpy as np

from conformance.faults import Around, Fault, recipe_changed
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe

Array = np.ndarray


def pixels(change: Callable[[Around, Array, Array, Array, Recipe], Array]) -> dict[str, Around]:
    return {"pixels": lambda method, config, *arguments: change(method, *arguments)}


def unrounded(method: Around, images: Array, boxes: Array, flips: Array, recipe: Recipe) -> Array:
    """Resized in floating point, bilinearly, without going back to whole grey levels."""
    flipped = np.where(flips[:, None, None, None], images[:, :, ::-1], images).astype(np.float64)
    resized = []
    for image, (top, left, height, width) in zip(flipped, boxes.tolist(), strict=True):
        box = image[top : top + height, left : left + width]
        rows, columns = (triangles(box.shape[axis], image.shape[axis]) for axis in (0, 1))
        resized.append(np.einsum("Yy,Xx,yxc->YXc", rows, columns, box))
    return ((np.stack(resized) / 255 - recipe.means) / recipe.stds).astype(np.float32)


def triangles(size_in: int, size_out: int) -> Array:
    """Weights of each input pixel in each output pixel, with antialiasing: (size_out, size_in)."""
    scale = size_in / size_out
    centres = (np.arange(size_out)[:, None] + 0.5) * scale
    reach = np.abs(np.arange(size_in) + 0.5 - centres) / max(scale, 1)
    weights = np.maximum(1 - reach, 0)
    return weights / weights.sum(axis=1, keepdims=True)


def nearest(method: Around, images: Array, boxes: Array, flips: Array, recipe: Recipe) -> Array:
    """Resized without interpolation: each output pixel is the input pixel under its centre."""
    size = images.shape[1:3]
    picked = np.empty_like(images)
    whole = np.broadcast_to([0, 0, *size], boxes.shape)
    flipped = np.where(flips[:, None, None, None], images[:, :, ::-1], images)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        rows = top + ((np.arange(size[0]) + 0.5) * height / size[0]).astype(int)
        columns = left + ((np.arange(size[1]) + 0.5) * width / size[1]).astype(int)
        picked[i] = flipped[i][np.ix_(rows, columns)]
    return method(picked, whole, np.zeros_like(flips), recipe)


def unscaled(method: Around, images: Array, boxes: Array, flips: Array, recipe: Recipe) -> Array:
    """The statistics of pixels in [0, 1], for pixels up to 255."""
    stds = np.array(recipe.stds, np.float32)
    shift = 254 * np.array(recipe.means, np.float32) / stds
    return 255 * method(images, boxes, flips, recipe) + shift


def divided_by_256(method: Around, images: Array, boxes: Array, flips: Array, recipe: Recipe) -> Array:
    shift = np.array(recipe.means, np.float32) / np.array(recipe.stds, np.float32)
    return (method(images, boxes, flips, recipe) + shift) * np.float32(255 / 256) - shift


def smaller_crops(
    method: Around, config: ViTConfig, seed: int, count: int, size: tuple[int, int], recipe: Recipe
) -> Array:
    """torchvision's default scale, for the article's."""
    return method(seed, count, size, recipe.replace(crop_scale=(0.08, 1.0)))


def centred(method: Around, config: ViTConfig, seed: int, count: int, size: tuple[int, int], recipe: Recipe) -> Array:
    boxes = np.array(method(seed, count, size, recipe))
    boxes[:, :2] = (np.array(size) - boxes[:, 2:]) // 2
    return boxes


def never_at_the_end(
    method: Around, config: ViTConfig, seed: int, count: int, size: tuple[int, int], recipe: Recipe
) -> Array:
    """Corners in [0, room), where [0, room] is meant."""
    boxes = np.array(method(seed, count, size, recipe))
    room = np.array(size) - boxes[:, 2:]
    boxes[:, :2] = np.random.default_rng(seed).integers(0, np.maximum(room, 1))
    return boxes


def uniform_ratio(
    method: Around, config: ViTConfig, seed: int, count: int, size: tuple[int, int], recipe: Recipe
) -> Array:
    """Boxes whose width over height is uniform, not its logarithm."""
    rng = np.random.default_rng(seed)
    area = rng.uniform(*recipe.crop_scale, (count, 10))
    return boxes_of(area, rng.uniform(*recipe.crop_ratio, (count, 10)), size, rng)


def uniform_height(
    method: Around, config: ViTConfig, seed: int, count: int, size: tuple[int, int], recipe: Recipe
) -> Array:
    """Boxes whose side is uniform, not their area."""
    rng = np.random.default_rng(seed)
    (least, most), (low, high) = np.sqrt(recipe.crop_scale), np.log(recipe.crop_ratio)
    side, ratio = rng.uniform(least, most, (count, 10)), np.exp(rng.uniform(low, high, (count, 10)))
    return boxes_of(side**2, ratio, size, rng)


def boxes_of(area: Array, ratio: Array, size: tuple[int, int], rng: np.random.Generator) -> Array:
    """The first of several boxes (count, tries), of a share of the area each, that fits; or all of the image."""
    count, area = len(area), np.prod(size) * area
    sides = np.round(np.sqrt(np.stack([area / ratio, area * ratio], axis=-1))).astype(int)
    fits = np.all(sides <= size, axis=-1)
    chosen = sides[np.arange(count), fits.argmax(axis=1)]
    boxes = np.concatenate([rng.integers(0, np.maximum(np.array(size) - chosen, 0) + 1), chosen], axis=1)
    return np.where(np.any(fits, axis=1)[:, None], boxes, [0, 0, *size])


of_pixels = partial(Fault, rung="pixels", place="as they are, grey levels")
of_crops = partial(Fault, rung="pixels", place="crops, grey levels")
of_boxes = partial(Fault, rung="pixels", place="boxes, top")

PIXELS = (
    of_pixels(
        name="pixels normalised by ImageNet's statistics",
        seen="the constants of most examples",
        around=recipe_changed("pixels", means=lambda r: (0.485, 0.456, 0.406)[: len(r.means)]),
    ),
    of_pixels(
        name="pixels normalised to -1 and 1",
        seen="mean and standard deviation 0.5, as in the first checkpoints",
        around=recipe_changed("pixels", means=lambda r: (0.5,) * len(r.means), stds=lambda r: (0.5,) * len(r.stds)),
    ),
    of_pixels(
        name="pixels left at 0 to 255",
        seen="ToTensor forgotten",
        around=pixels(unscaled),
    ),
    of_pixels(
        name="pixels divided by 256",
        seen="2 to the 8",
        around=pixels(divided_by_256),
    ),
    of_pixels(
        name="flipped upside down",
        seen="axis 0 for axis 1",
        around=pixels(lambda m, x, b, f, r: m(np.where(f[:, None, None, None], x[:, ::-1, ::-1], x), b, f, r)),
    ),
    of_pixels(
        name="never flipped",
        seen="a flip outside the jitted step",
        around=pixels(lambda m, x, b, f, r: m(x, b, np.zeros_like(f), r)),
    ),
    of_crops(
        name="crops off by a pixel",
        seen="corner and size rounded apart",
        around=pixels(lambda m, x, b, f, r: m(x, np.where(b[:, :1] > 0, b - [1, 0, 0, 0], b), f, r)),
    ),
    of_crops(
        name="resized without rounding",
        seen="floating point for uint8",
        around=pixels(unrounded),
    ),
    of_crops(
        name="resized to the nearest pixel",
        seen="interpolation=0",
        around=pixels(nearest),
    ),
    of_boxes(
        name="torchvision's default crop scale",
        seen="RandomResizedCrop(scale=(0.08, 1))",
        around={"crops": smaller_crops},
    ),
    of_boxes(
        name="crops of uniform height",
        place="boxes*, area",
        seen="a side drawn where the area is meant",
        around={"crops": uniform_height},
    ),
    of_boxes(
        name="crops centred",
        seen="CenterCrop in training",
        around={"crops": centred},
    ),
    of_boxes(
        name="crops that never reach the end",
        seen="randint, whose end is excluded",
        around={"crops": never_at_the_end},
    ),
    Fault(
        name="ratio of crops drawn uniformly",
        rung="pixels",
        place="boxes, ratio",
        seen="uniform(3 / 4, 4 / 3) for its logarithm",
        around={"crops": uniform_ratio},
    ),
)
