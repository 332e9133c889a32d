"""Datasets of every layout read back exactly and split as torch splits, and bad ones refused in one sentence."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.datasets import load_digits
from test_readers import CUTS, INCOMPLETE, cut, encoded, flip, publish, random_images, write_batch, write_parquet

from vit_flax import tables
from vit_flax.data import CIFAR10_CLASSES, SPLIT_SEED, Data, Dataset, read_data, split
from vit_flax.decode import decode
from vit_flax.readers import CIFAR10_BATCHES, DataError

TRAIN, TEST = random_images(40, seed=1), random_images(10, seed=2)
TRAIN_LABELS, TEST_LABELS = np.repeat(np.arange(10), 4), np.arange(10)  # sorted by class, as on disk


def torch_split(count: int, held_out: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.utils.data.random_split(range(count), [count - held_out, held_out], generator)
    return [list(part) for part in parts]


@pytest.mark.parametrize("count, held_out", ((0, 0), (2, 0), (2, 2), (7, 3), (1797, 360), (50_000, 5000)))
@pytest.mark.parametrize("seed", (0, SPLIT_SEED, 2**32 - 1))
def test_a_split_is_the_one_that_torch_makes(count: int, held_out: int, seed: int) -> None:
    parts = split(count, held_out, seed)
    assert [part.dtype for part in parts] == [np.int64] * 2
    assert [part.tolist() for part in parts] == torch_split(count, held_out, seed)


def test_the_seed_of_a_split_is_the_articles() -> None:
    assert SPLIT_SEED == 42
    np.testing.assert_array_equal(split(10, 3)[1], torch_split(10, 3, 42)[1])


@pytest.mark.parametrize("held_out", (-1, 11))
def test_a_split_that_cannot_be_had_is_refused(held_out: int) -> None:
    with pytest.raises(ValueError, match=rf"held_out is {held_out}, but must be in \[0, 10\]"):
        split(10, held_out)


def test_a_dataset_goes_through_jit_as_it_is() -> None:
    dataset = Dataset(TRAIN, TRAIN_LABELS)
    doubled = jax.jit(lambda data: Dataset(data.images, data.labels * 2))(dataset)
    assert isinstance(doubled, Dataset)
    assert isinstance(doubled.images, jnp.ndarray)
    np.testing.assert_array_equal(doubled.labels, TRAIN_LABELS * 2)


def assert_dataset(dataset: Dataset, images: np.ndarray, labels: Any) -> None:
    assert (dataset.images.dtype, dataset.labels.dtype) == (np.uint8, np.int32)
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)


def assert_data(data: Data, train: np.ndarray = TRAIN, labels: np.ndarray = TRAIN_LABELS) -> None:
    """It is what was written, with the tenth held out that torch would hold out."""
    kept, held_out = torch_split(len(labels), len(labels) // 10, SPLIT_SEED)
    assert_dataset(data.train, train[kept], labels[kept])
    assert_dataset(data.validation, train[held_out], labels[held_out])
    assert_dataset(data.test, TEST, TEST_LABELS)


def test_without_a_source_the_digits_of_scikit_learn_are_split_for_the_test_first() -> None:
    data, digits = read_data(None), load_digits()
    shades = np.array([round(shade * 255 / 16) for shade in range(17)])
    images = shades[digits.images.astype(int)][..., None]
    rest, test = map(np.array, torch_split(1797, 360, SPLIT_SEED))
    kept, held_out = torch_split(1437, 144, SPLIT_SEED)
    assert_dataset(data.train, images[rest[kept]], digits.target[rest[kept]])
    assert_dataset(data.validation, images[rest[held_out]], digits.target[rest[held_out]])
    assert_dataset(data.test, images[test], digits.target[test])
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [1293, 144, 360]
    assert data.train.images.shape == (1293, 8, 8, 1)
    assert data.classes == tuple("0123456789")
    assert data.source == "scikit-learn digits"


def test_without_a_source_an_absent_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="needs scikit-learn: pip install"):
        read_data(None)


def write_batches(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(5):
        rows = slice(8 * i, 8 * i + 8)
        write_batch(folder / f"data_batch_{i + 1}", TRAIN[rows], TRAIN_LABELS[rows])
    write_batch(folder / "test_batch", TEST, TEST_LABELS)


@pytest.mark.parametrize("folder", ("cifar-10-batches-py", "."))
@pytest.mark.parametrize("archive", (True, False), ids=("beside the archive", "alone"))
def test_batches_are_read_in_or_inside_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, archive: bool
) -> None:
    write_batches(tmp_path / folder)
    publish(tmp_path, monkeypatch)
    if archive:
        (tmp_path / "cifar-10-python.tar.gz").touch()
    data = read_data(str(tmp_path))
    assert_data(data)
    assert data.classes == CIFAR10_CLASSES
    assert data.source == "CIFAR-10"


@pytest.mark.parametrize("name", CIFAR10_BATCHES)
@pytest.mark.parametrize(
    "harm, trouble",
    ((Path.unlink, "is missing"), (lambda file: flip(file, 99), "is damaged or not CIFAR-10's")),
    ids=("missing", "damaged"),
)
def test_every_batch_must_be_there_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, harm: Callable[[Path], None], trouble: str
) -> None:
    write_batches(tmp_path)
    publish(tmp_path, monkeypatch)
    harm(tmp_path / name)
    with pytest.raises(DataError, match=f"{name} {trouble}"):
        read_data(tmp_path)


def write_train(
    folder: Path, images: Any = TRAIN, labels: Any = TRAIN_LABELS, name: str = "train", **options: Any
) -> None:
    folder.mkdir(exist_ok=True)
    write_parquet(folder / f"{name}.parquet", images, labels, **options)


def write_test(folder: Path, images: Any = TEST, labels: Any = TEST_LABELS, **options: Any) -> None:
    write_train(folder, images, labels, "test", **options)


def write_shards(folder: Path) -> None:
    for i, rows in enumerate((slice(0, 30), slice(30, 40))):
        write_train(folder, TRAIN[rows], TRAIN_LABELS[rows], f"train-0000{i}-of-00002")
    write_train(folder, TEST, TEST_LABELS, "test-00000-of-00001")


def write_both(folder: Path) -> None:
    write_train(folder)
    write_test(folder)


@pytest.mark.parametrize("folder", (".", "plain_text", "data"))
@pytest.mark.parametrize("write", (write_both, write_shards), ids=("whole", "shards"))
def test_parquet_is_read_whole_or_in_shards_in_or_inside_a_folder(
    tmp_path: Path, write: Callable[[Path], None], folder: str
) -> None:
    (tmp_path / "mine").mkdir()
    write(tmp_path / "mine" / folder)
    (tmp_path / "mine" / "dataset_infos.json").touch()
    data = read_data(tmp_path / "mine")
    assert_data(data)
    assert data.classes == CIFAR10_CLASSES
    assert data.source == "mine (Parquet)"


def test_images_may_have_any_one_size(tmp_path: Path) -> None:
    train, test = random_images(20, 7, 11), random_images(2, 7, 11)
    write_train(tmp_path, train, [0, 1] * 10, column="image")
    write_test(tmp_path, test, [1, 0], column="image")
    data = read_data(tmp_path)
    kept, held_out = torch_split(20, 2, SPLIT_SEED)
    assert_dataset(data.train, train[kept], np.array([0, 1] * 10)[kept])
    assert_dataset(data.validation, train[held_out], np.array([0, 1] * 10)[held_out])
    assert_dataset(data.test, test, [1, 0])


def test_jpegs_are_read_as_pillow_decodes_them(tmp_path: Path) -> None:
    write_train(tmp_path, kind="JPEG")
    write_test(tmp_path, kind="JPEG")
    test = read_data(tmp_path).test.images
    for pixels, image in zip(test, TEST, strict=True):
        np.testing.assert_array_equal(pixels, decode(encoded(image, "JPEG"), "it"))


NAMES = [f"kind {i}" for i in range(12)]


@pytest.mark.parametrize(
    "size, count, names, classes",
    (
        (32, 10, None, CIFAR10_CLASSES),
        (32, 3, None, CIFAR10_CLASSES),
        (32, 11, None, tuple(map(str, range(11)))),
        (28, 10, None, tuple("0123456789")),
        (32, 10, NAMES, tuple(NAMES)),
        (28, 12, NAMES, tuple(NAMES)),
    ),
)
def test_classes_are_named_by_the_file_or_else_as_cifar_10s_if_they_can_be(
    tmp_path: Path, size: int, count: int, names: Any, classes: tuple[str, ...]
) -> None:
    write_train(tmp_path, random_images(24, size, size), np.arange(24) % count, names=names)
    write_test(tmp_path, random_images(2, size, size), [0, count - 1], names=names)
    assert read_data(tmp_path).classes == classes


@pytest.mark.parametrize(
    "known, source",
    (
        ({"train": "Known", "test": "Known"}, "Known"),
        ({"train": "Known"}, "mine (Parquet)"),
        ({"test": "Known"}, "mine (Parquet)"),
        ({"train": "Known", "test": "Also known"}, "mine (Parquet)"),
    ),
)
def test_the_source_is_known_only_if_every_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: dict[str, str], source: str
) -> None:
    write_both(tmp_path / "mine")
    for name, dataset in known.items():
        content = (tmp_path / "mine" / f"{name}.parquet").read_bytes()
        monkeypatch.setitem(tables.KNOWN_FILES, hashlib.sha256(content).hexdigest(), dataset)
    assert read_data(tmp_path / "mine").source == source


def changed(values: Any, value: Any) -> list[Any]:
    """These values with another in row 7."""
    return [*values[:7], value, *values[8:]]


def move(folder: Path, old: str, new: str) -> None:
    (folder / new).parent.mkdir(exist_ok=True)
    (folder / old).rename(folder / new)


def cut_image(folder: Path) -> None:
    rows = [{"bytes": encoded(image), "path": None} for image in TRAIN]
    rows[7]["bytes"] = rows[7]["bytes"][:99]
    pq.write_table(pa.table({"img": rows, "label": TRAIN_LABELS}), folder / "train.parquet")


def without_labels(folder: Path) -> None:
    pq.write_table(pq.read_table(folder / "test.parquet").drop_columns("label"), folder / "test.parquet")


GAP = [label + (label == 9) for label in TRAIN_LABELS]
UNNUMBERED = "has label 10, but the 10 classes are numbered from 0 to 9: correct it, or download the file again"
BAD_FOLDERS = {  # how a good one is spoilt, and the file (and row) and the trouble that the message names
    "no test": (lambda folder: (folder / "test.parquet").unlink(), "", "has no test.parquet, whole or in shards"),
    "no train": (lambda folder: (folder / "train.parquet").unlink(), "", "has no train.parquet, whole or in shards"),
    "apart": (lambda folder: move(folder, "test.parquet", "data/test.parquet"), "", "holds several datasets"),
    "two datasets": (lambda folder: write_both(folder / "data"), "data", "give the folder of one"),
    "whole and in shards": (write_shards, "train.parquet", "is there beside train-00000-of-00002.parquet"),
    "test is train": (lambda folder: write_test(folder, TRAIN, TRAIN_LABELS), "test.parquet", "is a copy of"),
    "empty train": (lambda folder: write_train(folder, [], []), "train.parquet", "holds no images"),
    "empty test": (lambda folder: write_test(folder, [], []), "test.parquet", "holds no images"),
    "nine images": (lambda folder: write_train(folder, TRAIN[:9], range(9)), "", "holds 9 training images: give at"),
    "other classes": (lambda folder: write_test(folder, names=NAMES), "test.parquet", "names other classes than"),
    "no labels": (without_labels, "test.parquet", "has no column label"),
    "no label": (lambda folder: write_test(folder, labels=changed(TEST_LABELS, None)), "test.parquet", "row 7 of"),
    "label beyond": (lambda folder: write_test(folder, labels=changed(TEST_LABELS, 10)), "test.parquet", UNNUMBERED),
    "label below": (lambda folder: write_train(folder, labels=changed(TRAIN_LABELS, -1)), "train.parquet", "label -1"),
    "labels with a gap": (lambda folder: write_train(folder, labels=GAP), "row 36 of {}/train.parquet", UNNUMBERED),
    "huge label": (lambda folder: write_train(folder, labels=changed(TRAIN_LABELS, 2**40)), "train.parquet", "row 7"),
    "grey": (lambda folder: write_train(folder, changed(TRAIN, TRAIN[7, ..., 0])), "row 7 of {}/train", "of mode L"),
    "grey first": (
        lambda folder: write_train(folder, TRAIN[..., 0]),
        "row 0 of {}/train.parquet",
        "of mode L, not RGB",
    ),
    "mixed sizes": (
        lambda folder: write_train(folder, changed(TRAIN, TRAIN[7, :28])),
        "row 7 of {}/train.parquet",
        "is of 28 x 32 pixels, others of 32 x 32: scale all to one size",
    ),
    "one pixel": (
        lambda folder: write_test(folder, changed(TEST, TEST[7, :1, :1])),
        "row 7 of {}/test",
        "1 x 1 pixels",
    ),
    "smaller test": (lambda folder: write_test(folder, TEST[:, :28, :28]), "row 0 of {}/test", "28 x 28 pixels"),
    "cut image": (cut_image, "row 7 of {}/train.parquet", INCOMPLETE),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_parquet_is_refused_in_words_that_name_the_file(tmp_path: Path, case: str) -> None:
    spoil, file, trouble = BAD_FOLDERS[case]
    write_both(tmp_path)
    read_data(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError) as refusal:
        read_data(tmp_path)
    assert (file.format(tmp_path) if "{}" in file else str(tmp_path / file)) in str(refusal.value)
    assert trouble in str(refusal.value)


def test_images_that_would_unpack_to_far_more_than_their_file_are_refused(tmp_path: Path) -> None:
    flat = np.zeros((2000, 3000, 3), np.uint8)  # 18 MB, and 30 kB in a PNG
    rows = [{"bytes": encoded(flat), "path": None}] * 20
    for split_name, first in (("train", 0), ("test", 1)):
        pq.write_table(pa.table({"img": rows, "label": [first, 1] * 10}), tmp_path / f"{split_name}.parquet")
    trouble = (
        r"train\.parquet claims 20 images of 2,000 x 3,000 pixels in [0-9,]+ bytes, and would unpack to 360,000,000"
    )
    with pytest.raises(DataError, match=trouble):
        read_data(tmp_path)


@pytest.mark.parametrize("label", (-1, 12))
def test_a_label_without_a_name_is_refused(tmp_path: Path, label: int) -> None:
    write_train(tmp_path, names=NAMES)
    write_test(tmp_path, labels=changed(TEST_LABELS, label), names=NAMES)
    with pytest.raises(DataError, match=rf"row 7 of .*test\.parquet has label {label}, but the 12 classes"):
        read_data(tmp_path)


@pytest.mark.parametrize("name", ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"))
@pytest.mark.parametrize("share", (None, *CUTS))
def test_every_shard_must_be_there_and_whole(tmp_path: Path, name: str, share: float | None) -> None:
    write_shards(tmp_path)
    file = tmp_path / f"{name}.parquet"
    if share is None:
        file.unlink()
    else:
        cut(file, share)
    missing = f"{file} is missing, though" if "train" in name else f"{tmp_path} has no test.parquet"
    with pytest.raises(DataError) as refusal:
        read_data(tmp_path)
    assert (missing if share is None else f"{file} cannot be decoded and {INCOMPLETE}") in str(refusal.value)


def test_shards_of_two_copies_are_not_mixed(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_train(tmp_path, name="train-00002-of-00003")
    with pytest.raises(DataError, match=r"of-00003\.parquet is there beside train-00000-of-00002\.parquet"):
        read_data(tmp_path)


def test_an_archive_alone_is_refused_with_the_command_that_unpacks_it(tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    archive = folder / "cifar-10-python.tar.gz"
    archive.write_bytes(b"half of it")
    with pytest.raises(DataError) as refusal:
        read_data(folder)
    assert str(refusal.value) == f"{archive} is not unpacked: run tar -xzf '{archive}' -C '{folder}'"


@pytest.mark.parametrize("name, trouble", ((".", "holds no dataset that can be read"), ("nowhere", "does not exist")))
def test_a_folder_without_a_dataset_is_refused_with_what_to_give(tmp_path: Path, name: str, trouble: str) -> None:
    (tmp_path / "cat.png").write_bytes(encoded(TRAIN[0]))
    with pytest.raises(DataError) as refusal:
        read_data(tmp_path / name)
    assert f"{tmp_path / name} {trouble}: give cifar10 to download it, or a folder that holds" in str(refusal.value)
