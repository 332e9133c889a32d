"""Augmentation as a training step sees it: drawn by image and step, and targets that say what the pixels show.

Two sound sides draw differently: shares and distributions of draws are compared, on images made for each question.
"""

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
from scipy import stats

from conformance import power, tolerances
from conformance.compare import Diff
from conformance.loop import counted, spread
from conformance.randomness import alike, apart
from conformance.sides import TrainableSide
from vit_flax.config import ViTConfig
from vit_flax.recipe import Recipe, recipe

SIZE = (12, 16)  # of the images: small, and not square
STEPS, IMAGES = 64, 32  # of flips and crops, of which each image has its own
ERASED_STEPS, ERASING = 128, 0.75  # not 1 / 2, which is what is erased where the probability is that of keeping
MIXED_STEPS, MIXED_IMAGES = 512, 8  # of mixing, of which each batch has its own
EITHER_STEPS = 256  # of one of two ways to mix
EDGE_STEPS = 32  # of TrivialAugment beside crops
CHECKS = 38  # that are statistical, among which false alarms are shared out
LEVEL = tolerances.FALSE_ALARMS / CHECKS

Inputs = tuple[np.ndarray, np.ndarray]  # images and targets


def plan(config: ViTConfig, **changes: object) -> Recipe:
    """A recipe that does to images what `changes` say and nothing else."""
    article, whole = recipe("article"), SIZE[1] / SIZE[0]
    nothing = article.replace(
        means=article.means[: config.channels],
        stds=article.stds[: config.channels],
        flip=False,
        crop_scale=(1.0, 1.0),
        crop_ratio=(whole, whole),
    )
    return nothing.replace(**changes)


