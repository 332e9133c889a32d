"""Images in a folder a class are a dataset: split as they lie or as others are, fitted, and normalised as measured."""

import re

import numpy as np
import pytest
from PIL import Image

from conformance.tolerances import FLOAT64
from vit_flax import image_folder
from vit_flax.cli import main
from vit_flax.data import DataError, read_data, split
from vit_flax.image_folder import normalisation
from vit_flax.settings import resolve

RNG = np.random.default_rng(0)


def fill(folder, count=20, classes=("cat", "dog"), size=(8, 8), brightest=256):
    """So many images a class, all different; a dog is brighter than a cat."""
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = RNG.integers(100 * label, brightest, (*size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:03}.png")


@pytest.fixture
def divided(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "test", 3)
    return tmp_path


def sizes(data):
    return [len(part.labels) for part in (data.train, data.validation, data.test)]


def test_train_and_test_are_read_by_class_and_a_tenth_is_held_out(divided):
    data = read_data(divided, (8, 8))
    assert (data.classes, sizes(data)) == (("cat", "dog"), [36, 4, 6])
    np.testing.assert_array_equal(data.test.labels, [0, 0, 0, 1, 1, 1])
    first = np.asarray(Image.open(divided / "test" / "dog" / "000.png"))
    np.testing.assert_array_equal(data.test.images[3], first)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int32
    assert data.source == f"{divided.name} (46 image files)"


def test_no_image_is_in_two_parts(divided):
    data = read_data(divided, (8, 8))
    images = np.concatenate([part.images for part in (data.train, data.validation, data.test)])
    assert len(np.unique(images, axis=0)) == 46


def test_without_a_test_a_fifth_is_held_out_as_of_the_digits(tmp_path):
    fill(tmp_path)
    data = read_data(tmp_path, (8, 8))
    _, held_out = split(40, 8)
    assert sizes(data) == [29, 3, 8]
    np.testing.assert_array_equal(data.test.labels, held_out // 20)


def test_val_is_what_is_tested_on_where_there_is_no_test(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val", 2)
    assert sizes(read_data(tmp_path, (8, 8))) == [36, 4, 4]


def test_val_beside_a_test_is_what_is_validated_on(divided):
    fill(divided / "val", 2)
    assert sizes(read_data(divided, (8, 8))) == [40, 4, 6]


def test_images_of_any_size_are_fitted_and_grey_ones_become_colours(tmp_path):
    fill(tmp_path, size=(30, 17))
    Image.fromarray(np.full((5, 9), 77, np.uint8)).save(tmp_path / "cat" / "grey.png")
    data = read_data(tmp_path, (16, 24))
    assert data.train.images.shape[1:] == (16, 24, 3)
    everything = np.concatenate([part.images for part in (data.train, data.validation, data.test)])
    assert (everything == 77).all(axis=(1, 2, 3)).sum() == 1


def test_means_and_stds_are_those_of_the_training_images(divided):
    data = read_data(divided, (8, 8))
    pixels = data.train.images.astype(np.float64) / 255
    means, stds = data.normalisation
    assert np.abs(means - pixels.mean((0, 1, 2))).max() < FLOAT64
    assert np.abs(stds - pixels.std((0, 1, 2))).max() < FLOAT64

    found = resolve("digits", "article", {"batch_size": 4}, 0, str(divided), data).recipe
    chosen = resolve("digits", "article", {"batch_size": 4, "means": (0.5,) * 3}, 0, str(divided), data).recipe

    assert (found.means, found.stds) == (means, stds)
    assert (chosen.means, chosen.stds) == ((0.5,) * 3, stds)


def test_channels_are_normalised_each_by_its_own():
    images = np.zeros((2, 1, 1, 3), np.uint8)
    images[1] = 0, 51, 255
    for found in normalisation(images):  # of two values, mean and deviation are half of the other one each
        assert np.abs(np.subtract(found, (0, 0.1, 0.5))).max() < FLOAT64


def test_a_recipe_knows_the_means_of_data_that_it_was_made_for():
    assert read_data(None).normalisation is None


def hidden(folder):
    (folder / "train" / ".cache").mkdir()
    (folder / "train" / "cat" / ".thumbnail.png").write_bytes(b"no image")
    (folder / "train" / "cat" / "notes.txt").write_text("no image")


def test_hidden_folders_and_files_and_what_is_no_image_are_left_out(divided):
    hidden(divided)
    assert read_data(divided, (8, 8)).classes == ("cat", "dog")


def renamed(folder):
    (folder / "test" / "dog").rename(folder / "test" / "wolf")


def missing(folder):
    for file in (folder / "test" / "dog").iterdir():
        file.unlink()
    (folder / "test" / "dog").rmdir()


def emptied(folder):
    for file in (folder / "train" / "cat").iterdir():
        file.unlink()


def damaged(folder):
    (folder / "train" / "cat" / "007.png").write_bytes(b"no image")


def few(folder):
    for file in (folder / "train").rglob("*.png"):
        if file.stem > ("004" if file.parent.name == "cat" else "003"):
            file.unlink()


BAD = {
    renamed: "{folder}/test/wolf is a class that is not among those to train on: cat, dog",
    missing: "{folder}/test has no folder dog, which is a class to train on",
    emptied: "{folder}/train/cat holds no images",
    damaged: "{folder}/train/cat/007.png cannot be decoded",
    few: "{folder} holds 9 training images: give at least 10",
}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.__name__)
def test_what_does_not_fit_together_is_a_sentence_that_names_it(divided, bad):
    bad(divided)
    with pytest.raises(DataError, match=re.escape(BAD[bad].format(folder=divided))):
        read_data(divided, (8, 8))


def test_more_than_the_memory_holds_is_refused_before_anything_is_read(divided, monkeypatch):
    monkeypatch.setattr(image_folder, "read_images", lambda *arguments, **named: pytest.fail("read"))
    with pytest.raises(DataError, match=r"40 images, which take .* GiB, .*: choose a preset of smaller images"):
        read_data(divided, (10**6, 10**6))


def test_a_folder_without_images_is_no_dataset(tmp_path):
    (tmp_path / "notes").mkdir()
    with pytest.raises(DataError, match=r"holds no dataset that can be read: .*train/cat/1\.jpg"):
        read_data(tmp_path)


def test_a_model_is_trained_on_a_folder_and_evaluated(divided, capsys):
    out = divided / "run"
    options = ["--preset=digits", "--recipe=digits", "--epochs=30", "--batch-size=12", "--set=model.num_layers=1"]
    assert main(["train", f"--data={divided}", f"--out={out}", *options]) == 0
    assert main(["evaluate", f"--run={out}"]) == 0
    shown = capsys.readouterr().out
    assert f"test_acc: 1.0000 ({divided.name} (46 image files), 6 images" in shown
    assert "val_acc: 1.0000" in shown
