"""Images that lie in a folder by class, as torchvision's ImageFolder has them: train/cat/1.jpg, test/dog/2.png."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vit_flax.image_files import images_in, images_under, read_images
from vit_flax.readers import DataError


class Splits(NamedTuple):
    """The folders of a dataset, each with a folder a class; None for what is to be held out of `train`."""

    train: Path
    validation: Path | None
    test: Path | None


def find_splits(folder: Path) -> Splits | None:
    """How a folder is divided; None if it holds no images by class.

    As ImageNet has it, `val` is what is tested on where there is no `test`. Without `train`, the classes lie here.
    """
    train = _with_classes(folder / "train")
    validation = _with_classes(folder / "val")
    test = _with_classes(folder / "test")
    if train is None:
        holds_images = any(any(images_under(each)) for each in class_folders(folder))
        return Splits(folder, None, None) if holds_images else None
    if test is None:
        return Splits(train, None, validation)
    return Splits(train, validation, test)


def _with_classes(folder: Path) -> Path | None:
    return folder if class_folders(folder) else None


def class_folders(folder: Path) -> list[Path]:
    """The folders in this one by name, but for hidden ones: a class each."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def read_by_class(folder: Path, classes: tuple[str, ...], image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """All images of these classes: uint8, (n, height, width, 3), in the order of classes and names; labels, int32 (n,).

    Each is scaled to cover `image_size` and cropped at its centre. Raises `DataError`, naming the folder or the file,
    for classes that are missing, empty or not in `classes`, and for what cannot be read or kept in memory.
    """
    found = {path.name: path for path in class_folders(folder)}
    for name in sorted(found.keys() - set(classes)):
        raise DataError(f"{found[name]} is a class that is not among those to train on: {', '.join(classes)}")
    for name in sorted(set(classes) - found.keys()):
        raise DataError(f"{folder} has no folder {name}, which is a class to train on")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        of_class = images_in(found[name])
        files += of_class
        labels += [label] * len(of_class)
    height, width = image_size
    _check_memory(folder, len(files), height * width * 3)
    return read_images(files, image_size, channels=3), np.array(labels, np.int32)


def normalisation(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images, over all pixels, as shares of 255."""
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
        mean = float(np.average(values, weights=counts))
        means.append(mean)
        stds.append(float(np.sqrt(np.average((values - mean) ** 2, weights=counts))))
    return tuple(means), tuple(stds)


def _check_memory(folder: Path, count: int, size: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if count * size > memory:
        sizes = f"{count * size / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f}"
        raise DataError(f"{folder} holds {count:,} images, which take {sizes}: choose a preset of smaller images")
