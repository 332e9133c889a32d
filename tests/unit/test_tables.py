"""Parquet files of images read back exactly, and every damaged or swollen one refused in a sentence that names it."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_readers import CUTS, INCOMPLETE, cut, encoded, flip, random_images, write_parquet

from vit_flax import tables
from vit_flax.parquet_pages import unpacked_size
from vit_flax.readers import DataError
from vit_flax.tables import read_table


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
    monkeypatch.setitem(tables.KNOWN_FILES, hashlib.sha256(file.read_bytes()).hexdigest(), "A dataset")
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


def repeat(file: Path, content: bytes, rows: int, **options: Any) -> None:
    """The same bytes in every row."""
    image = pa.array([{"bytes": content, "path": None}] * rows)
    pq.write_table(pa.table({"img": image, "label": [1] * rows}), file, compression="zstd", **options)


def test_a_table_of_several_row_groups_and_empty_rows_is_read(tmp_path: Path) -> None:
    rows = [{"bytes": bytes([i]), "path": None} for i in range(9)] + [{"bytes": None, "path": "a"}, None]
    pq.write_table(pa.table({"img": rows, "label": range(11)}), tmp_path / "a.parquet", row_group_size=4)
    column = read_table(tmp_path / "a.parquet").columns.column(0)
    assert column.to_pylist() == [*(bytes([i]) for i in range(9)), None, None]


@pytest.mark.parametrize("dictionary", (True, False))
@pytest.mark.parametrize("kind", (pa.binary(), pa.large_binary()))
def test_bytes_are_read_however_they_are_stored(tmp_path: Path, dictionary: bool, kind: Any) -> None:
    rows = pa.array([{"bytes": b"one"}, {"bytes": b"two"}], pa.struct({"bytes": kind}))
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet", use_dictionary=dictionary)
    assert read_table(tmp_path / "a.parquet").columns.column(0).to_pylist() == [b"one", b"two"]


def test_rows_that_share_an_image_share_its_memory(tmp_path: Path) -> None:
    repeat(tmp_path / "a.parquet", np.random.default_rng(0).bytes(2**16), 1000)
    table = read_table(tmp_path / "a.parquet")
    assert len(table) == 1000
    assert table.columns.nbytes < 2**18  # where a thousand copies would take 2**26


def test_a_table_that_would_unpack_to_far_more_is_refused_before_it_does(tmp_path: Path) -> None:
    repeat(tmp_path / "a.parquet", bytes(2**27), 2, use_dictionary=False, write_statistics=False)
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(DataError, match=r"a\.parquet would unpack to 268,\d{3},\d{3} bytes, far more than its \d"):
        read_table(tmp_path / "a.parquet")
    assert pa.default_memory_pool().max_memory() == before


def number(value: int) -> bytes:
    """As Thrift's compact protocol writes a whole number that is not negative."""
    groups, value = [], value << 1
    while value > 127:
        groups.append(128 | value & 127)
        value >>= 7
    return bytes([*groups, value])


def test_a_footer_that_lies_of_what_its_pages_unpack_to_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    repeat(file, bytes(2**27), 2, use_dictionary=False, write_statistics=False)
    size = pq.ParquetFile(file).metadata.row_group(0).column(0).total_uncompressed_size
    true, content = number(size), file.read_bytes()
    assert content.count(true) == 1
    lie = bytes([0x80 | 2 * 50]) + b"\x80" * (len(true) - 2) + b"\0"  # 50, as long
    file.write_bytes(content.replace(true, lie))
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).total_uncompressed_size == 50
    with pytest.raises(DataError, match=r"a\.parquet would unpack to 268,"):
        read_table(file)


def test_more_rows_than_bytes_are_refused(tmp_path: Path) -> None:
    repeat(tmp_path / "a.parquet", b"small", 100_000)
    with pytest.raises(DataError, match=r"a\.parquet claims 100,000 rows in [0-9,]{3,6} bytes: download it again"):
        read_table(tmp_path / "a.parquet")


def test_an_encoding_that_repeats_without_end_is_refused(tmp_path: Path) -> None:
    options: dict[str, Any] = dict(use_dictionary=False, column_encoding={"img.bytes": "DELTA_BYTE_ARRAY"})
    repeat(tmp_path / "a.parquet", b"small", 3, **options)
    with pytest.raises(DataError, match=r"a\.parquet cannot be decoded and .* \(a page has encoding 7\)"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("version", ("1.0", "2.0"))
@pytest.mark.parametrize("compression", ("none", "snappy", "zstd"))
def test_the_pages_of_a_column_unpack_to_what_an_honest_footer_says(
    tmp_path: Path, version: str, compression: str
) -> None:
    options: dict[str, Any] = dict(data_page_version=version, compression=compression, data_page_size=5000)
    write_parquet(tmp_path / "a.parquet", random_images(20), **options, write_statistics=False)
    column = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0)
    with (tmp_path / "a.parquet").open("rb") as file:
        begin = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
        unpacked = unpacked_size(file, begin, column.total_compressed_size)
    # A footer counts the pages' headers, too.
    assert 0.98 * column.total_uncompressed_size < unpacked < column.total_uncompressed_size
    assert len(read_table(tmp_path / "a.parquet")) == 20


def test_a_column_of_text_is_no_column_of_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": [{"bytes": "text", "path": "a"}]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has no column img or image of struct"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize("make", (os.mkfifo, Path.mkdir, lambda file: None), ids=("pipe", "folder", "missing"))
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet (cannot be read: it must be a file|does not exist)"):
        read_table(tmp_path / "a.parquet")
