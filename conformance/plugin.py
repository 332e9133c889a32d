"""The pytest plugin: its hooks, and nothing else. What they share is `conformance.session.Session`."""

import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conformance import junit, processes
from conformance.session import Session, check_writable

if TYPE_CHECKING:  # jax and torch take seconds to import: only sessions that compare models pay
    from conformance.cases import Case
    from conformance.ladder import Ladder, Outcome
    from conformance.mutation import Kill

# A rung that was not climbed is an outcome of its own: pytest's skip, with one of these words first.
BLOCKED, NOT_VERIFIED, NOT_RUN = "blocked by ", "not verified: ", "not run: "
UNCLIMBED = {
    BLOCKED: ("blocked", "b", "BLOCKED"),
    NOT_VERIFIED: ("not verified", "n", "NOT VERIFIED"),
    NOT_RUN: ("not run", "r", "NOT RUN"),
}

SESSION = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vit", "Vision Transformer conformance")
    group.addoption("--target", metavar="pkg.module:factory", help="what to prove (default: vit_flax)")
    group.addoption(
        "--reference",
        action="append",
        metavar="NAME",
        help="compare with this, whole: timm:vit_tiny_patch16_224, say; may be repeated (default: all cases)",
    )
    group.addoption(
        "--data",
        default=os.environ.get("VIT_DATA") or None,
        metavar="PATH",
        help="photographs: CIFAR-10 as Parquet or cifar-10-batches-py, or a folder of images "
        "(default: $VIT_DATA, else two that scikit-learn ships)",
    )
    group.addoption("--weights", metavar="FILE", help="use these weights, not random ones (needs one --reference)")
    group.addoption("--seed", type=int, default=0, help="seed of the random weights (default: 0)")
    group.addoption("--plant", metavar="FAULT", help="plant a known fault in the target, to see the suite fail")
    group.addoption("--timeout", type=float, metavar="SECONDS", help="give up a rung after that long (default: never)")
    group.addoption("--report", metavar="DIR", help="write report.json and report.html there")
    group.addoption("--gpu", action="store_true", help="run on a GPU; without one this is an error")


def pytest_configure(config: pytest.Config) -> None:
    # For PyTorch, before it is imported: with more, a busy machine makes it slower by an order of magnitude.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _prefer("jax_num_cpu_devices", 2)  # for what divides a batch among devices; the rest uses the first
    if cache := getattr(config, "cache", None):  # what JAX has compiled once is there next time
        _prefer("jax_compilation_cache_dir", str(cache.mkdir("jax")))
        _prefer("jax_persistent_cache_min_compile_time_secs", 0.3)
    given = config.option
    if given.report and not processes.is_worker(config):
        check_writable(given.report)
    if given.gpu:
        _require_gpu()
    else:
        _prefer("jax_platforms", "cpu")
    processes.never_restart(config)
    session = config.stash[SESSION] = Session(config)
    config.pluginmanager.register(Listener(session), "conformance listener")
    if given.target or given.reference or given.weights or given.plant or given.data or given.timeout is not None:
        _ = session.ladder  # bad input is one sentence now, not a failure per test later


def _prefer(setting: str, value: object) -> None:
    """A setting of JAX, unless the environment has chosen; a conftest.py may have imported JAX already."""
    if setting.upper() not in os.environ:
        os.environ[setting.upper()] = str(value)
        if jax := sys.modules.get("jax"):
            jax.config.update(setting, value)


def _require_gpu() -> None:
    import jax

    try:
        jax.devices("gpu")
    except RuntimeError as error:
        devices = ", ".join(str(device) for device in jax.devices())
        raise pytest.UsageError(f"--gpu: no GPU is visible to JAX (it sees {devices})") from error


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[SESSION].begin()


@pytest.fixture(scope="session")
def ladder(pytestconfig: pytest.Config) -> "Ladder":
    """The session's ladder: the chosen target against the chosen references."""
    return pytestconfig.stash[SESSION].ladder


@pytest.fixture(scope="session")
def mutation(pytestconfig: pytest.Config) -> list["Kill"]:
    """What became of each planted fault so far."""
    return pytestconfig.stash[SESSION].kills


