"""Two sides, one verdict per tap: the same maths, the same rounding quality, and if not, where it begins."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from conformance import tolerances
from conformance.beside import Beside
from conformance.precision import DTYPES, regime, rounded
from conformance.sides import Side, Taps
from vit_flax.config import ViTConfig
from vit_flax.weights import Weights

Mode = Literal["alone", "free"]
MODES: tuple[Mode, ...] = ("alone", "free")


@dataclasses.dataclass(frozen=True)
class Diff:
    """One tap of the candidate against the reference. Errors are relative to the size of the true tap."""

    tap: str
    mode: Mode  # alone: fed the reference's input; free: fed what the candidate itself made
    error: float  # the candidate's, against the float64 truth, relative to the tap's scale
    reference_error: float | None  # the reference's own; None in float64, where the reference is the truth
    limit: float  # what `error` may be
    problem: str | None = None  # why no error could be measured

    @property
    def passes(self) -> bool:
        return self.problem is None and self.error <= self.limit  # false for NaN too

    @property
    def severity(self) -> float:
        """How many times its limit the error is."""
        return np.inf if self.problem else _ratio(self.error, self.limit)

    @property
    def ratio(self) -> float | None:
        """The error over what must be granted, which `ROUNDING_FACTOR` bounds; None in float64."""
        if self.reference_error is None:
            return None
        return _ratio(self.error, self.limit / tolerances.ROUNDING_FACTOR)

    def __str__(self) -> str:
        if self.problem:
            return f"{self.tap} {self.mode}: {self.problem}"
        return f"{self.tap} {self.mode}: off by {self.error:.1e} of its scale, limit {self.limit:.1e}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Every tap of one candidate against one reference in one precision, in data order."""

    precision: str
    diffs: tuple[Diff, ...]

    @property
    def failures(self) -> list[Diff]:
        return causes_first(self.diffs)

    @property
    def headline(self) -> Diff | None:
        """The first block that is wrong by itself: everything after it may be its consequence."""
        return next(iter(self.failures), None)

    def worst(self, mode: Mode | None = None) -> Diff:
        return max((d for d in self.diffs if mode in (None, d.mode)), key=lambda d: (not d.passes, d.severity))


def causes_first(diffs: Iterable[Diff]) -> list[Diff]:
    """What diverges: blocks that fail alone, in data order, then what only fails free-running."""
    return sorted((diff for diff in diffs if not diff.passes), key=lambda diff: diff.mode != "alone")


def compare(
    candidate: Side,
    reference: Side,
    config: ViTConfig,
    weights: Weights,
    images: np.ndarray,
    precision: str,
    rougher: Callable[[Weights, Taps], Weights] | None = None,
) -> Comparison:
    """Run both sides on the same weights and images, free and alone, and judge every tap.

    `rougher` makes of the weights and the reference's taps what the reference runs on once more: that run's error is
    granted too.
    """
    weights, images = rounded(weights, precision), rounded({"images": images}, precision)["images"]
    with regime(precision), Beside() as beside:  # the candidate compiles while the reference computes
        free = beside.submit(candidate.taps, weights, images)
        theirs = reference.taps(weights, images)
        alone = beside.submit(candidate.taps, weights, images, given=theirs)
        truth = {"free": theirs, "alone": theirs}
        if precision != "float64":
            wide, wide_images = rounded(weights, "float64"), images.astype(np.float64)
            truth["free"] = reference.taps(wide, wide_images)
            truth["alone"] = reference.taps(wide, wide_images, given=rounded(theirs, "float64"))
        also: dict[Mode, Taps] = {"free": {}, "alone": {}}
        if rougher is not None:
            rough = rougher(weights, theirs)
            also = {"free": reference.taps(rough, images), "alone": reference.taps(rough, images, given=theirs)}
        ours = {"free": free.result(), "alone": alone.result()}
    diffs = []
    for tap in [*theirs, *(tap for tap in ours["free"] if tap not in theirs)]:
        for mode in MODES:
            arrays = ours[mode].get(tap), theirs.get(tap), truth[mode].get(tap)
            diffs.append(measure(tap, mode, *arrays, precision, terms(config, tap), also=also[mode].get(tap)))
    return Comparison(precision, tuple(diffs))


STAGES = ("patches", "embedding", "encoder", "norm", "head")
PARTS = ("projection", "cls_token", "position_embedding", "norm1", "attention", "norm2", "mlp")  # of the stages
LEAVES = ("query", "key", "value", "projection", "fc1", "fc2")  # of the parts


