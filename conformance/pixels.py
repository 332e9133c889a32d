"""Preprocessing and augmentation: the same pixels for the same draws, and draws of the same distribution."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from conformance import power, tolerances
from conformance.compare import Diff
from conformance.sides import TrainableSide
from vit_flax.recipe import Recipe, recipe

RECIPE = recipe("article")
# So many draws tell a ratio that is drawn uniformly from one whose logarithm is: in [0.9, 1.1] their distributions are
# 0.025 apart (docs/proofs.md says what else they tell).
DRAWS = 60_000
FINE = 256  # pixels, at least, of the images that boxes are drawn for: whole numbers of few pixels hide distributions
VIEWS = ("top", "left", "area", "ratio")
# In the article's range of areas a height that is drawn uniformly is drawn nearly as an area is; in this one it is not.
WIDE, WIDE_DRAWS = (0.1, 0.7), 10_000
LEVEL = tolerances.FALSE_ALARMS / (len(VIEWS) + 1)


def compare_pixels(candidate: TrainableSide, reference: TrainableSide, images: np.ndarray) -> tuple[Diff, ...]:
    """Random crops and flips of the images, in grey levels; and the boxes that each side draws."""
    pixels = np.round((images * 0.5 + 0.5) * 255).astype(np.uint8)
    size, plan = pixels.shape[1:3], _plan(pixels)
    boxes = reference.crops(0, len(pixels), size, plan)
    whole = np.broadcast_to([0, 0, *size], boxes.shape)
    flips = np.random.default_rng(0).random(len(pixels)) < 0.5
    diffs = []
    for name, box in (("as they are", whole), ("crops", boxes)):
        ours, theirs = (side.pixels(pixels, box, flips, plan) for side in (candidate, reference))
        diffs.append(_grey_levels(f"{name}, grey levels", ours, theirs, plan))
    scale = math.ceil(FINE / min(size))
    fine = (scale * size[0], scale * size[1])
    ours, theirs = (side.crops(1, DRAWS, fine, plan) for side in (candidate, reference))
    diffs += _distributions("boxes", ours, theirs, VIEWS)
    wide = plan.replace(crop_scale=WIDE)
    ours, theirs = (side.crops(1, WIDE_DRAWS, fine, wide) for side in (candidate, reference))
    return *diffs, *_distributions("boxes of any area", ours, theirs, ("area",))


def _plan(pixels: np.ndarray) -> Recipe:
    height, width, channels = pixels.shape[1:]
    shape = width / height  # of an image that is not square the article's ratios would leave central crops alone
    low, high = RECIPE.crop_ratio
    return RECIPE.replace(
        means=RECIPE.means[:channels], stds=RECIPE.stds[:channels], crop_ratio=(low * shape, high * shape)
    )


def _grey_levels(name: str, ours: np.ndarray, theirs: np.ndarray, plan: Recipe) -> Diff:
    if problem := _problem(ours, theirs):
        return Diff(name, "alone", np.inf, None, 0.0, problem)
    off = (ours.astype(np.float64) - theirs) * (255 * np.array(plan.stds))
    spread = max(1.0, np.abs(theirs).max() / 3)  # sound pixels are within about 3 standard deviations
    return Diff(name, "alone", float(np.abs(off).max() / spread), None, tolerances.GREY_LEVELS)


def _problem(ours: np.ndarray, theirs: np.ndarray) -> str | None:
    if ours.shape != theirs.shape:
        return f"shape {ours.shape}, expected {theirs.shape}"
    if not np.isfinite(ours).all():
        return "NaN or infinity in the candidate"
    return None


def _distributions(name: str, ours: np.ndarray, theirs: np.ndarray, views: Sequence[str]) -> list[Diff]:
    """Kolmogorov and Smirnov's test of place, area and shape: of whole numbers it says rather too little."""
    if problem := _problem(ours, theirs):
        return [Diff(name, "alone", np.inf, None, 0.0, problem)]
    if (ours[:, 2:] <= 0).any():
        return [Diff(name, "alone", np.inf, None, 0.0, "a box without a pixel")]
    limit = power.distance_allowed(len(ours), len(theirs), LEVEL)
    diffs = []
    for view in views:
        mine, expected = _views(ours)[view], _views(theirs)[view]
        distance = float(stats.ks_2samp(mine, expected, method="asymp").statistic)
        diffs.append(Diff(f"{name}, {view}", "alone", distance, None, limit))
    return diffs


def _views(boxes: np.ndarray) -> dict[str, np.ndarray]:
    """Of (top, left, height, width); the ratio is that of the width to the height."""
    top, left, height, width = boxes.astype(np.float64).T
    return {"top": top, "left": left, "area": height * width, "ratio": width / height}
