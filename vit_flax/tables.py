"""Parquet files of images, in the layout of Hugging Face."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_flax.decode import decode
from vit_flax.files import is_bomb, why_unreadable
from vit_flax.parquet_pages import unpacked_size
from vit_flax.readers import DataError, decoding, needs

if TYPE_CHECKING:
    from PIL.Image import Image

# Names by the sha256 of the file that was read: a figure measured on lossy copies must say so.
KNOWN_FILES = {
    "77ef2a5272f96d222c3b89bbb85c15fd3310360610e7e9f38ea5b6b3c119099e": "CIFAR-10 (JPEG-75 copy)",  # test.parquet
    "22f73e0051285601420516a2d17527ddcf0d16980886571503765648a43eef97": "CIFAR-10 (JPEG-75 copy)",  # train.parquet
}
IMAGE_COLUMNS = ("img", "image")
MOST_PARTS = (
    100_000  # of what a footer lists: row groups, columns, names; Thrift makes room for all before it reads one
)


@dataclasses.dataclass(frozen=True)
class ImageTable:
    """A Parquet file of images, still encoded."""

    file: Path
    size: int  # of the file, in bytes
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
        with decoding(self.row(i)):
            encoded = self.columns.column(0)[i].as_py()
        return decode(encoded, self.row(i))

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
    """The Parquet file of images.

    Raises `DataError`, naming it, if it is damaged, has no column of images, or would unpack to far more than its size.
    """
    if trouble := why_unreadable(file):
        raise DataError(f"{file} {trouble}")
    with needs("pyarrow"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    with decoding(file), pa.OSFile(str(file)) as opened:
        metadata = pq.ParquetFile(opened, thrift_container_size_limit=MOST_PARTS).metadata
        schema = metadata.schema.to_arrow_schema()
        wanted = [f"{_image_column(file, schema)}.bytes", "label"]
        _check_unpacked(file, metadata, wanted)
        # An image that many rows share stays one, so that a small file cannot become a large one.
        parquet = pq.ParquetFile(opened, metadata=metadata, read_dictionary=wanted[:1], page_checksum_verification=True)
        # One by one, as pyarrow cannot yet read nested dictionaries over several row groups.
        groups = [parquet.read_row_group(i, columns=wanted).flatten() for i in range(metadata.num_row_groups)]
        columns = pa.concat_tables(groups or [schema.empty_table().flatten()])
        columns = columns.select([name for name in wanted if name in columns.column_names])
        with file.open("rb") as whole:
            sha256 = hashlib.file_digest(whole, "sha256").hexdigest()
        return ImageTable(file, opened.size(), sha256, columns, _class_names(schema.metadata or {}))


def _check_unpacked(file: Path, metadata: Any, columns: list[str]) -> None:
    """Refuse a file that would take far more memory than it has bytes: by its rows, and by the pages to be read."""
    size = file.stat().st_size
    if not 0 <= metadata.num_rows <= size:  # an encoded image takes dozens of bytes
        raise DataError(f"{file} claims {metadata.num_rows:,} rows in {size:,} bytes: download it again")
    unpacked = 0
    with file.open("rb") as opened:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                if column.path_in_schema in columns and column.num_values:  # without values it has no pages
                    begin = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
                    unpacked += unpacked_size(opened, begin, column.total_compressed_size)
    if is_bomb(unpacked, size):
        raise DataError(f"{file} would unpack to {unpacked:,} bytes, far more than its {size:,}: download it again")


def _image_column(file: Path, schema: Any) -> str:
    for name in IMAGE_COLUMNS:
        if name in schema.names and _holds_bytes(schema.field(name).type):
            return name
    found = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise DataError(f"{file} has no column {' or '.join(IMAGE_COLUMNS)} of struct(bytes, path), only {found}")


def _holds_bytes(column: Any) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(column) or column.get_field_index("bytes") < 0:
        return False
    kind = column.field("bytes").type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _class_names(metadata: Mapping[bytes, bytes]) -> tuple[str, ...] | None:
    match json.loads(metadata.get(b"huggingface", b"null")):
        case {"info": {"features": {"label": {"names": [*names]}}}}:
            return tuple(str(name) for name in names)
    return None
