"""Random erasing (arXiv:1708.04896): a rectangle of noise in some of the images."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

AREA = (0.02, 1 / 3)  # of the rectangle, as a share of the image's: timm's
RATIO = (0.3, 3.3)  # height over width, uniform in its logarithm: torchvision's
ATTEMPTS = 10  # to draw a rectangle lower and narrower than the image

Images = Float[Array, "B H W C"]


def erase(rng: jax.Array, images: Images, probability: float) -> Images:
    """Each image, with that probability, with one rectangle of standard normal noise (algorithm 1).

    The images must be normalised already: the noise is for pixels of mean 0 and variance 1, as timm's mode "pixel".
    The probability is a plain number, not traced. Shape and dtype stay. Raises `ValueError` unless it is in [0, 1].
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}, but must be in [0, 1]")
    if probability == 0:
        return images
    choice_rng, rectangle_rng, noise_rng = jax.random.split(rng, 3)
    count, height, width, _ = images.shape
    chosen = jax.random.bernoulli(choice_rng, probability, (count,))
    rectangles = draw_rectangles(rectangle_rng, count, height, width)
    top, left, tall, wide = (side[:, None, None] for side in rectangles)
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    inside = (top <= rows) & (rows < top + tall) & (left <= columns) & (columns < left + wide)
    noise = jax.random.normal(noise_rng, images.shape, images.dtype)
    return jnp.where((inside & chosen[:, None, None])[..., None], noise, images)


def draw_rectangles(rng: jax.Array, count: int, height: int, width: int) -> tuple[Int[Array, " B"], ...]:
    """`count` rectangles within images of that size: top, left, height and width, int32.

    Each is the first of its attempts that leaves a row and a column of the image; if none does, it is empty.
    """
    area_rng, ratio_rng, top_rng, left_rng = jax.random.split(rng, 4)
    shape = (count, ATTEMPTS)
    area = height * width * jax.random.uniform(area_rng, shape, jnp.float32, *AREA)
    ratio = jnp.exp(jax.random.uniform(ratio_rng, shape, jnp.float32, *map(math.log, RATIO)))
    tall, wide = (jnp.round(jnp.sqrt(square)).astype(jnp.int32) for square in (area * ratio, area / ratio))
    fits = (tall < height) & (wide < width)
    first = jnp.argmax(fits, axis=1, keepdims=True)  # 0 if none fits
    tall, wide = (jnp.take_along_axis(jnp.where(fits, side, 0), first, axis=1)[:, 0] for side in (tall, wide))
    top = jax.random.randint(top_rng, (count,), 0, height - tall + 1, jnp.int32)
    left = jax.random.randint(left_rng, (count,), 0, width - wide + 1, jnp.int32)
    return top, left, tall, wide
