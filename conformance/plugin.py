"""The pytest plugin: options, one ladder per session, `blocked` as an outcome, and the report at the end."""

import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # jax and torch take seconds to import: only sessions that compare models pay
    from conformance.cases import Case
    from conformance.ladder import Ladder, Outcome
    from conformance.mutation import Kill
    from conformance.rungs import Target

# A rung that was not climbed is an outcome of its own: pytest's skip, with one of these words first.
BLOCKED, NOT_VERIFIED = "blocked by ", "not verified: "
UNCLIMBED = {BLOCKED: ("blocked", "b", "BLOCKED"), NOT_VERIFIED: ("not verified", "n", "NOT VERIFIED")}


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
    group.addoption("--report", metavar="DIR", help="write report.json and report.html there")
    group.addoption("--gpu", action="store_true", help="run on a GPU; without one this is an error")


def pytest_configure(config: pytest.Config) -> None:
    # For PyTorch, before it is imported: with more, a busy machine makes it slower by an order of magnitude.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _prefer("jax_num_cpu_devices", 2)  # for what divides a batch among devices; the rest uses the first
    if cache := getattr(config, "cache", None):  # what JAX has compiled once is there next time
        _prefer("jax_compilation_cache_dir", str(cache.mkdir("jax")))
        _prefer("jax_persistent_cache_min_compile_time_secs", 0.3)
    if config.option.gpu:
        _require_gpu()
    else:
        _prefer("jax_platforms", "cpu")
    given = config.option
    if given.target or given.reference or given.weights or given.plant or given.data:
        _ladder(config)  # bad input is one sentence now, not a failure per test later


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


_LADDER = pytest.StashKey["Ladder"]()
_MUTATION = pytest.StashKey[list["Kill"]]()


def _ladder(config: pytest.Config) -> "Ladder":
    if _LADDER not in config.stash:
        try:
            config.stash[_LADDER] = _build_ladder(config.option)
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
    return config.stash[_LADDER]


def _build_ladder(options: Any) -> "Ladder":
    from conformance.cases import CASES, DEFAULT_TARGET, Case, load_target
    from conformance.catalogue import fault_named
    from conformance.faults import planted
    from conformance.ladder import Ladder

    cases = [Case(name) for name in options.reference] if options.reference else list(CASES)
    if options.weights and len(cases) != 1:
        raise ValueError(f"--weights {options.weights}: name the one --reference that these weights are for")
    factory = load_target(options.target or DEFAULT_TARGET)
    target: Target = factory
    if options.plant:
        target = planted(fault_named(options.plant), factory)
    name = options.target or "vit_flax"
    ladder = Ladder(
        target,
        name=f"{name} (planted: {options.plant})" if options.plant else name,
        cases=cases,
        data=options.data,
        weights=Path(options.weights) if options.weights else None,
        seed=options.seed,
    )
    for case in {case.batch_size: case for case in cases}.values():
        ladder.images(case)
    if options.weights:
        ladder.weights(cases[0])
    return ladder


@pytest.fixture(scope="session")
def ladder(pytestconfig: pytest.Config) -> "Ladder":
    """The session's ladder: the chosen target against the chosen references."""
    return _ladder(pytestconfig)


@pytest.fixture(scope="session")
def mutation(pytestconfig: pytest.Config) -> list["Kill"]:
    """What became of each planted fault so far."""
    return _kills(pytestconfig)


def _kills(config: pytest.Config) -> list["Kill"]:
    return config.stash.setdefault(_MUTATION, [])


@pytest.fixture
def climb(ladder: "Ladder") -> Callable[["Case", str], "Outcome"]:
    """Climb to a rung for a case; a rung below it that failed blocks the test."""

    def climb(case: "Case", rung: str) -> "Outcome":
        outcome = ladder.outcome(case, rung)
        # Neither passed nor failed: both are counted and shown by name, and a session that verified nothing fails.
        if outcome.status == "blocked":
            pytest.skip(f"{BLOCKED}{outcome.blocked_by}")
        if outcome.status == "not verified":
            pytest.skip(f"{NOT_VERIFIED}{outcome.headline}")
        return outcome

    return climb


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames and "climb" in metafunc.fixturenames:
        metafunc.parametrize("case", _ladder(metafunc.config).cases, ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Case by case, and within a case the lower rungs first, whichever file a test is in."""
    asked = config.option
    if asked.target or asked.reference or asked.plant:
        _deselect(config, items, [item for item in items if item.get_closest_marker("suite")])
    climbing = [item for item in items if "climb" in getattr(item, "fixturenames", ())]
    if not climbing:
        return
    from conformance.rungs import BY_NAME, NAMES

    cases = _ladder(config).cases

    def params(item: pytest.Item) -> tuple["Case", str]:
        params = getattr(item, "callspec").params  # noqa: B009
        return params["case"], params["rung"]

    def place(item: pytest.Item) -> tuple[int, int]:
        case, rung = params(item)
        return cases.index(case), NAMES.index(rung)

    wanted = sorted((item for item in climbing if params(item)[0].climbs(BY_NAME[params(item)[1]])), key=place)
    items[:] = wanted + [item for item in items if item not in climbing]
    config.hook.pytest_deselected(items=[item for item in climbing if item not in wanted])


def _deselect(config: pytest.Config, items: list[pytest.Item], unwanted: list[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=unwanted)
    items[:] = [item for item in items if item not in unwanted]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes, one climbs a case, or has all tests of another file: what they share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    from conformance.cases import CASES

    class CaseOrFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            climbed = (str(case) for case in CASES if f"[{case}" in nodeid and nodeid.startswith("conformance/"))
            return next(climbed, nodeid.partition("::")[0])

    return CaseOrFile(config, log)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    if report.skipped and isinstance(report.longrepr, tuple):
        for word, (category, letter, verbose) in UNCLIMBED.items():
            if word in report.longrepr[2]:
                return category, letter, (verbose, {"yellow": True})
    return None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A session that was all skips, because nothing could be verified, has not passed either."""
    ladder = session.config.stash.get(_LADDER, None)
    if ladder is None:
        return
    if (handed_in := getattr(session.config, "workeroutput", None)) is not None:
        handed_in["conformance"] = pickle.dumps((ladder.outcomes, _kills(session.config)))
    elif exitstatus == pytest.ExitCode.OK and ladder.outcomes:
        from conformance.record import verdict

        if verdict(ladder) != "pass":
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What one of several processes found joins what the others found, for one report."""
    if found := getattr(node, "workeroutput", {}).get("conformance"):
        outcomes, kills = pickle.loads(found)
        ladder = _ladder(node.config)
        together = ladder.outcomes | outcomes
        ladder.outcomes = {case: together[case] for case in ladder.cases if case in together}
        _kills(node.config).extend(kills)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    ladder = config.stash.get(_LADDER, None)
    if ladder is None or not ladder.outcomes:
        return
    from conformance import record, report
    from conformance.mutation import score

    result = record.as_report(ladder, score(_kills(config)))
    terminalreporter.section("conformance")
    for line in report.summary(result):
        terminalreporter.write_line(line)
    if folder := config.option.report:
        report.write(result, Path(folder))
        terminalreporter.write_line(f"report: {Path(folder) / 'report.html'}")
