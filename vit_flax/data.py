"""Datasets to train on: CIFAR-10 and others in its layouts, or scikit-learn's digits, split as the article splits."""

import dataclasses
import math
import re
import shlex
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vit_flax.files import is_bomb
from vit_flax.image_folder import Splits, class_folders, find_splits, normalisation, read_by_class
from vit_flax.readers import (
    CIFAR10_ARCHIVE,
    CIFAR10_BATCHES,
    DataError,
    existing_folder,
    find_batches,
    needs,
    read_batch,
)
from vit_flax.tables import ImageTable, read_table

SPLIT_SEED = 42  # the article's
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS_FOR_TEST = 360  # of 1,797
CIFAR10 = "cifar10"  # not a folder: what is downloaded
LAYOUTS = (
    f"give {CIFAR10} to download it, or a folder that holds cifar-10-batches-py (torchvision), or train.parquet and "
    "test.parquet (Hugging Face; in shards and one folder deeper, too), or images in a folder a class (as in "
    "train/cat/1.jpg and test/cat/2.jpg, or cat/1.jpg)"
)


class Dataset(NamedTuple):
    """Labelled images: a pytree, so that it goes to a device and through `jit` as it is."""

    images: Any  # NumPy's or JAX's: uint8, (n, height, width, channels)
    labels: Any  # int32, (n,)


@dataclasses.dataclass(frozen=True)
class Data:
    train: Dataset
    validation: Dataset  # a tenth of the training images, held out
    test: Dataset
    classes: tuple[str, ...]
    source: str  # what they are, for reports; reports get published, so never a path
    # Means and stds of the training images' channels, where no recipe can know them.
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def read_data(source: str | Path | None, image_size: tuple[int, int] = (32, 32)) -> Data:
    """The dataset in a folder in any of the `LAYOUTS`, CIFAR-10 from its home ("cifar10"), or the digits (None).

    `image_size` is what images in a folder a class are fitted to, as those may have any size. Raises `DataError`,
    naming the file (and row), for what is missing, damaged or does not fit together.
    """
    if source is None:
        return _from_scikit_learn()
    if source == CIFAR10 and not Path(source).exists():
        from vit_flax.download import cifar10  # only here, as it needs what training needs

        source = cifar10()
    folder = existing_folder(source, LAYOUTS)
    match _parquet_folders(folder):
        case [place]:
            return _from_parquet(place, f"{folder.resolve().name} (Parquet)")
        case [one, other, *_]:
            raise DataError(f"{folder} holds several datasets, as in {one} and {other}: give the folder of one")
    if batches := find_batches(folder):
        return _from_batches(batches)
    if (archive := folder / CIFAR10_ARCHIVE).is_file():
        unpack = f"tar -xzf {shlex.quote(str(archive))} -C {shlex.quote(str(folder))}"
        raise DataError(f"{archive} is not unpacked: run {unpack}")
    if splits := find_splits(folder):
        return _from_image_folder(folder, splits, image_size)
    raise DataError(f"{folder} holds no dataset that can be read: {LAYOUTS}")


def split(count: int, held_out: int, seed: int = SPLIT_SEED) -> tuple[np.ndarray, np.ndarray]:
    """Which of `count` items to keep and which to hold out, at random: int64, (count - held_out,) and (held_out,).

    What `torch.utils.data.random_split` gives for these lengths and a generator of this seed, with no need of torch.
    Raises `ValueError` if `held_out` is not in [0, count].
    """
    if not 0 <= held_out <= count:
        raise ValueError(f"held_out is {held_out}, but must be in [0, {count}], the items that there are")
    # torch.randperm: a Fisher-Yates shuffle from the left on the raw words of the Mersenne Twister.
    raw = np.random.RandomState(seed).randint(2**32, size=count, dtype=np.uint32).tolist()
    order = list(range(count))
    for i in range(count - 1):
        j = i + raw[i] % (count - i)
        order[i], order[j] = order[j], order[i]
    indices = np.array(order, np.int64)
    return indices[: count - held_out], indices[count - held_out :]


def _hold_out(dataset: Dataset, count: int) -> tuple[Dataset, Dataset]:
    kept, held_out = split(len(dataset.labels), count)
    return _take(dataset, kept), _take(dataset, held_out)


def _take(dataset: Dataset, rows: np.ndarray) -> Dataset:
    return Dataset(dataset.images[rows], dataset.labels[rows])


def _join(parts: list[tuple[np.ndarray, np.ndarray]]) -> Dataset:
    images, labels = zip(*parts, strict=True)
    return Dataset(np.concatenate(images), np.concatenate(labels))


def _data(train: Dataset, test: Dataset, classes: tuple[str, ...], source: str) -> Data:
    return Data(*_hold_out_tenth(train), test, classes, source)


def _hold_out_tenth(train: Dataset) -> tuple[Dataset, Dataset]:
    """For validation, as the article holds out 5,000 of 50,000."""
    return _hold_out(train, round(len(train.labels) / 10))


def _from_scikit_learn() -> Data:
    """1,293 of 1,797 digits to train on, 144 to validate on, 360 to test on: the test is held out first."""
    with needs("scikit-learn"):
        from sklearn.datasets import load_digits

        digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # they are drawn in shades from 0 to 16
    labelled = Dataset(images[..., None], digits.target.astype(np.int32))
    train, test = _hold_out(labelled, DIGITS_FOR_TEST)
    return _data(train, test, tuple(str(name) for name in digits.target_names), "scikit-learn digits")


