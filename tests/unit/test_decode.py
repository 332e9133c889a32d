"""An image becomes what anyone would see, or is refused by name; none is changed silently."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_readers import INCOMPLETE, encoded, random_images

from vit_flax.decode import decode
from vit_flax.readers import DataError


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


def test_the_checksum_of_the_pixels_of_a_png_is_looked_at() -> None:
    content = bytearray(encoded(random_images(1, 9, 7)[0]))
    content[content.index(b"IEND") - 5] ^= 1  # the last byte of the pixels' checksum, which Pillow does not look at
    np.asarray(Image.open(io.BytesIO(content)))
    with pytest.raises(DataError, match=r"it cannot be decoded .* \(checksum of b'IDAT'\)"):
        decode(bytes(content), "it")


@pytest.mark.parametrize("content", (None, b"", b"woof"))
def test_what_is_no_image_is_refused_by_name(content: bytes | None) -> None:
    with pytest.raises(DataError, match=f"row 3 of it cannot be decoded and {INCOMPLETE}"):
        decode(content, "row 3 of it")


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, bits: int, colour: int, rows: bytes = b"", *others: tuple[bytes, bytes]) -> bytes:
    """A PNG of any depth and size: Pillow does not write all that it reads."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *others, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks)


def shown(content: bytes) -> Any:
    image = decode(content, "it")
    assert image.mode in ("L", "RGB")
    return np.asarray(image).tolist()


GREYS = np.arange(256, dtype=np.uint16).reshape(16, 16)


@pytest.mark.parametrize("kind", ("PNG", "TIFF"))
@pytest.mark.parametrize("widen", (lambda grey: grey * 257, lambda grey: grey << 8), ids=("times 257", "shifted"))
def test_greys_of_16_bits_come_back_as_the_8_they_were(kind: str, widen: Any) -> None:
    image = Image.fromarray(widen(GREYS).astype(np.uint16))
    assert image.mode == "I;16"
    assert shown(saved(image, kind)) == GREYS.tolist()


def test_greys_of_16_bits_and_the_other_byte_order_come_back_too() -> None:
    big = Image.frombytes("I;16B", (16, 16), (GREYS * 257).astype(">u2").tobytes())
    assert shown(saved(big, "TIFF")) == GREYS.tolist()


@pytest.mark.parametrize("colour, channels", ((2, 3), (6, 4)))
def test_colours_of_16_bits_come_back_as_the_8_they_were(colour: int, channels: int) -> None:
    pixels = np.full((2, 3, channels), 255, np.uint8)
    pixels[..., :3] = random_images(1, 2, 3)[0]
    rows = b"".join(b"\0" + row.astype(np.uint16).__mul__(257).astype(">u2").tobytes() for row in pixels)
    assert shown(png(3, 2, 16, colour, rows)) == pixels[..., :3].tolist()


@pytest.mark.parametrize("kind", ("PNG", "TIFF", "WEBP", "GIF"))
def test_what_is_transparent_shows_white_and_not_its_hidden_colour(kind: str) -> None:
    pixels = np.zeros((1, 2, 4), np.uint8)
    pixels[0, 1] = (0, 0, 0, 255)
    image = Image.fromarray(pixels)
    assert shown(saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))) == [[[255] * 3, [0] * 3]]


def test_what_is_partly_transparent_is_mixed_with_white() -> None:
    image = Image.fromarray(np.array([[[200, 100, 0, 51]]], np.uint8))  # a fifth of it
    assert shown(saved(image)) == [[[244, 224, 204]]]


def test_an_opaque_image_keeps_its_colours_whatever_its_alpha_channel() -> None:
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[..., :3] = random_images(1, 64, 64)[0]
    assert shown(saved(Image.fromarray(pixels))) == pixels[..., :3].tolist()


def test_grey_stays_grey_under_an_alpha_channel() -> None:
    image = Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8))
    assert image.mode == "LA"
    assert shown(saved(image)) == [[7, 255]]


