"""A statistical gate sees the deviation that it says it sees, and lets half of that pass."""

import math

import numpy as np
import pytest
from scipy import stats

from conformance import gates, power, tolerances
from conformance.proofs import PAGE
from conformance.randomness import apart

N, LEVEL, TRIALS = 2000, 1e-6, 200
# Of TRIALS trials, each seen with probability SEEN, fewer are seen once in a thousand.
SEEN = stats.binom.ppf(1e-3, TRIALS, tolerances.SEEN)


def trials(draw):
    """In how many trials the gate raises an alarm."""
    return sum(draw(np.random.default_rng(seed)) for seed in range(TRIALS))


def shifted(by):
    """Uniform draws of which a share `by` is moved from the lower half to the upper: distributions so far apart."""

    def alarm(rng):
        ours, theirs = rng.random(N), rng.random(N)
        moved = (ours < 0.5) & (rng.random(N) < 2 * by)
        ours[moved] += 0.5
        return stats.ks_2samp(ours, theirs, method="asymp").statistic > power.distance_allowed(N, N, LEVEL)

    return alarm


def share_off(by):
    def alarm(rng):
        ours, theirs = rng.random(N) < 0.5 + by, rng.random(N) < 0.5
        return abs(ours.mean() - theirs.mean()) > power.quantile(LEVEL) * math.sqrt(2 * 0.25 / N)

    return alarm


def mean_off(by):
    def alarm(rng):
        ours, theirs = 2 * rng.standard_normal(N) + by, 2 * rng.standard_normal(N)
        return apart(ours[None, :, None], theirs[None, :, None]) > power.quantile(LEVEL, known=N)

    return alarm


def spread_off(by):
    def alarm(rng):
        ours, theirs = math.exp(by) * rng.standard_normal(N), rng.standard_normal(N)
        deviation = math.sqrt(2 * power.spread_variance(3.0, N))
        return abs(math.log(ours.std() / theirs.std())) > power.quantile(LEVEL) * deviation

    return alarm


def beyond_off(by):
    def alarm(rng):
        ours, theirs = rng.random(N), rng.random(N)
        ours[rng.random(N) < by] = 2.0
        return (ours > theirs.max()).sum() > power.beyond_allowed(N, N, LEVEL)

    return alarm


def exceptions(by):
    def alarm(rng):
        ours = rng.random((1, N, 1)) >= by
        return apart(ours, np.ones_like(ours)) > power.quantile(LEVEL)

    return alarm


GATES = {
    "exceptions": (exceptions, power.exception_seen(N, LEVEL)),
    "distance": (shifted, power.distance_seen(N, N, LEVEL)),
    "share": (share_off, power.share_seen(0.5, N, N, LEVEL)),
    "mean": (mean_off, power.mean_seen(2.0, N, N, LEVEL, known=N)),
    "spread": (spread_off, power.spread_seen(3.0, N, N, LEVEL)),
    "beyond": (beyond_off, power.beyond_seen(N, N, LEVEL)),
}


@pytest.mark.parametrize("gate", GATES)
def test_the_smallest_deviation_is_seen_as_often_as_is_said(gate):
    planted, smallest = GATES[gate]
    assert trials(planted(smallest)) >= SEEN


@pytest.mark.parametrize("gate", GATES)
def test_half_of_it_is_mostly_not_seen(gate):
    planted, smallest = GATES[gate]
    assert trials(planted(smallest / 2)) < TRIALS / 2


@pytest.mark.parametrize("gate", GATES)
def test_no_deviation_raises_no_alarm(gate):
    planted, _ = GATES[gate]
    assert trials(planted(0.0)) == 0


def test_the_page_says_what_the_gates_see():
    assert gates.table() in PAGE.read_text()
