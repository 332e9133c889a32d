"""The suite as its users meet it: a whole session, run by pytest inside pytest."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import conformance.ladder  # noqa: F401  pytester forgets what a session imports, and torch cannot be imported twice
from conformance.plugin import pytest_report_teststatus
from conformance.rungs import PRECISIONS
from conformance.weights import random_weights
from vit_flax import preset
from vit_flax.weight_files import save

ROOT = Path(__file__).parents[2]

pytest_plugins = ["pytester"]


FORWARD = [f"conformance/test_{name}.py" for name in ("weights", "patches", "attention", "mlp", "block", "model")]
SUITE = (*FORWARD, "-q", "-p", "no:cacheprovider", "--reference", "twin:digits")


@pytest.fixture
def run_suite(pytester, monkeypatch):
    """A session in this process, which has paid for jax and torch already."""
    monkeypatch.chdir(ROOT)
    return lambda *arguments: pytester.runpytest_inprocess(*SUITE, *arguments)


def test_sound_target_passes_and_leaves_a_report(tmp_path):
    command = [sys.executable, "-m", "pytest", *SUITE, "--report", str(tmp_path)]

    session = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    report = json.loads((tmp_path / "report.json").read_text())
    assert session.returncode == 0, session.stdout
    assert report["verdict"] == "pass"
    statuses = {rung["rung"]: rung["status"] for rung in report["cases"][0]["rungs"]}
    on_a_gpu_alone = "float32 default"
    assert {statuses[name] for name in ("weights", *PRECISIONS) if name != on_a_gpu_alone} == {"pass"}
    assert statuses["loss"] == statuses[on_a_gpu_alone] == "not run"
    assert "PASS  vit_flax is the same model as its references in 1 case" in session.stdout
    assert (tmp_path / "report.html").is_file()


def test_several_processes_leave_one_report(tmp_path):
    command = [sys.executable, "-m", "pytest", *SUITE, "--reference", "twin:article-p4-untied", "--numprocesses", "2"]
    command += ["-k", "weights or digits and float64", "--plant", "the other GELU", "--report", str(tmp_path)]
    command += ["-p", "no:benchmark"]  # of which old versions warn that they measure nothing in several processes

    session = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    report = json.loads((tmp_path / "report.json").read_text())
    rungs = [{rung["rung"]: rung for rung in case["rungs"]} for case in report["cases"]]
    assert session.returncode == pytest.ExitCode.TESTS_FAILED, session.stdout
    assert [case["subject"] for case in report["cases"]] == ["digits", "article-p4-untied"]
    assert [case["weights"]["status"] for case in rungs] == ["pass", "pass"]
    assert [cause["name"] for cause in rungs[0]["float64"]["diagnosis"]["causes"]] == ["the other GELU"]


def test_planted_fault_fails_the_suite_names_the_block_and_blocks_higher_rungs(run_suite, tmp_path):
    session = run_suite("--plant", "the other GELU", "--report", str(tmp_path))

    report = json.loads((tmp_path / "report.json").read_text())
    rungs = {rung["rung"]: rung for rung in report["cases"][0]["rungs"]}
    assert session.ret == pytest.ExitCode.TESTS_FAILED
    assert report["verdict"] == "fail"
    assert rungs["weights"]["status"] == "pass"
    assert rungs["float64"]["headline"].startswith("encoder/00/mlp alone: ")
    assert (rungs["float32"]["status"], rungs["float32"]["blocked_by"]) == ("blocked", "float64")
    assert "test_every_mlp_matches" in session.stdout.str()
    assert "FAILED conformance/test_attention.py" not in session.stdout.str()
    assert " blocked" in session.stdout.lines[-1]


def test_a_session_that_verified_nothing_fails(pytester, tmp_path, monkeypatch):
    (tmp_path / "bare.py").write_text(
        "class Bare:\n"
        "    def __init__(self, config): pass\n"
        "    def taps(self, weights, images, given=None): raise AssertionError('never asked')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    run = ("conformance/test_loss.py", "-q", "-p", "no:cacheprovider", "--reference", "twin:digits")
    session = pytester.runpytest_inprocess(*run, "--target", "bare:Bare")

    assert "not verified" in session.stdout.str()
    assert session.ret == pytest.ExitCode.TESTS_FAILED


def test_foreign_target_is_judged_by_the_same_suite(run_suite, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from conformance.torch_side import twin\n"
        "class Scaled:\n"
        "    def __init__(self, config): self.side = twin('digits', config, 'cpu')\n"
        "    def taps(self, weights, images, given=None):\n"
        "        taps = self.side.taps(weights, images, given)\n"
        "        return taps | {'logits': 2 * taps['logits']}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    session = run_suite("--target", "mine:Scaled")

    assert session.ret == pytest.ExitCode.TESTS_FAILED
    assert "mine:Scaled differs in 1 case" in session.stdout.str()
    assert "logits alone: off by 1.0e+00 of its scale" in session.stdout.str()


def test_weights_of_ones_own_are_compared_instead_of_random_ones(run_suite, tmp_path):
    save(random_weights(preset("digits"), seed=5), tmp_path / "mine.safetensors")

    session = run_suite("--weights", str(tmp_path / "mine.safetensors"), "-k", "weights or float64")

    assert session.ret == pytest.ExitCode.OK
    assert "PASS  vit_flax is the same model" in session.stdout.str()


def test_crash_is_reported_as_a_crash_and_not_as_a_difference(run_suite, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def broken(config):\n    raise RuntimeError('no such kernel')\n")
    monkeypatch.syspath_prepend(tmp_path)

    session = run_suite("--target", "mine:broken")

    assert session.ret == pytest.ExitCode.TESTS_FAILED
    assert "crashed: RuntimeError: no such kernel" in session.stdout.str()


BAD_INPUT = (
    (["--reference", "timm:vit_tiny_patch16"], "did you mean timm:vit_tiny_patch16_224"),
    (["--reference", "twin:vit_b17"], "did you mean twin:vit_b16"),
    (["--target", "no_such_package.model:build"], "there is no module 'no_such_package'"),
    (["--target", "json:no_such_factory"], "module 'json' has no factory 'no_such_factory'"),
    (["--target", "json"], "is not of the form pkg.module:factory"),
    (["--plant", "the other GLU"], "did you mean the other GELU"),
    (["--data", "no/such/folder"], "no/such/folder does not exist"),
    (["--data", "empty"], "empty holds no images"),
    (["--weights", "w.npz"], "name the one --reference"),
    (["--weights", "none.npz", "--reference", "twin:article"], "no weight file none.npz"),
    (["--weights", "cut.npz", "--reference", "twin:article"], "cannot read weight file cut.npz"),
    (["--weights", "foreign.npz", "--reference", "twin:article"], "foreign.npz: no key of any known layout"),
    (["--gpu"], "no GPU is visible to JAX"),
)


@pytest.mark.parametrize(("arguments", "sentence"), BAD_INPUT, ids=[" ".join(arguments) for arguments, _ in BAD_INPUT])
def test_bad_input_is_one_sentence_before_any_test_runs(arguments, sentence, pytester, monkeypatch):
    monkeypatch.delenv("VIT_DATA", raising=False)
    pytester.mkdir("empty")
    pytester.path.joinpath("cut.npz").write_bytes(b"PK\x03\x04 and then nothing")
    pytester.makepyfile(test_nothing="def test_nothing(): pass")

    np.savez(pytester.path / "foreign.npz", x=np.zeros(3))

    session = pytester.runpytest_inprocess("-p", "conformance.plugin", *arguments)

    assert session.ret == pytest.ExitCode.USAGE_ERROR
    session.stderr.fnmatch_lines([f"*{sentence.replace('[', '[[]')}*"])
    assert "passed" not in session.stdout.str()


JAX_SETTINGS = """
def test_settings(pytestconfig):
    import jax
    assert jax.config.jax_compilation_cache_dir == {cache!r}
    assert (len(jax.devices()), jax.default_backend()) == (2, "cpu")
"""


@pytest.mark.parametrize(("first", "chosen"), [("", "theirs"), ("import jax", None)])
def test_jax_keeps_what_it_compiles_and_has_two_devices(first, chosen, pytester, monkeypatch):
    for name in ("COMPILATION_CACHE_DIR", "NUM_CPU_DEVICES", "PLATFORMS"):
        monkeypatch.delenv(f"JAX_{name}", raising=False)
    if chosen:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makeconftest(first)
    cache = chosen or str(pytester.path / ".pytest_cache" / "d" / "jax")
    pytester.makepyfile(JAX_SETTINGS.format(cache=cache))

    assert pytester.runpytest_subprocess("-p", "conformance.plugin").ret == pytest.ExitCode.OK


def test_ordinary_skips_are_not_called_blocked():
    class Skipped:
        skipped = True
        longrepr = ("file", 1, "Skipped: no such thing")

    assert pytest_report_teststatus(Skipped()) is None