def _from_batches(folder: Path) -> Data:
    *parts, test = [read_batch(folder / name) for name in CIFAR10_BATCHES]
    return _data(_join(parts), Dataset(*test), CIFAR10_CLASSES, "CIFAR-10")


def _from_image_folder(folder: Path, splits: Splits, image_size: tuple[int, int]) -> Data:
    """Where there is no test, a fifth of the training images is held out for it; then for validation a tenth."""
    classes = tuple(path.name for path in class_folders(splits.train))

    def read(place: Path) -> Dataset:
        return Dataset(*read_by_class(place, classes, image_size))

    train = read(splits.train)
    _check_enough(folder, len(train.labels))
    if splits.test:
        test = read(splits.test)
    else:
        train, test = _hold_out(train, round(len(train.labels) / 5))
    if splits.validation:
        validation = read(splits.validation)
    else:
        train, validation = _hold_out_tenth(train)
    source = f"{folder.resolve().name} ({sum(len(part.labels) for part in (train, validation, test))} image files)"
    return Data(train, validation, test, classes, source, normalisation(train.images))


def _check_enough(folder: Path, count: int) -> None:
    if count < 10:
        raise DataError(f"{folder} holds {count} training images: give at least 10, as a tenth of them is held out")


def _parquet_folders(folder: Path) -> list[Path]:
    files = [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]
    return sorted({file.parent for file in files if _shard("train|test", file)})


def _shard(split: str, file: Path) -> re.Match[str] | None:
    return re.fullmatch(rf"({split})(-\d{{5}}-of-(\d{{5}}))?\.parquet", file.name)


def _shards(folder: Path, split: str) -> list[Path]:
    """All files of a split in their order: train.parquet, or train-00000-of-00002.parquet and so on."""
    found = sorted(file for file in folder.glob("*.parquet") if _shard(split, file))
    if not found:
        raise DataError(f"{folder} has no {split}.parquet, whole or in shards: download it too")
    shard = _shard(split, found[0])
    total = shard and shard[3]
    names = [f"{split}-{i:05}-of-{total}.parquet" for i in range(int(total))] if total else [f"{split}.parquet"]
    for file in (folder / name for name in names):
        if file not in found:
            raise DataError(f"{file} is missing, though {found[0].name} is there: download it too")
    for file in found:
        if file.name not in names:
            raise DataError(f"{file} is there beside {found[0].name}, of another copy: keep only one copy")
    return found


def _from_parquet(folder: Path, unknown: str) -> Data:
    """The dataset in `folder`; its source is `unknown` unless all of its files are known, by the same name."""
    train, test = ([read_table(file) for file in _shards(folder, split)] for split in ("train", "test"))
    tables = [*train, *test]
    _check_together(tables)
    _check_enough(folder, sum(map(len, train)))
    shape = _pixels(tables[0], 0).shape
    classes = tables[0].classes or _unnamed_classes(np.concatenate([table.labels() for table in train]), shape)
    names = {table.name or unknown for table in tables}
    return _data(
        _join([_read(table, shape, classes) for table in train]),
        _join([_read(table, shape, classes) for table in test]),
        classes,
        names.pop() if len(names) == 1 else unknown,
    )


def _check_together(tables: list[ImageTable]) -> None:
    for table in tables:
        if not len(table):
            raise DataError(f"{table.file} holds no images: download it again")
        if table.classes != tables[0].classes:
            raise DataError(f"{table.file} names other classes than {tables[0].file}: download both again")
    for one, other in combinations(tables, 2):
        if one.sha256 == other.sha256:
            raise DataError(f"{other.file} is a copy of {one.file}: download it again")


def _unnamed_classes(labels: np.ndarray, shape: tuple[int, ...]) -> tuple[str, ...]:
    # Labels from 0 without gaps: `_read` refuses those below 0 or beyond the number of distinct ones.
    if shape == (32, 32, 3) and labels.max() < len(CIFAR10_CLASSES):
        return CIFAR10_CLASSES
    return tuple(str(i) for i in range(len(np.unique(labels))))


def _read(table: ImageTable, shape: tuple[int, ...], classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    labels = table.labels()
    for row in np.flatnonzero((labels < 0) | (labels >= len(classes))).tolist():
        trouble = f"has label {labels[row]}, but the {len(classes)} classes are numbered from 0 to {len(classes) - 1}"
        raise DataError(f"{table.row(row)} {trouble}: correct it, or download the file again")
    if is_bomb(unpacked := len(table) * math.prod(shape), table.size):
        rows = f"{len(table):,} images of {shape[0]:,} x {shape[1]:,} pixels in {table.size:,} bytes"
        raise DataError(f"{table.file} claims {rows}, and would unpack to {unpacked:,}: scale its images down")
    images = np.empty((len(table), *shape), np.uint8)
    for row in range(len(table)):
        pixels = _pixels(table, row)
        if pixels.shape != shape:  # which NumPy might broadcast
            sizes = [f"{height} x {width}" for height, width, _ in (pixels.shape, shape)]
            raise DataError(f"{table.row(row)} is of {sizes[0]} pixels, others of {sizes[1]}: scale all to one size")
        images[row] = pixels
    return images, labels.astype(np.int32)


def _pixels(table: ImageTable, row: int) -> np.ndarray:
    image = table.image(row)
    if image.mode != "RGB":
        raise DataError(f"{table.row(row)} is an image of mode {image.mode}, not RGB: convert all images to RGB")
    return np.asarray(image)
