"""What surrounds the reference's training step: each rule on a case small enough to count."""

import dataclasses

import numpy as np
import pytest
import torch

import reference.config
from conformance.tolerances import FLOAT64, UNIT_ROUNDOFF
from reference import loop
from vit_flax.recipe import recipe

GREY = np.array([20, 90, 160, 230])
IMAGES = np.broadcast_to(GREY[:, None, None, None], (4, 6, 8, 1)).astype(np.uint8)
SAID = np.eye(4, dtype=np.float32)
FLOAT32 = 10 * UNIT_ROUNDOFF["float32"]  # a few roundings of numbers of order one


def off(found, expected):
    assert found.shape == expected.shape
    return np.abs(found - expected).max() / np.abs(expected).max()


def plan(**changes):
    plain = dict(means=(0.0,), stds=(1.0,), flip=False, crop_scale=(1.0, 1.0), batch_size=4)
    full = recipe("digits").replace(**plain | changes)
    names = [field.name for field in dataclasses.fields(reference.config.Recipe)]
    return reference.config.Recipe(**{name: getattr(full, name) for name in names})


def test_an_epoch_is_each_example_once_but_for_an_incomplete_batch():
    batches = loop.epoch_rows(0, 1, 11, 4)
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(np.concatenate(batches).tolist())) == 8
    assert max(np.concatenate(batches)) < 11


def test_an_epochs_order_follows_from_seed_and_epoch():
    def order(seed, epoch):
        return np.concatenate(loop.epoch_rows(seed, epoch, 40, 4)).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


@pytest.mark.parametrize("way", [loop.mixup, loop.cutmix])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_targets_say_what_is_seen(way, share):
    torch.manual_seed(0)
    images, targets = way(IMAGES.astype(np.float64), SAID.astype(np.float64), share)
    assert off(images.mean(axis=(1, 2, 3)), targets @ GREY) < FLOAT64
    assert off(targets.sum(axis=1), np.ones(len(targets))) < FLOAT64


def test_the_share_is_the_own_images():
    _, targets = loop.mixup(IMAGES, SAID, 0.75)
    np.testing.assert_array_equal(targets, 0.75 * np.eye(4) + 0.25 * np.roll(np.eye(4), 1, axis=0))


def test_a_box_that_leaves_the_image_is_cut_off():
    torch.manual_seed(0)
    own = [float(loop.cutmix(IMAGES, SAID, 0.5)[1][0, 0]) for _ in range(200)]
    assert min(own) == np.float32(1 - 4 * 4 / 48)  # 2 rows and 2 columns to either side of the centre
    assert max(own) > 0.5


def test_flips_are_drawn_by_image():
    torch.manual_seed(0)
    ramp = np.broadcast_to(np.arange(8, dtype=np.uint8)[:, None], (1000, 6, 8, 1))
    images, _ = loop.augment(ramp, np.zeros(1000, int), 4, plan(flip=True))
    flipped = images[:, 0, 0, 0] > images[:, 0, -1, 0]
    assert abs(flipped.mean() - 0.5) < 5 * 0.5 / 1000**0.5


def test_erasing_puts_noise_into_a_rectangle_of_normalised_pixels():
    torch.manual_seed(0)
    pixels = np.full((200, 16, 24, 3), 250, np.uint8)
    images, _ = loop.augment(pixels, np.zeros(200, int), 4, plan(erasing=0.5, means=(0.5,) * 3, stds=(0.01,) * 3))
    changed = np.abs(images - 48.04) > 0.01
    assert abs(changed.any(axis=(1, 2, 3)).mean() - 0.5) < 5 * 0.5 / 200**0.5
    assert 0.02 < changed.mean() / 0.5 < 1 / 3
    assert abs(images[changed].std() - 1) < 0.05
    assert abs(images[changed].mean()) < 0.05


def test_trivial_augment_leaves_some_images_and_changes_others():
    torch.manual_seed(0)
    images, _ = loop.augment(np.repeat(IMAGES, 50, axis=0), np.zeros(200, int), 4, plan(trivial_augment=True))
    left = (images * 255).round() == np.repeat(IMAGES, 50, axis=0)
    assert 0.1 < left.all(axis=(1, 2, 3)).mean() < 0.6


def test_labels_are_smoothed_and_pixels_normalised():
    images, targets = loop.augment(IMAGES, np.arange(4), 4, plan(label_smoothing=0.2, means=(0.5,), stds=(0.25,)))
    assert off(targets, 0.8 * np.eye(4) + 0.05) < FLOAT32
    assert off(images[:, 0, 0, 0], (GREY / 255 - 0.5) / 0.25) < FLOAT32


def test_accuracy_counts_every_image_once():
    def model(x):
        return torch.nn.functional.one_hot((x[:, 0, 0, 0] * 255 > 100).long(), 2)

    bright = np.array([20, 230, 230, 20, 230])
    images = np.broadcast_to(bright[:, None, None, None], (5, 6, 8, 1)).astype(np.uint8)
    assert loop.evaluate(model, images, np.array([0, 1, 1, 0, 0]), plan()) == 4 / 5


def test_the_average_starts_short_and_grows():
    average, now = {"x": np.array(1.0)}, {"x": np.array(0.0)}
    assert loop.averaged(average, now, 1, 0.9)["x"] == 2 / 11
    assert loop.averaged(average, now, 1000, 0.9)["x"] == 0.9
