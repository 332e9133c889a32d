"""The suite as its users meet it: a whole session, run by pytest inside pytest."""

from pathlib import Path

import numpy as np
import pytest

from conformance.plugin import pytest_report_teststatus
from conformance.rungs import PRECISIONS
from conformance.weights import random_weights
from vit_flax import preset
from vit_flax.weight_files import save

ROOT = Path(__file__).parents[2]

pytest_plugins = ["pytester"]

# A forward pass of its own for each, but on the smallest model.
FORWARD = ",".join(("weights", *PRECISIONS, "float32 offset"))


def test_planted_fault_fails_the_suite_names_the_block_and_blocks_higher_rungs(suite):
    left = suite("--plant", "the other GELU", rungs=FORWARD)

    rungs = left.rungs()
    left.assert_that_all_agree()
    assert left.verdict == "fail"
    assert rungs["weights"]["status"] == "pass"
    assert rungs["float64"]["headline"].startswith("encoder/00/mlp alone: ")
    assert [cause["name"] for cause in rungs["float64"]["diagnosis"]["causes"]] == ["the other GELU"]
    assert (rungs["float32"]["status"], rungs["float32"]["blocked_by"]) == ("blocked", "float64")
    assert "test_every_mlp_matches" in left.out
    assert "FAILED conformance/test_attention.py" not in left.out
    assert " blocked" in left.out.splitlines()[-1]


FOREIGN = """
from conformance.torch_side import twin

class Mine:
    def __init__(self, config):
        self.side = twin('digits', config, 'cpu')

    def taps(self, weights, images, given=None):
        taps = self.side.taps(weights, images, given)
        return taps | {'logits': 2 * taps['logits']}
"""


def test_foreign_target_is_judged_by_the_same_suite(suite):
    left = suite(target=FOREIGN, rungs="weights,float64")

    left.assert_that_all_agree()
    assert left.rungs()["weights"]["headline"] == "the target has no 'held'"
    assert left.report["headline"].startswith("mine:Mine differs in 1 case; first digits-twin-8x8-depth1 at float64: ")
    assert "logits alone: off by 1.0e+00 of its scale" in left.out


def test_weights_of_ones_own_are_compared_instead_of_random_ones(suite, tmp_path):
    save(random_weights(preset("digits").replace(num_layers=1), seed=5), tmp_path / "mine.safetensors")

    left = suite("--weights", str(tmp_path / "mine.safetensors"), rungs="weights,float64")

    left.assert_that_all_agree()
    assert left.report["headline"] == "vit_flax is the same model as its references in 1 case"


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
    (["--target", "broken:build"], "target 'broken:build' cannot be imported: KeyError: 'no such key'"),
    (["--target", "broken:build"], "broken.py:3, in "),
    (["--target", "leaves:build"], "target 'leaves:build' cannot be imported: Exited: os._exit(0)"),
    (["--timeout", "0", "--reference", "twin:digits"], "--timeout 0: a number of seconds, more than none"),
    (["--report", "cut.npz/report"], "--report cut.npz/report: cannot write there: Not a directory"),
    (["--report", "taken"], "--report taken: cannot write there: report.json is a folder"),
    (["--gpu"], "no GPU is visible to JAX"),
)


@pytest.mark.parametrize(("arguments", "sentence"), BAD_INPUT, ids=[" ".join(arguments) for arguments, _ in BAD_INPUT])
def test_bad_input_is_one_sentence_before_any_test_runs(arguments, sentence, pytester, monkeypatch):
    monkeypatch.delenv("VIT_DATA", raising=False)
    pytester.mkdir("empty")
    pytester.path.joinpath("cut.npz").write_bytes(b"PK\x03\x04 and then nothing")
    pytester.makepyfile(test_nothing="def test_nothing(): pass")
    pytester.makepyfile(broken="import os\n\nraise KeyError('no such key')", leaves="import os; os._exit(0)")
    pytester.syspathinsert()
    pytester.mkdir("taken").joinpath("report.json").mkdir()

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
        longrepr = ("file", 1, "Skipped: this was never blocked by anything")

    assert pytest_report_teststatus(Skipped()) is None
