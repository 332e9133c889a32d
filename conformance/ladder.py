"""The ladder: one target climbing every rung of every case, and what each rung found.

A rung that fails blocks those that need it for that case: they would only repeat its news.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from conformance.cases import Case
from conformance.compare import Comparison, Diff, causes_first, compare
from conformance.diagnose import Diagnosis, diagnose
from conformance.faults import Fault
from conformance.images import Batch, load_batch
from conformance.rungs import BY_NAME, NAMES, Ground, Rung, Target
from conformance.sides import can
from conformance.weights import random_weights
from vit_flax.layouts import load_any
from vit_flax.weights import Weights

Status = Literal["pass", "fail", "blocked", "not verified", "not run"]


@dataclasses.dataclass
class Outcome:
    """What one rung found for one case."""

    status: Status = "not run"
    blocked_by: str | None = None
    headline: str | None = None  # of a failure: where it begins; of what is not verified: what is lacking
    seconds: float | None = None
    diffs: tuple[Diff, ...] = ()
    diagnosis: Diagnosis | None = None


class Ladder:
    """One target climbing every case, each rung at most once."""

    def __init__(
        self,
        target: Target,
        *,
        name: str,
        cases: Sequence[Case],
        data: str | None = None,
        weights: Path | None = None,
        seed: int = 0,
    ) -> None:
        self.target, self.name, self.cases = target, name, cases
        self.data, self.weight_file, self.seed = data, weights, seed
        self.outcomes: dict[Case, dict[str, Outcome]] = {}
        self._grounds: dict[Case, Ground] = {}
        self._known_causes: tuple[Fault, ...] = ()  # what explained one case is tried first on the next

    def outcome(self, case: Case, name: str) -> Outcome:
        """Climb to this rung, unless that was done before or one that it needs did not hold."""
        outcomes = self.outcomes.setdefault(case, {name: Outcome() for name in NAMES})
        outcome, rung = outcomes[name], BY_NAME[name]
        if outcome.status != "not run":
            return outcome
        if failed := self._failed_below(case, rung):
            outcome.status, outcome.blocked_by = "blocked", failed
        else:
            self._climb(case, rung, outcome)
        return outcome

    def _failed_below(self, case: Case, rung: Rung) -> str | None:
        """The lowest rung that failed among those that this one needs, directly or not."""
        needed = [name for name in NAMES if name in _all_needs(rung)]
        return next((name for name in needed if self.outcomes[case][name].status == "fail"), None)

    def _lacking(self, case: Case, rung: Rung) -> str | None:
        ground = self.ground(case)
        for whose, side in (("target", ground.candidate), ("reference", ground.reference)):
            for capability in rung.capabilities:
                if not can(side, capability):
                    return f"the {whose} has no {capability!r}"
        return None

    def _climb(self, case: Case, rung: Rung, outcome: Outcome) -> None:
        start = time.perf_counter()
        try:
            if lacking := self._lacking(case, rung):
                outcome.status, outcome.headline = "not verified", lacking
                return
            outcome.diffs = rung.climb(self.ground(case))
            failures = causes_first(outcome.diffs)
            outcome.headline = str(failures[0]) if failures else None
            outcome.status = "fail" if failures else "pass"
            if failures:
                outcome.diagnosis = diagnose(self.ground(case), rung, first=self._known_causes)
                self._known_causes += outcome.diagnosis.causes
        except BaseException as error:
            outcome.status, outcome.headline = "fail", f"crashed: {type(error).__name__}: {error}"
            raise
        finally:
            outcome.seconds = time.perf_counter() - start

    def compare(self, case: Case, precision: str) -> Comparison:
        g = self.ground(case)
        return compare(g.candidate, g.reference, g.config, g.weights, g.images, precision)

    def ground(self, case: Case) -> Ground:
        """Both sides and what they run on; only the last case's are kept, as large ones would not fit side by side."""
        if case not in self._grounds:
            images = self.images(case).images
            self._grounds = {case: Ground(self.target, case.build_reference, case.config, self.weights(case), images)}
        return self._grounds[case]

    def weights(self, case: Case) -> Weights:
        if self.weight_file is None:
            return random_weights(case.config, self.seed)
        return load_any(self.weight_file, case.config)

    def images(self, case: Case) -> Batch:
        return load_batch(self.data, case.batch_size, case.config.image_size, case.config.channels)


def _all_needs(rung: Rung) -> set[str]:
    return {*rung.needs, *(need for name in rung.needs for need in _all_needs(BY_NAME[name]))}