def compare_augmentation(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> tuple[Diff, ...]:
    """Nothing, flips, crops, flips beside crops, erasing, mixup, CutMix, either of the two, TrivialAugment, and that
    beside crops: one at a time, until one differs.

    A reference that draws the same at every step, as a hypothesis may, is asked for no shares: they are of one draw.
    """
    checks = (
        _as_they_are,
        _flips,
        _crops,
        _flips_beside_crops,
        _erasing,
        _mixup,
        _cutmix,
        _either,
        _trivial,
        _trivial_beside_crops,
    )
    diffs: list[Diff] = []
    for check in checks:
        diffs += check(candidate, reference, config)
        if not all(diff.passes for diff in diffs):
            break  # the next would say it again: draws that never change never change anywhere
        if check is _flips and _draws_once(reference, config):
            break
    return tuple(diffs)


def _draws_once(side: TrainableSide, config: ViTConfig) -> bool:
    """Whether two steps flip the same of 32 images, which happens by chance once in four thousand million times."""
    pixels, p = noise(IMAGES, config), plan(config, flip=True)
    first, second = (side.augment(pixels, np.zeros(IMAGES, np.int64), 0, step, p)[0] for step in (0, 1))
    return bool((first == second).all())


def noise(count: int, config: ViTConfig) -> np.ndarray:
    """uint8 images of which none is its own mirror image."""
    return np.random.default_rng(0).integers(0, 256, (count, *SIZE, config.channels), dtype=np.uint8)


def _levels(images: np.ndarray, p: Recipe) -> np.ndarray:
    """Normalised pixels in grey levels again, float64."""
    return 255 * (images.astype(np.float64) * np.array(p.stds) + np.array(p.means))


def _as_they_are(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> list[Diff]:
    """Where the recipe asks for nothing, nothing is done; and labels are smoothed."""
    pixels, p = noise(MIXED_IMAGES, config), plan(config, label_smoothing=0.1)
    labels = np.arange(MIXED_IMAGES) % config.num_classes
    (images, targets), (_, expected) = (side.augment(pixels, labels, 0, 0, p) for side in (candidate, reference))
    if problem := _problem((images, targets), pixels, expected):
        return [problem]
    off = float(np.abs(_levels(images, p) - pixels).max())
    wrong = float(np.abs(targets.astype(np.float64) - expected).max())
    rounding = 2 * tolerances.UNIT_ROUNDOFF["float32"]  # a product and a sum, each at most 1
    return [
        Diff("as they are, grey levels", "alone", off, None, tolerances.GREY_LEVELS),
        Diff("as they are, targets", "alone", wrong, None, rounding),
    ]


def _problem(ours: Inputs, pixels: np.ndarray, targets: np.ndarray) -> Diff | None:
    for name, array, shape in zip(("images", "targets"), ours, (pixels.shape, targets.shape), strict=True):
        if array.shape != shape:
            return Diff(f"as they are, {name}", "alone", np.inf, None, 0.0, f"shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            return Diff(f"as they are, {name}", "alone", np.inf, None, 0.0, "NaN or infinity in the candidate")
    return None


def _flips(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> list[Diff]:
    pixels, p = noise(IMAGES, config), plan(config, flip=True)
    labels = np.zeros(IMAGES, np.int64)

    def flipped(side: TrainableSide, seed: int, steps: int = STEPS) -> tuple[np.ndarray, int]:
        """Which image of which step is flipped, and how many are neither that nor as they were."""
        flips, neither = np.zeros((steps, IMAGES), bool), 0
        for step in range(steps):
            seen = _levels(side.augment(pixels, labels, seed, step, p)[0], p)
            kept, flips[step] = _same(seen, pixels), _same(seen, pixels[:, :, ::-1])
            neither += int((~kept & ~flips[step]).sum())
        return flips, neither

    (ours, our_neither), (theirs, their_neither) = flipped(candidate, 0), flipped(reference, 0)
    ours_again, theirs_again, ours_of_1, theirs_of_1 = (
        flipped(side, seed, steps=4)[0] for seed in (0, 1) for side in (candidate, reference)
    )

    def unlike(flips: np.ndarray, first: np.ndarray) -> int:
        return int((flips != first[: len(flips)]).any(axis=1).sum())

    def come_again(flips: np.ndarray) -> int:
        """Steps whose flips are those of a step before."""
        return len(flips) - len(np.unique(flips, axis=0))

    def had(flips: np.ndarray, first: np.ndarray) -> int:
        """Steps of another seed whose flips are those of a step of the first."""
        return int((flips[:, None] == first).all(axis=-1).any(axis=1).sum())

    return [
        counted("flips, neither flipped nor not", our_neither, their_neither),
        *_independent("flips", ours, theirs),
        _shares("flips, share", ours, theirs),
        spread("flips, images of a step", ours.sum(axis=1), theirs.sum(axis=1), LEVEL),
        counted("flips, steps had before", come_again(ours), come_again(theirs)),
        counted("flips, steps unlike when made again", unlike(ours_again, ours), unlike(theirs_again, theirs)),
        counted("flips, steps that another seed changes", unlike(ours_of_1, ours), unlike(theirs_of_1, theirs)),
        counted("flips, steps had under another seed", had(ours_of_1, ours), had(theirs_of_1, theirs)),
    ]


def _same(levels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return np.abs(levels - pixels).max(axis=(1, 2, 3)) <= tolerances.GREY_LEVELS


def _independent(name: str, ours: np.ndarray, theirs: np.ndarray) -> list[Diff]:
    """Whether neighbours, by image and by step, share their fate as often."""
    return [
        _shares(f"{name}, alike from {what} to {what}", alike(ours, axis), alike(theirs, axis))
        for axis, what in ((1, "image"), (0, "step"))
    ]


def _shares(name: str, ours: np.ndarray, theirs: np.ndarray) -> Diff:
    """The shares of what is true of steps x images, in standard deviations that are known from their spread."""
    known = min(size for size in (*ours.shape, *theirs.shape) if size > 1)
    return Diff(name, "alone", apart(ours[None], theirs[None]), None, power.quantile(LEVEL, known))


def _distributed(name: str, ours: np.ndarray, theirs: np.ndarray) -> Diff:
    """How far apart two distributions of draws are, by Kolmogorov and Smirnov."""
    distance = float(stats.ks_2samp(ours, theirs, method="asymp").statistic)
    return Diff(name, "alone", distance, None, power.distance_allowed(len(ours), len(theirs), LEVEL))


def _related(name: str, ours: np.ndarray, theirs: np.ndarray) -> Diff:
    """Whether two draws (draws, 2) go together as much, by Fisher's z of Spearman's correlation."""
    variance = sum(power.correlation_variance(len(side)) for side in (ours, theirs))
    limit = power.quantile(LEVEL) * math.sqrt(variance)
    z, expected = _fishers_z(ours), _fishers_z(theirs)
    return Diff(name, "alone", 0.0 if z == expected else abs(z - expected), None, limit)  # also of two infinities


def _fishers_z(draws: np.ndarray) -> float:
    """Of Spearman's correlation; what never changes goes together with nothing."""
    if (draws == draws[0]).all(axis=0).any():
        return 0.0
    correlation = float(stats.spearmanr(draws).statistic)
    return math.copysign(math.inf, correlation) if abs(correlation) >= 1 else math.atanh(correlation)


def _as_various(name: str, ours: np.ndarray, theirs: np.ndarray) -> Diff:
    """Whether as many different images are drawn (steps, images, ...).

    How many different ones there are among independent draws has at most the variance of how many come only once
    (Ben-Hamou, Boucheron and Ohannessian, Bernoulli 23, 2017).
    """
    (found, once), (expected, expected_once) = different(ours), different(theirs)
    limit = power.quantile(LEVEL) * math.sqrt(once + expected_once)
    return Diff(name, "alone", abs(found - expected), None, limit)


def different(seen: np.ndarray) -> tuple[int, int]:
    """How many different images there are, and how many of them come in one step only.

    Each counts once a step: a side that draws one for all images has drawn no more.
    """
    counts: Counter[bytes] = Counter()
    for step in seen:
        counts.update({image.tobytes() for image in step})
    return len(counts), sum(count == 1 for count in counts.values())


def _cropping(config: ViTConfig, **changes: object) -> Recipe:
    whole = SIZE[1] / SIZE[0]
    return plan(config, crop_scale=(0.3, 1.0), crop_ratio=(0.7 * whole, whole / 0.7), **changes)


def _crops(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> list[Diff]:
    """One picture in all images: which crops of it are alike."""
    pixels, p = np.repeat(noise(1, config), IMAGES, axis=0), _cropping(config)
    return _alike("crops", *(_steps(side, pixels, p) for side in (candidate, reference)))


def _flips_beside_crops(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> list[Diff]:
    """Images that grow brighter from left to right: the slope says whether they are flipped, the mean where they are
    cropped.
    """
    ramp = np.linspace(0, 255, SIZE[1]).round().astype(np.uint8)
    pixels = np.broadcast_to(ramp[:, None], (IMAGES, *SIZE, config.channels))
    p = _cropping(config, flip=True)

    def drawn(side: TrainableSide) -> tuple[np.ndarray, np.ndarray]:
        """Of each image whether it is flipped, and the place of its crop: before flipping, and after."""
        seen = _levels(_steps(side, pixels, p), p).mean(axis=(2, 4)).reshape(-1, SIZE[1])
        flipped, place = seen[:, 0] > seen[:, -1], seen.mean(axis=1) - ramp.mean()
        return np.stack([flipped, place], axis=1), np.stack([flipped, np.where(flipped, -place, place)], axis=1)

    (before, after), (their_before, their_after) = drawn(candidate), drawn(reference)
    return [
        _related("flips and crops, before flipping", before, their_before),
        _related("flips and crops, after flipping", after, their_after),
    ]


def _steps(side: TrainableSide, pixels: np.ndarray, p: Recipe, steps: int = STEPS) -> np.ndarray:
    """What a side makes of the same images at each step."""
    labels = np.zeros(len(pixels), np.int64)
    return np.stack([side.augment(pixels, labels, 0, step, p)[0] for step in range(steps)])


def _alike(name: str, ours: np.ndarray, theirs: np.ndarray) -> list[Diff]:
    """Whether neighbours, by image and by step, are equal as often."""

    def equal(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        by_image, by_step = seen[:, ::2] == seen[:, 1::2], seen[::2] == seen[1::2]
        return tuple(pairs.reshape(*pairs.shape[:2], -1).all(axis=-1) for pairs in (by_image, by_step))

    return [
        _shares(f"{name}, alike from {what} to {what}", mine, expected)
        for what, mine, expected in zip(("image", "step"), equal(ours), equal(theirs), strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Erased:
    """Which images are erased and which of their pixels, by step and image; and of each rectangle (rectangles, 1)
    where it is, of what shape, and what is in it.

    Each rectangle of a step counts once: a side that draws one for all images has drawn no more.
    """

    erased: np.ndarray
    pixels: np.ndarray
    whole: np.ndarray  # the pixels fill a rectangle
    repeats: np.ndarray  # at least half of the values had been there before
    moments: dict[str, np.ndarray]
    reaches: dict[str, np.ndarray]  # the last row, the last column
    views: dict[str, np.ndarray]


def _erase(side: TrainableSide, config: ViTConfig) -> Erased:
    """What becomes of noisy images, whose pixels differ from any that they are replaced by."""
    pixels, p = noise(IMAGES, config), plan(config, erasing=ERASING)
    seen = _steps(side, pixels, p, ERASED_STEPS)
    changed = (np.abs(_levels(seen, p) - pixels) > tolerances.GREY_LEVELS).any(axis=-1)
    erased = changed.any(axis=(2, 3))
    found: dict[Any, tuple[int, np.ndarray]] = {}
    for step, image in np.argwhere(erased):
        inside = changed[step, image]
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        box = rows[0], columns[0], rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
        found.setdefault((step, box), (int(inside.sum()), seen[step, image][inside].astype(np.float64)))
    top, left, height, width = np.array([box for _, box in found], np.float64).reshape(-1, 4).T
    whole = [count == box[2] * box[3] for (_, box), (count, _) in found.items()]
    values = [values for _, values in found.values()]
    return Erased(
        erased=erased,
        pixels=changed,
        whole=np.array(whole)[:, None],
        repeats=np.array([len(np.unique(inside)) <= inside.size / 2 for inside in values])[:, None],
        moments={
            "mean": np.array([inside.mean() for inside in values])[:, None],
            "mean square": np.array([(inside**2).mean() for inside in values])[:, None],
        },
        reaches={
            "row": (top + height == SIZE[0])[:, None],
            "column": (left + width == SIZE[1])[:, None],
        },
        views={"area": height * width, "ratio": height / width, "top": top, "left": left},
    )


def _erasing(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> list[Diff]:
    ours, theirs = (_erase(side, config) for side in (candidate, reference))
    diffs = [_shares("erasing, share", ours.erased, theirs.erased), *_alike("erasing", ours.pixels, theirs.pixels)]
    if min(len(ours.whole), len(theirs.whole)) < 2:
        return diffs  # there is nothing more to compare
    diffs += [
        _shares("erasing, whole rectangles", ours.whole, theirs.whole),
        _shares("erasing, values that come again", ours.repeats, theirs.repeats),
    ]
    for name, mine in ours.moments.items():
        diffs.append(_shares(f"erasing, {name} of the values", mine, theirs.moments[name]))
    for name, mine in ours.reaches.items():
        diffs.append(_shares(f"erasing, rectangles in the last {name}", mine, theirs.reaches[name]))
    for name, mine in ours.views.items():
        diffs.append(_distributed(f"erasing, {name}", mine, theirs.views[name]))
    return diffs


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Of each step (steps, 1): whether all targets say what is seen, whether one is off by a grey level or more, the
    own share of the first image that is mixed with another, whether all of these have the same, and whether every image
    is of one colour. And of each step in which the first image is of two colours (steps, 2): the middle row and column
    of what was pasted.
    """

    true: np.ndarray
    off: np.ndarray
    own: np.ndarray
    alike: np.ndarray
    even: np.ndarray
    middles: np.ndarray


def _mix(side: TrainableSide, config: ViTConfig, p: Recipe, steps: int) -> Mixed:
    """Images each of one grey level, which says its class."""
    count = min(MIXED_IMAGES, config.num_classes)
    labels, grey = np.arange(count), np.linspace(20, 230, count).round()
    pixels = np.broadcast_to(grey[:, None, None, None], (count, *SIZE, config.channels)).astype(np.uint8)
    rounding = 2 * tolerances.UNIT_ROUNDOFF["float32"]
    true, off, own, alike, even, middles = [], [], [], [], [], []
    for step in range(steps):
        images, targets = side.augment(pixels, labels, 0, step, p)
        seen = _levels(images, p)
        said = targets[:, :count].astype(np.float64) @ grey
        wrong = np.abs(seen.mean(axis=(1, 2, 3)) - said).max()
        true.append(wrong <= tolerances.GREY_LEVELS)
        off.append(wrong >= 1)
        shares = targets[labels, labels]
        mixed = shares[shares < 1 - rounding]  # an image may be its own partner
        own.append(mixed[0] if mixed.size else 1.0)
        alike.append(mixed.size == 0 or np.ptp(mixed) <= rounding)
        even.append(np.ptp(seen, axis=(1, 2)).max() <= tolerances.GREY_LEVELS)
        pasted = (np.abs(seen[0] - grey[0]) > tolerances.GREY_LEVELS).any(axis=-1)
        if pasted.any() and not pasted.all():
            middles.append([places.mean() for places in np.nonzero(pasted)])
    said_true, off_by, own_share, all_alike, one_colour = (
        np.array(seen)[:, None] for seen in (true, off, own, alike, even)
    )
    return Mixed(said_true, off_by, own_share, all_alike, one_colour, np.array(middles).reshape(-1, 2))


def _mixed(name: str, ours: Mixed, theirs: Mixed) -> list[Diff]:
    return [
        _shares(f"{name}, targets that say what is seen", ours.true, theirs.true),
        _shares(f"{name}, targets off by a grey level", ours.off, theirs.off),
        _distributed(f"{name}, own share", ours.own.ravel(), theirs.own.ravel()),
        _shares(f"{name}, one share for a batch", ours.alike, theirs.alike),
    ]


def _mixup(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> list[Diff]:
    p = plan(config, mixup=1.0)
    return _mixed("mixup", *(_mix(side, config, p, MIXED_STEPS) for side in (candidate, reference)))


def _cutmix(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> list[Diff]:
    p = plan(config, cutmix=1.0)
    ours, theirs = (_mix(side, config, p, MIXED_STEPS) for side in (candidate, reference))
    diffs = _mixed("CutMix", ours, theirs)
    if all(diff.passes for diff in diffs):  # so there are as many boxes as of the reference
        diffs.append(_related("CutMix, row and column of the box", ours.middles, theirs.middles))
    return diffs


def _either(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> list[Diff]:
    p = plan(config, mixup=1.0, cutmix=1.0)
    ours, theirs = (_mix(side, config, p, EITHER_STEPS) for side in (candidate, reference))
    diffs = [_shares("mixup or CutMix, share of mixup", ours.even, theirs.even)]
    if all(diff.passes for diff in diffs):  # so there are some of both kinds
        kinds = (np.concatenate([side.even, side.own], axis=1) for side in (ours, theirs))
        diffs.append(_related("mixup or CutMix, kind and share", *kinds))
    return diffs


def trivially_augmented(side: TrainableSide, picture: np.ndarray, config: ViTConfig) -> np.ndarray:
    """What becomes of one picture, by step and image, in grey levels."""
    p = plan(config, trivial_augment=True)
    return _levels(_steps(side, np.repeat(picture, IMAGES, axis=0), p), p).round()


def _trivial(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> list[Diff]:
    """One picture in all images: how often it is left as it is, and by how much it changes.

    Some operations round PIL images otherwise than tensors, which moves no distribution by much (measured: 0.02, where
    0.09 is allowed).
    """
    pixels = noise(1, config)
    ours, theirs = (trivially_augmented(side, pixels, config) for side in (candidate, reference))
    changes, expected = (np.abs(seen - pixels).mean(axis=(2, 3, 4)) for seen in (ours, theirs))
    # Each change of a step counts once: a side that draws one operation for all images has drawn no more.
    once, expected_once = (np.concatenate([np.unique(step) for step in side]) for side in (changes, expected))
    return [
        _shares("TrivialAugment, images left as they are", changes == 0, expected == 0),
        *_alike("TrivialAugment", ours, theirs),
        _distributed("TrivialAugment, change", once, expected_once),
        _as_various("TrivialAugment, different images", ours, theirs),
    ]


def _trivial_beside_crops(candidate: TrainableSide, reference: TrainableSide, config: ViTConfig) -> list[Diff]:
    ours, theirs = (sharp_edges(side, config) for side in (candidate, reference))
    return [_shares("TrivialAugment and crops, sharp edges", ours, theirs)]


def sharp_edges(side: TrainableSide, config: ViTConfig) -> np.ndarray:
    """Which white images, by step and image, have a sharp black edge after TrivialAugment and a crop.

    What is turned, sheared or moved is black beside the image, with a sharp edge until a crop of it is resized.
    """
    pixels = np.full((IMAGES, *SIZE, config.channels), 255, np.uint8)
    p = _cropping(config, trivial_augment=True)
    levels = _levels(_steps(side, pixels, p, EDGE_STEPS), p).reshape(EDGE_STEPS, IMAGES, -1)
    black, white = levels <= tolerances.GREY_LEVELS, levels >= 255 - tolerances.GREY_LEVELS
    return np.asarray((black | white).all(axis=-1) & black.any(axis=-1) & white.any(axis=-1))
