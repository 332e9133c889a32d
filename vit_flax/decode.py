"""One image in a file's bytes, as anyone would see it: upright, opaque, and of 8 bits a channel."""

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_flax.readers import DataError, decoding, needs

if TYPE_CHECKING:
    from PIL.Image import Image

# Those alone: Pillow would hand others to programs that a file should not be able to start, such as Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
# Pillow's modes that say what their values mean, and what each becomes.
EIGHT_BITS = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
SEEN_THROUGH = {"L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
BITS_PER_SAMPLE, PHOTOMETRIC, BLACK_IS_ZERO = 258, 262, 1  # two tags of TIFF, and a value of the second


def decode(encoded: bytes | None, what: Path | str) -> "Image":
    """The image in these bytes, complete, of mode L or RGB; the first one, if they hold several.

    It is turned as its camera says, and transparent parts show white. Of 16 bits the higher 8 are kept, as Pillow keeps
    them of colours, so that what was 8 bits once comes back exactly. Raises `DataError`, naming `what`, if there is no
    image, one of more than `PIL.Image.MAX_IMAGE_PIXELS`, or one that does not say which value is white.
    """
    with needs("Pillow"):
        from PIL import ImageOps
    with decoding(what), warnings.catch_warnings(action="ignore"):  # of a size that is checked here, or of odd EXIF
        image = _opened(encoded, what)
        if image.format == "PNG":
            _check_png(encoded or b"")
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if (plain := _plain(image)) is None:
            unknown = f"mode {image.mode} that does not say which value is white"
            raise DataError(f"{what} is an image of {unknown}: save it with 8 bits a channel")
        return plain


def _opened(encoded: bytes | None, what: Path | str) -> "Image":
    """The image, of which only the header is read yet."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(encoded or b""), formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"no image of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:  # of twice as many pixels as Pillow warns of
        raise DataError(f"{what} is an image of too many pixels: scale it down ({error})") from error
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        size = f"{height:,} x {width:,}, and {Image.MAX_IMAGE_PIXELS:,} is Pillow's limit"
        raise DataError(f"{what} is an image of too many pixels: scale it down ({size})")
    return image


def _check_png(encoded: bytes) -> None:
    """Raise `ValueError` unless every chunk has its checksum: Pillow does not look at those of the pixels."""
    place, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", encoded, place)
        (checksum,) = struct.unpack_from(">I", encoded, place + 8 + length)
        if zlib.crc32(encoded[place + 4 : place + 8 + length]) != checksum:
            raise ValueError(f"checksum of {kind!r}")
        place += 12 + length


def _plain(image: "Image") -> "Image | None":
    """This image in mode L or RGB, as `decode` says; None if it is not known how it looks."""
    from PIL import Image

    if image.has_transparency_data:
        if image.mode not in SEEN_THROUGH or _exceeds_a_byte(image.info.get("transparency")):
            return None
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB").convert(SEEN_THROUGH[image.mode])
    if image.mode in SIXTEEN_BITS and _black_is_zero_of_16_bits(image):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in EIGHT_BITS:
        return image if image.mode == EIGHT_BITS[image.mode] else image.convert(EIGHT_BITS[image.mode])
    return None


def _exceeds_a_byte(colour: Any) -> bool:
    """Whether the colour that shows transparent is of 16 bits, where Pillow has kept 8 of each pixel's."""
    values = colour if isinstance(colour, tuple) else (colour,)
    return any(isinstance(value, int) and value > 255 for value in values)


def _black_is_zero_of_16_bits(image: "Image") -> bool:
    """Not so in a TIFF of 12 bits, or of one whose zero is white, which Pillow does not turn."""
    tags = getattr(image, "tag_v2", {BITS_PER_SAMPLE: (16,), PHOTOMETRIC: BLACK_IS_ZERO})
    return (tags.get(BITS_PER_SAMPLE), tags.get(PHOTOMETRIC)) == ((16,), BLACK_IS_ZERO)
