"""The ladder: one target climbing every rung of every case, and what each rung found.

A rung that fails blocks those that need it for that case: they would only repeat its news.
"""

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax

from conformance.asking import CannotBuild, CannotRun, Crash, Late, asked, no_exit, warnings_stay_warnings, within
from conformance.cases import Case
from conformance.compare import Comparison, Diff, causes_first, compare
from conformance.diagnose import Diagnosis, diagnose
from conformance.faults import Fault
from conformance.images import Batch, load_batch
from conformance.narrow import float32_inside
from conformance.rungs import BY_NAME, NAMES, RUNGS, Ground, Rung, Target
from conformance.sides import can
from conformance.weights import random_weights
from vit_flax.layouts import load_any
from vit_flax.weights import Weights

Status = Literal["pass", "fail", "blocked", "not verified", "not run"]
Reason = Literal["crashed", "float32 inside", "cannot be built", "cannot run"]
DIAGNOSING = 10  # a diagnosis climbs its rung again and again: it has so many times the rung's time


@dataclasses.dataclass
class Outcome:
    """What one rung found for one case."""

    status: Status = "not run"
    blocked_by: str | None = None
    headline: str | None = None  # of a failure: where it begins; of anything else that did not pass: why
    seconds: float | None = None
    diffs: tuple[Diff, ...] = ()
    diagnosis: Diagnosis | None = None
    reason: Reason | None = None  # why it failed or is not verified, where that has a word of its own
    trace: str | None = None  # of a crash, as Python prints it


