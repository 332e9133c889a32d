"""Several ways to do the same work, timed in turn: what slows the machine for a while slows all of them."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping

OURS = "vit_flax"
REST = 0.05  # seconds before each turn: threads that have run out of work spin for a while, on a core of the next one

Times = dict[str, list[float]]  # seconds of each contestant in each round


def race(contestants: Mapping[str, Callable[[], object]], seconds: float, rounds: tuple[int, int] = (5, 40)) -> Times:
    """About so many seconds of rounds, in which everyone runs once; every other round in reverse order.

    Whoever needs a warm-up has had it.
    """
    times: Times = {name: [] for name in contestants}
    start = time.perf_counter()
    for number in range(rounds[1]):
        if number >= rounds[0] and time.perf_counter() - start > seconds:
            break
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            time.sleep(REST)
            begin = time.perf_counter()
            contestants[name]()
            times[name].append(time.perf_counter() - begin)
    return times


def ratio(times: Times, other: str, ours: str = OURS) -> float:
    """How many times as fast as another we are: the median of the rounds' own ratios."""
    return statistics.median(b / a for a, b in zip(times[ours], times[other], strict=True))


def best_of(medians: Mapping[str, float]) -> str:
    """The fastest of the others."""
    return min((name for name in medians if name != OURS), key=medians.__getitem__)


class Replay:
    """A clock that only recorded seconds move: pytest-benchmark keeps the statistics of a race that has been run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.left: Iterator[float] = iter(())

    def load(self, seconds: list[float]) -> None:
        self.left = iter(seconds)

    def run(self) -> None:
        self.now += next(self.left)

    def __call__(self) -> float:
        return self.now
