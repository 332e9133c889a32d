"""The article's host pipeline: downloaded by torchvision's own code, split, batched; and its pixels on the device."""

import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, random_split
from torchvision.datasets import CIFAR10
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F

from conformance.tolerances import ROUNDING_FACTOR
from reference import data
from reference.data import ArrayDataset, cifar10, image_to_numpy, loaders, numpy_collate, train_transform
from vit_flax.augment import flip, normalise, resized_crop
from vit_flax.config import preset
from vit_flax.data import Dataset
from vit_flax.loss import targets
from vit_flax.recipe import recipe
from vit_flax.train import Batch, create_train_state, initialize_model, prepare, train_step

ROOT = Path(data.__file__).parents[1]
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
ARCHIVE = "cifar-10-python.tar.gz"
A_BATCH = 4  # images in one of them
ONE_ROUNDING = 1  # uint8


def random_images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def batch_file(number: int) -> bytes:
    rows = random_images(A_BATCH, number).transpose(0, 3, 1, 2).reshape(A_BATCH, -1)
    return pickle.dumps({"data": rows, "labels": [number] * A_BATCH})


def archive_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        self.server.asked.append(self.path)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A small CIFAR-10 on an HTTP server of this machine, and torchvision told of its address and checksums."""
    files = {name: batch_file(i) for i, name in enumerate(BATCHES)}
    files["batches.meta"] = pickle.dumps({"label_names": list("abcdefghij")})
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    (tmp_path / ARCHIVE).write_bytes(archive_of(files))
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5((tmp_path / ARCHIVE).read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in BATCHES[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, md5[name]] for name in BATCHES[5:]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5["batches.meta"]})
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        server.asked, server.archive = [], tmp_path / ARCHIVE
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{ARCHIVE}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_cifar10_is_downloaded_once_and_arrives_whole(server: Any, tmp_path: Path) -> None:
    train = cifar10(tmp_path / "data", True, np.array)
    assert server.asked
    expected = np.concatenate([random_images(A_BATCH, i) for i in range(5)])
    np.testing.assert_array_equal([image for image, _ in train], expected)
    assert [label for _, label in train] == np.repeat(range(5), A_BATCH).tolist()
    server.asked.clear()
    np.testing.assert_array_equal(
        [image for image, _ in cifar10(tmp_path / "data", False, np.array)], random_images(4, 5)
    )
    assert not server.asked


@pytest.mark.parametrize("damage", ("cut short", "one bit"))
def test_a_damaged_archive_is_refused(server: Any, tmp_path: Path, damage: str) -> None:
    content = bytearray(server.archive.read_bytes())
    content[99] ^= 1
    server.archive.write_bytes(content if damage == "one bit" else content[:99])
    with pytest.raises(RuntimeError, match="corrupted"):
        cifar10(tmp_path / "data", True, np.array)


def test_a_damaged_batch_is_refused_if_it_may_not_be_downloaded_again(server: Any, tmp_path: Path) -> None:
    cifar10(tmp_path / "data", True, np.array)
    (tmp_path / "data" / "cifar-10-batches-py" / "test_batch").write_bytes(b"damaged")
    with pytest.raises(RuntimeError, match="corrupted"):
        cifar10(tmp_path / "data", True, np.array, download=False)


def numbered(count: int, transform: Any, first: int = 0) -> ArrayDataset:
    """Images labelled 0, 1, 2, ..."""
    return ArrayDataset(random_images(count, first), np.arange(first, first + count), transform)


def of_arrays(**options: Any) -> tuple[DataLoader, ...]:
    options = dict(batch_size=8, held_out=10, workers=0) | options
    return loaders(
        numbered(60, train_transform),
        numbered(60, data.test_transform),
        numbered(20, data.test_transform, 60),
        **options,
    )


def labels_of(loader: DataLoader) -> list[int]:
    return [int(label) for _, labels in loader for label in labels]


def test_the_split_is_that_of_random_split() -> None:
    parts = random_split(range(60), [50, 10], generator=torch.Generator().manual_seed(42))
    train, val, test = of_arrays(batch_size=10)
    assert sorted(labels_of(train)) == sorted(parts[0])
    assert labels_of(val) == list(parts[1])
    assert labels_of(test) == list(range(60, 80))
    assert labels_of(of_arrays(seed=43)[1]) != list(parts[1])


def test_training_batches_are_shuffled_and_all_full() -> None:
    train, val, test = of_arrays()
    torch.manual_seed(0)
    epochs = [labels_of(train) for _ in range(2)]
    assert epochs[0] != epochs[1]
    torch.manual_seed(0)
    assert epochs == [labels_of(train) for _ in range(2)]
    assert [len(loader) for loader in (train, val, test)] == [50 // 8, 2, 3]
    assert [len(labels) for _, labels in train] == [8] * (50 // 8)
    assert [len(labels) for _, labels in test] == [8, 8, 4]


def test_batches_are_normalised_float32_and_int64() -> None:
    for loader in of_arrays():
        images, labels = next(iter(loader))
        assert (type(images), images.dtype, images.shape) == (np.ndarray, np.float32, (8, 32, 32, 3))
        assert (type(labels), labels.dtype, labels.shape) == (np.ndarray, np.int64, (8,))
        assert np.abs(images.mean()) < 0.2
        assert 0.8 < images.std() < 1.4


def test_only_training_images_are_augmented() -> None:
    train, val, test = of_arrays()
    plain = image_to_numpy(np.concatenate([random_images(60), random_images(20, 60)]))
    for loader in (val, test):
        for images, labels in loader:
            np.testing.assert_array_equal(images, plain[labels])
    images, labels = next(iter(train))
    assert (images != plain[labels]).any(axis=(1, 2, 3)).sum() > 4


@pytest.mark.parametrize("workers", (0, 2))
def test_workers_persist_if_there_are_any(workers: int) -> None:
    for loader in of_arrays(workers=workers):
        assert (loader.num_workers, loader.persistent_workers) == (workers, workers > 0)


def test_workers_deliver_epoch_after_epoch() -> None:
    code = """
