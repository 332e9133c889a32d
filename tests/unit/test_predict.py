"""Files become what the model takes, and its answer is a distribution over the classes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from conformance.tolerances import FLOAT64
from vit_flax.config import preset
from vit_flax.image_files import read_images
from vit_flax.predict import likeliest, probabilities
from vit_flax.readers import DataError
from vit_flax.recipe import recipe
from vit_flax.train import create_train_state

RNG = np.random.default_rng(0)
CLASSES = ("circle", "square", "star")


def write(folder, pixels, name="a.png", **options):
    Image.fromarray(pixels).save(folder / name, **options)
    return folder / name


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("channels", (1, 3))
@pytest.mark.parametrize("shape", ((8, 12), (8, 12, 3), (8, 12, 4), (30, 9), (5, 7, 3), (1, 1)))
def test_images_of_any_size_and_kind_become_the_models(tmp_path, shape, channels):
    files = [write(tmp_path, noise(*shape), f"{i}.png") for i in range(2)]
    images = read_images(files, (8, 12), channels)
    assert images.shape == (2, 8, 12, channels)
    assert images.dtype == np.uint8


@pytest.mark.parametrize("channels", (1, 3))
def test_an_image_that_fits_comes_as_it_is(tmp_path, channels):
    pixels = noise(8, 12, channels)
    images = read_images([write(tmp_path, pixels.squeeze())], (8, 12), channels)
    np.testing.assert_array_equal(images[0], pixels)


def test_images_come_in_the_order_of_the_files(tmp_path):
    dark, light = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
    files = [write(tmp_path, light, "z.png"), write(tmp_path, dark, "a.png")]
    assert [image.mean() for image in read_images(files, (8, 8), 1)] == [255, 0]


def test_what_does_not_fit_is_cut_off_at_both_ends_and_never_squeezed(tmp_path):
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = 255  # the central square
    assert read_images([write(tmp_path, wide)], (8, 8), 3).min() == 255
    assert read_images([write(tmp_path, wide.swapaxes(0, 1))], (8, 8), 3).min() == 255


@pytest.mark.parametrize("size", ((8, 8), (8, 12), (24, 4)))
def test_an_even_image_stays_even_at_any_size(tmp_path, size):
    assert set(read_images([write(tmp_path, np.full((17, 5), 77, np.uint8))], size, 1).flat) == {77}


def test_colours_stay_colours_and_become_grey_for_one_channel(tmp_path):
    red = np.tile(np.uint8([255, 0, 0]), (8, 8, 1))
    assert read_images([write(tmp_path, red)], (4, 4), 3)[0, 0, 0].tolist() == [255, 0, 0]
    assert set(read_images([write(tmp_path, red)], (4, 4), 1).flat) == {76}  # 0.299 of it (ITU-R 601)


def test_a_photograph_is_turned_as_its_camera_says(tmp_path):
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4] = 255  # the sky
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn it clockwise
    file = write(tmp_path, np.rot90(upright), exif=exif)
    np.testing.assert_array_equal(read_images([file], (8, 8), 3)[0], upright)


@pytest.mark.parametrize("channels", (1, 3))
def test_an_image_of_16_bits_looks_as_it_did_with_8(tmp_path, channels):
    pixels = noise(8, 8)
    files = [write(tmp_path, pixels, "8.png"), write(tmp_path, pixels.astype(np.uint16) * 257, "16.png")]
    shallow, deep = read_images(files, (8, 8), channels)
    np.testing.assert_array_equal(deep, shallow)


def test_what_is_transparent_is_white(tmp_path):
    file = write(tmp_path, np.zeros((8, 8, 4), np.uint8))  # black, if it were seen
    assert set(read_images([file], (8, 8), 1).flat) == {255}


def truncated(folder):
    file = write(folder, noise(64, 64, 3), "half.png")
    file.write_bytes(file.read_bytes()[:2000])
    return file


def text(folder):
    (folder / "notes.png").write_text("not an image")
    return folder / "notes.png"


def empty(folder):
    (folder / "empty.jpg").touch()
    return folder / "empty.jpg"


@pytest.mark.parametrize(
    "bad", (truncated, text, empty, lambda folder: folder / "none.png", lambda folder: folder),
    ids=("truncated", "text", "empty", "missing", "folder"),
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, bad):
    good, file = write(tmp_path, noise(8, 8)), bad(tmp_path)
    with pytest.raises(DataError, match=re.escape(str(file))):
        read_images([good, file], (8, 8), 1)


class Mean:
    """A model whose logits are the image's mean, from 0 to 1, times a kernel."""

    config = preset("digits").replace(num_classes=3)

    @staticmethod
    def apply(variables, images, train):
        assert not train
        return images.mean(axis=(1, 2)) @ variables["params"]["kernel"]


def state_of(kernel, **changes):
    chosen = recipe("digits").replace(means=(0.0,), stds=(1.0,), **changes)
    return create_train_state(Mean, {"kernel": jnp.asarray([kernel])}, jax.random.key(0), chosen, 10)


IMAGES = np.stack([np.full((8, 8, 1), value, np.uint8) for value in (0, 51, 255)])


def test_probabilities_are_a_distribution_for_each_image():
    rows = probabilities(state_of([0.0, 1.0, -30.0]), IMAGES)
    assert rows.dtype == np.float32
    assert rows.shape == (3, 3)
    assert (rows >= 0).all()
    with jax.enable_x64(True):
        rows = probabilities(state_of([0.0, 1.0, -30.0]), IMAGES)
    assert np.abs(rows.sum(axis=1) - 1).max() <= FLOAT64


def test_probabilities_follow_the_weights():
    np.testing.assert_array_equal(probabilities(state_of([0.0, 0.0, 0.0]), IMAGES), np.full((3, 3), np.float32(1 / 3)))
    for sure in range(3):
        rows = probabilities(state_of(1000.0 * np.eye(3, dtype=np.float32)[sure]), IMAGES)
        np.testing.assert_array_equal(rows[1:], np.eye(3)[[sure, sure]])


def test_the_average_speaks_where_the_recipe_keeps_one():
    state = state_of([1000.0, 0.0, 0.0], ema_decay=0.9)
    changed = state.replace(params={"kernel": jnp.asarray([[0.0, 0.0, 1000.0]])})
    assert probabilities(changed, IMAGES)[2].tolist() == [1, 0, 0]
    assert probabilities(changed.replace(average=None), IMAGES)[2].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("row", "count", "words"),
    (
        ([0.2, 0.7, 0.1], 3, "square 70.0%, circle 20.0%, star 10.0%"),
        ([0.2, 0.7, 0.1], 1, "square 70.0%"),
        ([0.2, 0.7, 0.1], 5, "square 70.0%, circle 20.0%, star 10.0%"),  # there are no more
        ([0.25, 0.25, 0.5], 3, "star 50.0%, circle 25.0%, square 25.0%"),  # equals in the order of the classes
        ([0.0, 1.0, 0.0], 2, "square 100.0%, circle 0.0%"),
    ),
)
def test_the_likeliest_classes_in_words(row, count, words):
    assert likeliest(np.array(row, np.float32), CLASSES, count) == words
