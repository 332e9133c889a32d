"""What a trained model says of images in files."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vit_flax.decode import decode
from vit_flax.readers import DataError, needs, read
from vit_flax.train import TrainState, eval_step

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def image_files(given: Sequence[Path]) -> list[Path]:
    """The files, and those in the folders, by name; hidden ones and what no image is called are left out of folders.

    Raises `DataError` for a folder without any.
    """
    files: list[Path] = []
    for path in given:
        if not path.is_dir():
            files.append(path)
            continue
        inside = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
        if not (found := sorted(file for file in inside if file.is_file())):
            raise DataError(f"{path} holds no images ({', '.join(SUFFIXES)}): give image files, or a folder of them")
        files += found
    return files


def read_images(files: Sequence[Path], image_size: tuple[int, int], channels: int) -> np.ndarray:
    """Image files as a model takes them: scaled to cover its size, cropped at the centre; grey for one channel.

    Returns uint8, (files, height, width, channels). Raises `DataError`, naming the file, for what cannot be read.
    """
    with needs("Pillow"):
        from PIL import Image, ImageOps
    height, width = image_size
    pixels = []
    for file in files:
        photograph = decode(read(file), file).convert("RGB" if channels == 3 else "L")
        fitted = ImageOps.fit(photograph, (width, height), method=Image.Resampling.BICUBIC)
        pixels.append(np.asarray(fitted).reshape(height, width, channels))
    return np.stack(pixels)


def probabilities(state: TrainState, images: np.ndarray) -> np.ndarray:
    """softmax(logits) of uint8 images: float32, (images, classes)."""
    logits = jax.jit(eval_step)(state, jnp.asarray(images))
    return np.asarray(jax.nn.softmax(logits, axis=-1))


def likeliest(probabilities: np.ndarray, classes: Sequence[str], count: int) -> str:
    """The `count` likeliest classes of one image, in words."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return ", ".join(f"{classes[i]} {probabilities[i]:.1%}" for i in order)
