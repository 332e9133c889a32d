"""What several test files need."""

import dataclasses
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jax
import pytest

import conformance.ladder  # noqa: F401  pytester forgets what a session imports, and torch cannot be imported twice
from vit_flax.config import PRESETS, preset

ROOT = Path(__file__).parents[2]
# Run, not imported: pytest warns of a plugin that it cannot rewrite.
shrink = runpy.run_path(str(Path(__file__).with_name("small_ladder.py")))["shrink"]
EXIT_STATUS = {"pass": 0, "fail": 1, "incomplete": 2}


@pytest.fixture(scope="module")
def quickly_compiled():
    """For what does not run long enough to earn back the time that XLA takes to optimise."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def one_layer():
    """The model of digits with a single layer, which compiles quickly, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "digits", preset("digits").replace(num_layers=1))
        yield


@dataclasses.dataclass(frozen=True)
class Left:
    """What a session left behind, in all its forms."""

    exit_status: int
    out: str
    report: dict
    page: str
    junit: ElementTree.Element

    @property
    def verdict(self):
        return self.report["verdict"]

    def rungs(self, case=0):
        return {rung["rung"]: rung for rung in self.report["cases"][case]["rungs"]}

    def assert_that_all_agree(self):
        suite = self.junit.find("testsuite")
        properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
        wrong = int(suite.get("failures")) + int(suite.get("errors"))
        assert self.exit_status == EXIT_STATUS[self.verdict], self.out
        assert f"\n{self.verdict.upper()}  " in self.out
        assert f"{self.verdict}</p>" in self.page
        assert (properties["verdict"], properties["headline"]) == (self.verdict, self.report["headline"])
        assert (wrong == 0) == (self.verdict == "pass")


@pytest.fixture
def suite(pytester, monkeypatch, tmp_path):
    """Runs a session of the suite with a small model, on the rungs that are named, against a target written here."""

    def run(*arguments, rungs="weights,loss,metric", target=None, references=("digits",), apart=False):
        monkeypatch.setenv("SMALL_LADDER", rungs)
        monkeypatch.setenv("SMALL_LADDER_TEST", str(os.getpid()))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "unit", tmp_path))))
        monkeypatch.chdir(ROOT)
        junit, folder = tmp_path / "junit.xml", tmp_path / "report"
        command = ["conformance", "-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "small_ladder"]
        command += [f"--reference=twin:{name}" for name in references]
        command += [f"--report={folder}", f"--junitxml={junit}", *arguments]
        if target:
            (tmp_path / "mine.py").write_text(target)
            monkeypatch.syspath_prepend(tmp_path)
            command += ["--target=mine:Mine"]
        if apart or "-n" in arguments:
            session = subprocess.run(
                [sys.executable, "-m", "pytest", *command], cwd=ROOT, capture_output=True, text=True, check=False
            )
            status, out = session.returncode, session.stdout + session.stderr
        else:
            with monkeypatch.context() as patch:
                shrink(patch.setattr, patch.setitem)
                session = pytester.runpytest_inprocess(*command, no_reraise_ctrlc=True)
            status, out = int(session.ret), session.stdout.str()
        report = json.loads((folder / "report.json").read_text())
        page = (folder / "report.html").read_text(encoding="utf-8")
        root = ElementTree.parse(junit).getroot() if junit.exists() else None
        return Left(status, out, report, page, root)

    return run
