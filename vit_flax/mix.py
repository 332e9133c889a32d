"""mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899): each image and its target mixed with another of the batch.

The other is the one before it, as in torchvision: batches are shuffled already, and unlike reversing the batch
this pairs no image with itself and makes no mixture twice.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Images = Float[Array, "B H W C"]
Targets = Float[Array, "B classes"]
Batch = tuple[Images, Targets]
Box = tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""], Int[Array, ""]]  # top, bottom, left, right; ends excluded


def mix(rng: jax.Array, images: Images, targets: Targets, mixup: float, cutmix: float) -> Batch:
    """The batch mixed in one of the two ways, drawn with equal chance if both have an alpha above 0.

    `mixup` and `cutmix` are the alphas of Beta(alpha, alpha), from which the share of the own image comes: plain
    numbers, not traced, 0 for a way that is not used. Shapes and dtypes stay. Raises `ValueError` for a negative alpha.
    """
    if mixup < 0 or cutmix < 0:
        raise ValueError(f"mixup is {mixup} and cutmix is {cutmix}, but neither may be negative")
    ways = [partial(way, alpha=alpha) for way, alpha in ((_any_mixup, mixup), (_any_cutmix, cutmix)) if alpha]
    if not ways:
        return images, targets
    way_rng, rng = jax.random.split(rng)
    return jax.lax.switch(jax.random.randint(way_rng, (), 0, len(ways)), ways, rng, images, targets)


def mixup(images: Images, targets: Targets, share: Float[Array, ""]) -> Batch:
    """Images and targets of which `share` is their own and the rest the previous one's (section 2)."""
    return _blend(images, share), _blend(targets, share)


def cutmix(images: Images, targets: Targets, box: Box) -> Batch:
    """Images with the previous one's pixels in `box`, and targets mixed in proportion to the area (eq. 1)."""
    height, width = images.shape[1:3]
    top, bottom, left, right = box
    rows, columns = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    inside = (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return jnp.where(inside, _previous(images), images), _blend(targets, share)


def draw_box(rng: jax.Array, share: Float[Array, ""], height: int, width: int) -> Box:
    """A box of 1 - `share` of the area and the image's shape, centred on any pixel, clipped to the image (eq. 2).

    In whole pixels on both sides of the centre, as in torchvision.
    """
    row_rng, column_rng = jax.random.split(rng)

    def side(rng: jax.Array, size: int) -> tuple[Int[Array, ""], Int[Array, ""]]:
        centre = jax.random.randint(rng, (), 0, size)
        half = (size * jnp.sqrt(1 - share) / 2).astype(jnp.int32)
        return jnp.maximum(centre - half, 0), jnp.minimum(centre + half, size)

    return *side(row_rng, height), *side(column_rng, width)


def _any_mixup(rng: jax.Array, images: Images, targets: Targets, alpha: float) -> Batch:
    return mixup(images, targets, jax.random.beta(rng, alpha, alpha))


def _any_cutmix(rng: jax.Array, images: Images, targets: Targets, alpha: float) -> Batch:
    share_rng, box_rng = jax.random.split(rng)
    box = draw_box(box_rng, jax.random.beta(share_rng, alpha, alpha), *images.shape[1:3])
    return cutmix(images, targets, box)


def _previous(x: Array) -> Array:
    return jnp.roll(x, 1, axis=0)


def _blend(x: Array, share: Float[Array, ""]) -> Array:
    return (share * x + (1 - share) * _previous(x)).astype(x.dtype)
