"""Whole sessions in one process: what is planned, what comes of it, and one verdict in every form of it."""

import pytest

pytest_plugins = ["pytester"]

SOUND = """
from conformance.flax_side import FlaxSide

class Mine(FlaxSide):
    pass
"""
# One method of a target that is otherwise sound.
WITH = """
import os, time, warnings
from conformance.flax_side import FlaxSide

class Mine(FlaxSide):
    {method}
"""


def mine(method):
    return WITH.format(method=method)


def test_a_sound_target_passes_in_every_form(suite):
    left = suite(target=SOUND)

    left.assert_that_all_agree()
    assert left.verdict == "pass"
    assert {name: rung["status"] for name, rung in left.rungs().items()} == dict.fromkeys(
        ("weights", "loss", "metric"), "pass"
    )
    assert "digits against twin:digits: not verified" not in left.out


def test_a_failing_rung_fails_in_every_form(suite):
    left = suite("--plant", "padding counted in the accuracy")

    left.assert_that_all_agree()
    assert left.verdict == "fail"
    assert left.report["cases"][0]["verdict"] == "differs"
    assert "digits against twin:digits: differs" in left.out


def test_a_passing_selection_is_incomplete_in_every_form(suite):
    left = suite("-k", "test_metric")

    left.assert_that_all_agree()
    assert left.verdict == "incomplete"
    assert {name: rung["status"] for name, rung in left.rungs().items()} == {
        "weights": "not run",
        "loss": "not run",
        "metric": "pass",
    }
    assert "INCOMPLETE  what was run holds: 1 of 3 rungs" in left.out
    assert "2 of 3 rungs not run" in left.page


def test_the_first_failure_may_stop_the_session_and_the_rest_is_not_run(suite):
    left = suite("-x", target=mine("def held(self, weights): return dict(super().held(weights), **{'head/bias': 0})"))

    assert left.rungs()["metric"]["status"] == "not run"
    left.assert_that_all_agree()


def test_control_c_leaves_the_rung_not_run_and_the_session_incomplete(suite):
    left = suite(target=mine("def loss(self, *arguments): raise KeyboardInterrupt"))

    left.assert_that_all_agree()
    assert left.verdict == "incomplete"
    assert [rung["status"] for rung in left.rungs().values()] == ["pass", "not run", "not run"]
    assert "differs" not in left.out


def test_a_failing_test_that_is_no_rung_is_told_and_fails_in_every_form(suite, tmp_path):
    (tmp_path / "test_other.py").write_text("def test_other():\n    assert False\n")

    left = suite(str(tmp_path / "test_other.py"))

    left.assert_that_all_agree()
    assert left.verdict == "fail"
    assert left.report["failed_elsewhere"][0].endswith("::test_other")
    assert "1 other test of this session failed" in left.report["headline"]
    assert left.report["cases"][0]["verdict"] == "the same"


def test_a_session_that_verified_nothing_has_not_passed(suite):
    left = suite(
        rungs="loss",
        target="class Mine:\n    def __init__(self, config): pass\n    def taps(self, *arguments): raise SystemError\n",
    )

    left.assert_that_all_agree()
    assert left.verdict == "incomplete"
    assert left.report["cases"][0]["verdict"] == "not verified"


def test_a_target_that_cannot_be_built_for_the_config_is_no_failure_and_no_pass(suite):
    left = suite(target="def Mine(config):\n    raise ValueError('square images only')\n")

    left.assert_that_all_agree()
    assert left.verdict == "incomplete"
    assert left.report["cases"][0]["verdict"] == "cannot be built for this config"
    assert "cannot be built for this config: square images only" in left.out


def test_a_case_that_cannot_be_built_stands_beside_one_that_passes(suite):
    target = mine(
        "def __init__(self, config):\n"
        "        if config.channels == 1: raise ValueError('colour only')\n"
        "        super().__init__(config)"
    )

    left = suite(target=target, references=("digits", "article"))

    left.assert_that_all_agree()
    assert left.verdict == "pass"
    words = {case["subject"]: case["verdict"] for case in left.report["cases"]}
    assert words == {"digits": "cannot be built for this config", "article": "the same"}


REFUSALS = ("NotImplementedError('later')", "RuntimeError('gelu not implemented for Half')")


@pytest.mark.parametrize("error", REFUSALS)
def test_a_rung_that_a_target_cannot_run_is_not_verified(suite, error):
    left = suite(target=mine(f"def loss(self, *arguments): raise {error}"))

    left.assert_that_all_agree()
    assert left.verdict == "pass"
    assert left.rungs()["loss"]["status"] == "not verified"
    assert left.rungs()["loss"]["headline"].startswith("the target cannot run this: ")


