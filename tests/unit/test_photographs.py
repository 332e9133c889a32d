"""Photographs of every layout read back exactly, and every bad folder refused in one sentence that names it."""

import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images
from test_readers import INCOMPLETE, cut, encoded, publish, random_images, write_batch, write_parquet

from vit_flax import tables
from vit_flax.photographs import read_photographs
from vit_flax.readers import DataError

Write = Callable[[str, Path, np.ndarray], None]


def write_files(folder: Path, images: np.ndarray) -> None:
    for i, image in enumerate(images):
        (folder / f"{i:03}.png").write_bytes(encoded(image))


LAYOUT_WRITERS = {
    "parquet": lambda folder, images: write_parquet(folder / "test.parquet", images),
    "batches": lambda folder, images: write_batch(folder / "test_batch", images),
    "files": write_files,
}


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes images in a layout; a batch is then the one that was published."""

    def write(layout: str, folder: Path, images: np.ndarray) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        LAYOUT_WRITERS[layout](folder, images)
        publish(folder, monkeypatch)

    return write


@pytest.mark.parametrize("layout", LAYOUT_WRITERS)
def test_every_layout_gives_the_very_pixels_that_were_written(tmp_path: Path, write: Write, layout: str) -> None:
    images = random_images(5)
    write(layout, tmp_path, images)
    read = read_photographs(tmp_path, 5).images
    assert [image.dtype for image in read] == [np.uint8] * 5
    np.testing.assert_array_equal(read, images)


@pytest.mark.parametrize("layout", LAYOUT_WRITERS)
def test_the_chosen_images_are_spread_over_a_collection_sorted_by_class(
    tmp_path: Path, write: Write, layout: str
) -> None:
    classes = np.repeat(np.arange(10, dtype=np.uint8), 4)
    write(layout, tmp_path, np.broadcast_to(classes[:, None, None, None], (40, 32, 32, 3)))
    read = read_photographs(str(tmp_path), 10).images
    assert [image[0, 0, 0] for image in read] == list(range(10))


@pytest.mark.parametrize("layout", ("parquet", "files"))
def test_images_that_are_not_square_stay_as_they_are(tmp_path: Path, write: Write, layout: str) -> None:
    images = random_images(2, height=7, width=11)
    write(layout, tmp_path, images)
    np.testing.assert_array_equal(read_photographs(tmp_path, 2).images, images)


def test_batches_are_found_inside_the_folder_that_torchvision_fills(tmp_path: Path, write: Write) -> None:
    write("batches", tmp_path / "cifar-10-batches-py", random_images(2))
    np.testing.assert_array_equal(read_photographs(tmp_path, 2).images, random_images(2))


@pytest.mark.parametrize("present", (1, 2, 3))
def test_the_test_split_is_preferred_to_other_parquet_files(tmp_path: Path, present: int) -> None:
    images = random_images(3)
    names = ("other", "test-00000-of-00001", "test")
    for name, image in list(zip(names, images, strict=True))[:present]:
        write_parquet(tmp_path / f"{name}.parquet", image[None])
    np.testing.assert_array_equal(read_photographs(tmp_path, 1).images[0], images[present - 1])


def test_grey_jpegs_decode_to_rgb(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", np.full((1, 32, 32), 77, dtype=np.uint8), kind="JPEG")
    np.testing.assert_array_equal(read_photographs(tmp_path, 1).images, np.full((1, 32, 32, 3), 77))


@pytest.mark.parametrize("layout", ("parquet", "files"))
def test_photographs_are_turned_as_their_camera_says(tmp_path: Path, layout: str) -> None:
    upright, stream, exif = random_images(1, 7, 11)[0], io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # orientation: turn it clockwise
    Image.fromarray(np.ascontiguousarray(np.rot90(upright))).save(stream, "PNG", exif=exif)
    if layout == "files":
        (tmp_path / "a.png").write_bytes(stream.getvalue())
    else:
        rows = [{"bytes": stream.getvalue(), "path": None}]
        pq.write_table(pa.table({"img": rows}), tmp_path / "test.parquet")
    np.testing.assert_array_equal(read_photographs(tmp_path, 1).images, [upright])


def test_image_files_are_found_at_any_depth_and_in_any_case(tmp_path: Path) -> None:
    images = random_images(3)
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "a.PNG").write_bytes(encoded(images[0]))
    (tmp_path / "b" / "c" / "z.Bmp").write_bytes(encoded(images[1], "BMP"))
    (tmp_path / "b" / "d.png").write_bytes(encoded(images[2]))
    (tmp_path / "b" / "notes.txt").write_text("not an image")
    (tmp_path / "b" / "._d.png").write_bytes(b"what macOS leaves beside a file on other disks")
    np.testing.assert_array_equal(read_photographs(tmp_path, 3).images, images)


@pytest.mark.parametrize(
    "layout, source", (("parquet", "mine (Parquet)"), ("batches", "CIFAR-10"), ("files", "mine (3 image files)"))
)
def test_sources_say_what_the_images_are_and_never_where(
    tmp_path: Path, write: Write, layout: str, source: str
) -> None:
    write(layout, tmp_path / "mine", random_images(3))
    assert read_photographs(tmp_path / "mine", 2).source == source


def test_a_known_file_is_called_by_the_name_of_its_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "test.parquet"
    write_parquet(file, random_images(2))
    monkeypatch.setitem(tables.KNOWN_FILES, hashlib.sha256(file.read_bytes()).hexdigest(), "A dataset")
    assert read_photographs(tmp_path, 1).source == "A dataset"


def test_without_a_source_the_two_photographs_of_scikit_learn_are_whole() -> None:
    photographs = read_photographs(None, 2)
    np.testing.assert_array_equal(photographs.images, load_sample_images().images)
    assert photographs.source == "scikit-learn sample photographs"


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


def cut_parquet(folder: Path) -> None:
    write_parquet(folder / "test.parquet", random_images(3))
    cut(folder / "test.parquet", 0.5)


def cut_image(folder: Path) -> None:
    write_files(folder, random_images(1))
    cut(folder / "000.png", 0.5)


def cut_image_in_parquet(folder: Path) -> None:
    rows = [{"bytes": encoded(random_images(1)[0])[:99], "path": None}]
    pq.write_table(pa.table({"img": rows}), folder / "test.parquet")


BAD_FOLDERS = {  # what writes it, and the file and the trouble that the message names
    "empty": (lambda folder: None, "", "holds no images that can be read: give a folder that holds test.parquet"),
    "cut parquet": (cut_parquet, "test.parquet", INCOMPLETE),
    "cut image in parquet": (cut_image_in_parquet, "test.parquet", INCOMPLETE),
    "unpublished batch": (lambda folder: (folder / "test_batch").touch(), "test_batch", "is damaged or not CIFAR-10's"),
    "another batch": (lambda folder: (folder / "data_batch_1").touch(), "test_batch", "is missing"),
    "cut image": (cut_image, "000.png", INCOMPLETE),
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


def test_a_path_that_is_no_folder_is_refused_with_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist: give a folder that holds test\.parquet"):
        read_photographs(tmp_path / "nowhere", 1)


@pytest.mark.parametrize("count", (0, 4))
@pytest.mark.parametrize("layout", LAYOUT_WRITERS)
def test_a_count_that_cannot_be_had_is_named_with_what_there_is(
    tmp_path: Path, write: Write, layout: str, count: int
) -> None:
    write(layout, tmp_path, random_images(3))
    with pytest.raises(DataError, match=f"{tmp_path}.* holds 3 images, but {count} were asked for"):
        read_photographs(tmp_path, count)


def test_scikit_learn_photographs_run_out_too() -> None:
    with pytest.raises(DataError, match="holds 338 images, but 339 were asked for"):
        read_photographs(None, 339)


def test_without_a_source_an_absent_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="needs scikit-learn: pip install"):
        read_photographs(None, 1)
