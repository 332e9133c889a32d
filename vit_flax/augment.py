"""The article's augmentation on the device: mirror, crop at random, resize; to be jitted into the training step.

The boxes are distributed as torchvision's, and the pixels are those of its host pipeline. Batches are uint8 and
channels last; everything is deterministic given its key.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, UInt8

from vit_flax.recipe import Recipe

ATTEMPTS = 10  # at a box that fits, before torchvision falls back on a central one
WEIGHT_BITS = 22  # behind the point, in Pillow's weights


def augment(rng: jax.Array, images: UInt8[Array, "B H W C"], recipe: Recipe) -> UInt8[Array, "B H W C"]:
    """Mirrored and cropped as `recipe` says, each image with draws of its own, at the size they came in.

    For `jax.jit`, the recipe is a static argument.
    """
    flip_rng, box_rng = jax.random.split(rng)
    count, height, width, _ = images.shape
    if recipe.flip:
        images = flip(images, jax.random.bernoulli(flip_rng, 0.5, (count,)))
    whole_ratio = width / height
    if recipe.crop_scale == (1.0, 1.0) and recipe.crop_ratio == (whole_ratio, whole_ratio):
        return images
    boxes = crop_boxes(box_rng, count, (height, width), recipe.crop_scale, recipe.crop_ratio)
    return resized_crop(images, boxes, (height, width))


def normalise(
    images: UInt8[Array, "B H W C"], means: Sequence[float], stds: Sequence[float]
) -> Float[Array, "B H W C"]:
    """float32 (x / 255 - mean) / std, in the article's order."""
    x = images.astype(jnp.float32) / 255
    return (x - jnp.array(means, jnp.float32)) / jnp.array(stds, jnp.float32)


def flip(images: UInt8[Array, "B H W C"], flips: Bool[Array, " B"]) -> UInt8[Array, "B H W C"]:
    """Left to right, where `flips`."""
    return jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)