class Ladder:
    """One target climbing every case, each rung at most once. Every rung that is planned is there from the start."""

    def __init__(
        self,
        target: Target,
        *,
        name: str,
        cases: Sequence[Case],
        data: str | None = None,
        weights: Path | None = None,
        seed: int = 0,
        timeout: float | None = None,
        foreign: bool = False,
    ) -> None:
        """`timeout` is in seconds a rung. The warnings of a `foreign` target end nothing; those of ours may."""
        self._unanswered: set[object] = set()
        self.target, self.name, self.cases = asked(target, self._unanswered), name, cases
        self.data, self.weight_file, self.seed = data, weights, seed
        self.timeout, self.foreign = timeout, foreign
        self.outcomes: dict[Case, dict[str, Outcome]] = {
            case: {rung.name: Outcome() for rung in RUNGS if case.climbs(rung)} for case in cases
        }
        self._grounds: dict[Case, Ground] = {}
        self._known_causes: tuple[Fault, ...] = ()  # what explained one case is tried first on the next
        self._ended: dict[Case, str] = {}  # by the rung at which nothing more could be asked
        self._crashes: dict[tuple[Case, tuple], str] = {}  # at which rung each was met first

    def outcome(self, case: Case, name: str) -> Outcome:
        """Climb to this rung, unless that was done before or one that it needs did not hold."""
        outcome, rung = self.outcomes.setdefault(case, {}).setdefault(name, Outcome()), BY_NAME[name]
        if outcome.status != "not run":
            return outcome
        if failed := self._ended.get(case) or self._failed_below(case, rung):
            outcome.status, outcome.blocked_by = "blocked", failed
        else:
            self._climb(case, rung, outcome)
        return outcome

    def _failed_below(self, case: Case, rung: Rung) -> str | None:
        """The lowest rung that failed among those that this one needs, directly or not."""
        known, needs = self.outcomes[case], _all_needs(rung)
        return next((name for name in NAMES if name in needs and name in known and known[name].status == "fail"), None)

    def _lacking(self, case: Case, rung: Rung) -> str | None:
        ground = self.ground(case)
        for whose, side in (("target", ground.candidate), ("reference", ground.reference)):
            for capability in rung.capabilities:
                if not can(side, capability):
                    return f"the {whose} has no {capability!r}"
        return None

    def _climb(self, case: Case, rung: Rung, outcome: Outcome) -> None:
        """Ask both sides, and judge. What is raised from here is Ctrl-C, or our own crash: a target's are outcomes."""
        start = time.perf_counter()
        self._unanswered.clear()
        try:
            with no_exit(), warnings_stay_warnings() if self.foreign else contextlib.nullcontext():
                with within(self.timeout):
                    self._judge(case, rung, outcome)
                if outcome.status == "fail":
                    with within(self.timeout and DIAGNOSING * self.timeout):
                        self._explain(case, rung, outcome)
        except CannotBuild as refusal:
            self._unverified(outcome, "cannot be built", f"cannot be built for this config: {refusal}")
        except CannotRun as refusal:
            what = "in this precision" if "float" in rung.name else "this"
            self._unverified(outcome, "cannot run", f"the target cannot run {what}: {refusal}")
        except Crash as crash:
            self._crashed(case, rung, outcome, crash)
        except Late as late:
            self._late(case, rung, outcome, str(late))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            ours = Crash(error)
            outcome.status, outcome.reason, outcome.trace = "fail", "crashed", ours.trace
            outcome.headline = f"the suite itself crashed, not the target: {ours}"
            raise
        finally:
            outcome.seconds = time.perf_counter() - start

    def _judge(self, case: Case, rung: Rung, outcome: Outcome) -> None:
        self._build(case, rung)
        if lacking := self._lacking(case, rung):
            outcome.status, outcome.headline = "not verified", lacking
            return
        outcome.diffs = rung.climb(self.ground(case))
        failures = causes_first(outcome.diffs)
        outcome.headline = str(failures[0]) if failures else None
        outcome.status = "fail" if failures else "pass"

    def _build(self, case: Case, rung: Rung) -> None:
        """Build the target, if that has not been done; where that crashes, there is nothing to ask on any rung."""
        try:
            _ = self.ground(case).candidate
        except Crash:
            self._ended[case] = rung.name
            raise

    def _explain(self, case: Case, rung: Rung, outcome: Outcome) -> None:
        """Why a rung fails. A target that gives up when asked for more has failed all the same."""
        with contextlib.suppress(CannotBuild, CannotRun, Crash, Late):
            if rung.name == "float64" and (told := float32_inside(self.ground(case), causes_first(outcome.diffs))):
                outcome.reason, outcome.headline = "float32 inside", told
                return
            outcome.diagnosis = diagnose(self.ground(case), rung, first=self._known_causes)
            self._known_causes += outcome.diagnosis.causes

    def _unverified(self, outcome: Outcome, reason: Reason, headline: str) -> None:
        outcome.status, outcome.reason, outcome.headline = "not verified", reason, headline

    def _crashed(self, case: Case, rung: Rung, outcome: Outcome, crash: Crash) -> None:
        """Told once a case: a rung that crashes as one before it did is blocked by that one."""
        first = self._crashes.setdefault((case, crash.where), rung.name)
        if first != rung.name:
            outcome.status, outcome.blocked_by = "blocked", first
            return
        outcome.status, outcome.reason, outcome.trace = "fail", "crashed", crash.trace
        outcome.headline = f"crashed: {crash}"

    def _late(self, case: Case, rung: Rung, outcome: Outcome, limit: str) -> None:
        """A target that still computes is asked nothing more; one that had answered is not to blame."""
        if self._unanswered:
            outcome.status, outcome.reason = "fail", "crashed"
            outcome.headline = f"crashed: the target did not answer within {limit}"
            self._ended[case] = rung.name
        else:
            outcome.headline = f"not finished within {limit}, though the target had answered"

    def compare(self, case: Case, precision: str) -> Comparison:
        g = self.ground(case)
        return compare(g.candidate, g.reference, g.config, g.weights, g.images, precision)

    def ground(self, case: Case) -> Ground:
        """Both sides and what they run on; only the last case's are kept, as large ones would not fit side by side."""
        if case not in self._grounds:
            jax.clear_caches()  # what was compiled for another case, up to a gigabyte, serves this one no more
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
