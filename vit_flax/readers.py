"""What datasets and photographs both need to read files, and one clear sentence for a file that cannot be read.

The packages that decode them are optional (`pip install "vit-parity[data]"`), so each is imported where it is used.
"""

import dataclasses
import hashlib
import io
import json
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

if TYPE_CHECKING:
    from PIL.Image import Image

# Names by the sha256 of the file that was read: a figure measured on lossy copies must say so.
KNOWN_FILES = {
    "77ef2a5272f96d222c3b89bbb85c15fd3310360610e7e9f38ea5b6b3c119099e": "CIFAR-10 (JPEG-75 copy)",  # test.parquet
    "22f73e0051285601420516a2d17527ddcf0d16980886571503765648a43eef97": "CIFAR-10 (JPEG-75 copy)",  # train.parquet
}
# The md5 of each published file, as torchvision lists them too.
CIFAR10_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
IMAGE_COLUMNS = ("img", "image")


class DataError(ValueError):
    """Data that cannot be read: the message names the file and says what to do."""


@contextmanager
def needs(package: str) -> Iterator[None]:
    """Imports of an optional package: an absent one is a `DataError` that says how to get it."""
    try:
        yield
    except ImportError as error:
        raise DataError(f'reading images needs {package}: pip install "vit-parity[data]" ({error})') from error


@contextmanager
def decoding(what: Path | str) -> Iterator[None]:
    """Whatever goes wrong inside is a `DataError` that says `what` is damaged."""
    # A decoder that meets half a file raises whatever it stumbles over, from IndexError to struct.error.
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{what} cannot be decoded and looks incomplete: download it again ({error})") from error


def existing_folder(source: str | Path, layouts: str) -> Path:
    """`source` as a path. Raises `DataError`, which goes on with what to give (`layouts`), if it is no folder."""
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: {layouts}")
    return folder


def read(file: Path) -> bytes:
    """The bytes of a file. Raises `DataError`, naming it, if they cannot be had."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: it must be a file that you may read ({error.strerror})") from error


def decode(encoded: bytes | None, what: Path | str) -> "Image":
    """The image in these bytes, complete and in its own mode. Raises `DataError`, naming `what`, if there is none."""
    with needs("Pillow"):
        from PIL import Image
    with decoding(what):
        image = Image.open(io.BytesIO(encoded or b""))
        image.load()
        return image


@dataclasses.dataclass(frozen=True)
class ImageTable:
    """A Parquet file of images, still encoded, in the layout of Hugging Face."""

    file: Path
    sha256: str
    columns: Any  # a pyarrow.Table: the image's bytes, and `label` where there is one
    classes: tuple[str, ...] | None  # in the order of the labels, where the file names them

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def name(self) -> str | None:
        """What the file is known as, if it is one of the `KNOWN_FILES`."""
        return KNOWN_FILES.get(self.sha256)

    def row(self, i: int) -> str:
        """Row `i`, for messages."""
        return f"row {i} of {self.file}"

    def image(self, i: int) -> "Image":
        """The image of row `i` (see `decode`)."""
        return decode(self.columns.column(0)[i].as_py(), self.row(i))

    def labels(self) -> np.ndarray:
        """The label of every row: integers, (n,). Raises `DataError` if there are none, or not in every row."""
        import pyarrow as pa

        if "label" not in self.columns.column_names or not pa.types.is_integer(self.columns.schema.field("label").type):
            raise DataError(f"{self.file} has no column label of whole numbers: give a file with labels")
        labels = self.columns.column("label")
        if labels.null_count:
            row = self.row(labels.is_null().index(True).as_py())
            raise DataError(f"{row} has no label: add it, or download the file again")
        return labels.to_numpy()


def read_table(file: Path) -> ImageTable:
    """The Parquet file of images. Raises `DataError`, naming it, if it is damaged or has no column of images."""
    with needs("pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    content = read(file)
    with decoding(file):
        parquet = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        schema = parquet.schema_arrow
        image = _image_column(file, {field.name: str(field.type) for field in schema})
        columns = parquet.read(columns=[f"{image}.bytes", "label"]).flatten()
        columns = columns.select([f"{image}.bytes", *{"label"}.intersection(columns.column_names)])
        return ImageTable(file, hashlib.sha256(content).hexdigest(), columns, _class_names(schema.metadata or {}))


def _image_column(file: Path, types: dict[str, str]) -> str:
    for name in IMAGE_COLUMNS:
        if types.get(name, "").startswith("struct<") and "bytes: " in types[name]:
            return name
    found = ", ".join(f"{name} ({kind})" for name, kind in types.items())
    raise DataError(f"{file} has no column {' or '.join(IMAGE_COLUMNS)} of struct(bytes, path), only {found}")


def _class_names(metadata: Mapping[bytes, bytes]) -> tuple[str, ...] | None:
    match json.loads(metadata.get(b"huggingface", b"null")):
        case {"info": {"features": {"label": {"names": [*names]}}}}:
            return tuple(str(name) for name in names)
    return None


def find_batches(folder: Path) -> Path | None:
    """Where CIFAR-10's batches lie: this folder, or the one that its archive unpacks to; None if in neither."""
    for place in (folder, folder / "cifar-10-batches-py"):
        if any((place / name).is_file() for name in CIFAR10_BATCHES):
            return place
    return None


def read_batch(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """One of the `CIFAR10_BATCHES`: images, uint8 (n, 32, 32, 3), and labels, int32 (n,).

    Raises `DataError`, naming the file, if it is missing or not the very file that was published.
    """
    if not file.is_file():
        raise DataError(f"{file} is missing: download CIFAR-10 again, or unpack it again")
    content = read(file)
    # First the digest: a pickle can run anything while it is loaded, and only the published ones are known not to.
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if md5 != CIFAR10_BATCHES[file.name]:
        reason = f"md5 {md5}, but {CIFAR10_BATCHES[file.name]} is right"
        raise DataError(f"{file} is damaged or not CIFAR-10's ({reason}): delete it and download it again")
    with warnings.catch_warnings(action="ignore"):  # NumPy 2.4.0 to 2.4.4 warn of arrays that Python 2 has pickled
        batch = pickle.loads(content, encoding="bytes")
    images = rearrange(batch[b"data"], "n (c h w) -> n h w c", c=3, h=32, w=32)
    return images, np.array(batch[b"labels"], np.int32)
