"""What datasets and photographs both need to read files, and one clear sentence for a file that cannot be read.

The packages that decode them are optional (`pip install "vit-parity[data]"`), so each is imported where it is used.
"""

import hashlib
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from einops import rearrange

from vit_flax.files import one_line, why_unreadable

CIFAR10_ARCHIVE, CIFAR10_FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"  # the folder is in the archive
# The md5 of each published file, as torchvision lists them too.
CIFAR10_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
LARGEST_READ = 2**28  # bytes of an image or a batch: as many as the largest image unpacks to


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
        reason = one_line(error)
        raise DataError(f"{what} cannot be decoded and looks incomplete: download it again ({reason})") from error


def existing_folder(source: str | Path, layouts: str) -> Path:
    """`source` as a path. Raises `DataError`, which goes on with what to give (`layouts`), if it is no folder."""
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}: {layouts}")
    return folder


def read(file: Path) -> bytes:
    """The bytes of a file. Raises `DataError`, naming it, if they cannot be had, or are more than `LARGEST_READ`."""
    if trouble := why_unreadable(file):
        raise DataError(f"{file} {trouble}")
    if (size := file.stat().st_size) > LARGEST_READ:
        raise DataError(f"{file} is of {size:,} bytes, more than the {LARGEST_READ:,} that are read of a file")
    return file.read_bytes()


def find_batches(folder: Path) -> Path | None:
    """Where CIFAR-10's batches lie: this folder, or the one that its archive unpacks to; None if in neither."""
    for place in (folder, folder / CIFAR10_FOLDER):
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