def test_a_target_whose_loss_takes_no_bfloat16_is_judged_by_the_others(suite):
    through_torch = "__import__('torch').tensor(logits).numpy()"
    refusing = f"def loss(self, logits, *arguments): return super().loss({through_torch}, *arguments)"
    left = suite(target=mine(refusing), rungs="loss,loss bfloat16")

    left.assert_that_all_agree()
    assert left.verdict == "pass"
    assert {name: left.rungs()[name]["status"] for name in ("loss", "loss bfloat16")} == {
        "loss": "pass",
        "loss bfloat16": "not verified",
    }
    assert left.rungs()["loss bfloat16"]["headline"].startswith("the target cannot run in this precision: ")


BROKEN = r"""
from conformance.flax_side import FlaxSide

class Mine(FlaxSide):
    def broken(self, *arguments):
        raise RuntimeError('\x1b[31mno such\nkernel')

    held = loss = accuracy = broken
"""


def test_a_crash_is_told_once_with_the_users_own_line(suite):
    left = suite(target=BROKEN)

    left.assert_that_all_agree()
    assert left.report["cases"][0]["verdict"] == "crashed"
    headline = left.rungs()["weights"]["headline"]
    assert headline.startswith("crashed: RuntimeError: \\x1b[31mno such\\nkernel (")
    assert headline.endswith("mine.py:6, in broken)")
    assert [rung["status"] for rung in left.rungs().values()] == ["fail", "blocked", "blocked"]
    assert "traceback of the crash" in left.out
    assert "\x1b" not in left.out


def test_a_factory_that_crashes_is_asked_once(suite):
    left = suite(target="def Mine(config):\n    raise RuntimeError('no such kernel')\n")

    left.assert_that_all_agree()
    assert [rung["status"] for rung in left.rungs().values()] == ["fail", "blocked", "blocked"]
    assert left.rungs()["weights"]["headline"].endswith("mine.py:2, in Mine)")


def test_our_own_crash_is_called_ours(suite, monkeypatch):
    from conformance.torch_side import TorchSide

    def held(self, weights):
        raise RuntimeError("the twin broke")

    monkeypatch.setattr(TorchSide, "held", held)

    left = suite()

    left.assert_that_all_agree()
    assert left.rungs()["weights"]["headline"].startswith("the suite itself crashed, not the target: RuntimeError")


def test_a_target_that_ends_the_process_has_crashed(suite):
    left = suite(target=mine("def held(self, weights): os._exit(0)"))

    left.assert_that_all_agree()
    assert left.report["cases"][0]["verdict"] == "crashed"
    assert "os._exit(0)" in left.rungs()["weights"]["headline"]


@pytest.mark.parametrize("rung", ["float64", "loss"])
def test_a_target_that_hangs_is_told_as_such_and_the_next_case_is_climbed(suite, rung):
    hangs = "taps" if rung == "float64" else "loss"
    target = mine(
        f"def {hangs}(self, *arguments, **named):\n"
        "        if self.config.channels == 1: time.sleep(1000)\n"
        f"        return super().{hangs}(*arguments, **named)"
    )

    left = suite("--timeout", "15", target=target, rungs=f"{rung},metric", references=("digits", "article"))

    left.assert_that_all_agree()
    digits, article = left.report["cases"]
    assert digits["verdict"] == "crashed"
    assert left.rungs()[rung]["headline"] == "crashed: the target did not answer within 15 s"
    assert left.rungs()["metric"]["blocked_by"] == rung
    assert article["verdict"] == "the same"


def test_a_rung_that_is_late_though_the_target_has_answered_is_not_held_against_it(suite, monkeypatch):
    import time

    from conformance.torch_side import TorchSide

    monkeypatch.setattr(TorchSide, "held", lambda side, weights: time.sleep(1000))

    left = suite("--timeout", "10", rungs="weights")

    left.assert_that_all_agree()
    assert left.verdict == "incomplete"
    assert left.report["cases"][0]["detail"] == "not finished within 10 s, though the target had answered"


def test_warnings_of_a_target_are_shown_and_end_nothing(suite):
    method = """def held(self, weights):
        warnings.warn('called', DeprecationWarning)
        return super().held(weights)"""
    target = "import warnings\nwarnings.warn('imported', DeprecationWarning)\n" + mine(method)

    left = suite(target=target)

    left.assert_that_all_agree()
    assert left.verdict == "pass"
    assert "DeprecationWarning: called" in left.out


def test_our_own_warnings_are_errors_still(suite, monkeypatch):
    import warnings

    from conformance.flax_side import FlaxSide

    def held(self, weights):
        warnings.warn("ours", DeprecationWarning, stacklevel=1)
        return weights

    monkeypatch.setattr(FlaxSide, "held", held)

    assert "DeprecationWarning: ours" in suite().rungs()["weights"]["headline"]


def test_a_target_killed_with_its_process_leaves_a_report_that_is_incomplete(suite):
    left = suite(target=mine("def held(self, weights): os.kill(os.getpid(), 9)"), apart=True)

    assert left.exit_status not in (0, 1)
    assert left.verdict == "incomplete"
    assert {rung["status"] for rung in left.rungs().values()} == {"not run"}
    assert "incomplete</p>" in left.page
