"""What a statistical gate allows, and the smallest deviation that it then sees with probability `tolerances.SEEN`.

    n, m    draws of the target, and of the reference
    level   how often a sound target is called wrong by this one test

The gates take their limits from here, so that what is said of them is true of them.
"""

import math

from scipy import stats

from conformance import tolerances


def quantile(level: float, known: int | None = None) -> float:
    """How many standard deviations to either side a sound target may stray; Student's, if known from so many draws."""
    return float(stats.norm.isf(level / 2) if known is None else stats.t.isf(level / 2, known - 1))


def deviations_seen(level: float, known: int | None = None) -> float:
    """How many standard deviations a target must be off by, to stray that far with probability SEEN."""
    return quantile(level, known) + float(stats.norm.isf(1 - tolerances.SEEN))


def share_seen(share: float, n: int, m: int, level: float, known: int | None = None) -> float:
    """Of a share of independent draws: the difference that is seen."""
    return deviations_seen(level, known) * math.sqrt(share * (1 - share) * (1 / n + 1 / m))


def mean_seen(deviation: float, n: int, m: int, level: float, known: int | None = None) -> float:
    """Of a mean of independent draws of that standard deviation: the difference that is seen."""
    return deviations_seen(level, known) * deviation * math.sqrt(1 / n + 1 / m)


def exception_seen(n: int, level: float, known: int | None = None) -> float:
    """Of what is always so: the share of exceptions that is seen.

    All variance there is comes with the exceptions: a share x of them is √(nx) deviations from none, and its root is
    known to 1 / 2√n.
    """
    enough = quantile(level, known)
    luck = float(stats.norm.isf(1 - tolerances.SEEN))
    return ((luck + math.sqrt(luck**2 + 4 * enough**2)) / 2) ** 2 / n


def spread_seen(kurtosis: float, n: int, m: int, level: float) -> float:
    """Of a standard deviation: the logarithm of the ratio that is seen."""
    return deviations_seen(level) * math.sqrt(spread_variance(kurtosis, n) + spread_variance(kurtosis, m))


def spread_variance(kurtosis: float, n: int) -> float:
    """Of the logarithm of a standard deviation; kurtosis is 3 for normal draws."""
    return (kurtosis - 1) / (4 * n)


def correlation_variance(n: int) -> float:
    """Of Fisher's z of Spearman's correlation (Fieller, Hartley and Pearson, Biometrika 44, 1957)."""
    return 1.06 / (n - 3)


def correlation_seen(n: int, m: int, level: float) -> float:
    """Of two draws that do not depend on each other: the correlation that is seen."""
    return math.tanh(deviations_seen(level) * math.sqrt(correlation_variance(n) + correlation_variance(m)))


def distance_allowed(n: int, m: int, level: float) -> float:
    """Between two empirical distributions: Kolmogorov's and Smirnov's asymptotic limit."""
    return math.sqrt(-math.log(level / 2) / 2 * (1 / n + 1 / m))


def distance_seen(n: int, m: int, level: float) -> float:
    """The distance of two distributions that is seen.

    Where they are farthest apart, the difference of two shares is measured, of standard deviation at most
    √(1/n + 1/m) / 2; the distance is that or more.
    """
    return distance_allowed(n, m, level) + float(stats.norm.isf(1 - tolerances.SEEN)) * math.sqrt(1 / n + 1 / m) / 2


def beyond_allowed(n: int, m: int, level: float) -> float:
    """How many of n entries may exceed all of m others.

    Of all n + m entries each is equally likely to be the largest: that so many of ours exceed all of theirs has
    probability (n / (n + m)) ** beyond, or less.
    """
    return math.log(level) / math.log(n / (n + m))


def beyond_seen(n: int, m: int, level: float) -> float:
    """The share of ours beyond the largest of theirs that is seen: how many those are is taken for Poisson's."""
    more = math.floor(beyond_allowed(n, m, level)) + 1
    return float(stats.gamma.ppf(tolerances.SEEN, more)) / n
