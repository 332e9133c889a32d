"""The ladder: rungs in the order in which they depend on each other, and what each found for each case.

A rung that fails blocks the ones after it for that case: they would only repeat its news.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from conformance.cases import Case
from conformance.compare import Comparison, Diff, compare
from conformance.faults import Target
from conformance.images import Batch, load_batch
from conformance.port import read_from
from conformance.sides import Side, TorchSide
from conformance.weights import random_weights
from vit_flax.layouts import read_any
from vit_flax.weights import Weights, load

Rung = Literal["weights", "float64", "float32", "bfloat16"]
RUNGS: tuple[Rung, ...] = ("weights", "float64", "float32", "bfloat16")
PRECISIONS = RUNGS[1:]
Status = Literal["pass", "fail", "blocked", "not run"]


@dataclasses.dataclass
class Outcome:
    """What one rung found for one case."""

    status: Status = "not run"
    blocked_by: Rung | None = None
    headline: str | None = None
    seconds: float | None = None
    diffs: tuple[Diff, ...] = ()


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
        self.outcomes: dict[Case, dict[Rung, Outcome]] = {}
        self._built: dict[Case, tuple[Side, TorchSide]] = {}

    def outcome(self, case: Case, rung: Rung) -> Outcome:
        """Climb to this rung, unless that was done before or a lower one failed."""
        outcomes = self.outcomes.setdefault(case, {rung: Outcome() for rung in RUNGS})
        outcome = outcomes[rung]
        if outcome.status != "not run":
            return outcome
        below = RUNGS[: RUNGS.index(rung)]
        failed = next((lower for lower in below if outcomes[lower].status == "fail"), None)
        if failed:
            outcome.status, outcome.blocked_by = "blocked", failed
        else:
            self._climb(case, rung, outcome)
        return outcome

    def _climb(self, case: Case, rung: Rung, outcome: Outcome) -> None:
        start = time.perf_counter()
        try:
            outcome.headline, outcome.diffs = self._weights(case) if rung == "weights" else self._forward(case, rung)
            outcome.status = "fail" if outcome.headline else "pass"
        except BaseException as error:
            outcome.status, outcome.headline = "fail", f"crashed: {type(error).__name__}: {error}"
            raise
        finally:
            outcome.seconds = time.perf_counter() - start

    def _weights(self, case: Case) -> tuple[str | None, tuple[Diff, ...]]:
        """Into the reference and back again: every leaf arrives, bit for bit."""
        weights, (_, reference) = self.weights(case), self._sides(case)
        reference.load(weights)
        returned = read_from(reference.state, reference.layout, case.config)
        changed = [name for name, leaf in weights.items() if returned[name].tobytes() != leaf.tobytes()]
        return (f"{len(changed)} of the leaves came back changed, first {changed[0]!r}" if changed else None), ()

    def _forward(self, case: Case, rung: Rung) -> tuple[str | None, tuple[Diff, ...]]:
        comparison = self.compare(case, rung)
        return (str(comparison.headline) if comparison.headline else None), comparison.diffs

    def compare(self, case: Case, precision: str) -> Comparison:
        candidate, reference = self._sides(case)
        images = self.images(case).images
        return compare(candidate, reference, case.config, self.weights(case), images, precision)

    def _sides(self, case: Case) -> tuple[Side, TorchSide]:
        """Candidate and reference; only the last case's are kept, since large ones would not fit side by side."""
        if case not in self._built:
            self._built = {case: (self.target(case.config), case.build_reference())}
        return self._built[case]

    def weights(self, case: Case) -> Weights:
        if self.weight_file is None:
            return random_weights(case.config, self.seed)
        return read_any(load(self.weight_file), case.config, str(self.weight_file))

    def images(self, case: Case) -> Batch:
        return load_batch(self.data, case.batch_size, case.config.image_size, case.config.channels)
