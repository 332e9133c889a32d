"""Every layout read back exactly, and every bad input refused in one sentence that names the file."""

import hashlib
import io
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
from sklearn.datasets import load_sample_images

from vit_flax import data
from vit_flax.data import DataError, read_photographs


def random_images(count: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(file: Path, images: np.ndarray, column: str = "img", kind: str = "PNG") -> None:
    rows = [{"bytes": encoded(image, kind), "path": f"{i}.png"} for i, image in enumerate(images)]
    pq.write_table(pa.table({column: rows, "label": list(range(len(rows)))}), file)


def write_files(folder: Path, images: np.ndarray) -> None:
    for i, image in enumerate(images):
        (folder / f"{i:03}.png").write_bytes(encoded(image))


def batch_of(images: np.ndarray) -> dict[bytes, Any]:
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
    return {b"batch_label": b"testing batch 1 of 1", b"labels": list(range(len(images))), b"data": rows}


def write_batch(file: Path, images: np.ndarray) -> None:
    file.write_bytes(pickle.dumps(batch_of(images), protocol=4))


def python2_pickle(images: np.ndarray) -> bytes:
    """A batch opcode by opcode as the published ones are: Python 2 strings, numbers for flags, numpy's old names."""

    def string(raw: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(raw)) + raw

    pixels = batch_of(images)[b"data"]
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + string(b"|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
    array += b"(K\x01K" + bytes([len(pixels)]) + b"M\x00\x0c\x86" + dtype + b"\x89" + string(pixels.tobytes()) + b"tb"
    return b"\x80\x02}(" + string(b"labels") + b"]" + string(b"data") + array + b"u."


PICKLES = {
    "python 2": python2_pickle,
    "protocol 2": lambda images: pickle.dumps(batch_of(images), protocol=2),
    "protocol 4": lambda images: pickle.dumps(batch_of(images), protocol=4),
}
LAYOUT_WRITERS = {
    "parquet": lambda folder, images: write_parquet(folder / "test.parquet", images),
    "batches": lambda folder, images: write_batch(folder / "test_batch", images),
    "files": write_files,
}


@pytest.mark.parametrize("layout", LAYOUT_WRITERS)
def test_every_layout_gives_the_very_pixels_that_were_written(tmp_path: Path, layout: str) -> None:
    images = random_images(5)
    LAYOUT_WRITERS[layout](tmp_path, images)
    read = read_photographs(tmp_path, 5).images
    assert [image.dtype for image in read] == [np.uint8] * 5
    np.testing.assert_array_equal(read, images)


@pytest.mark.parametrize("layout", LAYOUT_WRITERS)
def test_the_chosen_images_are_spread_over_a_collection_sorted_by_class(tmp_path: Path, layout: str) -> None:
    classes = np.repeat(np.arange(10, dtype=np.uint8), 4)
    LAYOUT_WRITERS[layout](tmp_path, np.broadcast_to(classes[:, None, None, None], (40, 32, 32, 3)))
    read = read_photographs(str(tmp_path), 10).images
    assert [image[0, 0, 0] for image in read] == list(range(10))


@pytest.mark.parametrize("layout", ("parquet", "files"))
def test_images_that_are_not_square_stay_as_they_are(tmp_path: Path, layout: str) -> None:
    images = random_images(2, height=7, width=11)
    LAYOUT_WRITERS[layout](tmp_path, images)
    np.testing.assert_array_equal(read_photographs(tmp_path, 2).images, images)


@pytest.mark.parametrize("dialect", PICKLES)
def test_batches_are_read_whichever_python_wrote_them(tmp_path: Path, dialect: str) -> None:
    images = random_images(3)
    (tmp_path / "test_batch").write_bytes(PICKLES[dialect](images))
    np.testing.assert_array_equal(read_photographs(tmp_path, 3).images, images)


def test_batches_are_found_inside_the_folder_that_torchvision_fills(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    write_batch(folder / "test_batch", random_images(2))
    assert read_photographs(tmp_path, 2).source == "CIFAR-10 (cifar-10-batches-py)"


@pytest.mark.parametrize("present", (1, 2, 3))
def test_the_test_split_is_preferred_to_other_parquet_files(tmp_path: Path, present: int) -> None:
    images = random_images(3)
    names = ("other", "test-00000-of-00001", "test")
    for name, image in list(zip(names, images, strict=True))[:present]:
        write_parquet(tmp_path / f"{name}.parquet", image[None])
    np.testing.assert_array_equal(read_photographs(tmp_path, 1).images[0], images[present - 1])


def test_the_image_column_may_be_called_image(tmp_path: Path) -> None:
    images = random_images(2)
    write_parquet(tmp_path / "train.parquet", images, column="image")
    np.testing.assert_array_equal(read_photographs(tmp_path, 2).images, images)


def test_grey_jpegs_decode_to_rgb(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", np.full((1, 32, 32), 77, dtype=np.uint8), kind="JPEG")
    np.testing.assert_array_equal(read_photographs(tmp_path, 1).images, np.full((1, 32, 32, 3), 77))


def test_image_files_are_found_at_any_depth_and_in_any_case(tmp_path: Path) -> None:
    images = random_images(3)
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "a.PNG").write_bytes(encoded(images[0]))
    (tmp_path / "b" / "c" / "z.Bmp").write_bytes(encoded(images[1], "BMP"))
    (tmp_path / "b" / "d.png").write_bytes(encoded(images[2]))
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    np.testing.assert_array_equal(read_photographs(tmp_path, 3).images, images)


def test_sources_say_what_the_images_are_and_never_where(tmp_path: Path) -> None:
    folders = {name: tmp_path / f"my {name}" for name in LAYOUT_WRITERS}
    for name, folder in folders.items():
        folder.mkdir()
        LAYOUT_WRITERS[name](folder, random_images(3))
    assert read_photographs(folders["parquet"], 2).source == "my parquet (Parquet)"
    assert read_photographs(folders["batches"], 2).source == "CIFAR-10 (cifar-10-batches-py)"
    assert read_photographs(folders["files"], 2).source == "my files (3 image files)"
    assert read_photographs(None, 2).source == "scikit-learn sample photographs"


def test_a_known_file_is_called_by_the_name_of_its_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "test.parquet"
    write_parquet(file, random_images(2))
    monkeypatch.setitem(data.KNOWN_FILES, hashlib.sha256(file.read_bytes()).hexdigest(), "A data set")
    assert read_photographs(tmp_path, 1).source == "A data set"


def test_without_a_source_the_two_photographs_of_scikit_learn_are_whole() -> None:
    np.testing.assert_array_equal(read_photographs(None, 2).images, load_sample_images().images)


def test_without_a_source_more_than_two_are_crops_that_do_not_overlap() -> None:
    quarters = [
        photograph[rows, columns]
        for photograph in load_sample_images().images
        for rows in (slice(0, 213), slice(213, 426))
        for columns in (slice(0, 320), slice(320, 640))
    ]
    np.testing.assert_array_equal(read_photographs(None, 8).images, quarters)


@pytest.mark.parametrize("count", (3, 5, 16, 338))
def test_without_a_source_any_number_of_images_are_distinct(count: int) -> None:
    images = read_photographs(None, count).images
    assert len({image.tobytes() for image in images}) == count
    assert min(min(image.shape[:2]) for image in images) >= 32


def write_half(file: Path, content: bytes) -> None:
    file.write_bytes(content[: len(content) // 2])


def truncated_parquet(folder: Path) -> None:
    write_parquet(folder / "test.parquet", random_images(3))
    write_half(folder / "test.parquet", (folder / "test.parquet").read_bytes())


def truncated_batch(folder: Path) -> None:
    write_half(folder / "test_batch", python2_pickle(random_images(3)))


def truncated_image(folder: Path) -> None:
    write_half(folder / "cat.png", encoded(random_images(1)[0]))


def truncated_image_in_parquet(folder: Path) -> None:
    rows = [{"bytes": encoded(random_images(1)[0])[:99], "path": None}]
    pq.write_table(pa.table({"img": rows}), folder / "test.parquet")


def no_image_column(folder: Path) -> None:
    pq.write_table(pa.table({"image": [b"bare"], "text": ["caption"]}), folder / "test.parquet")


def pickle_of(value: object) -> Any:
    return lambda folder: (folder / "test_batch").write_bytes(pickle.dumps(value, protocol=4))


INCOMPLETE = "looks incomplete: download it again"
NO_BATCH = "is no CIFAR-10 batch"
BAD_FOLDERS = {  # what writes it, and the file and the trouble that the message names
    "empty": (lambda folder: None, "", "holds no images that can be read: give a folder that holds test.parquet"),
    "truncated parquet": (truncated_parquet, "test.parquet", INCOMPLETE),
    "truncated image in parquet": (truncated_image_in_parquet, "test.parquet", INCOMPLETE),
    "no image column": (no_image_column, "test.parquet", "only image (binary), text (string)"),
    "truncated batch": (truncated_batch, "test_batch", INCOMPLETE),
    "empty batch": (lambda folder: (folder / "test_batch").touch(), "test_batch", INCOMPLETE),
    "batch of something else": (pickle_of([1, 2]), "test_batch", NO_BATCH),
    "batch without data": (pickle_of({b"labels": [1]}), "test_batch", NO_BATCH),
    "batch of floats": (pickle_of({b"data": np.zeros((3, 3072))}), "test_batch", NO_BATCH),
    "batch of another shape": (pickle_of({b"data": np.zeros((3, 99), np.uint8)}), "test_batch", NO_BATCH),
    "truncated image": (truncated_image, "cat.png", INCOMPLETE),
    "not really an image": (lambda folder: (folder / "dog.jpg").write_text("woof"), "dog.jpg", INCOMPLETE),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_is_refused_in_words_that_name_the_file(tmp_path: Path, case: str) -> None:
    write, file, trouble = BAD_FOLDERS[case]
    write(tmp_path)
    with pytest.raises(DataError) as refusal:
        read_photographs(tmp_path, 1)
    assert str(tmp_path / file) in str(refusal.value)
    assert trouble in str(refusal.value)


@pytest.mark.parametrize("name, trouble", (("nowhere", "does not exist"), ("a.png", "is not a folder")))
def test_a_path_that_is_no_folder_is_named(tmp_path: Path, name: str, trouble: str) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=f"{name} {trouble}: give a folder"):
        read_photographs(tmp_path / name, 1)


@pytest.mark.parametrize("count", (0, 4))
@pytest.mark.parametrize("layout", LAYOUT_WRITERS)
def test_a_count_that_cannot_be_had_is_named_with_what_there_is(tmp_path: Path, layout: str, count: int) -> None:
    LAYOUT_WRITERS[layout](tmp_path, random_images(3))
    with pytest.raises(DataError, match=f"{tmp_path}.* holds 3 images, but {count} were asked for"):
        read_photographs(tmp_path, count)


def test_scikit_learn_photographs_run_out_too() -> None:
    with pytest.raises(DataError, match="holds 338 images, but 339 were asked for"):
        read_photographs(None, 339)


class Malice:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_malicious_batch_is_refused_and_not_run(tmp_path: Path) -> None:
    pickled = pickle.dumps({b"data": Malice(tmp_path / "harm")}, protocol=2)
    (tmp_path / "test_batch").write_bytes(pickled)
    with pytest.raises(DataError, match=r"test_batch asks to run (posix|nt)\.mkdir"):
        read_photographs(tmp_path, 1)
    assert not (tmp_path / "harm").exists()
    pickle.loads(pickled)
    assert (tmp_path / "harm").exists()  # so it would have done harm


@pytest.mark.parametrize("layout, module, package", (("files", "PIL", "Pillow"), ("parquet", "pyarrow", "pyarrow")))
def test_an_absent_package_is_named_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, module: str, package: str
) -> None:
    LAYOUT_WRITERS[layout](tmp_path, random_images(1))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf'needs {package}: pip install "vit-parity\[data\]"'):
        read_photographs(tmp_path, 1)


def test_without_a_source_an_absent_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="needs scikit-learn: pip install"):
        read_photographs(None, 1)