import numpy as np
from reference.data import ArrayDataset, loaders, test_transform, train_transform
images, labels = np.zeros((24, 32, 32, 3), np.uint8), np.arange(24)
train, val, test = (ArrayDataset(images, labels, t) for t in (train_transform, test_transform, test_transform))
for loader in loaders(train, val, test, batch_size=4, held_out=4):
    print(*(sum(len(labels) for _, labels in loader) for epoch in range(2)))
"""
    # A process of its own: workers are forked, and JAX warns of that.
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["20", "20", "4", "4", "24", "24"]


def test_a_batch_is_collated_as_the_article_does() -> None:
    sample = (np.zeros((2, 3), np.float32), 5)
    images, labels = numpy_collate([sample, sample])
    assert (images.shape, images.dtype, labels.tolist()) == ((2, 2, 3), np.float32, [5, 5])


BAD = {
    "floats": (lambda: ArrayDataset(np.zeros((1, 32, 32, 3)), np.zeros(1), None), "images are float64"),
    "grey": (lambda: ArrayDataset(np.zeros((1, 32, 32), np.uint8), np.zeros(1), None), "must be uint8"),
    "labels": (lambda: ArrayDataset(random_images(2), np.zeros(3), None), "2 images have 3 labels"),
    "none held out": (lambda: of_arrays(held_out=0), "held_out is 0"),
    "all held out": (lambda: of_arrays(held_out=60), r"held_out is 60, but must be in \[1, 59\]"),
    "other images": (
        lambda: loaders(numbered(60, None), numbered(59, None), numbered(1, None), batch_size=8, held_out=10),
        "length",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_refused(case: str) -> None:
    make, trouble = BAD[case]
    with pytest.raises(ValueError, match=trouble):
        make()


def test_the_recipe_has_the_articles_numbers() -> None:
    article = recipe("article")
    crop = train_transform.transforms[1]
    assert (article.crop_scale, article.crop_ratio) == (crop.scale, crop.ratio)
    np.testing.assert_array_equal(np.float32(article.means), data.DATA_MEANS)
    np.testing.assert_array_equal(np.float32(article.stds), data.DATA_STD)


def drawn(monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> tuple[np.ndarray, list[bool], list[tuple[int, ...]]]:
    """The host pipeline's normalised images, and the flips and boxes that torchvision drew for them."""
    flips, boxes = [False] * len(images), []
    hflip, get_params = F.hflip, RandomResizedCrop.get_params

    def spied_hflip(image: Any) -> Any:
        flips[len(boxes)] = True
        return hflip(image)

    def spied_get_params(*args: Any) -> tuple[int, ...]:
        boxes.append(get_params(*args))
        return boxes[-1]

    monkeypatch.setattr(F, "hflip", spied_hflip)
    monkeypatch.setattr(RandomResizedCrop, "get_params", staticmethod(spied_get_params))
    torch.manual_seed(0)
    dataset = ArrayDataset(images, np.zeros(len(images)), train_transform)
    return np.stack([dataset[i][0] for i in range(len(images))]), flips, boxes


def cropped(images: np.ndarray, flips: Any, boxes: Any) -> np.ndarray:
    return np.array(resized_crop(flip(jnp.array(images), jnp.array(flips)), jnp.array(boxes, jnp.int32), (32, 32)))


def test_the_device_gives_the_hosts_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    images, article = random_images(64), recipe("article")
    host, flips, boxes = drawn(monkeypatch, images)
    assert 0 < sum(flips) < 64
    pixels = cropped(images, flips, boxes)
    np.testing.assert_array_equal(np.rint((host * data.DATA_STD + data.DATA_MEANS) * 255), pixels)
    truth = (pixels.astype(np.float64) / 255 - np.array(article.means)) / np.array(article.stds)
    device = np.array(jax.jit(normalise, static_argnums=(1, 2))(pixels, article.means, article.stds))
    assert np.abs(device - truth).max() <= ROUNDING_FACTOR * np.abs(host - truth).max()
    for wrong_flips, shift in ((np.zeros(64, bool), [0, 0, 0, 0]), (flips, [0, 0, 0, -1])):
        wrong = cropped(images, wrong_flips, np.add(boxes, shift))
        assert np.abs(wrong.astype(int) - pixels).max() > ONE_ROUNDING


def test_a_loaders_batch_goes_into_the_step_that_the_device_pipeline_feeds() -> None:
    """Its pixels were compared above; here, that the step takes it as it is, and gives a state of the same kind."""
    images, labels = random_images(8), np.arange(8, dtype=np.int32)
    loader = DataLoader(ArrayDataset(images, labels, data.test_transform), batch_size=8, collate_fn=numpy_collate)
    host_images, host_labels = next(iter(loader))
    config = preset("digits").replace(image_size=(32, 32), channels=3, patch_size=16, num_layers=1)
    state = jax.eval_shape(lambda: create_train_state(*initialize_model(config, 0), recipe("article"), 1))
    host = Batch(jnp.asarray(host_images), targets(jnp.asarray(host_labels), config.num_classes))
    device = jax.eval_shape(prepare, jax.random.key(0), Dataset(images, labels), state)
    assert jax.eval_shape(lambda: host) == device
    assert jax.eval_shape(train_step, state, host) == jax.eval_shape(train_step, state, device)
