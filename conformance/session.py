"""One session of the suite: its options, the ladder they ask for, what became of it, and the one verdict at the end."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from conformance.printable import printable
from conformance.processes import Place, is_worker

if TYPE_CHECKING:  # jax and torch take seconds to import: only sessions that compare models pay
    from conformance.ladder import Ladder, Outcome
    from conformance.mutation import Kill
    from conformance.rungs import Target

# Of two processes' news of one rung, the worse is believed.
WORSE = ("not run", "pass", "not verified", "blocked", "fail")


class News(NamedTuple):
    """What one process found since it last told."""

    outcomes: "dict[Place, Outcome]"
    kills: "list[Kill]"


class Session:
    """What the hooks share. In a worker it finds and tells; in the first process it hears, and decides."""

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.options = config, config.option
        self.climbs = bool(self.options.report)  # whether there is a verdict to give
        self.kills: list[Kill] = []
        self.failed_elsewhere: list[str] = []  # ids of tests that failed though no rung did
        self.died: set[Place] = set()
        self.told: set[Any] = set()  # crashes that a test has failed for
        self.result: dict[str, Any] | None = None
        self.problem: str | None = None  # why there is no report
        self._ladder: Ladder | None = None
        self._sent: set[Place] = set()
        self._kills_sent = 0

    @property
    def decides(self) -> bool:
        return not is_worker(self.config) and not self.options.collectonly

    @property
    def ladder(self) -> "Ladder":
        if self._ladder is None:
            try:
                self._ladder = build_ladder(self.options)
            except ValueError as error:
                raise pytest.UsageError(printable(str(error))) from error
        return self._ladder

    @property
    def case_names(self) -> list[str]:
        """As they stand in the ids of tests. Only the names: a session of other tests needs no ladder."""
        from conformance.cases import cases_for

        return [str(case) for case in cases_for(self.options.reference)]

    def begin(self) -> None:
        """Leave a report at once: should the session die, it says that nothing was verified."""
        if self.options.report and self.decides:
            self._write(self._report(probed=False))
            if self.problem:
                raise pytest.UsageError(self.problem)

    def news(self) -> News | None:
        """What is to be told of the ladder since this was last asked."""
        if self._ladder is None:
            return None
        found = {}
        for case, outcomes in self._ladder.outcomes.items():
            for rung, outcome in outcomes.items():
                place = (str(case), rung)
                if place not in self._sent and (outcome.status != "not run" or outcome.headline):
                    found[place] = outcome
        kills = self.kills[self._kills_sent :]
        self._sent |= found.keys()
        self._kills_sent += len(kills)
        return News(found, kills) if found or kills else None

    def hear(self, news: News) -> None:
        """Merge what another process found, rung by rung."""
        self.kills += news.kills
        by_name = {str(case): case for case in self.ladder.cases}
        for (case, rung), outcome in news.outcomes.items():
            self.climbs = True
            known = self.ladder.outcomes[by_name[case]]
            if rung not in known or WORSE.index(known[rung].status) <= WORSE.index(outcome.status):
                known[rung] = outcome

    def test_failed(self, nodeid: str, place: Place | None) -> None:
        """Note a failing test, unless a rung that failed is the reason, or a process that died."""
        if place in self.died:
            return
        outcome = self.find(place) if place else None
        if outcome is None or outcome.status != "fail":
            self.failed_elsewhere.append(printable(nodeid))

    def process_died(self, place: Place) -> None:
        self.climbs = True
        self.died.add(place)
        outcome = self.find(place)
        if outcome is not None and outcome.status == "not run":
            outcome.headline = f"the process that climbed {place[1]} died"

    def find(self, place: Place) -> "Outcome | None":
        name, rung = place
        found = [outcomes for case, outcomes in self.ladder.outcomes.items() if str(case) == name]
        return found[0].get(rung) if found else None

    def finish(self, pytests: int) -> int:
        """Decide, leave the report, and return the exit status: that of the verdict, whatever pytest's was."""
        if not self.decides or not self.climbs or pytests == pytest.ExitCode.USAGE_ERROR:
            return pytests
        from conformance.verdicts import exit_status

        self.result = self._report(pytests)
        self._write(self.result)
        if self.problem:
            return int(pytest.ExitCode.INTERNAL_ERROR)
        return exit_status(self.result["verdict"], pytests)

    def _report(self, pytests: int = 0, probed: bool = True) -> dict[str, Any]:
        from conformance import record
        from conformance.mutation import score

        return record.as_report(
            self.ladder,
            score(self.kills),
            failed_elsewhere=self.failed_elsewhere,
            exit_status=pytests,
            probed=probed,
        )

    def _write(self, result: dict[str, Any]) -> None:
        from conformance import report

        if folder := self.options.report:
            try:
                report.write(result, Path(folder))
            except OSError as error:
                self.problem = f"--report {printable(folder)}: cannot be written: {error.strerror or error}"


def check_writable(folder: str) -> None:
    """Raise `UsageError` unless files can be written there: now, not after an hour of comparing."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for name in ("report.json", "report.html"):
            if (Path(folder) / name).is_dir():
                raise IsADirectoryError(0, f"{name} is a folder")
    except OSError as error:
        raise pytest.UsageError(f"--report {printable(folder)}: cannot write there: {error.strerror}") from error


def build_ladder(options: Any) -> "Ladder":
    """The ladder that the options ask for. Raises `ValueError` with one sentence on what is wrong with them."""
    from conformance.asking import can_be_timed
    from conformance.cases import cases_for
    from conformance.catalogue import fault_named
    from conformance.faults import planted
    from conformance.ladder import Ladder

    cases = cases_for(options.reference)
    if options.weights and len(cases) != 1:
        raise ValueError(f"--weights {options.weights}: name the one --reference that these weights are for")
    if options.timeout is not None and not (options.timeout > 0 and can_be_timed()):
        raise ValueError(f"--timeout {options.timeout:g}: a number of seconds, more than none, and not on Windows")
    target = _target(options.target)
    if options.plant:
        target = planted(fault_named(options.plant), target)
    name = options.target or "vit_flax"
    ladder = Ladder(
        target,
        name=f"{name} (planted: {options.plant})" if options.plant else name,
        cases=cases,
        data=options.data,
        weights=Path(options.weights) if options.weights else None,
        seed=options.seed,
        timeout=options.timeout,
        foreign=bool(options.target),
    )
    for case in {case.batch_size: case for case in cases}.values():
        ladder.images(case)
    if options.weights:
        ladder.weights(cases[0])
    return ladder


def _target(name: str | None) -> "Target":
    """The factory of that name; where importing it fails, that is told in a sentence, too."""
    from conformance.asking import Crash, no_exit, warnings_stay_warnings
    from conformance.cases import DEFAULT_TARGET, load_target

    if name is None:
        return load_target(DEFAULT_TARGET)
    try:
        with no_exit(), warnings_stay_warnings():
            return load_target(name)
    except (ValueError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise ValueError(f"target {name!r} cannot be imported: {Crash(error)}") from error
