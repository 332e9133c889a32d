"""Fresh weights: each parameter's distribution against the reference's own initialiser, by two-sample tests."""

import math
from itertools import combinations

import ml_dtypes
import numpy as np
from scipy import stats

from conformance import power, tolerances
from conformance.compare import Diff, in_data_order
from conformance.rounding import to_bits
from conformance.sides import TrainableSide

HEAD = 64  # entries that say whether two leaves were drawn alike
FEWEST, MOST, POOLED = 4, 16, 2**22  # seeds that are pooled: small leaves say more then; and entries of all of them
TESTS = 4  # of each leaf, that are statistical


def compare_initial(candidate: TrainableSide, reference: TrainableSide) -> tuple[Diff, ...]:
    """Constants exactly; all else by Kolmogorov and Smirnov's test, by its spread and by its largest entry, and by how
    many entries are of one size, such as zero or a bound, or of fewer bits than float32.

    The candidate's leaves must also differ from each other and from seed to seed, as leaves drawn by one key do not;
    and be the same again for the same seed.
    All tests of a case together raise a false alarm at `tolerances.FALSE_ALARMS` (Bonferroni).
    """
    count = seeds_pooled(sum(leaf.size for leaf in reference.initial(0).values()))
    ours, theirs = _pooled(candidate, range(count)), _pooled(reference, range(count, 2 * count))
    diffs = []
    for name in in_data_order(theirs):
        diffs += _leaf(name, ours.get(name), theirs[name], tests=TESTS * len(theirs))
    for name in sorted(set(ours) - set(theirs)):
        diffs.append(Diff(name, "alone", np.inf, None, 0.0, "the reference has no such leaf"))
    if any(diff.problem for diff in diffs):
        return tuple(diffs)
    ours_twice, theirs_twice = _drawn_twice(candidate), _drawn_twice(reference)
    return (*diffs, _distinct(ours_twice, theirs_twice), _repeated(ours_twice, theirs_twice))


def _leaf(name: str, ours: np.ndarray | str | None, expected: np.ndarray | str, tests: int) -> list[Diff]:
    if ours is None:
        return [Diff(name, "alone", np.inf, None, 0.0, "the candidate has no such leaf")]
    for leaf in (ours, expected):
        if isinstance(leaf, str):
            return [Diff(name, "alone", np.inf, None, 0.0, leaf)]
    assert not isinstance(ours, str) and not isinstance(expected, str)
    if ours.shape != expected.shape:
        shapes = f"shape {ours.shape[1:]}, expected {expected.shape[1:]}"
        return [Diff(name, "alone", np.inf, None, 0.0, shapes)]
    if not np.isfinite(ours).all():
        return [Diff(name, "alone", np.inf, None, 0.0, "NaN or infinity in the candidate")]
    if _is_constant(expected):
        off = float(np.abs(ours - expected.flat[0]).max())
        return [Diff(f"{name}, constant", "alone", off, None, 0.0)]
    return _drawn(name, ours, expected, tolerances.FALSE_ALARMS / tests)


