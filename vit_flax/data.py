"""Photographs from the layouts that people have on disk, as plain arrays.

The packages that decode them are optional (`pip install "vit-parity[data]"`), so each is imported where it is used.
"""

import dataclasses
import hashlib
import io
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from einops import rearrange


class DataError(ValueError):
    """Images that cannot be read: the message names the file and says what to do."""


@dataclasses.dataclass(frozen=True)
class Photographs:
    images: list[np.ndarray]  # uint8, height x width x 3
    source: str  # what they are, for reports; reports get published, so never a path


# Names by the sha256 of the file that was read: a figure measured on lossy copies must say so.
KNOWN_FILES = {
    "77ef2a5272f96d222c3b89bbb85c15fd3310360610e7e9f38ea5b6b3c119099e": "CIFAR-10 (JPEG-75 copy)",  # test.parquet
    "22f73e0051285601420516a2d17527ddcf0d16980886571503765648a43eef97": "CIFAR-10 (JPEG-75 copy)",  # train.parquet
}
IMAGE_COLUMNS = ("img", "image")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LAYOUTS = (
    "give a folder that holds test.parquet (Hugging Face), cifar-10-batches-py (torchvision) "
    f"or image files ({' '.join(IMAGE_SUFFIXES)})"
)
SMALLEST_CROP = 32  # pixels; scikit-learn's photographs are cut no finer


def read_photographs(source: str | Path | None, count: int) -> Photographs:
    """`count` photographs, spread evenly over a folder in any of the `LAYOUTS`, or over scikit-learn's own (None).

    Raises `DataError`, naming the file, for what cannot be read.
    """
    if source is None:
        return _from_scikit_learn(count)
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: {LAYOUTS}")
    if files := list(folder.glob("*.parquet")):
        return _from_parquet(min(files, key=_test_first), count)
    for batch in (folder / "test_batch", folder / "cifar-10-batches-py" / "test_batch"):
        if batch.is_file():
            return _from_batch(batch, count)
    if files := sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()):
        return _from_files(folder, files, count)
    raise DataError(f"{folder} holds no images that can be read: {LAYOUTS}")


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Imports of an optional package: an absent one is a `DataError` that says how to get it."""
    try:
        yield
    except ImportError as error:
        raise DataError(f'reading images needs {package}: pip install "vit-parity[data]" ({error})') from error


@contextmanager
def _decoding(what: Path | str) -> Iterator[None]:
    # A decoder that meets half a file raises whatever it stumbles over, from IndexError to struct.error.
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{what} cannot be decoded and looks incomplete: download it again ({error})") from error


def _spread(available: int, count: int, what: Path | str) -> list[int]:
    """Evenly spaced places: collections are often sorted by class, and the first few would all be of one."""
    if not 1 <= count <= available:
        raise DataError(f"{what} holds {available} images, but {count} were asked for: ask for 1 to {available}")
    return [i * available // count for i in range(count)]


def _decode(encoded: bytes | None, what: Path | str) -> np.ndarray:
    with needs("Pillow"):
        from PIL import Image
    with _decoding(what), Image.open(io.BytesIO(encoded or b"")) as image:
        return np.array(image.convert("RGB"))


def _test_first(file: Path) -> tuple[bool, bool, str]:
    return file.name != "test.parquet", not file.name.startswith("test"), file.name


def _from_parquet(file: Path, count: int) -> Photographs:
    with needs("pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    content = file.read_bytes()
    with _decoding(file):
        parquet = pq.ParquetFile(pa.BufferReader(content))
        column = _image_column(file, {field.name: str(field.type) for field in parquet.schema_arrow})
        encoded = parquet.read(columns=[f"{column}.bytes"]).flatten().column(0)
        rows = _spread(len(encoded), count, file)
        images = [_decode(encoded[row].as_py(), f"row {row} of {file}") for row in rows]
    name = KNOWN_FILES.get(hashlib.sha256(content).hexdigest())
    return Photographs(images, name or f"{file.parent.resolve().name} (Parquet)")


def _image_column(file: Path, types: dict[str, str]) -> str:
    for name in IMAGE_COLUMNS:
        if types.get(name, "").startswith("struct<") and "bytes: " in types[name]:
            return name
    found = ", ".join(f"{name} ({kind})" for name, kind in types.items())
    raise DataError(f"{file} has no column {' or '.join(IMAGE_COLUMNS)} of struct(bytes, path), only {found}")


def _from_batch(file: Path, count: int) -> Photographs:
    pixels = _batch_pixels(file)
    images = pixels[_spread(len(pixels), count, file)]
    return Photographs(
        list(rearrange(images, "n (c h w) -> n h w c", c=3, h=32, w=32)), "CIFAR-10 (cifar-10-batches-py)"
    )


def _batch_pixels(file: Path) -> np.ndarray:
    """The array in a CIFAR-10 batch: uint8, a row of 3,072 for each image."""
    batch = _BatchUnpickler(file)
    with _decoding(file):
        match batch.load():
            case {b"data": _Stub(state=(_, (_, 3072), _Stub(args=("u1" | b"u1", *_)), 0, bytes() as pixels))}:
                return np.frombuffer(pixels, np.uint8).reshape(-1, 3072)
    raise DataError(f"{file} is no CIFAR-10 batch, as it has no uint8 array (N, 3072) under b'data': download it again")


class _Stub:
    """Stands in for everything of numpy's in a pickle, and only remembers what the file says about it.

    A real dtype would take its internal flags from the file, whatever they say.
    """

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    """A pickle can call anything, and these come from the internet: admit an array and nothing else."""

    ADMITTED: ClassVar[dict[str, Callable[..., Any]]] = {
        "numpy.ndarray": _Stub,
        "numpy.dtype": _Stub,
        "numpy.core.multiarray._reconstruct": _Stub,
        "numpy._core.multiarray._reconstruct": _Stub,  # the same since numpy 2
        "_codecs.encode": lambda text, encoding: text.encode("latin1"),  # bytes, as Python 3 writes them for Python 2
    }

    def __init__(self, file: Path) -> None:
        super().__init__(io.BytesIO(file.read_bytes()), encoding="bytes")
        self.file = file

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if admitted := self.ADMITTED.get(f"{module}.{name}"):
            return admitted
        raise DataError(
            f"{self.file} asks to run {module}.{name}, which no CIFAR-10 batch does: "
            "it was refused; download the file from where you trust it"
        )


def _from_files(folder: Path, files: list[Path], count: int) -> Photographs:
    chosen = [files[i] for i in _spread(len(files), count, folder)]
    images = [_decode(file.read_bytes(), file) for file in chosen]
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
