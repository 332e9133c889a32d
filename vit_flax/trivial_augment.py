"""TrivialAugment, the wide variant: one random operation of random strength an image (arXiv:2103.10158).

What an operation does is what torchvision's `TrivialAugmentWide` does to uint8 tensors (PIL images it rounds
otherwise), with its defaults: the nearest pixel, and black where that lies outside the image. On a CPU the two were
equal in every value of 32 × 32 images, and in all but 4e-5 of sheared pixels of 64 × 48 images, which are on a tie.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

Image = Int[Array, "H W C"]  # pixels as int32: XLA takes the least and the most of uint8 ten times as slowly
Points = Float[Array, "H W"]
Scalar = Float[Array, ""]

# From weakest to strongest, and whether the sign is random: the space that the paper calls Wide.
_STEPS = np.arange(31) / 30
SPACE: dict[str, tuple[np.ndarray, bool]] = {
    "Identity": (0 * _STEPS, False),
    "ShearX": (0.99 * _STEPS, True),
    "ShearY": (0.99 * _STEPS, True),
    "TranslateX": (32 * _STEPS, True),  # whole pixels, whatever the size of the image
    "TranslateY": (32 * _STEPS, True),
    "Rotate": (135 * _STEPS, True),  # degrees, counter-clockwise
    "Brightness": (0.99 * _STEPS, True),
    "Color": (0.99 * _STEPS, True),
    "Contrast": (0.99 * _STEPS, True),
    "Sharpness": (0.99 * _STEPS, True),
    "Posterize": (8 - np.rint(6 * _STEPS), False),  # bits that are kept
    "Solarize": (255 - 255 * _STEPS, False),  # values from here on are inverted
    "AutoContrast": (0 * _STEPS, False),
    "Equalize": (0 * _STEPS, False),
}
OPERATIONS = tuple(SPACE)


def trivial_augment(rng: jax.Array, images: UInt8[Array, "B H W C"]) -> UInt8[Array, "B H W C"]:
    """One random operation of random strength for each image; raises what `apply` raises."""
    return apply(images, *draw(rng, len(images)))


def draw(rng: jax.Array, count: int) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """`count` operations (places in `OPERATIONS`, int32) and magnitudes (float32), each uniform over `SPACE`."""
    operation_rng, strength_rng, sign_rng = jax.random.split(rng, 3)
    operations = jax.random.randint(operation_rng, (count,), 0, len(OPERATIONS), jnp.int32)
    strengths = jax.random.randint(strength_rng, (count,), 0, len(_STEPS), jnp.int32)
    signs = jax.random.rademacher(sign_rng, (count,), jnp.float32)
    magnitudes = jnp.asarray([magnitudes for magnitudes, _ in SPACE.values()], jnp.float32)
    signed = jnp.asarray([signed for _, signed in SPACE.values()])
    return operations, magnitudes[operations, strengths] * jnp.where(signed[operations], signs, 1)


def apply(
    images: UInt8[Array, "B H W C"], operations: Int[Array, " B"], magnitudes: Float[Array, " B"]
) -> UInt8[Array, "B H W C"]:
    """Each image after its operation, a place in `OPERATIONS`, at its float32 magnitude, in the units of `SPACE`.

    Raises `ValueError` unless the images are uint8 of 1 or 3 channels.
    """
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"images are {images.dtype} of shape {images.shape}, but must be uint8 of (B, H, W, 1 or 3)")
    return jax.vmap(_apply)(images.astype(jnp.int32), operations, magnitudes).astype(jnp.uint8)


def _apply(image: Image, operation: Int[Array, ""], magnitude: Scalar) -> Image:
    # Under vmap a switch computes all its branches. So there is one warp for all, which moves nothing in most images.
    recolour = [_RECOLOUR.get(name, lambda image, _: image) for name in OPERATIONS]
    return jax.lax.switch(operation, recolour, _warp(image, operation, magnitude), magnitude)


def _warp(image: Image, operation: Int[Array, ""], magnitude: Scalar) -> Image:
    rows, columns = (jnp.arange(size, dtype=jnp.float32) + 0.5 for size in image.shape[:2])
    source = [_SOURCE.get(name, lambda x, y, _: (x, y)) for name in OPERATIONS]
    x, y = jax.lax.switch(operation, source, *jnp.meshgrid(columns, rows), magnitude)
    return image.at[_pixel(y), _pixel(x)].get(mode="fill", fill_value=0, wrap_negative_indices=False)


def _pixel(point: Points) -> Int[Array, "H W"]:
    # A diagonal rotated by 45 degrees falls halfway between two pixels, give or take the rounding errors of a device.
    # Without their last bits the points are halfway on all devices, and the even pixel is taken.
    return jnp.round(jnp.round((point - 0.5) * 2**16) / 2**16).astype(jnp.int32)


def _rotated(x: Points, y: Points, magnitude: Scalar) -> tuple[Points, Points]:
    centre_y, centre_x = (size / 2 for size in x.shape)
    x, y, angle = x - centre_x, y - centre_y, jnp.radians(magnitude)
    return x * jnp.cos(angle) - y * jnp.sin(angle) + centre_x, x * jnp.sin(angle) + y * jnp.cos(angle) + centre_y


# Where in the image the pixel at (x, y) comes from; both count from its top left corner, about which it is sheared.
_SOURCE: dict[str, Callable[[Points, Points, Scalar], tuple[Points, Points]]] = {
    "ShearX": lambda x, y, magnitude: (x + magnitude * y, y),
    "ShearY": lambda x, y, magnitude: (x, y + magnitude * x),
    "TranslateX": lambda x, y, magnitude: (x - jnp.trunc(magnitude), y),
    "TranslateY": lambda x, y, magnitude: (x, y - jnp.trunc(magnitude)),
    "Rotate": _rotated,
}


def _away_from(other: Array, image: Image, magnitude: Scalar) -> Image:
    # The barrier keeps the two products from fusing into one multiply-add: where both images are equal, the last bit
    # decides whether their blend is cut down to the integer below.
    blend = (1 + magnitude) * image + jax.lax.optimization_barrier(-magnitude * other)
    return jnp.clip(blend, 0, 255).astype(jnp.int32)


def _gray(image: Image) -> Int[Array, "H W 1"]:
    if image.shape[-1] == 1:
        return image
    red, green, blue = jnp.split(image, 3, axis=-1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).astype(jnp.int32)


def _color(image: Image, magnitude: Scalar) -> Image:
    return image if image.shape[-1] == 1 else _away_from(_gray(image), image, magnitude)


def _contrast(image: Image, magnitude: Scalar) -> Image:
    gray = _gray(image)
    return _away_from(gray.sum() / gray.size, image, magnitude)


def _blurred(image: Image) -> Image:
    """The mean of 3 × 3 pixels, the middle one counted five times; those at the edge stay."""
    rows = image[:-2] + image[1:-1] + image[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * image[1:-1, 1:-1]
    return image.at[1:-1, 1:-1].set((total + 6) // 13)  # rounded


def _posterize(image: Image, magnitude: Scalar) -> Image:
    dropped = 8 - magnitude.astype(jnp.int32)
    return image >> dropped << dropped


def _auto_contrast(image: Image, magnitude: Scalar) -> Image:
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    scale = 1 / jnp.maximum(high - low, 1) * 255  # in this order: so torch divides a number by a tensor
    return jnp.where(high > low, (image - low) * scale, image).astype(jnp.int32)


def _equalize(image: Image, magnitude: Scalar) -> Image:
    return jax.vmap(_equalize_channel, in_axes=-1, out_axes=-1)(image)


def _equalize_channel(channel: Int[Array, "H W"]) -> Int[Array, "H W"]:
    histogram = jnp.bincount(channel.ravel(), length=256)
    darker = jnp.cumsum(histogram) - histogram
    step = darker[channel.max()] // 255
    table = jnp.clip((darker + step // 2) // jnp.maximum(step, 1), 0, 255)
    return jnp.where(step > 0, table[channel], channel)


_RECOLOUR: dict[str, Callable[[Image, Scalar], Image]] = {
    "Brightness": lambda image, magnitude: _away_from(jnp.zeros_like(image), image, magnitude),
    "Color": _color,
    "Contrast": _contrast,
    "Sharpness": lambda image, magnitude: _away_from(_blurred(image), image, magnitude),
    "Posterize": _posterize,
    "Solarize": lambda image, magnitude: jnp.where(image >= magnitude, 255 - image, image),
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
}
