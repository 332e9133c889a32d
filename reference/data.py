"""The article's data pipeline on the host, under its names: torchvision, PIL and `DataLoader` workers.

A batch is [images, labels]: normalised float32, channels last, and int64. What is random (augmentation, shuffling)
draws from torch's global generator, as in the article: `torch.manual_seed` makes it repeatable.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision import transforms
from torchvision.datasets import CIFAR10
from torchvision.transforms import functional

Transform = Callable[[Any], Any]  # of a PIL image

IMAGE_SIZE = 32
CROP_SCALES = (0.8, 1.0)
CROP_RATIO = (0.9, 1.1)
ERASED_AREA = (0.02, 1 / 3)  # as a share of the image's: timm's; torchvision has 0.33
ERASED_RATIO = (0.3, 3.3)  # height over width
# float32, where the article has float64: those would make batches float64, for JAX to round.
DATA_MEANS = np.array([0.49139968, 0.48215841, 0.44653091], dtype=np.float32)
DATA_STD = np.array([0.24703223, 0.24348513, 0.26158784], dtype=np.float32)


def image_to_numpy(img: Image.Image | np.ndarray) -> np.ndarray:
    """float32 height x width x 3, in the units of CIFAR-10's standard deviations."""
    img = np.array(img, dtype=np.float32)
    return (img / 255.0 - DATA_MEANS) / DATA_STD


def numpy_collate(batch: Sequence[Any]) -> Any:
    """A batch of samples from a list of them: arrays stacked, tuples part by part."""
    if isinstance(batch[0], np.ndarray):
        return np.stack(batch)
    if isinstance(batch[0], (tuple, list)):
        return [numpy_collate(samples) for samples in zip(*batch, strict=True)]
    return np.array(batch)


test_transform: Transform = image_to_numpy
train_transform: Transform = transforms.Compose(
    [
        transforms.RandomHorizontalFlip(),
        transforms.RandomResizedCrop((IMAGE_SIZE, IMAGE_SIZE), scale=CROP_SCALES, ratio=CROP_RATIO),
        image_to_numpy,
    ]
)


class ArrayDataset(Dataset[tuple[Any, int]]):
    """What torchvision's `CIFAR10` is, for images in memory: (transformed PIL image, label) pairs.

    `images` are uint8, count x height x width x 3, with one of `labels` each; else `ValueError`.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Transform) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images are {images.dtype} {images.shape}, but must be uint8 (count, height, width, 3)")
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images have {len(labels)} labels")
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def cifar10(root: str | Path, train: bool, transform: Transform, download: bool = True) -> Dataset:
    """torchvision's CIFAR-10 in `root`, downloaded if it is not there.

    Raises `RuntimeError` for files that do not have the published checksums.
    """
    return CIFAR10(root, train=train, transform=transform, download=download)


def loaders(
    train_dataset: Dataset,
    val_dataset: Dataset,
    test_set: Dataset,
    *,
    batch_size: int,
    seed: int = 42,
    held_out: int = 5000,
    workers: int = 2,
) -> tuple[DataLoader, DataLoader, DataLoader]:
    """Loaders of the training, validation and test batches.

    `val_dataset` is the training images again, under `test_transform`: the split holds out the same `held_out` of
    both. Raises `ValueError` if that leaves none on one side, or if the two differ in length. Workers are forked
    on Linux, of which JAX warns where it has been used before.
    """
    count = len(train_dataset)  # type: ignore[arg-type]  # torch leaves it to the subclasses
    if not 0 < held_out < count:
        raise ValueError(f"held_out is {held_out}, but must be in [1, {count - 1}], with {count} training images")
    lengths = [count - held_out, held_out]
    train_set, _ = random_split(train_dataset, lengths, generator=torch.Generator().manual_seed(seed))
    _, val_set = random_split(val_dataset, lengths, generator=torch.Generator().manual_seed(seed))

    def loader(dataset: Dataset, train: bool) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=train,
            drop_last=train,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=numpy_collate,
        )

    return loader(train_set, True), loader(val_set, False), loader(test_set, False)


def crop_and_flip(image: np.ndarray, box: Sequence[int], flip: bool) -> np.ndarray:
    """The article's `train_transform` with its draws given: uint8 height x width x channels, box (top, left, ...)."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    if flip:
        picture = functional.hflip(picture)
    size = list(image.shape[:2])
    return np.array(functional.resized_crop(picture, *map(int, box), size)).reshape(image.shape)


def trivially_augmented(image: np.ndarray) -> np.ndarray:
    """torchvision's TrivialAugment, the wide variant, of a uint8 image as a tensor, from torch's global generator."""
    return transforms.TrivialAugmentWide()(torch.tensor(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()


def erased(image: np.ndarray, probability: float) -> np.ndarray:
    """torchvision's random erasing with noise, of a normalised float32 image, from torch's global generator."""
    erase = transforms.RandomErasing(probability, scale=ERASED_AREA, ratio=ERASED_RATIO, value="random")
    return erase(torch.tensor(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()


def crop_boxes(count: int, image_size: tuple[int, int], scale: Sequence[float], ratio: Sequence[float]) -> np.ndarray:
    """Boxes as torchvision's `RandomResizedCrop` draws them, from torch's global generator: count x 4."""
    image = torch.empty(1, *image_size)
    boxes = [transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)]
    return np.array(boxes)
