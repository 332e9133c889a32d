"""What is known of why a rung fails, and how it is said."""

import dataclasses
from collections.abc import Iterator, Sequence

from conformance.faults import Fault

SHOWN = 3  # taps that a sentence names; the rest are counted


@dataclasses.dataclass(frozen=True)
class Finding:
    """Failures that one known fault explains. Errors are multiples of their limits."""

    either: tuple[Fault, ...]  # more than one: these cannot be told apart here, and none is preferred
    taps: tuple[str, ...]
    everywhere: bool  # planted in the whole reference it breaks nothing; else it is so at these taps alone
    before: float  # the worst error at these taps without it
    after: float  # ... and with it

    def __str__(self) -> str:
        known = " or ".join(f"'{fault.name}' ({fault.seen})" for fault in self.either)
        return known if len(self.either) == 1 else f"{known}, which cannot be told apart here"


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The known faults that explain why a rung fails, whole or in part. Errors are multiples of their limits."""

    before: float
    after: float | None = None  # the worst error left with all findings planted; None: they do not explain all of it
    findings: tuple[Finding, ...] = ()
    unexplained: tuple[str, ...] = ()  # taps that fail, and that no finding explains

    @property
    def explained(self) -> bool:
        """Nothing fails against a reference that has what was found in it."""
        return self.after is not None

    @property
    def causes(self) -> tuple[Fault, ...]:
        """The faults that together explain the whole rung; none where a share of it has two explanations."""
        if not self.explained or any(len(finding.either) > 1 for finding in self.findings):
            return ()
        return tuple(finding.either[0] for finding in self.findings)

    @property
    def text(self) -> str:
        if not self.findings:
            return "no known cause explains it"
        if not self.explained:
            return "; ".join(self._parts())
        names = " and ".join(map(str, self.findings))
        return f"explained by {names}: {self.before:.2g} times its limit without, {self.after:.2g} times with it"

    def _parts(self) -> Iterator[str]:
        for finding in self.findings:
            where = _listed(finding.taps)
            yield f"{where} explained by {finding}" if finding.everywhere else f"in {where}, as if {finding}"
        if self.unexplained:
            yield f"no known cause explains {_listed(self.unexplained)}"


def _listed(taps: Sequence[str]) -> str:
    more = [f"{len(taps) - SHOWN} more"] if len(taps) > SHOWN else []
    *names, last = [*taps[:SHOWN], *more]
    return f"{', '.join(names)} and {last}" if names else last
