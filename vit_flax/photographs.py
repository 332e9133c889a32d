"""Photographs from the layouts that people have on disk, as plain arrays."""

import dataclasses
import math
from pathlib import Path

import numpy as np

from vit_flax.decode import decode
from vit_flax.image_files import SUFFIXES, images_under
from vit_flax.readers import DataError, existing_folder, find_batches, needs, read, read_batch
from vit_flax.tables import read_table


@dataclasses.dataclass(frozen=True)
class Photographs:
    images: list[np.ndarray]  # uint8, height x width x 3
    source: str  # what they are, for reports; reports get published, so never a path


LAYOUTS = (
    "give a folder that holds test.parquet (Hugging Face), cifar-10-batches-py (torchvision) "
    f"or image files ({' '.join(SUFFIXES)})"
)
SMALLEST_CROP = 32  # pixels; scikit-learn's photographs are cut no finer


def read_photographs(source: str | Path | None, count: int) -> Photographs:
    """`count` photographs, spread evenly over a folder in any of the `LAYOUTS`, or over scikit-learn's own (None).

    Raises `DataError`, naming the file, for what cannot be read.
    """
    if source is None:
        return _from_scikit_learn(count)
    folder = existing_folder(source, LAYOUTS)
    if files := list(folder.glob("*.parquet")):
        return _from_parquet(min(files, key=_test_first), count)
    if batches := find_batches(folder):
        return _from_batch(batches / "test_batch", count)
    if files := sorted(images_under(folder)):
        return _from_files(folder, files, count)
    raise DataError(f"{folder} holds no images that can be read: {LAYOUTS}")


def _spread(available: int, count: int, what: Path | str) -> list[int]:
    """Evenly spaced places: collections are often sorted by class, and the first few would all be of one."""
    if not 1 <= count <= available:
        raise DataError(f"{what} holds {available} images, but {count} were asked for: ask for 1 to {available}")
    return [i * available // count for i in range(count)]


def _test_first(file: Path) -> tuple[bool, bool, str]:
    return file.name != "test.parquet", not file.name.startswith("test"), file.name


def _from_parquet(file: Path, count: int) -> Photographs:
    table = read_table(file)
    images = [np.array(table.image(row).convert("RGB")) for row in _spread(len(table), count, file)]
    return Photographs(images, table.name or f"{file.parent.resolve().name} (Parquet)")


def _from_batch(file: Path, count: int) -> Photographs:
    images, _ = read_batch(file)
    return Photographs(list(images[_spread(len(images), count, file)]), "CIFAR-10")


def _from_files(folder: Path, files: list[Path], count: int) -> Photographs:
    chosen = [files[i] for i in _spread(len(files), count, folder)]
    images = [np.array(decode(read(file), file).convert("RGB")) for file in chosen]
    return Photographs(images, f"{folder.resolve().name} ({len(files)} image files)")


def _from_scikit_learn(count: int) -> Photographs:
    """The photographs that scikit-learn ships, cut into equal crops where they are too few."""
    with needs("scikit-learn"):
        from sklearn.datasets import load_sample_images

        photographs = load_sample_images().images
    finest = min(min(photograph.shape[:2]) for photograph in photographs) // SMALLEST_CROP
    per_side = min(finest, math.ceil(math.sqrt(max(count, 1) / len(photographs))))
    crops = [crop for photograph in photographs for crop in _crops(photograph, per_side)]
    source = "scikit-learn sample photographs"
    return Photographs([crops[i] for i in _spread(len(crops), count, source)], source)


def _crops(photograph: np.ndarray, per_side: int) -> list[np.ndarray]:
    height, width = (side // per_side for side in photograph.shape[:2])
    corners = [(i * height, j * width) for i in range(per_side) for j in range(per_side)]
    return [photograph[top : top + height, left : left + width] for top, left in corners]