def crop_boxes(
    rng: jax.Array,
    count: int,
    image_size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Int32[Array, "count 4"]:
    """Random boxes (top, left, height, width), distributed as by torchvision's `RandomResizedCrop.get_params`.

    The area is uniform in `scale`, as a share of the image's, and the logarithm of width over height in that of
    `ratio`. The first attempt that fits is taken; where none does, the largest central box of a ratio in range.
    """
    area_rng, ratio_rng, corner_rng = jax.random.split(rng, 3)
    shape, dtype = (count, ATTEMPTS), jnp.float32
    area = math.prod(image_size) * jax.random.uniform(area_rng, shape, dtype, *scale)
    aspect = jnp.exp(jax.random.uniform(ratio_rng, shape, dtype, math.log(ratio[0]), math.log(ratio[1])))
    attempts = jnp.round(jnp.sqrt(jnp.stack([area / aspect, area * aspect], axis=-1))).astype(jnp.int32)
    limits = jnp.array(image_size, jnp.int32)
    fits = ((attempts > 0) & (attempts <= limits)).all(axis=-1)
    sizes = attempts[jnp.arange(count), jnp.argmax(fits, axis=1)]
    corners = jax.random.randint(corner_rng, (count, 2), 0, limits - sizes + 1, jnp.int32)
    boxes = jnp.concatenate([corners, sizes], axis=1)
    return jnp.where(fits.any(axis=1, keepdims=True), boxes, jnp.array(_central_box(image_size, ratio), jnp.int32))


def _central_box(image_size: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    height, width = image_size
    if width / height < ratio[0]:
        height = round(width / ratio[0])
    elif width / height > ratio[1]:
        width = round(height * ratio[1])
    return (image_size[0] - height) // 2, (image_size[1] - width) // 2, height, width


def resized_crop(
    images: UInt8[Array, "B H W C"], boxes: Int32[Array, "B 4"], size: tuple[int, int], antialias: bool = True
) -> UInt8[Array, "B h w C"]:
    """Each image's box (top, left, height, width; it must lie inside), resized to `size` with bilinear weights.

    As torchvision's `resized_crop` within one rounding: of tensors with the same `antialias` and, where that is true,
    of PIL images. Of those these are the very pixels, unless the height may shrink: Pillow 13 then begins with the
    vertical pass for some boxes, and older ones never do.
    """
    top, left, height, width = boxes.T
    rows = _weights(top, height, images.shape[1], size[0], antialias)
    columns = _weights(left, width, images.shape[2], size[1], antialias)
    resize = _as_pillow if antialias and images.shape[1] <= size[0] else _as_torch
    # The barrier: a CPU takes four times as long for a normalisation that is fused into this transposition.
    return jax.lax.optimization_barrier(resize(images, rows, columns))


def _as_pillow(
    images: UInt8[Array, "B H W C"], rows: Int32[Array, "B h H"], columns: Int32[Array, "B w W"]
) -> UInt8[Array, "B h w C"]:
    """In whole numbers, rounded after each pass; halves go up."""
    half = 1 << (WEIGHT_BITS - 1)
    x = images.astype(jnp.int32)
    x = (jnp.einsum("bXx,byxc->byXc", _fixed_point(columns), x) + half) >> WEIGHT_BITS
    x = (jnp.einsum("bYy,byxc->bYxc", _fixed_point(rows), x) + half) >> WEIGHT_BITS
    return x.astype(jnp.uint8)


def _fixed_point(weights: Int32[Array, "B out in"]) -> Int32[Array, "B out in"]:
    """Of each row's sum, in units of 2^-22 and rounded."""
    # Half of the bits and then the rest: float32 has room for one half only, int32 for neither product.
    half_bits = WEIGHT_BITS // 2
    total = weights.sum(axis=-1, keepdims=True)
    coarse = jnp.floor(weights / total * 2**half_bits).astype(jnp.int32)
    rest = (weights << half_bits) - coarse * total
    return (coarse << half_bits) + jnp.floor(rest / total * 2**half_bits + 0.5).astype(jnp.int32)


def _as_torch(
    images: UInt8[Array, "B H W C"], rows: Int32[Array, "B h H"], columns: Int32[Array, "B w W"]
) -> UInt8[Array, "B h w C"]:
    """In float32, rounded once; halves go to the even neighbour."""
    x = images.astype(jnp.float32)
    for weights, axes in ((columns, "bXx,byxc->byXc"), (rows, "bYy,byxc->bYxc")):
        shares = (weights / weights.sum(axis=-1, keepdims=True)).astype(jnp.float32)
        # The default precision on GPUs and TPUs keeps too few bits for pixels times weights.
        x = jnp.einsum(axes, shares, x, precision=jax.lax.Precision.HIGHEST)
    return jnp.round(x).astype(jnp.uint8)


def _weights(
    start: Int32[Array, " B"], length: Int32[Array, " B"], size_in: int, size_out: int, antialias: bool
) -> Int32[Array, "B size_out size_in"]:
    """What each input pixel gives to each output pixel: a triangle around its centre, cut off at the box's ends.

    The triangle reaches one pixel of the coarser grid to either side; without antialiasing, one of the input.
    """
    # In units of 1 / (2 size_out) input pixels all of these are whole numbers.
    unit = 2 * size_out
    start, length = start[:, None, None], length[:, None, None]
    pixels = jnp.arange(size_in, dtype=jnp.int32) - start
    centres = (2 * jnp.arange(size_out, dtype=jnp.int32)[:, None] + 1) * length - size_out
    centres = jnp.clip(centres, 0, unit * (length - 1))
    reach = jnp.maximum(unit, 2 * length) if antialias else unit
    triangles = jnp.maximum(reach - jnp.abs(unit * pixels - centres), 0)
    return jnp.where((pixels >= 0) & (pixels < length), triangles, 0)
