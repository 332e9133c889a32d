"""What the test files assert: one call each, with a message that needs no looking up."""

from fnmatch import fnmatchcase

from conformance.compare import MODES, Mode, causes_first
from conformance.ladder import Outcome
from conformance.printable import printable

SHOWN = 8  # failures spelled out in a message; the report has them all


def assert_taps_match(outcome: Outcome, pattern: str, *modes: Mode) -> None:
    """Every tap of that name is within its limit, in these modes (default: all); and there is at least one."""
    __tracebackhide__ = True
    if not outcome.diffs:
        raise AssertionError(outcome.headline or "nothing was compared")
    diffs = [diff for diff in outcome.diffs if fnmatchcase(diff.tap, pattern) and diff.mode in (modes or MODES)]
    if not diffs:
        taps = printable(", ".join(dict.fromkeys(diff.tap for diff in outcome.diffs)))
        raise AssertionError(f"no tap is called {pattern!r}, only {taps}")
    if failures := causes_first(diffs):
        more = [f"... and {len(failures) - SHOWN} more"] if len(failures) > SHOWN else []
        why = [outcome.diagnosis.text] if outcome.diagnosis else []
        lines = [*map(str, failures[:SHOWN]), *more, f"first divergence: {outcome.headline}", *why]
        raise AssertionError("\n  ".join(map(printable, lines)))
