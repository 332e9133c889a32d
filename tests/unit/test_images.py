"""Photographs become batches: filled, upright, normalised, and the same array for every caller."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conformance.images import load_batch

SIZES = ((32, 32), (32, 64), (64, 32), (224, 224), (17, 5))


def write(folder: Path, image: np.ndarray, name: str = "a.png") -> None:
    Image.fromarray(image).save(folder / name)


@pytest.mark.parametrize("image_size", SIZES)
def test_a_batch_has_the_size_that_was_asked_for(image_size: tuple[int, int]) -> None:
    images = load_batch(None, 3, image_size).images
    assert images.shape == (3, *image_size, 3)
    assert images.dtype == np.float32
    assert np.isfinite(images).all()
    assert images.min() >= -1
    assert images.max() <= 1


def test_black_is_minus_one_and_white_is_one(tmp_path: Path) -> None:
    write(tmp_path, np.repeat(np.array([[[0], [255]]], np.uint8), 3, axis=2))
    np.testing.assert_array_equal(load_batch(tmp_path, 1, (1, 2)).images[0, 0], [[-1] * 3, [1] * 3])


@pytest.mark.parametrize("image_size", ((32, 32), (8, 12)))
def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path: Path, image_size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*image_size, 3), dtype=np.uint8)
    write(tmp_path, pixels)
    restored = np.rint((load_batch(tmp_path, 1, image_size).images[0] + 1) / 2 * 255)
    np.testing.assert_array_equal(restored, pixels)


@pytest.mark.parametrize("image_size", ((16, 16), (16, 32), (64, 48)))
def test_an_image_stays_upright_and_keeps_its_colours(tmp_path: Path, image_size: tuple[int, int]) -> None:
    corners = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
    write(tmp_path, corners.repeat(40, axis=0).repeat(60, axis=1))
    image = load_batch(tmp_path, 1, image_size).images[0]
    np.testing.assert_array_equal(image[[[0, 0], [-1, -1]], [[0, -1], [0, -1]]], corners / 127.5 - 1)


@pytest.mark.parametrize("image_size", ((20, 20), (40, 40)))
@pytest.mark.parametrize("wide", (True, False), ids=("wide", "tall"))
def test_an_image_is_cropped_at_its_centre(tmp_path: Path, image_size: tuple[int, int], wide: bool) -> None:
    pixels = np.zeros((20, 80, 3), np.uint8)
    pixels[:, 28:52] = 255  # white where the central square lies, and two more pixels for the filter to see
    write(tmp_path, pixels if wide else pixels.swapaxes(0, 1))
    np.testing.assert_array_equal(load_batch(tmp_path, 1, image_size).images, np.ones((1, *image_size, 3)))


def test_images_of_different_sizes_make_one_batch(tmp_path: Path) -> None:
    write(tmp_path, np.zeros((10, 30, 3), np.uint8), "a.png")
    write(tmp_path, np.full((50, 20, 3), 255, np.uint8), "b.png")
    batch = load_batch(tmp_path, 2, (16, 24))
    assert batch.images.mean(axis=(1, 2, 3)).tolist() == [-1, 1]
    assert batch.source == f"{tmp_path.name} (2 image files)"


@pytest.mark.parametrize("count", (1, 2, 8))
def test_without_a_source_the_images_are_distinct(count: int) -> None:
    batch = load_batch(None, count, (32, 48))
    assert len({image.tobytes() for image in batch.images}) == count
    assert batch.source == "scikit-learn sample photographs"


def test_a_batch_is_made_once_and_cannot_be_written_to() -> None:
    batch = load_batch(None, 2, (32, 32))
    assert load_batch(None, 2, (32, 32)) is batch
    with pytest.raises(ValueError, match="read-only"):
        batch.images[0] = 0
