"""Inputs that expose: values at which sound maths and the usual short cuts part, though ordinary ones hide it.

Every block is judged alone here, in two layers: what flows from one to the next has been seen on ordinary values, and
saturated attention multiplies an error of its input in each layer.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from conformance.compare import Diff, Mode, measure, terms
from conformance.precision import regime, rounded
from conformance.sides import Side
from conformance.weights import offset
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

Inputs = tuple[Weights, np.ndarray]
ALL = ("float64", "float32", "bfloat16")
BOTH = ("float64", "float32")


@dataclasses.dataclass(frozen=True)
class Exposure:
    """A change of weights and images; `hostile` are the precisions of its rung, `margins` those of `exposure.py`."""

    change: Callable[[Weights, np.ndarray], Inputs]
    hostile: tuple[str, ...] = BOTH
    margins: tuple[str, ...] = ALL


def _times(ending: str, factor: float) -> Callable[[Weights, np.ndarray], Inputs]:
    def change(weights: Weights, images: np.ndarray) -> Inputs:
        return {n: x * np.float32(factor) if ending in n else x for n, x in weights.items()}, images

    return change


def _small_tokens(weights: Weights, images: np.ndarray) -> Inputs:
    """Tokens whose variance is about LayerNorm's epsilon."""
    return {
        n: x * np.float32(1e-3) if n.startswith(("patches", "embedding")) else x for n, x in weights.items()
    }, images


def _left_half_blank(weights: Weights, images: np.ndarray) -> Inputs:
    """Patches of zeros, as where images are padded."""
    images = images.copy()
    images[:, :, : images.shape[2] // 2] = 0
    return weights, images


def _large_key_biases(weights: Weights, images: np.ndarray) -> Inputs:
    """All scores of a query are moved alike, by a few hundred up or down: softmax sees nothing of it, exp overflows."""
    return {n: np.full_like(x, 300) if n.endswith("key/bias") else x for n, x in weights.items()}, images


# Attention is saturated in float64 only. In float32, where two scores of several hundred nearly tie, their rounding
# decides between two tokens, and the worst token of a sound side is off by a matter of luck (measured with a factor of
# 150: 7 in 100 sound models above the limit, by up to 1.6). In float64 the same is at most 0.08 of the limit. Large key
# biases leave scores untied; but in float64 they cost as many digits as they have (measured: a quarter of the limit).
EXPOSURES = {
    "photographs": Exposure(lambda weights, images: (weights, images), hostile=()),
    "low-variance tokens": Exposure(_small_tokens),
    "an offset of 30": Exposure(
        lambda weights, images: (offset(weights), images), hostile=("float64",)
    ),  # in float32 it has a rung of its own
    "a constant image": Exposure(lambda weights, images: (weights, np.full_like(images, 0.5))),
    "blank patches": Exposure(_left_half_blank, hostile=("float64",), margins=()),
    "saturated logits": Exposure(_times("head/", 30.0), hostile=()),
    "sharp attention": Exposure(_times("query/", 30.0), hostile=()),
    "saturated attention": Exposure(_times("query/", 150.0), hostile=("float64",), margins=()),
    "scores far from zero": Exposure(_large_key_biases, hostile=("float32",), margins=()),
    "images times 1e-3": Exposure(lambda weights, images: (weights, images * np.float32(1e-3))),
    "images times 1e3": Exposure(lambda weights, images: (weights, images * np.float32(1e3))),
}


def compare_hostile(
    candidate: Side, reference: Side, config: ViTConfig, weights: Weights, images: np.ndarray
) -> tuple[Diff, ...]:
    """Every tap on every exposure, alone; an image of NaN among others; and a batch of three."""
    diffs = []
    for name, exposure in EXPOSURES.items():
        for precision in exposure.hostile:
            inputs = exposure.change(weights, images)
            prefix = name if precision == "float64" else f"{name}, {precision}"
            diffs += _alone(prefix, candidate, reference, config, inputs, precision)
    wide, x = rounded(weights, "float64"), images.astype(np.float64)
    return *diffs, *_one_nan(candidate, reference, wide, x), *_three(candidate, reference, wide, x)


def _alone(
    prefix: str, candidate: Side, reference: Side, config: ViTConfig, inputs: Inputs, precision: str
) -> list[Diff]:
    weights, images = rounded(inputs[0], precision), rounded({"": inputs[1]}, precision)[""]
    with regime(precision):
        theirs = reference.taps(weights, images)
        ours = candidate.taps(weights, images, given=theirs)
        truth = theirs
        if precision != "float64":
            given = rounded(theirs, "float64")
            truth = reference.taps(rounded(weights, "float64"), images.astype(np.float64), given=given)
    return [
        measure(f"{prefix}: {tap}", "alone", ours.get(tap), value, truth[tap], precision, terms(config, tap))
        for tap, value in theirs.items()
    ]


def _one_nan(candidate: Side, reference: Side, weights: Weights, images: np.ndarray) -> list[Diff]:
    """One image is NaN: it alone is, at every tap wherever the reference has it so; and the others are as they were."""
    images = images.copy()
    images[len(images) // 2] = np.nan
    theirs = reference.taps(weights, images)
    ours = candidate.taps(weights, images, given=theirs)
    diffs = []
    for tap, value in theirs.items():
        found = ours.get(tap)
        if found is not None and found.shape == value.shape:
            diffs.append(_nan_alike(f"one image of NaN: {tap}", found, value))
            if not (number := ~(np.isnan(found) | np.isnan(value))).any():
                continue
            found, value = found[number], value[number]
        diffs.append(_wide(f"what is not NaN: {tap}", "alone", found, value))
    return diffs


def _nan_alike(name: str, ours: np.ndarray, theirs: np.ndarray) -> Diff:
    apart = np.isnan(ours) != np.isnan(theirs)
    others = np.any(apart & np.isnan(ours))
    problem = (
        f"{np.count_nonzero(apart)} of {apart.size} numbers are {'' if others else 'not '}NaN, unlike the reference's"
    )
    return Diff(name, "alone", float(np.count_nonzero(apart)), None, 0.0, problem if apart.any() else None)


def _three(candidate: Side, reference: Side, weights: Weights, images: np.ndarray) -> list[Diff]:
    """A batch of three, from the images on; `function.py` sees that a single image has the same answer."""
    three = images[np.arange(3) % len(images)]
    ours, theirs = candidate.taps(weights, three), reference.taps(weights, three)
    return [_wide(f"three images: {tap}", "free", ours.get(tap), value) for tap, value in theirs.items()]


def _wide(name: str, mode: Mode, ours: np.ndarray | None, theirs: np.ndarray) -> Diff:
    return measure(name, mode, ours, theirs, theirs, "float64", terms=1)
