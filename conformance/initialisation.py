"""Fresh weights: each parameter's distribution against the reference's own initialiser, by two-sample tests."""

import math
from itertools import combinations

import numpy as np
from scipy import stats

from conformance import tolerances
from conformance.compare import Diff, in_data_order
from conformance.sides import TrainableSide
from vit_flax.weights import Weights

HEAD = 64  # entries that say whether two leaves were drawn alike
SEEDS = 4  # small leaves say more when several are pooled


def compare_initial(candidate: TrainableSide, reference: TrainableSide) -> tuple[Diff, ...]:
    """Constants exactly; all else by Kolmogorov and Smirnov's test, by its spread and by its largest entry.

    The candidate's leaves must also differ from each other and from seed to seed, as leaves drawn by one key do not.
    All tests of a case together raise a false alarm at `tolerances.FALSE_ALARMS` (Bonferroni).
    """
    ours, theirs = _pooled(candidate, seed=0), _pooled(reference, seed=SEEDS)
    level = tolerances.FALSE_ALARMS / (3 * len(theirs))
    diffs = [
        diff
        for name in in_data_order(theirs)
        for expected in [theirs[name]]
        for diff in (_constant(name, ours, expected) if _is_constant(expected) else _drawn(name, ours, expected, level))
    ]
    return (*diffs, _distinct(candidate, reference))


def _pooled(side: TrainableSide, seed: int) -> Weights:
    """Every entry of a leaf over several seeds, as float64 in one row for each."""
    runs = [side.initial(seed + i) for i in range(SEEDS)]
    return {name: np.stack([run[name].astype(np.float64).ravel() for run in runs]) for name in runs[0]}


def _is_constant(leaf: np.ndarray) -> bool:
    return bool((leaf == leaf.flat[0]).all())


def _constant(name: str, ours: Weights, expected: np.ndarray) -> list[Diff]:
    return [Diff(f"{name}, constant", "alone", float(np.abs(ours[name] - expected.flat[0]).max()), None, 0.0)]


def _drawn(name: str, ours: Weights, expected: np.ndarray, level: float) -> list[Diff]:
    mine, n, m = ours[name], ours[name].size, expected.size
    if _is_constant(mine):
        return [Diff(name, "alone", np.inf, None, 0.0, f"constant {mine.flat[0]:g}, expected to be drawn")]
    distance = float(stats.ks_2samp(mine.ravel(), expected.ravel(), method="asymp").statistic)
    allowed = math.sqrt(-math.log(level / 2) / 2 * (n + m) / (n * m))  # of the asymptotic distribution
    spread = abs(math.log(mine.std() / expected.std()))
    # The log of a standard deviation has variance (kurtosis - 1) / 4n.
    variance = sum((stats.kurtosis(x, axis=None, fisher=False) - 1) / (4 * x.size) for x in (mine, expected))
    quantile = float(stats.norm.isf(level / 2))
    return [
        Diff(f"{name}, distribution", "alone", distance, None, allowed),
        Diff(f"{name}, spread", "alone", spread, None, quantile * math.sqrt(variance)),
        _largest(name, mine, expected, level),
    ]


def _largest(name: str, mine: np.ndarray, expected: np.ndarray, level: float) -> Diff:
    """The largest entry, which shows a truncation: how much of its own normal lies beyond the reference's largest."""
    beyond = int((np.abs(mine) > np.abs(expected).max()).sum())
    # Of all n + m entries each is equally likely to be the largest: that so many of ours exceed all of theirs has
    # probability (n / (n + m)) ** beyond, or less.
    share = mine.size / (mine.size + expected.size)
    return Diff(f"{name}, entries beyond", "alone", beyond, None, math.log(level) / math.log(share))


def _distinct(candidate: TrainableSide, reference: TrainableSide) -> Diff:
    """Leaves, and seeds, that begin alike, where the reference's do not."""
    alike = sorted(_alike(candidate) ^ _alike(reference))
    problem = f"{alike[0][0]} and {alike[0][1]} are drawn alike by one side only" if alike else None
    return Diff("leaves", "alone", float(len(alike)), None, 0.0, problem)


def _alike(side: TrainableSide) -> set[tuple[str, str]]:
    leaves = {f"{name} of seed {seed}": leaf for seed in (0, 1) for name, leaf in side.initial(seed).items()}
    begin = {name: leaf.ravel()[:HEAD] for name, leaf in leaves.items() if leaf.size >= HEAD and not _is_constant(leaf)}
    if not begin:
        return set()
    correlation = np.atleast_2d(np.corrcoef(np.stack([*begin.values()]).astype(np.float64)))
    return {(a, b) for (i, a), (j, b) in combinations(enumerate(begin), 2) if correlation[i, j] > tolerances.SAME_DRAWS}
