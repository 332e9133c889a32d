"""What the test files assert: one call each, with a message that needs no looking up."""

from fnmatch import fnmatchcase

from conformance.compare import causes_first
from conformance.ladder import Outcome


def assert_taps_match(outcome: Outcome, pattern: str) -> None:
    """Every tap of that name, alone and free-running, is within its limit; and there is at least one."""
    __tracebackhide__ = True
    if not outcome.diffs:
        raise AssertionError(outcome.headline or "nothing was compared")
    diffs = [diff for diff in outcome.diffs if fnmatchcase(diff.tap, pattern)]
    if not diffs:
        raise AssertionError(f"no tap is called {pattern!r}, only {', '.join(dict.fromkeys(d.tap for d in outcome.diffs))}")
    if failures := causes_first(diffs):
        lines = "\n  ".join(map(str, failures))
        raise AssertionError(f"{failures[0]}\nfirst divergence of the whole model: {outcome.headline}\n  {lines}")
