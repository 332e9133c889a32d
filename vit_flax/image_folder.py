"""Images that lie in a folder by class, as torchvision's ImageFolder has them: train/cat/1.jpg, test/dog/2.png."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vit_flax.image_files import images_in, read_images
from vit_flax.readers import DataError

TRAIN, VALIDATION, TEST = "train", "val", "test"


class Splits(NamedTuple):
    """The folders of a dataset, each with a folder a class; None for what is to be held out of `train`."""

    train: Path
    validation: Path | None
    test: Path | None


def find_splits(folder: Path) -> Splits | None:
    """How a folder is divided; None if it holds no images by class.

    As ImageNet has it, `val` is what is tested on where there is no `test`. Without `train`, the classes lie here.
    """
    train, validation, test = (folder / name for name in (TRAIN, VALIDATION, TEST))
    if class_folders(train):
        if class_folders(test):
            return Splits(train, validation if class_folders(validation) else None, test)
        return Splits(train, None, validation if class_folders(validation) else None)
    return Splits(folder, None, None) if any(_holds_images(each) for each in class_folders(folder)) else None


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
    for name in found.keys() - set(classes):
        raise DataError(f"{found[name]} is a class that is not among those to train on: {', '.join(classes)}")
    for name in sorted(set(classes) - found.keys()):
        raise DataError(f"{folder} has no folder {name}, which is a class to train on")
    files = [images_in(found[name]) for name in classes]
    height, width = image_size
    _check_memory(folder, sum(map(len, files)), height * width * 3)
    images = read_images([file for of_class in files for file in of_class], image_size, channels=3)
    return images, np.repeat(np.arange(len(classes), dtype=np.int32), [len(of_class) for of_class in files])


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


def _holds_images(folder: Path) -> bool:
    try:
        return bool(images_in(folder))
    except DataError:
        return False


def _check_memory(folder: Path, count: int, size: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if count * size > memory:
        sizes = f"{count * size / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f}"
        raise DataError(f"{folder} holds {count:,} images, which take {sizes}: choose a preset of smaller images")
