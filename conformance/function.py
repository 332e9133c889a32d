"""A side is a function: the same question has the same answer, whatever was asked before and whatever stands beside it.

Each check holds an answer against an earlier one of the same side. Where the target's are apart, the reference is asked
the same, and what counts is whether it is apart alike: so a reference with a known fault in it can explain the target.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from conformance import tolerances
from conformance.compare import Diff
from conformance.gradients import random_upstream
from conformance.guard import Guarded
from conformance.precision import regime, rounded
from vit_flax.weights import Weights

if TYPE_CHECKING:
    from conformance.rungs import Ground

Arrays = dict[str, np.ndarray]
Ask = Callable[[Guarded, "Call"], Arrays]
Place = tuple[str, str]  # a check, and a tap or a leaf

CALLS = tolerances.calls_to_see(tolerances.ODD_ANSWERS, tolerances.ODD_ANSWERS_MISSED)


@dataclasses.dataclass(frozen=True)
class Call:
    """A question, and which earlier one must have had the same answer, image by image."""

    weights: Weights
    images: np.ndarray
    check: str = ""  # a call without one is judged by those that repeat it
    repeats: int = -1  # the place of that earlier call
    rows: Sequence[int] | None = None  # which images of this one; None: the whole answer
    earlier: Sequence[int] | None = None  # and of that one
    unlike: bool = False  # the answer must be another
    factor: float = 1.0  # of the upstream gradient: the answer is proportional to it, and divided by it again
    counted: int | None = None  # how many of the images have an upstream gradient; None: all
    exact: bool = True  # to the bit; else to float64's limit, as another batch or order may sum otherwise


@dataclasses.dataclass
class Gap:
    """How far a side's answers to a check are apart at one tap: the most at each entry, and relative to what."""

    entries: np.ndarray
    scale: float
    exact: bool

    @property
    def closed(self) -> bool:
        return self.wider_than(0.0) <= (0.0 if self.exact else tolerances.FLOAT64)

    def wider_than(self, other: np.ndarray | float) -> float:
        """How much further apart they are, or nearer, than another side's, which rounds large answers coarsely."""
        if np.shape(other) not in ((), self.entries.shape):
            return np.inf
        with np.errstate(invalid="ignore"):  # infinity from infinity: neither side answers
            apart = np.nan_to_num(np.abs(self.entries - other), nan=0.0, posinf=np.inf)
        largest = float(apart.max(initial=0.0))
        scale = max(self.scale, float(np.max(other, initial=0.0, where=np.isfinite(other))))
        return largest / scale if largest and scale else largest


def repeated(weights: Weights, images: np.ndarray) -> list[Call]:
    """Two questions of one image each, in random order, so often that one wrong answer in ten is not missed.

    In random order, since a side that errs each second time would answer two in turn consistently.
    """
    wide, x = rounded(weights, "float64"), images.astype(np.float64)
    first, second = (wide, x[:1]), (_halved(wide), x[-1:])
    calls = [Call(*first), Call(*first), Call(*second)]  # the very first may depend on what was asked before this rung
    for odd in np.random.default_rng(0).integers(2, size=CALLS - 2):
        calls.append(Call(*(second if odd else first), f"asked {CALLS} times", repeats=2 if odd else 1))
    return calls


def in_threes(weights: Weights, images: np.ndarray) -> list[Call]:
    """The same image by itself and in a batch of three: odd, so that it shows what is padded, paired or divided."""
    wide, x = rounded(weights, "float64"), images.astype(np.float64)
    three = x[np.arange(3) % len(x)]
    return [Call(wide, x[:1]), Call(wide, three, "in a batch of three", 0, rows=[0], earlier=[0], exact=False)]


def in_company(weights: Weights, images: np.ndarray) -> list[Call]:
    """A whole batch with other weights, among other images, in another order; and again after all that."""
    wide, x = rounded(weights, "float64"), images.astype(np.float64)
    even, backwards = range(0, len(x), 2), range(len(x))[::-1]
    others = x.copy()
    others[1::2] *= -1
    return [
        Call(_halved(wide), x),
        Call(wide, x, "of other weights", 0, unlike=True),
        Call(wide, others, "in other company", 1, rows=even, earlier=even, exact=False),
        Call(wide, x[::-1], "in another order", 1, rows=range(len(x)), earlier=backwards, exact=False),
        Call(wide, x, "asked again", 1),
    ]


def narrowly(weights: Weights, images: np.ndarray) -> list[Call]:
    """A whole batch with other weights, and again, in float32."""
    narrow, x = rounded(weights, "float32"), images.astype(np.float32)
    return [
        Call(_halved(narrow), x),
        Call(narrow, x, "of other weights in float32", 0, unlike=True),
        Call(narrow, x, "asked again in float32", 1),
    ]


def compare_answers(few: "Ground", whole: "Ground", images: np.ndarray) -> tuple[Diff, ...]:
    """Every check, and what was written into. `few` are the sides with fewer layers, for many calls and other shapes.

    The first conversation in which the target contradicts itself is the last: one that errs now and then would
    else be blamed for the company its images keep.
    """
    diffs = []
    for ground, talk in ((few, repeated), (few, in_threes), (whole, in_company), (whole, narrowly)):
        with regime("float32"):
            found, consistent = compare_calls(ground.candidate, ground.reference, talk(ground.weights, images), _taps)
        diffs += found
        if not consistent:
            break
    return *diffs, _written(few, whole, images)