@pytest.fixture
def climb(request: pytest.FixtureRequest, ladder: "Ladder") -> Callable[["Case", str], "Outcome"]:
    """Climb to a rung for a case; a rung below it that failed blocks the test, and a crash is told once."""
    told = request.config.stash[SESSION].told

    def climb(case: "Case", rung: str) -> "Outcome":
        outcome = ladder.outcome(case, rung)
        # Neither passed nor failed: both are counted and shown by name, and a session that verified nothing fails.
        if outcome.status == "blocked":
            pytest.skip(f"{BLOCKED}{outcome.blocked_by}")
        if outcome.status == "not verified":
            pytest.skip(f"{NOT_VERIFIED}{outcome.headline}")
        if outcome.status == "not run":
            pytest.skip(f"{NOT_RUN}{outcome.headline}")
        if outcome.reason == "crashed":
            if (case, rung) in told:
                pytest.skip(f"{BLOCKED}{rung}")
            told.add((case, rung))
            request.node.add_report_section("call", "traceback of the crash", outcome.trace or "none: it hangs")
        return outcome

    return climb


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames and "climb" in metafunc.fixturenames:
        metafunc.parametrize("case", metafunc.config.stash[SESSION].ladder.cases, ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Case by case, and within a case the lower rungs first, whichever file a test is in."""
    asked = config.option
    if asked.target or asked.reference or asked.plant:
        _deselect(config, items, [item for item in items if item.get_closest_marker("suite")])
    climbing = [item for item in items if "climb" in getattr(item, "fixturenames", ())]
    if not climbing:
        return
    from conformance.rungs import BY_NAME, NAMES

    cases = config.stash[SESSION].ladder.cases

    def place(item: pytest.Item) -> tuple[int, int]:
        case, rung = _climbed(item)
        return cases.index(case), NAMES.index(rung)

    planned = []
    for item in climbing:
        case, rung = _climbed(item)
        if case.climbs(BY_NAME[rung]):
            planned.append(item)
    planned.sort(key=place)
    items[:] = planned + [item for item in items if item not in climbing]
    config.hook.pytest_deselected(items=[item for item in climbing if item not in planned])


def _climbed(item: pytest.Item) -> tuple["Case", str]:
    params = getattr(item, "callspec").params  # noqa: B009
    return params["case"], params["rung"]


def _deselect(config: pytest.Config, items: list[pytest.Item], unwanted: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=unwanted)
    items[:] = [item for item in items if item not in unwanted]


def pytest_collection_finish(session: pytest.Session) -> None:
    """A verdict is due from here on, if any rung is to be climbed: even if nothing more should be run."""
    if any("climb" in getattr(item, "fixturenames", ()) for item in session.items):
        session.config.stash[SESSION].climbs = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A report says where on the ladder its test is, and carries what a worker has found so far."""
    report = yield
    session = item.config.stash[SESSION]
    if "climb" in getattr(item, "fixturenames", ()):
        case, rung = _climbed(item)
        report.place = [str(case), rung]
    if processes.is_worker(item.config) and (news := session.news()):
        report.news = processes.packed(news)
    return report


class Listener:
    """Hears every test's report. A plugin of its own, as that hook is not told which session it is in."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not self.session.decides:
            return
        place = getattr(report, "place", None)
        self.session.climbs |= place is not None
        if news := vars(report).pop("news", None):
            self.session.hear(processes.unpacked(news))
        if report.failed:
            self.session.test_failed(report.nodeid, place and (place[0], place[1]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    return processes.scheduler(config, log, config.stash[SESSION].case_names)


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport, sched: Any) -> None:
    session = sched.config.stash[SESSION]
    if place := processes.place_of(crashitem, session.case_names):
        report.place = list(place)  # type: ignore[attr-defined]  # as every report of a climb has it
        session.process_died(place)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    if report.skipped and isinstance(report.longrepr, tuple):
        for word, (category, letter, verbose) in UNCLIMBED.items():
            if report.longrepr[2].startswith(f"Skipped: {word}"):
                return category, letter, (verbose, {"yellow": True})
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Decide before anything is written: pytest's summary, JUnit's file and the exit status follow."""
    ours = session.config.stash[SESSION]
    session.exitstatus = ours.finish(int(exitstatus))
    if ours.result is not None:
        junit.tell(session.config, ours.result)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    session = config.stash[SESSION]
    if session.result is None:
        return
    from conformance.summary import summary

    terminalreporter.section("conformance")
    for line in summary(session.result):
        terminalreporter.write_line(line)
    if session.problem:
        terminalreporter.write_line(session.problem)
    elif folder := config.option.report:
        terminalreporter.write_line(f"report: {Path(folder) / 'report.html'}")
