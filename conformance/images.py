"""Photographs as a model takes them: one batch, normalised, of any size."""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from vit_flax.photographs import read_photographs
from vit_flax.readers import needs


@dataclasses.dataclass(frozen=True)
class Batch:
    images: np.ndarray  # float32, count x height x width x channels, in [-1, 1], read-only
    source: str  # what they are, for reports


@functools.cache
def load_batch(source: str | Path | None, count: int, image_size: tuple[int, int], channels: int = 3) -> Batch:
    """`count` photographs from `source` (see `read_photographs`), each filling (height, width); one channel is grey."""
    photographs = read_photographs(source, count)
    pixels = np.stack([_fill(photograph, image_size) for photograph in photographs.images])
    images = (pixels.astype(np.float32) / 255 - 0.5) / 0.5
    images = images if channels == 3 else images.mean(axis=-1, keepdims=True)
    images.setflags(write=False)  # the cache hands the same array to every caller
    return Batch(images, photographs.source)


def _fill(photograph: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Scaled (bicubic) until it covers height and width, and cropped at the centre to what they show."""
    with needs("Pillow"):
        from PIL import Image, ImageOps
    height, width = image_size
    # Pillow counts width first.
    return np.array(ImageOps.fit(Image.fromarray(photograph), (width, height), method=Image.Resampling.BICUBIC))
