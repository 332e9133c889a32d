"""A damaged data file gives the images that it gave before, or one sentence that names it; never anything else."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from damage import Tally, damaged
from PIL import Image
from test_readers import publish, random_images, write_batch, write_parquet

from vit_flax.data import read_data
from vit_flax.image_files import read_images
from vit_flax.photographs import read_photographs

PIXELS = random_images(12, 8, 8)
PALETTE = Image.fromarray(PIXELS[0]).quantize(16)
EXIF = Image.Exif()
EXIF[0x0112] = 6
PICTURES = {  # an image in each format and kind; the first three guard their pixels by checksums
    "grey.png": (Image.fromarray(PIXELS[0, ..., 0]), {}),
    "deep.png": (Image.fromarray(PIXELS[0, ..., 0].astype(np.uint16) * 257), {}),
    "clear.png": (Image.fromarray(np.concatenate([PIXELS[0], PIXELS[1, ..., :1]], -1)), {"exif": EXIF}),
    "a.jpg": (Image.fromarray(PIXELS[0]), {"exif": EXIF}),
    "a.bmp": (Image.fromarray(PIXELS[0]), {}),
    "a.webp": (Image.fromarray(PIXELS[0]), {"lossless": True}),
    "a.gif": (PALETTE, {"transparency": 3}),
    "plain.tif": (Image.fromarray(PIXELS[0]), {}),
    "packed.tif": (Image.fromarray(PIXELS[0]), {"compression": "tiff_lzw", "exif": EXIF}),
    "float.tif": (Image.fromarray(PIXELS[0, ..., 0].astype(np.float32)), {}),
}
PARQUETS: dict[str, dict[str, object]] = {
    "snappy": dict(write_page_checksum=True),
    "plain": dict(write_page_checksum=True, use_dictionary=False, compression="none"),
    "zstd": dict(write_page_checksum=True, compression="zstd", row_group_size=5, data_page_version="2.0"),
    "bare": dict(),
}


def picture(name):
    image, options = PICTURES[name]
    stream = io.BytesIO()
    image.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.split(".")[1].upper()), **options)
    return stream.getvalue()


def read_or_none(read, path):
    try:
        return read(path)
    except ValueError:
        return None


def equal(ones, others):
    """Of arrays in the same places."""
    return len(ones) == len(others) and all(
        one.dtype == other.dtype and np.array_equal(one, other) for one, other in zip(ones, others, strict=True)
    )


class Picture:
    """An image file, read to be classified."""

    guarded = ("grey.png", "deep.png", "clear.png")

    def __init__(self, folder, name):
        self.path, self.content, self.name = folder / name, picture(name), name

    def read(self):
        return [read_images([self.path], (8, 8), 3)[0]]


class Table:
    """The training split of a dataset; the test split is sound."""

    guarded = ("snappy", "plain", "zstd")

    def __init__(self, folder, name):
        self.path, self.name = folder / name / "train.parquet", name
        self.path.parent.mkdir()
        write_parquet(self.path, PIXELS, [0, 1] * 6, names=["cat", "dog"], **PARQUETS[name])
        write_parquet(self.path.with_name("test.parquet"), PIXELS[:2], [0, 1], names=["cat", "dog"])
        self.content = self.path.read_bytes()

    def read(self):
        data = read_data(self.path.parent)
        return [array for part in (data.train, data.validation, data.test) for array in part]


class Batch:
    """CIFAR-10's test batch, of which photographs are taken."""

    guarded = ("batch",)

    def __init__(self, folder, monkeypatch):
        self.path, self.name = folder / "batch" / "test_batch", "batch"
        self.path.parent.mkdir()
        write_batch(self.path, random_images(4))
        publish(self.path.parent, monkeypatch)
        self.content = self.path.read_bytes()

    def read(self):
        return read_photographs(self.path.parent, 4).images


def sources(folder, monkeypatch):
    pictures = [Picture(folder, name) for name in PICTURES]
    return [*pictures, *(Table(folder, name) for name in PARQUETS), Batch(folder, monkeypatch)]


def try_files(folder, monkeypatch, count, seed):
    """Tallies of the files that guard their pixels by checksums, and of those that do not."""
    tallies = {True: Tally(), False: Tally()}
    rng = np.random.default_rng(seed)
    kinds = []
    for source in sources(folder, monkeypatch):
        source.path.write_bytes(source.content)
        kinds.append((source, read_or_none(lambda _, source=source: source.read(), source.path)))
    for i in range(count):
        source, whole = kinds[i % len(kinds)]
        source.path.write_bytes(damaged(source.content, rng))
        is_same = lambda arrays, whole=whole: whole is not None and equal(arrays, whole)  # noqa: E731
        outcome = tallies[source.name in source.guarded].try_file(source.read, is_same, source.path)
        if outcome == "changed" and source.name in source.guarded:
            kept = folder / f"changed-{i}-{source.path.name}"
            kept.write_bytes(source.path.read_bytes())
            tallies[True].outcomes[f"changed {source.name}"] += 1
        source.path.write_bytes(source.content)
    return tallies


def test_undamaged_files_are_read_but_for_a_float_that_is_refused(tmp_path, monkeypatch):
    for source in sources(tmp_path, monkeypatch):
        source.path.write_bytes(source.content)
        assert (read_or_none(lambda _, source=source: source.read(), source.path) is None) == (
            source.name == "float.tif"
        )


def test_damaged_files_are_read_unchanged_or_refused(tmp_path, monkeypatch):
    tallies = try_files(tmp_path, monkeypatch, 450, seed=0)
    assert tallies[True].outcomes["changed"] == 0
    assert min(tally.outcomes["refused"] for tally in tallies.values()) > 80


@pytest.mark.slow
def test_thousands_of_damaged_files_are_read_unchanged_or_refused(tmp_path, monkeypatch):
    guarded, others = try_files(tmp_path, monkeypatch, 6000, seed=1).values()
    print(f"pixels guarded: {guarded}\nothers: {others}")
    assert guarded.outcomes["changed"] == 0


@pytest.mark.parametrize("name", ("a.png", "train.parquet", "test_batch"))
def test_a_pipe_is_never_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_photographs(tmp_path, 1)
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_data(tmp_path)
    with pytest.raises(ValueError, match=str(tmp_path / name)):
        read_images([tmp_path / name], (8, 8), 3)
