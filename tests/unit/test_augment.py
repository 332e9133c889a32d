"""On the device as on the host: given the same boxes and flips, the pixels are torchvision's."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from conformance.tolerances import ROUNDING_FACTOR
from reference.data import image_to_numpy
from vit_flax import augment as module
from vit_flax.augment import augment, crop_boxes, flip, normalise, resized_crop
from vit_flax.photographs import read_photographs
from vit_flax.recipe import recipe

ONE_ROUNDING = 1  # uint8: what rounding at another place, or a half another way, may change
# The share of pixels that may be one rounding off:
EXACT = 0.0  # Pillow's own arithmetic; or all weights are whole multiples of a power of two, and floats lose nothing
HALVES = 0.006  # only halves, which go the way of the last bits of their weights (measured: up to 0.002)
BETWEEN = 0.2  # one side rounds between its passes and the other does not (measured: up to 0.13)

PATHS = ("PIL", "tensor", "tensor, not antialiased")
CASES = {  # image size, crop size, the share on each path
    "the article's": ((32, 32), (32, 32), (EXACT, BETWEEN, EXACT)),
    "upsized": ((48, 40), (64, 128), (EXACT, BETWEEN, EXACT)),
    "downsized": ((48, 64), (32, 32), (BETWEEN, HALVES, EXACT)),
    "downsized a lot": ((120, 200), (16, 16), (BETWEEN, HALVES, EXACT)),
    "wider and lower": ((64, 48), (24, 80), (BETWEEN, HALVES, HALVES)),
    "to no power of two": ((60, 50), (72, 112), (EXACT, BETWEEN, HALVES)),
    "digits'": ((8, 8), (8, 8), (EXACT, BETWEEN, EXACT)),
}


def photographs(count: int, height: int, width: int) -> np.ndarray:
    """Pieces of scikit-learn's photographs; the last third is noise, where errors are largest."""
    corners = np.random.default_rng(0).integers(0, (427 - height, 640 - width), (count, 2))
    whole = read_photographs(None, 2).images
    images = np.stack([whole[i % 2][top : top + height, left : left + width] for i, (top, left) in enumerate(corners)])
    noise = np.random.default_rng(1).integers(0, 256, (count // 3, height, width, 3), dtype=np.uint8)
    return np.concatenate([images[count // 3 :], noise])


def any_boxes(count: int, height: int, width: int) -> np.ndarray:
    """The whole image, single pixels and lines at its edges, and then boxes of every size anywhere."""
    edges = [(0, 0, height, width), (0, 0, 1, 1), (height - 1, width - 1, 1, 1), (0, width - 1, height, 1)]
    edges += [(height - 1, 0, 1, width), (height // 2, width // 2, 1, 1), (1, 1, height - 1, width - 1)]
    rng = np.random.default_rng(2)
    sizes = rng.integers(1, (height + 1, width + 1), (count - len(edges), 2))
    corners = rng.integers(0, np.array([height, width]) - sizes + 1)
    return np.concatenate([np.array(edges), np.concatenate([corners, sizes], axis=1)]).astype(np.int32)


def by_torchvision(image: np.ndarray, box: np.ndarray, size: tuple[int, int], path: str) -> np.ndarray:
    if path == "PIL":
        return np.array(F.resized_crop(Image.fromarray(image), *box.tolist(), size=list(size)))
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    return F.resized_crop(tensor, *box.tolist(), size=list(size), antialias=path == "tensor").permute(1, 2, 0).numpy()


@cache
def theirs(case: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    image_size, size, _ = CASES[case]
    images, boxes = photographs(120, *image_size), any_boxes(120, *image_size)
    pairs = list(zip(images, boxes, strict=True))
    return images, boxes, {path: np.stack([by_torchvision(*pair, size, path) for pair in pairs]) for path in PATHS}


def agreement(case: str) -> dict[str, bool]:
    """Whether `resized_crop` gives torchvision's pixels, path by path."""
    images, boxes, expected = theirs(case)
    _, size, shares = CASES[case]
    # A new partial each time: jit would remember `resized_crop` itself from before a fault was planted.
    crops = [jax.jit(partial(resized_crop, size=size, antialias=antialias)) for antialias in (True, False)]
    smooth, plain = (np.array(crop(images, boxes)) for crop in crops)
    assert (smooth.dtype, plain.dtype) == (np.uint8, np.uint8)
    assert (smooth.shape, plain.shape) == (expected["PIL"].shape,) * 2
    off = [np.abs(ours - expected[path].astype(int)) for ours, path in zip((smooth, smooth, plain), PATHS, strict=True)]
    return {
        path: bool(pixels.max() <= ONE_ROUNDING and (pixels > 0).mean() <= share)
        for path, pixels, share in zip(PATHS, off, shares, strict=True)
    }


@pytest.mark.parametrize("case", CASES)
def test_pixels_are_torchvisions_within_one_rounding(case: str) -> None:
    assert agreement(case) == dict.fromkeys(PATHS, True)


def weights(
    centres: Callable[..., Any], antialias: bool = True, cut: bool = True, steps: int = 1 << 16
) -> Callable[..., Any]:
    """`_weights` written again in floats, with room for a fault."""

    def planted(start: Any, length: Any, size_in: int, size_out: int, wanted: bool) -> jax.Array:
        start, length = start[:, None, None], length[:, None, None]
        reach = jnp.maximum(length / size_out, 1) if antialias and wanted else 1
        pixels, outputs = jnp.arange(size_in) - start, jnp.arange(size_out)[:, None]
        triangles = jnp.maximum(1 - jnp.abs(pixels - centres(outputs, length, size_out)) / reach, 0)
        triangles = jnp.where((pixels >= 0) & (pixels < length), triangles, 0) if cut else triangles
        return jnp.round(triangles * steps).astype(jnp.int32)

    return planted


def half_pixel(i: Any, length: Any, size: int) -> Any:
    return jnp.clip((i + 0.5) * length / size - 0.5, 0, length - 1)


def unclipped(i: Any, length: Any, size: int) -> Any:
    return (i + 0.5) * length / size - 0.5


def corner_aligned(i: Any, length: Any, size: int) -> Any:
    return i * (length - 1) / (size - 1)


def whole_pixel(i: Any, length: Any, size: int) -> Any:
    return jnp.minimum(i * length / size, length - 1)


def test_the_weights_that_faults_are_planted_in_are_right_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_weights", weights(half_pixel))
    assert all(agreement("downsized").values())


def vertical_first(images: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    return AS_PILLOW(images.swapaxes(1, 2), columns, rows).swapaxes(1, 2)


AS_PILLOW, AS_TORCH = module._as_pillow, module._as_torch
FAULTS = {  # what is planted where, and where it shows
    "corner-aligned": ("_weights", weights(corner_aligned), "the article's", PATHS),
    "pixels not centred": ("_weights", weights(whole_pixel), "the article's", PATHS),
    "downsized without antialiasing": ("_weights", weights(half_pixel, antialias=False), "downsized", PATHS[:2]),
    "neighbours from outside the box": ("_weights", weights(unclipped, cut=False), "the article's", PATHS),
    "neighbours from outside, downsized": ("_weights", weights(half_pixel, cut=False), "downsized", PATHS[:2]),
    "coarse like TF32": ("_weights", weights(half_pixel, steps=1 << 10), "wider and lower", PATHS[1:]),
    "vertical pass first": ("_as_pillow", vertical_first, "the article's", PATHS[:1]),
    "rounded once": ("_as_pillow", AS_TORCH, "the article's", PATHS[:1]),
    "rounded twice": ("_as_torch", AS_PILLOW, "downsized", PATHS[1:]),
    "weights of fewer bits": ("WEIGHT_BITS", 20, "to no power of two", PATHS[:1]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_resizing_is_caught(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    name, planted, case, paths = FAULTS[fault]
    monkeypatch.setattr(module, name, planted)
    agreed = agreement(case)
    assert not any(agreed[path] for path in paths)


def test_normalised_pixels_are_rounded_as_well_as_the_articles() -> None:
    pixels = np.arange(256, dtype=np.uint8)[:, None, None, None].repeat(3, axis=-1)
    means, stds = recipe("article").means, recipe("article").stds
    truth = (pixels.astype(np.float64) / 255 - np.array(means)) / np.array(stds)
    ours, articles = np.array(normalise(jnp.array(pixels), means, stds)), image_to_numpy(pixels)
    assert (ours.dtype, articles.dtype) == (np.float32, np.float32)
    granted = ROUNDING_FACTOR * np.abs(articles - truth).max()
    assert np.abs(ours - truth).max() <= granted
    means = (0.4914, *means[1:])  # rounded to four digits, as it is often copied
    assert np.abs(np.array(normalise(jnp.array(pixels), means, stds)) - truth).max() > granted


def test_flips_are_torchvisions_and_only_where_told() -> None:
    images, flips = photographs(6, 20, 30), np.arange(6) % 2 == 0
    mirrored = [np.array(F.hflip(Image.fromarray(image))) for image in images[flips]]
    got = np.array(flip(jnp.array(images), jnp.array(flips)))
    np.testing.assert_array_equal(got[flips], mirrored)
    np.testing.assert_array_equal(got[~flips], images[~flips])


ARTICLE = recipe("article")
JITTED = jax.jit(augment, static_argnums=2)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return photographs(48, 32, 32)


def spied(monkeypatch: pytest.MonkeyPatch, name: str) -> list[np.ndarray]:
    """What is handed to a function of the module as its second argument, from now on."""
    original, seen = getattr(module, name), []

    def spy(images: jax.Array, drawn: jax.Array, *rest: Any) -> jax.Array:
        seen.append(np.array(drawn))
        return original(images, drawn, *rest)

    monkeypatch.setattr(module, name, spy)
    return seen


def test_an_image_is_flipped_and_then_cropped_as_in_the_article(
    monkeypatch: pytest.MonkeyPatch, images: np.ndarray
) -> None:
    flips, boxes = spied(monkeypatch, "flip"), spied(monkeypatch, "resized_crop")
    got = np.array(augment(jax.random.key(0), jnp.array(images), ARTICLE))
    for image, mirrored, box, ours in zip(images, flips[0], boxes[0], got, strict=True):
        image = np.ascontiguousarray(image[:, ::-1]) if mirrored else image
        np.testing.assert_array_equal(ours, by_torchvision(image, box, (32, 32), "PIL"))
    assert 0 < flips[0].sum() < len(images)
    assert len(np.unique(boxes[0], axis=0)) > len(images) / 2


def test_the_key_alone_decides_jitted_or_not(images: np.ndarray) -> None:
    once, again, other = (np.array(JITTED(jax.random.key(i), images, ARTICLE)) for i in (0, 0, 1))
    np.testing.assert_array_equal(once, augment(jax.random.key(0), jnp.array(images), ARTICLE))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any(axis=(1, 2, 3)).mean() > 0.5


def test_equal_images_of_a_batch_are_augmented_differently(images: np.ndarray) -> None:
    same = np.broadcast_to(images[0], images.shape)
    assert len(np.unique(JITTED(jax.random.key(0), same, ARTICLE), axis=0)) > len(images) / 2


@pytest.mark.parametrize("width", (32, 20))
def test_a_crop_to_the_whole_image_is_left_out_and_would_change_nothing(images: np.ndarray, width: int) -> None:
    rng, narrow, ratio = jax.random.key(0), jnp.array(images[:, :, :width]), (width / 32, width / 32)
    whole = ARTICLE.replace(flip=False, crop_scale=(1.0, 1.0), crop_ratio=ratio)
    np.testing.assert_array_equal(crop_boxes(rng, 48, (32, width), (1.0, 1.0), ratio), [(0, 0, 32, width)] * 48)
    np.testing.assert_array_equal(augment(rng, narrow, whole), narrow)
    program = jax.make_jaxpr(augment, static_argnums=2)
    assert "dot_general" not in str(program(rng, narrow, whole))
    assert "dot_general" in str(program(rng, narrow, whole.replace(crop_scale=(0.5, 0.5))))