@pytest.mark.parametrize("mode, colour", (("L", 7), ("RGB", (7, 8, 9)), ("P", 1)))
def test_a_colour_that_is_named_transparent_shows_white(mode: str, colour: Any) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.putpixel((0, 0), colour)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 0, 0])
    white, black = (255, 0) if mode == "L" else ([255] * 3, [0] * 3)
    assert shown(saved(image, transparency=colour)) == [[white, black]]


def test_a_palette_becomes_its_colours() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpixel((1, 0), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    assert shown(saved(image)) == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("kind", ("PNG", "TIFF", "BMP"))
def test_a_bitmap_is_black_and_white(kind: str) -> None:
    image = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert shown(saved(image, kind)) == [[0, 255]]


@pytest.mark.parametrize("mode, white", (("CMYK", (0, 0, 0, 0)), ("YCbCr", (255, 128, 128))))
def test_other_spaces_of_colour_become_red_green_and_blue(mode: str, white: tuple[int, ...]) -> None:
    assert shown(saved(Image.new(mode, (1, 1), white), "TIFF")) == [[[255, 255, 255]]]


@pytest.mark.parametrize("mode", ("I", "F", "LAB"))
def test_a_mode_without_a_known_white_is_refused_by_name(mode: str) -> None:
    trouble = f"row 3 of it is an image of mode {mode} that does not say which value is white: save it with 8 bits a"
    with pytest.raises(DataError, match=trouble):
        decode(saved(Image.new(mode, (2, 2)), "TIFF"), "row 3 of it")


def tiff(bits: int, photometric: int) -> bytes:
    """A TIFF of two grey pixels, in a strip after its nine tags."""
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 122, 277: 1, 278: 1, 279: 4}
    entries = b"".join(struct.pack("<2HIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + b"\x34\x12\xff\xff"


@pytest.mark.parametrize("bits, photometric", ((12, 1), (16, 0)), ids=("12 bits", "zero is white"))
def test_a_tiff_whose_white_pillow_does_not_know_is_refused(bits: int, photometric: int) -> None:
    assert shown(tiff(16, 1)) == [[0x12, 0xFF]]
    with pytest.raises(DataError, match="mode I;16 that does not say which value is white"):
        decode(tiff(bits, photometric), "it")


@pytest.mark.parametrize("bits, colour, key", ((16, 0, (1,)), (16, 2, (256, 1, 1))), ids=("grey", "colour"))
def test_a_transparent_colour_of_16_bits_is_refused(bits: int, colour: int, key: tuple[int, ...]) -> None:
    rows = b"\0" + bytes(2 * len(key))
    with pytest.raises(DataError, match="does not say which value is white"):
        decode(png(1, 1, bits, colour, rows, (b"tRNS", struct.pack(f">{len(key)}H", *key))), "it")


@pytest.mark.parametrize("kind", ("PNG", "JPEG", "WEBP", "TIFF"))
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_camera_says(kind: str, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # a corner that tells all eight apart
    flipped = upright[:, ::-1] if orientation in (2, 4, 5, 7) else upright
    turns = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 1, 7: 3, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(Image.fromarray(np.ascontiguousarray(np.rot90(flipped, turns))), kind, exif=exif)
    shown_pixels = np.array(shown(content))
    assert shown_pixels.shape == upright.shape
    assert np.abs(shown_pixels - upright).mean() < 4  # what JPEG and WebP lose


@pytest.mark.parametrize("side", (9_460, 14_000, 2**31 - 1), ids=("Pillow warns", "Pillow refuses", "the largest"))
def test_an_image_of_too_many_pixels_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(DataError, match=r"^row 3 of it is an image of too many pixels: scale it down \("):
        decode(png(side, side, 8, 2), "row 3 of it")


def test_pillows_limit_is_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(random_images(1, 9, 7)[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9 * 7)
    decode(content, "it")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9 * 7 - 1)
    with pytest.raises(DataError, match="too many pixels"):
        decode(content, "it")


def test_no_other_program_is_started() -> None:
    # An EPS image, which Pillow would hand to Ghostscript.
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(content)).format == "EPS"
    with pytest.raises(DataError, match="no image of the formats BMP, GIF, JPEG, PNG, TIFF, WEBP"):
        decode(content, "it")
