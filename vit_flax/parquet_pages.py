"""How much a Parquet column unpacks to, by its pages' own headers: the file's footer may say less, and is not checked.

pyarrow has no way to ask, and unpacks a page of whatever size its header claims. The headers are Thrift structs in the
compact protocol, https://github.com/apache/parquet-format (parquet.thrift) and Thrift's thrift-compact-protocol.md.
"""

import io
import struct
from typing import Any, BinaryIO

LARGEST_HEADER = 2**16  # bytes; it holds numbers, and statistics that writers cut to some kilobytes
MOST_PAGES = 1_000_000
DEEPEST = 8  # structs within structs
# By number, of parquet.thrift: PLAIN, PLAIN_DICTIONARY, RLE, DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY,
# RLE_DICTIONARY. All unpack to no more than their page holds, or to a number or a place in a dictionary a row. The one
# that is left out for byte strings, DELTA_BYTE_ARRAY, repeats what came before without end.
HARMLESS = {0, 2, 3, 5, 6, 8}


def unpacked_size(file: BinaryIO, begin: int, length: int) -> int:
    """Bytes that the pages between these places unpack to.

    Raises `ValueError` for what cannot be read, and for an encoding that can unpack to more than its page.
    """
    place, total = begin, 0
    for _ in range(MOST_PAGES):
        if place >= begin + length:
            return total
        file.seek(place)
        start = io.BytesIO(file.read(LARGEST_HEADER))
        header = _struct(start)
        unpacked, packed = header[2], header[3]
        # A data page of version 1 or 2, and where each has its encoding.
        for page, encoding in ((5, 2), (8, 4)):
            if page in header and header[page][encoding] not in HARMLESS:
                raise ValueError(f"a page has encoding {header[page][encoding]}")
        if unpacked < 0 or packed < 0:
            raise ValueError("a page is of less than no bytes")
        total += unpacked
        place += start.tell() + packed
    raise ValueError(f"more than {MOST_PAGES:,} pages")


def _struct(stream: io.BytesIO, depth: int = 0) -> dict[int, Any]:
    """A struct's fields, by number."""
    if depth > DEEPEST:
        raise ValueError("structs within structs")
    fields: dict[int, Any] = {}
    number = 0
    while kind := _byte(stream):
        step = kind >> 4
        number = number + step if step else _signed(stream)
        fields[number] = _value(stream, kind & 15, depth)
    return fields


def _value(stream: io.BytesIO, kind: int, depth: int) -> Any:
    match kind:
        case 1 | 2:  # a truth value, which has no more to it
            return kind == 1
        case 3:
            return _byte(stream)
        case 4 | 5 | 6:
            return _signed(stream)
        case 7:
            return struct.unpack("<d", stream.read(8))[0]
        case 8:
            return stream.read(_unsigned(stream))
        case 12:
            return _struct(stream, depth + 1)
    raise ValueError(f"a field of type {kind}")  # lists, sets and maps, which no page's header has


def _byte(stream: io.BytesIO) -> int:
    (byte,) = stream.read(1)
    return byte


def _unsigned(stream: io.BytesIO) -> int:
    """A number in as many groups of seven bits as it needs, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(stream)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a number without end")


def _signed(stream: io.BytesIO) -> int:
    value = _unsigned(stream)
    return value >> 1 ^ -(value & 1)
