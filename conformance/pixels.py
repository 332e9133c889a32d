"""Preprocessing and augmentation: the same pixels for the same draws, and draws of the same distribution."""

import math

import numpy as np
from scipy import stats

from conformance import tolerances
from conformance.compare import Diff
from conformance.sides import TrainableSide
from vit_flax.recipe import recipe

RECIPE = recipe("article")
DRAWS = 1000


def compare_pixels(candidate: TrainableSide, reference: TrainableSide, images: np.ndarray) -> tuple[Diff, ...]:
    """Random crops and flips of the images, in grey levels; and the boxes that each side draws."""
    pixels = np.round((images * 0.5 + 0.5) * 255).astype(np.uint8)
    channels = pixels.shape[-1]
    size, rng = pixels.shape[1:3], np.random.default_rng(0)
    shape = size[1] / size[0]  # of an image that is not square the article's ratios would leave central crops alone
    low, high = RECIPE.crop_ratio
    plan = RECIPE.replace(
        means=RECIPE.means[:channels], stds=RECIPE.stds[:channels], crop_ratio=(low * shape, high * shape)
    )
    boxes = reference.crops(0, len(pixels), size, plan)
    whole = np.broadcast_to([0, 0, *size], boxes.shape)
    flips = rng.random(len(pixels)) < 0.5
    stds = 255 * np.array(plan.stds)
    diffs = []
    for name, box in (("as they are", whole), ("crops", boxes)):
        ours, theirs = (side.pixels(pixels, box, flips, plan).astype(np.float64) for side in (candidate, reference))
        spread = max(1.0, np.abs(theirs).max() / 3)  # sound pixels are within about 3 standard deviations
        error = float(np.abs((ours - theirs) * stds).max() / spread) if ours.shape == theirs.shape else np.inf
        diffs.append(Diff(f"{name}, grey levels", "alone", error, None, tolerances.GREY_LEVELS))
    drawn = (side.crops(1, DRAWS, size, plan).astype(np.float64) for side in (candidate, reference))
    return *diffs, *_distributions(*drawn)


def _distributions(ours: np.ndarray, theirs: np.ndarray) -> list[Diff]:
    """Kolmogorov and Smirnov's test of place, area and shape: of whole numbers it says rather too little."""
    views = {
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
    }
    level = tolerances.FALSE_ALARMS / len(views)
    allowed = math.sqrt(-math.log(level / 2) / 2 * (len(ours) + len(theirs)) / (len(ours) * len(theirs)))
    return [
        Diff(
            f"boxes, {name}",
            "alone",
            float(stats.ks_2samp(view(ours), view(theirs), method="asymp").statistic),
            None,
            allowed,
        )
        for name, view in views.items()
    ]
