"""Files of images read back exactly, and every damaged one refused in one sentence that names it."""

import hashlib
import io
import json
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from vit_flax.readers import CIFAR10_BATCHES, DataError, existing_folder, read, read_batch

INCOMPLETE = "looks incomplete: download it again"
CUTS = (0.0, 0.01, 0.5, 0.99, -1)  # shares of a file that are left, and all but its last byte


def random_images(count: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((count, seed)).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(
    file: Path,
    images: Any,
    labels: Any = None,
    column: str = "img",
    names: Any = None,
    kind: str = "PNG",
    **options: Any,
) -> None:
    """In Hugging Face's layout, with the names of the classes in its metadata if they are given."""
    rows = [{"bytes": encoded(image, kind), "path": f"{i}.png"} for i, image in enumerate(images)]
    images_type = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    labels = list(range(len(rows))) if labels is None else labels
    table = pa.table({column: pa.array(rows, images_type), "label": pa.array(labels, pa.int64())})
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, file, **options)


def batch_of(images: np.ndarray, labels: Any = None) -> dict[bytes, Any]:
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    labels = list(range(len(images))) if labels is None else labels
    return {b"batch_label": b"testing batch 1 of 1", b"labels": list(labels), b"data": rows}


def write_batch(file: Path, images: np.ndarray, labels: Any = None) -> None:
    file.write_bytes(pickle.dumps(batch_of(images, labels), protocol=4))


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the batches in this folder are those that were published."""
    for file in folder.rglob("*_batch*"):
        monkeypatch.setitem(CIFAR10_BATCHES, file.name, hashlib.md5(file.read_bytes()).hexdigest())


def cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:-1] if share == -1 else content[: int(len(content) * share)])


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").mkdir()
    with pytest.raises(DataError, match=r"train\.parquet cannot be read: it must be a file that you may read"):
        read(tmp_path / "train.parquet")


def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png cannot be read: it must be a file .* a pipe or a device"):
        read(tmp_path / "a.png")


def test_a_file_that_is_larger_than_any_image_is_named(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**40)  # takes no space
    with pytest.raises(DataError, match=r"a\.png is of 1,099,511,627,776 bytes, more than the 268,435,456 that"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("name, trouble", (("nowhere", "does not exist"), ("a.png", "is not a folder")))
def test_a_path_that_is_no_folder_is_named_with_what_to_give(tmp_path: Path, name: str, trouble: str) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=f"{name} {trouble}: give a folder of cats"):
        existing_folder(tmp_path / name, "give a folder of cats")


def python2_pickle(images: np.ndarray) -> bytes:
    """A batch opcode by opcode as the published ones are: Python 2 strings, numbers for flags, numpy's old names."""

    def string(raw: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(raw)) + raw

    pixels = batch_of(images)[b"data"]
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in range(len(images))) + b"e"
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + string(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    array += b"(K\x01K" + bytes([len(pixels)]) + b"M\x00\x0c\x86" + dtype + b"\x89" + string(pixels.tobytes()) + b"tb"
    return b"\x80\x02}(" + string(b"labels") + labels + string(b"data") + array + b"u."


PICKLES = {
    "python 2": python2_pickle,
    "protocol 2": lambda images: pickle.dumps(batch_of(images), protocol=2),
    "protocol 4": lambda images: pickle.dumps(batch_of(images), protocol=4),
}


@pytest.mark.parametrize("dialect", PICKLES)
def test_batches_are_read_whichever_python_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    (tmp_path / "test_batch").write_bytes(PICKLES[dialect](random_images(3)))
    publish(tmp_path, monkeypatch)
    images, labels = read_batch(tmp_path / "test_batch")
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, random_images(3))
    assert labels.dtype == np.int32
    assert labels.tolist() == [0, 1, 2]


def test_the_published_batches_are_those_that_torchvision_lists() -> None:
    assert list(CIFAR10_BATCHES.items()) == [tuple(entry) for entry in CIFAR10.train_list + CIFAR10.test_list]


@pytest.mark.parametrize("name", CIFAR10_BATCHES)
def test_a_missing_batch_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} is missing: download CIFAR-10 again, or unpack it again"):
        read_batch(tmp_path / name)


@pytest.mark.parametrize("place", (0, 5000, -1))
def test_a_batch_with_a_flipped_byte_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    write_batch(tmp_path / "data_batch_3", random_images(3))
    publish(tmp_path, monkeypatch)
    flip(tmp_path / "data_batch_3", place)
    trouble = rf"data_batch_3 is damaged or not CIFAR-10's \(md5 \w+, but {CIFAR10_BATCHES['data_batch_3']} is right\)"
    with pytest.raises(DataError, match=f"{trouble}: delete it and download it again"):
        read_batch(tmp_path / "data_batch_3")


@pytest.mark.parametrize("share", CUTS)
def test_a_cut_batch_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    write_batch(tmp_path / "test_batch", random_images(3))
    publish(tmp_path, monkeypatch)
    cut(tmp_path / "test_batch", share)
    with pytest.raises(DataError, match="test_batch is damaged or not CIFAR-10's"):
        read_batch(tmp_path / "test_batch")


class Malice:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_malicious_batch_is_refused_and_not_run(tmp_path: Path) -> None:
    pickled = pickle.dumps({b"data": Malice(tmp_path / "harm")}, protocol=2)
    (tmp_path / "test_batch").write_bytes(pickled)
    with pytest.raises(DataError, match="test_batch is damaged or not CIFAR-10's"):
        read_batch(tmp_path / "test_batch")
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickled)
    assert (tmp_path / "harm").exists()  # so it would have done harm