def in_data_order(names: Iterable[str]) -> list[str]:
    """Parameter names in the order in which the data meet them, from the images to the logits."""

    def place(name: str) -> tuple[int, str, int, int, str]:
        stage, *rest = name.split("/")
        layer = rest.pop(0) if stage == "encoder" else ""
        part, *inside = rest
        return STAGES.index(stage), layer, _place(part, PARTS), _place(inside[0] if inside else "", LEAVES), name

    return sorted(names, key=place)


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def terms(config: ViTConfig, tap: str) -> int:
    """Length of the inner product that a tap's block ends with: 1 where it ends with none."""
    c = config
    lengths = {"patches": c.patch_size**2 * c.channels, "embedding": c.embed_dim or 1, "logits": c.hidden_dim}
    lengths |= {"attention": c.hidden_dim, "mlp": c.mlp_dim}
    return lengths.get(tap.rsplit("/", 1)[-1], 1)


def measure(
    tap: str,
    mode: Mode,
    ours: np.ndarray | None,
    theirs: np.ndarray | None,
    truth: np.ndarray | None,
    precision: str,
    terms: int,
    beside: np.ndarray | None = None,
    accumulates: str = "float32",
    summands: np.ndarray | None = None,
    also: np.ndarray | None = None,
) -> Diff:
    """Judge one tap: presence, shape, dtype, finiteness, then every entry.

    `terms` is the length of the sum it ends with, `accumulates` the precision that may be summed in. Where the truth
    is zero but for rounding, `beside` says what size its error is to be compared with.
    Where that sum is taken of what is wrong already, `summands` is of the size it has if none of its terms cancel.
    `also` is the tap as another sound run of the reference has it, whose error is granted if it is the larger.
    """
    problem = _problem(ours, theirs, precision)
    if problem or ours is None or theirs is None or truth is None:
        return Diff(tap, mode, np.inf, None, 0.0, problem)
    size = _largest if precision == "float64" else _worst_token
    scale = max(size(truth), 0.0 if beside is None else size(beside))
    error, own, other = (
        _ratio(size(values.astype(np.float64) - truth), scale)
        for values in (ours, theirs, theirs if also is None else also)
    )
    own = max(own, other)
    if precision == "float64":
        return Diff(tap, mode, error, None, tolerances.FLOAT64)
    summation = tolerances.summation_error(terms, accumulates)
    if summands is None:
        granted = max(own, summation)
    else:
        # What arrives is off by `own`, however exactly the reference sums; a plain sum of it adds an error of its own.
        cancellation = max(1.0, size(summands) / scale) if scale > 0 else 1.0
        granted = math.hypot(own, summation * cancellation)
    return Diff(tap, mode, error, own, tolerances.ROUNDING_FACTOR * granted)


def over_runs(diffs: Sequence[Diff]) -> Diff:
    """One verdict over several runs of the same tap: root mean squares of the errors and of the limits.

    A run that could not be measured decides: its problem is the verdict.
    """
    first = next((diff for diff in diffs if diff.problem), diffs[0])
    if first.problem or len(diffs) == 1:
        return first
    error = _rms(diff.error for diff in diffs)
    own = _rms(diff.reference_error or 0.0 for diff in diffs)
    return Diff(first.tap, first.mode, error, own, limit=_rms(diff.limit for diff in diffs))


def differ(tap: str, mode: Mode, ours: np.ndarray, theirs: np.ndarray) -> Diff:
    """Judge two float64 arrays by the float64 limit."""
    return measure(tap, mode, np.asarray(ours), np.asarray(theirs), np.asarray(theirs), "float64", 1)


def _problem(ours: np.ndarray | None, theirs: np.ndarray | None, precision: str) -> str | None:
    if ours is None:
        return "the candidate has no such tap"
    if theirs is None:
        return "the reference has no such tap"
    if ours.shape != theirs.shape:
        return f"shape {ours.shape}, expected {theirs.shape}"
    for side, array in (("candidate", ours), ("reference", theirs)):
        if array.dtype != DTYPES[precision]:
            return f"the {side} computed {array.dtype}, asked for {precision}"
        if not np.isfinite(array.astype(np.float64)).all():
            return f"NaN or infinity in the {side}"
    return None


def _largest(x: np.ndarray) -> float:
    """The largest entry: in float64 no entry may stray."""
    return float(np.abs(x).max())


def _worst_token(x: np.ndarray) -> float:
    """Root mean square over features of the worst token of an image, and over images: steady, and still local.

    Each image draws its rounding errors anew. So the largest of them all would be luck, more than that of an image.
    Logits have no tokens, and ten classes are too few numbers to be steady: theirs is taken over all images.
    """
    if x.ndim <= 2:
        return float(np.sqrt(np.mean(x**2)))
    tokens = np.mean(x**2, axis=-1)
    worst = tokens.reshape(len(tokens), -1).max(axis=1)
    return float(np.sqrt(np.mean(worst)))


def _rms(numbers: Iterable[float]) -> float:
    return math.sqrt(statistics.fmean(x * x for x in numbers))


def _ratio(a: float, b: float) -> float:
    """a / b, where nothing over nothing is no error at all."""
    return 0.0 if a == 0 else np.inf if b == 0 else a / b
