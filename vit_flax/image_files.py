"""Image files, one by one or in folders, as a model takes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from vit_flax.decode import decode
from vit_flax.readers import DataError, needs, read

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def images_under(folder: Path) -> Iterator[Path]:
    """The image files in a folder, at any depth and in any order, but for hidden ones and what no image is called."""
    for file in folder.rglob("*"):
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file():
            yield file


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder by name. Raises `DataError` if there are none."""
    if not (found := sorted(images_under(folder))):
        raise DataError(f"{folder} holds no images ({', '.join(SUFFIXES)}): give image files, or a folder of them")
    return found


def image_files(given: Sequence[Path]) -> list[Path]:
    """The files, and those in the folders. Raises `DataError` for a folder without any."""
    files: list[Path] = []
    for path in given:
        files += images_in(path) if path.is_dir() else [path]
    return files


def read_images(files: Sequence[Path], image_size: tuple[int, int], channels: int) -> np.ndarray:
    """Image files as a model takes them: scaled to cover its size, cropped at the centre; grey for one channel.

    Returns uint8, (files, height, width, channels). Raises `DataError`, naming the file, for what cannot be read.
    """
    with needs("Pillow"):
        from PIL import Image, ImageOps
    height, width = image_size
    images = np.empty((len(files), height, width, channels), np.uint8)
    for file, pixels in zip(files, images, strict=True):
        photograph = decode(read(file), file).convert("RGB" if channels == 3 else "L")
        fitted = ImageOps.fit(photograph, (width, height), method=Image.Resampling.BICUBIC)
        pixels[:] = np.asarray(fitted).reshape(height, width, channels)
    return images
