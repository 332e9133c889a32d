"""Weight files, `.npz` and `.safetensors`, whose word is never taken for it.

What a file says of its arrays is read first, and judged: names, shapes, dtypes, and that they account for every byte.
Only then is an array read. So a file that is damaged, hostile or of another model costs neither memory nor time.
"""

import io
import json
import math
import os
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from vit_flax.files import is_bomb, one_line, why_unreadable
from vit_flax.weights import Shaped, WeightError, quoted

# What a checkpoint holds, by its name in safetensors. Whole numbers, truth values and complex numbers would be cast to
# one of these later, and lose what no comparison could tell of.
FLOATS = {
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
MOST_ARRAYS = 10_000  # the largest preset has 390 in timm's layout
LARGEST_LIST = 400 * MOST_ARRAYS  # bytes that the list of a file's arrays may take; an entry takes 100 to 200
LARGEST_NPY_HEADER = 10_000  # bytes; NumPy's own limit
PIECE = 2**20  # bytes that are read at a time
NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Stored(NamedTuple):
    """An array in a file, not read yet."""

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool  # the first axis varies fastest
    open: Callable[[], Any]  # a stream that begins where its numbers do

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _Refused(ValueError):
    """What is wrong with a file, in words that follow its name."""


class _SmallReads(io.BufferedReader):
    """A file of which only little is read at once: zipfile would read a list of whatever length a file claims."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > LARGEST_LIST:
            raise _Refused(f"the list of its arrays takes {size:,} bytes, but {LARGEST_LIST:,} are more than enough")
        return super().read(size)


def load(path: str | Path, check: Callable[[Mapping[str, Shaped]], object] | None = None) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` or `.safetensors` file, in whatever layout they have, in this machine's byte order.

    `check` gets the name and shape of every array before the first one is read; what it raises ends the loading.
    Raises `WeightError` naming the file, and the array if there is one to blame, if the file is missing, damaged or of
    another kind; has a name twice; holds other dtypes than `FLOATS`, or a value that is not finite; or, without a
    `check`, unpacks to far more than its size.
    """
    path = Path(path)
    _check_suffix(path)
    if trouble := why_unreadable(path):
        raise WeightError(f"no weight file {path}: it {trouble}")
    with _SmallReads(io.FileIO(path)) as file:
        with _named(path):
            stored = _once(_safetensors(file) if path.suffix == ".safetensors" else _npz(file))
        if check:
            check(stored)
        elif is_bomb(unpacked := sum(array.nbytes for array in stored.values()), path.stat().st_size):
            raise WeightError(f"weight file {path}: it would unpack to {unpacked:,} bytes, far more than its size")
        with _named(path):
            return {name: _read(name, array) for name, array in stored.items()}


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a `WeightError` that names the file."""
    # zipfile, zlib, json and NumPy raise whatever they stumble over in a damaged file, from IndexError to SyntaxError;
    # and NumPy and Python warn of a header that they find odd.
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except _Refused as refusal:
        raise WeightError(f"weight file {path}: {refusal}") from None
    except MemoryError as error:
        raise WeightError(f"weight file {path}: it takes more memory than there is ({one_line(error)})") from error
    except Exception as error:
        trouble = f"it is damaged or incomplete: {one_line(error)}"
        raise WeightError(f"cannot read weight file {path}, {trouble}") from error


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A dict of these pairs. A name that comes twice is refused: one of the two would be lost."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _Refused(f"it has {quoted(name)} twice")
        if len(found) == MOST_ARRAYS:
            raise _Refused(f"it has more than {MOST_ARRAYS:,} arrays")
        found[name] = value
    return found


def _npz(file: io.BufferedReader) -> Iterator[tuple[str, Stored]]:
    archive = zipfile.ZipFile(file)
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name == member.filename:
            raise _Refused(f"{quoted(name)} is no array, as its name does not end in .npy")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _Refused(f"{quoted(name)} is compressed as NumPy never does")
        yield name, _npy(archive, member, name)


def _npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Stored:
    with archive.open(member) as stream:
        start = io.BytesIO(stream.read(12 + LARGEST_NPY_HEADER))
    version = np.lib.format.read_magic(start)
    if version not in NPY_HEADERS:  # a later one is for the names of fields, which no array of numbers has
        raise _Refused(f"{quoted(name)} is of version {version} of NumPy's format, but must be of 1.0 or 2.0")
    shape, fortran, dtype = NPY_HEADERS[version](start)
    if dtype.newbyteorder("=") not in FLOATS.values():
        raise _Refused(_not_floating(name, str(dtype)))

    def numbers() -> Any:
        stream = archive.open(member)
        stream.read(start.tell())
        return stream

    array = Stored(dtype, _whole(name, shape), fortran, numbers)
    _check_size(name, array, member.file_size - start.tell())
    return array


def _safetensors(file: io.BufferedReader) -> Iterator[tuple[str, Stored]]:
    (length,) = struct.unpack("<Q", file.read(8))
    if 8 + length > (size := os.fstat(file.fileno()).st_size):
        raise ValueError(f"its header would be of {length:,} bytes, the file is of {size:,}")
    header = json.loads(file.read(length).decode(), object_pairs_hook=_once)
    header.pop("__metadata__", None)
    places = {}
    for name, entry in header.items():
        if set(entry) != {"dtype", "shape", "data_offsets"} or len(entry["data_offsets"]) != 2:
            raise _Refused(f"{quoted(name)} lacks a dtype, a shape or two data_offsets, or has more than these")
        if entry["dtype"] not in FLOATS:
            raise _Refused(_not_floating(name, str(entry["dtype"])))
        places[name] = _whole(name, entry["data_offsets"])
    begin = end = 8 + length
    # Arrays that lie in one another would unpack to more than there is, and bytes between them could hold anything.
    for name in sorted(places, key=places.__getitem__):
        first, last = places[name]
        if begin + first != end:
            raise _Refused(f"{quoted(name)} begins at byte {begin + first:,}, but the array before it ends at {end:,}")
        array = Stored(FLOATS[header[name]["dtype"]], _whole(name, header[name]["shape"]), False, _at(file, end))
        _check_size(name, array, last - first)
        end = begin + last
        yield name, array
    if end != size:
        raise ValueError(f"it is of {size:,} bytes, but its arrays end at {end:,}")


def _at(file: io.BufferedReader, place: int) -> Callable[[], io.BufferedReader]:
    def opened() -> io.BufferedReader:
        file.seek(place)
        return file

    return opened


def _whole(name: str, numbers: Iterable[Any]) -> tuple[int, ...]:
    """These numbers, if they can be sizes or places."""
    numbers = tuple(numbers)
    if any(type(number) is not int or number < 0 for number in numbers):
        raise _Refused(f"{quoted(name)} has sizes or places that are no whole numbers: {quoted(numbers)}")
    return numbers


def _check_size(name: str, array: Stored, found: int) -> None:
    if found != array.nbytes:
        wanted = f"shape {array.shape} and {array.dtype} need {array.nbytes:,}"
        raise _Refused(f"{quoted(name)} has {found:,} bytes, but {wanted}")


def _not_floating(name: str, dtype: str) -> str:
    return f"{quoted(name)} is of {quoted(dtype)}, but weights are of {', '.join(map(str, FLOATS.values()))}"


def _read(name: str, stored: Stored) -> np.ndarray:
    array = np.empty(stored.shape[::-1] if stored.fortran else stored.shape, stored.dtype)
    space = array.reshape(-1).view(np.uint8).data
    stream = stored.open()
    # In small pieces, as zipfile unpacks whatever it is asked for at once; at a member's end it checks the checksum.
    for place in range(0, len(space), PIECE):
        piece = space[place : place + PIECE]
        if stream.readinto(piece) != len(piece):
            raise _Refused(f"it ends within {quoted(name)}")
    array = array.astype(stored.dtype.newbyteorder("="), copy=False)
    _check_finite(name, array)
    return array.T if stored.fortran else array


def _check_finite(name: str, array: np.ndarray) -> None:
    if bad := array.size - np.count_nonzero(np.isfinite(array)):
        raise _Refused(f"{quoted(name)} has {bad:,} of {array.size:,} values that are not finite (NaN or infinite)")


def save(arrays: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Write arrays to a `.npz` or `.safetensors` file that `load` reads: all of it, or no file at all.

    Raises `WeightError` naming the file and the array that it cannot hold.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.parent.is_dir():
        raise WeightError(f"cannot write weight file {path}: there is no folder {path.parent}")
    for name, array in arrays.items():
        if array.dtype not in FLOATS.values() or (array.dtype == FLOATS["BF16"] and path.suffix == ".npz"):
            raise WeightError(f"cannot write weight file {path}: it cannot hold {quoted(name)}, which is {array.dtype}")
        with _named(path):
            _check_finite(name, array)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        if path.suffix == ".npz":
            np.savez(partial, **dict[str, Any](arrays))
        else:
            safetensors.numpy.save_file({name: np.asarray(a, order="C") for name, a in arrays.items()}, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".npz", ".safetensors"):
        raise WeightError(f"weight file {path}: expected a name ending in .npz or .safetensors")