def seeds_pooled(parameters: int) -> int:
    """Of a small model more."""
    return min(max(POOLED // parameters, FEWEST), MOST)


def _pooled(side: TrainableSide, seeds: range) -> dict[str, np.ndarray | str]:
    """Each leaf over several seeds, stacked, as float64; or what keeps the seeds from being stacked."""
    runs = [side.initial(seed) for seed in seeds]
    pooled: dict[str, np.ndarray | str] = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        leaves = [np.asarray(run[name], np.float64) for run in runs if name in run]
        if len(leaves) < len(seeds):
            pooled[name] = "not a leaf under every seed"
        elif len({leaf.shape for leaf in leaves}) > 1:
            pooled[name] = f"shape {leaves[0].shape} under one seed, another under the next"
        else:
            pooled[name] = np.stack(leaves)
    return pooled


def _is_constant(leaf: np.ndarray) -> bool:
    return bool((leaf == leaf.flat[0]).all())


def _drawn(name: str, mine: np.ndarray, expected: np.ndarray, level: float) -> list[Diff]:
    n, m = mine.size, expected.size
    if _is_constant(mine):
        return [Diff(name, "alone", np.inf, None, 0.0, f"constant {mine.flat[0]:g}, expected to be drawn")]
    # Where many entries lie on one bound, its last bits must not put all of one side below all of the other.
    coarse = (to_bits(leaf.ravel(), 12) for leaf in (mine, expected))
    distance = float(stats.ks_2samp(*coarse, method="asymp").statistic)
    spread = abs(math.log(mine.std() / expected.std()))
    variance = sum(power.spread_variance(stats.kurtosis(x, axis=None, fisher=False), x.size) for x in (mine, expected))
    # The largest entry shows a truncation: how much of its own normal lies beyond the reference's largest.
    beyond = int((np.abs(mine) > np.abs(expected).max()).sum())
    narrow = abs(_share_in_half_precision(mine) - _share_in_half_precision(expected))
    return [
        Diff(f"{name}, distribution", "alone", distance, None, power.distance_allowed(n, m, level)),
        Diff(f"{name}, spread", "alone", spread, None, power.quantile(level) * math.sqrt(variance)),
        Diff(f"{name}, entries beyond", "alone", beyond, None, power.beyond_allowed(n, m, level)),
        Diff(f"{name}, entries in half precision", "alone", narrow, None, tolerances.NARROW_DRAWS),
        _as_many(f"{name}, entries of one size", _commonest(mine), n, _commonest(expected), m, level),
    ]


def _as_many(name: str, ours: int, n: int, theirs: int, m: int, level: float) -> Diff:
    """Whether as many of n entries as of m: two shares, by the deviation that they have if they are one."""
    both = (ours + theirs) / (n + m)
    limit = power.quantile(level) * math.sqrt(both * (1 - both) * (1 / n + 1 / m))
    return Diff(name, "alone", abs(ours / n - theirs / m), None, limit)


def _commonest(leaf: np.ndarray) -> int:
    """How many entries have the size that most have: one or two, unless some were zeroed, or put on a bound."""
    return int(np.unique(np.abs(leaf), return_counts=True)[1].max())


def _share_in_half_precision(leaf: np.ndarray) -> float:
    """Of the entries, those that a half precision holds exactly."""
    return float(((leaf.astype(ml_dtypes.bfloat16) == leaf) | (leaf.astype(np.float16) == leaf)).mean())


Twice = dict[str, tuple[np.ndarray, np.ndarray | None]]  # leaves of two seeds, and what a second call makes of them


def _drawn_twice(side: TrainableSide) -> Twice:
    drawn: Twice = {}
    for seed in (0, 1):
        first, again = side.initial(seed), side.initial(seed)
        for name, leaf in first.items():
            drawn[f"{name} of seed {seed}"] = leaf, again.get(name)
    return drawn


def _distinct(ours: Twice, theirs: Twice) -> Diff:
    """Leaves, and seeds, that begin alike, where the reference's do not."""
    alike = sorted(_alike(ours) ^ _alike(theirs))
    problem = f"{alike[0][0]} and {alike[0][1]} are drawn alike by one side only" if alike else None
    return Diff("leaves", "alone", float(len(alike)), None, 0.0, problem)


def _alike(drawn: Twice) -> set[tuple[str, str]]:
    begin = {}
    for name, (leaf, _) in drawn.items():
        if leaf.size >= HEAD and not _is_constant(leaf.ravel()[:HEAD]):
            begin[name] = leaf.ravel()[:HEAD].astype(np.float64)
    if not begin:
        return set()
    correlation = np.atleast_2d(np.corrcoef(np.stack([*begin.values()])))
    return {(a, b) for (i, a), (j, b) in combinations(enumerate(begin), 2) if correlation[i, j] > tolerances.SAME_DRAWS}


def _repeated(ours: Twice, theirs: Twice) -> Diff:
    """Leaves that differ from call to call with one seed, where the reference's do not."""
    differ = sorted(_changing(ours) ^ _changing(theirs))
    problem = f"{differ[0]} differs between two calls by one side only" if differ else None
    return Diff("the same seed again", "alone", float(len(differ)), None, 0.0, problem)


def _changing(drawn: Twice) -> set[str]:
    return {name for name, (leaf, again) in drawn.items() if again is None or not np.array_equal(leaf, again)}
