"""Limited by float32 inside: a target that fails in float64 by no more than float32's rounding somewhere within it."""

from collections.abc import Sequence

import numpy as np

from conformance import tolerances
from conformance.compare import Diff, terms
from conformance.precision import rounded
from conformance.rungs import Ground
from conformance.sides import Side, Taps

# By how much the images move, relative to each pixel: many float32 roundings (2^-24), so that all are drawn anew, and
# so little that what is smooth hardly changes.
MOVED = 2.0**-16


def float32_inside(ground: Ground, failures: Sequence[Diff]) -> str | None:
    """What to say of a target whose float64 failures are all float32's rounding; None where one of them is not.

    Rounding is small: within what is granted to float32 at that tap. And it is drawn anew when the images move a
    little: another epsilon may be as small, but its error moves as smoothly as they do.
    """
    if any(failure.problem for failure in failures):
        return None
    truth = _taps(ground.reference, ground, "float64", ground.images)
    narrow = _taps(ground.reference, ground, "float32", ground.images, given=truth["free"])
    granted = {}
    for failure in failures:
        own = _largest(narrow[failure.mode][failure.tap] - truth[failure.mode][failure.tap])
        own /= _largest(truth[failure.mode][failure.tap])
        least = tolerances.summation_error(terms(ground.config, failure.tap))
        granted[failure] = tolerances.ROUNDING_FACTOR * max(own, least)
        if failure.error > granted[failure]:
            return None
    if not _drawn_anew(ground, failures, truth):
        return None
    worst = max(failures, key=lambda failure: failure.error)
    return (
        f"limited by float32 inside: off by {worst.error:.1e} of its scale at most, at {worst.tap} {worst.mode}, where "
        f"float32 is granted {granted[worst]:.1e}; the errors are drawn anew when the images move"
    )


def _drawn_anew(ground: Ground, failures: Sequence[Diff], truth: dict[str, Taps]) -> bool:
    """Whether every error changes by as much as its own size when the images move by `MOVED`."""
    rng = np.random.default_rng(0)
    images = ground.images.astype(np.float64)
    moved = images * (1 + MOVED * rng.standard_normal(images.shape))
    errors = []
    for shown in (images, moved):
        theirs = truth if shown is images else _taps(ground.reference, ground, "float64", shown)
        ours = _taps(ground.candidate, ground, "float64", shown, given=theirs["free"])
        errors.append({f: ours[f.mode][f.tap] - theirs[f.mode][f.tap] for f in failures})
    before, after = errors
    return all(_rms(after[f] - before[f]) >= tolerances.DRAWN_ANEW * _rms(before[f]) for f in failures)


def _taps(side: Side, ground: Ground, precision: str, images: np.ndarray, given: Taps | None = None) -> dict[str, Taps]:
    """Every tap in float64, free-running and alone: fed `given`, or what the side itself made."""
    weights, narrow = rounded(ground.weights, precision), rounded({"": images}, precision)[""]
    free = side.taps(weights, narrow)
    alone = side.taps(weights, narrow, given=rounded(free if given is None else given, precision))
    return {"free": rounded(free, "float64"), "alone": rounded(alone, "float64")}


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max())


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
