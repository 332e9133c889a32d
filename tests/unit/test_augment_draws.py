"""On the device as on the host: boxes are distributed as torchvision's, and half of the images are flipped."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import torch
from torchvision.transforms import RandomResizedCrop

from vit_flax.augment import augment, crop_boxes
from vit_flax.recipe import recipe

# What boxes are drawn from: image size, scale, ratio.
Draw = tuple[tuple[int, int], tuple[float, float], tuple[float, float]]
DRAWS: dict[str, Draw] = {
    "the article's": ((32, 32), (0.8, 1.0), (0.9, 1.1)),
    "torchvision's default, not square": ((24, 40), (0.08, 1.0), (3 / 4, 4 / 3)),
    "a wide range of ratios": ((40, 24), (0.05, 0.3), (0.2, 5.0)),
    "often no fit": ((32, 24), (0.85, 1.0), (0.2, 1.4)),
}
COUNT = 8000
VIEWS = {"height, width": [2, 3], "top, height": [0, 2], "left, width": [1, 3], "top, left": [0, 1]}
# How often a right sample may be called wrong: one in a million over all draws and views together.
FALSE_ALARM = 1e-6 / (len(DRAWS) * len(VIEWS))


@cache
def torchvisions_boxes(draw: str) -> np.ndarray:
    (height, width), scale, ratio = DRAWS[draw]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.empty(3, height, width)
        return np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(COUNT)])


@cache
def our_boxes(draw: str) -> np.ndarray:
    return np.array(crop_boxes(jax.random.key(0), COUNT, *DRAWS[draw]))


def p_value(ours: np.ndarray, draw: str, view: str) -> float:
    """Of the chi-square test that the boxes are torchvision's, in cells of at least ten or so."""
    both = np.concatenate([ours, torchvisions_boxes(draw)])[:, VIEWS[view]]
    _, cells, sizes = np.unique(both, axis=0, return_inverse=True, return_counts=True)
    cells = np.where(sizes[cells] < 20, len(sizes), cells)  # the rare ones together
    _, cells = np.unique(cells, return_inverse=True)
    table = np.stack([np.bincount(half, minlength=cells.max() + 1) for half in np.split(cells, 2)])
    return 1.0 if table.shape[1] == 1 else float(scipy.stats.chi2_contingency(table).pvalue)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("draw", DRAWS)
def test_boxes_are_distributed_as_torchvisions(draw: str, view: str) -> None:
    assert p_value(our_boxes(draw), draw, view) > FALSE_ALARM


@pytest.mark.parametrize("ratio", ((2.5, 3.0), (0.2, 0.3)))
@pytest.mark.parametrize("image_size", ((20, 20), (20, 30), (33, 20)))
def test_where_only_one_box_is_possible_it_is_torchvisions(
    image_size: tuple[int, int], ratio: tuple[float, float]
) -> None:
    expected = RandomResizedCrop.get_params(torch.empty(3, *image_size), [1.0, 1.0], list(ratio))
    boxes = crop_boxes(jax.random.key(0), COUNT, image_size, (1.0, 1.0), ratio)
    np.testing.assert_array_equal(boxes, [expected] * COUNT)


@cache
def sampled(draw: str, fault: str) -> np.ndarray:
    """`get_params` in plain Python, with room for a fault."""
    (height, width), scale, ratio = DRAWS[draw]
    rng = np.random.default_rng(3)

    def size() -> tuple[int, int]:
        area = height * width * rng.uniform(*scale)
        aspect = rng.uniform(*ratio) if fault == "uniform ratio" else math.exp(rng.uniform(*np.log(ratio)))
        aspect = 1 / aspect if fault == "height over width" else aspect
        side = math.sqrt(area) * rng.uniform(*np.sqrt(scale)) if fault == "uniform side" else math.sqrt(area)
        cut = math.floor if fault == "rounded down" else round
        return cut(side / math.sqrt(aspect)), cut(side * math.sqrt(aspect))

    def box() -> tuple[int, ...]:
        for _ in range(1 if fault == "one attempt" else 10):
            h, w = size()
            if 0 < h <= height and 0 < w <= width:
                last = 0 if fault == "never at the end" else 1
                top, left = (int(rng.integers(0, max(room + last, 1))) for room in (height - h, width - w))
                return (min(top, int(rng.integers(0, height - h + 1))) if fault == "near the top" else top), left, h, w
        return 0, 0, height, width

    return np.array([box() for _ in range(COUNT)])


WRONG = {  # and where it shows
    "uniform ratio": ("a wide range of ratios", "height, width"),
    "height over width": ("often no fit", "height, width"),
    "uniform side": ("the article's", "height, width"),
    "rounded down": ("the article's", "height, width"),
    "one attempt": ("torchvision's default, not square", "height, width"),
    "never at the end": ("the article's", "left, width"),
    "near the top": ("the article's", "top, height"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_distribution_of_boxes_is_caught(fault: str) -> None:
    draw, view = WRONG[fault]
    assert p_value(sampled(draw, fault), draw, view) < FALSE_ALARM
    assert p_value(sampled(draw, "none"), draw, view) > FALSE_ALARM


def flips_p_value() -> float:
    """Of the test that half of the images are flipped."""
    images = jnp.broadcast_to(jnp.array([[[0], [1]]], jnp.uint8), (COUNT, 1, 2, 1))
    uncropped = recipe("article").replace(crop_scale=(1.0, 1.0), crop_ratio=(2.0, 2.0))
    flipped = augment(jax.random.key(0), images, uncropped)[:, 0, 0, 0].sum()
    return float(scipy.stats.binomtest(int(flipped), COUNT, 0.5).pvalue)


def test_half_of_the_images_are_flipped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert flips_p_value() > FALSE_ALARM
    fair = jax.random.bernoulli
    monkeypatch.setattr(jax.random, "bernoulli", lambda rng, p, shape: fair(rng, 0.46, shape))
    assert flips_p_value() < FALSE_ALARM