def compare_gradient_answers(ground: "Ground") -> tuple[Diff, ...]:
    """Gradients asked for again, after others; of an upstream gradient of another size, which they have too; and of
    three images, whose rows are no multiple of what vectors hold, by themselves and where the others have none.

    To float64's limit, as GPUs may add up a sum in any order. A factor that is a power of two rounds nothing.
    """
    wide, x = rounded(ground.weights, "float64"), ground.images.astype(np.float64)
    upstream = random_upstream((max(4, len(x)), ground.config.num_classes), "float64")

    def gradients(side: Guarded, call: Call) -> Arrays:
        arriving = call.factor * upstream[: len(call.images)]
        if call.counted is not None:
            arriving[call.counted :] = 0.0
        found = side.gradients(call.weights, call.images, {"logits": arriving})
        seen = {name: g for name, g in found.parameters.items() if not name.endswith("key/bias")}  # rounding alone
        inputs = {name: g[: call.counted] for name, g in found.inputs.items()}
        return {name: g / call.factor for name, g in {**seen, **inputs}.items()}

    calls = [Call(_halved(wide), x[::-1]), Call(wide, x), Call(wide, x, "asked again", 1, exact=False)]
    for factor in (2.0**14, 2.0**-14):
        calls.append(Call(wide, x, f"upstream times {factor:g}", 1, exact=False, factor=factor))
    more = x[np.arange(max(4, len(x))) % len(x)]
    calls.append(Call(wide, more, counted=3))
    calls.append(Call(wide, more[:3], "of three images", len(calls) - 1, exact=False))
    return tuple(compare_calls(ground.candidate, ground.reference, calls, gradients)[0])


def compare_calls(candidate: Guarded, reference: Guarded, calls: Sequence[Call], ask: Ask) -> tuple[list[Diff], bool]:
    """Each check at each tap, in data order where anything is apart; and whether the candidate is consistent."""
    ours = _gaps(candidate, calls, ask)
    consistent = all(gap.closed for gap in ours.values())
    theirs = {} if consistent else _gaps(reference, calls, ask)
    checks = list(dict.fromkeys(check for check, _ in ours))
    names = list(dict.fromkeys(name for _, name in (*theirs, *ours)))
    diffs = []
    for check, name in sorted(ours, key=lambda place: (checks.index(place[0]), names.index(place[1]))):
        gap, other = ours[check, name], theirs.get((check, name))
        apart = other is not None and other.entries.any()
        limit = tolerances.FLOAT64 if apart or not gap.exact else 0.0  # apart alike: as alike as two sides are
        error = gap.wider_than(0.0 if other is None else other.entries)
        diffs.append(Diff(f"{check}: {name}", "free", error, None, limit))
    return diffs, consistent


def _gaps(side: Guarded, calls: Sequence[Call], ask: Ask) -> dict[Place, Gap]:
    """Put all the questions, and see how far the answers that should be alike are apart."""
    repeated = {call.repeats for call in calls}
    answers: dict[int, Arrays] = {}  # only those that are needed again: they may be large
    gaps: dict[Place, Gap] = {}
    for place, call in enumerate(calls):
        answer = ask(side, call)
        if place in repeated:
            answers[place] = answer
        for name, earlier in answers[call.repeats].items() if call.check else ():
            then = _rows(earlier, call.earlier, len(calls[call.repeats].images))
            if then is None:
                continue  # no batch to speak of: the forward rungs tell of its shape
            entries = _apart(_rows(answer.get(name), call.rows, len(call.images)), then)
            if call.unlike:  # unless it is zero under any weights
                entries = np.array(0.0 if entries.any() or not then.any() else np.inf)
            if known := gaps.get((call.check, name)):
                entries = np.maximum(entries, known.entries)
            scale = float(np.abs(then.astype(np.float64)).max(initial=0.0)) if then.dtype == np.float64 else 1.0
            gaps[call.check, name] = Gap(entries, scale, call.exact)
    return gaps


def _rows(array: np.ndarray | None, rows: Sequence[int] | None, count: int) -> np.ndarray | None:
    if array is None or rows is None:
        return array
    return array[list(rows)] if array.ndim and len(array) == count else None


def _apart(now: np.ndarray | None, then: np.ndarray) -> np.ndarray:
    """By how much; but in narrower formats only whether, as each side rounds by how much otherwise."""
    if now is None or (now.shape, now.dtype) != (then.shape, then.dtype):
        return np.full(then.shape, np.inf)
    same = (now == then) | (np.isnan(now) & np.isnan(then))
    if then.dtype != np.float64:
        return np.array(not same.all(), np.float64)
    with np.errstate(invalid="ignore"):  # infinity from infinity
        return np.where(same, 0.0, np.nan_to_num(np.abs(now - then), nan=np.inf, posinf=np.inf))


def _written(few: "Ground", whole: "Ground", images: np.ndarray) -> Diff:
    """What the candidate wrote into of all that it was lent so far, and the reference does not."""
    changed = list(dict.fromkeys([*few.candidate.changed, *whole.candidate.changed]))
    if changed:
        few.reference.taps(rounded(few.weights, "float64"), images[:1].astype(np.float64))
        changed = [change for change in changed if change not in few.reference.changed]
    told = "; ".join(changed[:3]) + f" and {len(changed) - 3} more" * (len(changed) > 3)
    return Diff("inputs", "alone", float(len(changed)), None, 0.0, told or None)


def _taps(side: Guarded, call: Call) -> Arrays:
    return side.taps(call.weights, call.images)


def _halved(weights: Weights) -> Weights:
    return {name: leaf / 2 for name, leaf in weights.items()}
