"""Files of images read back exactly, and every damaged one refused in one sentence that names it."""

import hashlib
import io
import json
import os
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from vit_flax import readers
from vit_flax.readers import CIFAR10_BATCHES, DataError, decode, existing_folder, read, read_batch, read_table

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


@pytest.mark.parametrize("kind", ("PNG", "JPEG", "BMP", "WEBP"))
def test_an_image_cut_anywhere_is_refused_unless_all_its_pixels_are_there(kind: str) -> None:
    content = encoded(random_images(1, 9, 7)[0], kind)
    whole = np.array(decode(content, "it"))
    refused = 0
    for length in range(len(content)):
        try:
            np.testing.assert_array_equal(decode(content[:length], "it"), whole)
        except DataError as refusal:
            assert str(refusal).startswith(f"it cannot be decoded and {INCOMPLETE}")
            refused += 1
    assert refused > len(content) // 2


@pytest.mark.parametrize("content", (None, b"", b"woof"))
def test_what_is_no_image_is_refused_by_name(content: bytes | None) -> None:
    with pytest.raises(DataError, match=f"row 3 of it cannot be decoded and {INCOMPLETE}"):
        decode(content, "row 3 of it")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").mkdir()
    with pytest.raises(DataError, match=r"train\.parquet cannot be read: it must be a file that you may read"):
        read(tmp_path / "train.parquet")


@pytest.mark.parametrize("name, trouble", (("nowhere", "does not exist"), ("a.png", "is not a folder")))
def test_a_path_that_is_no_folder_is_named_with_what_to_give(tmp_path: Path, name: str, trouble: str) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=f"{name} {trouble}: give a folder of cats"):
        existing_folder(tmp_path / name, "give a folder of cats")


@pytest.mark.parametrize("module, package", (("PIL", "Pillow"), ("pyarrow", "pyarrow")))
def test_an_absent_package_is_named_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    write_parquet(tmp_path / "a.parquet", random_images(1))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf'needs {package}: pip install "vit-parity\[data\]"'):
        read_table(tmp_path / "a.parquet").image(0)


@pytest.mark.parametrize("column", ("img", "image"))
def test_a_table_has_the_very_pixels_and_labels_that_were_written(tmp_path: Path, column: str) -> None:
    images = random_images(5)
    write_parquet(tmp_path / "a.parquet", images, [4, 0, 1, 4, 2], column, row_group_size=2)
    table = read_table(tmp_path / "a.parquet")
    assert len(table) == 5
    np.testing.assert_array_equal([table.image(i) for i in range(5)], images)
    assert table.labels().tolist() == [4, 0, 1, 4, 2]
    assert table.classes is None
    assert table.name is None


def test_a_table_has_the_names_of_its_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", random_images(2), names=["cat", "dog"])
    assert read_table(tmp_path / "a.parquet").classes == ("cat", "dog")


@pytest.mark.parametrize("metadata", ({}, {"huggingface": "{}"}, {"huggingface": '{"info": {"features": {}}}'}))
def test_metadata_without_names_are_no_trouble(tmp_path: Path, metadata: dict[str, str]) -> None:
    write_parquet(tmp_path / "a.parquet", random_images(2))
    table = pq.read_table(tmp_path / "a.parquet").replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "b.parquet")
    assert read_table(tmp_path / "b.parquet").classes is None


def test_a_known_file_is_called_by_the_name_of_its_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.parquet"
    write_parquet(file, random_images(2))
    monkeypatch.setitem(readers.KNOWN_FILES, hashlib.sha256(file.read_bytes()).hexdigest(), "A dataset")
    assert read_table(file).name == "A dataset"


@pytest.mark.parametrize("share", CUTS)
def test_a_cut_table_is_refused_by_name(tmp_path: Path, share: float) -> None:
    write_parquet(tmp_path / "a.parquet", random_images(3))
    cut(tmp_path / "a.parquet", share)
    with pytest.raises(DataError, match=rf"a\.parquet cannot be decoded and {INCOMPLETE}"):
        read_table(tmp_path / "a.parquet")


def test_a_flipped_byte_is_found_where_the_table_has_checksums(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    # Written like this, the image's own bytes lie in the file as they are, and once.
    plain = dict(use_dictionary=False, write_statistics=False, compression="none")
    write_parquet(file, random_images(3), write_page_checksum=True, **plain)
    flip(file, file.read_bytes().index(b"IDAT") + 99)
    with pytest.raises(DataError, match=rf"a\.parquet cannot be decoded and {INCOMPLETE}"):
        read_table(file)


def test_an_image_damaged_inside_a_table_is_named_by_its_row(tmp_path: Path) -> None:
    rows = [{"bytes": encoded(random_images(1)[0])[:length], "path": None} for length in (9999, 99)]
    pq.write_table(pa.table({"img": rows}), tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    table.image(0)
    with pytest.raises(DataError, match=rf"row 1 of .*a\.parquet cannot be decoded and {INCOMPLETE}"):
        table.image(1)


def test_a_table_without_images_is_refused_with_what_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"bare"], "text": ["caption"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has no column img or image .*only image \(binary\), text \(str"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("labels", (None, ["cat"], [0.5], [{"fine": 1}]))
def test_a_table_without_whole_numbers_for_labels_has_images_only(tmp_path: Path, labels: Any) -> None:
    columns = {"label": labels, "img": [{"bytes": encoded(random_images(1)[0]), "path": None}]}
    table = pa.table({name: column for name, column in columns.items() if column})
    pq.write_table(table, tmp_path / "a.parquet")
    read_table(tmp_path / "a.parquet").image(0)
    with pytest.raises(DataError, match=r"a\.parquet has no column label of whole numbers: give a file with labels"):
        read_table(tmp_path / "a.parquet").labels()


def test_a_row_without_a_label_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", random_images(3), [0, 1, None])
    with pytest.raises(DataError, match=r"row 2 of .*a\.parquet has no label: add it, or download the file again"):
        read_table(tmp_path / "a.parquet").labels()


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
