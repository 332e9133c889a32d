"""From rungs to a word for each case and one verdict for the run, which claims no more than was seen to hold."""

import types

import pytest

from conformance.cases import Case
from conformance.compare import Diff
from conformance.ladder import Outcome
from conformance.verdicts import EXIT_STATUS, ROUNDING, WORDS, exit_status, headline, verdict, word

PASS, NOT_RUN = Outcome("pass"), Outcome()
LACKING = Outcome("not verified", headline="the target has no 'train'")
UNBUILT = Outcome("not verified", headline="cannot be built for this config: square only", reason="cannot be built")
UNRUN = Outcome("not verified", headline="cannot run in this precision: no Half", reason="cannot run")
FAIL = Outcome("fail", headline="loss alone: off", diffs=(Diff("loss", "alone", 1.0, None, 1e-12),))
CRASH = Outcome("fail", headline="crashed: KeyError: 'x' (mine.py:2, in taps)", reason="crashed")
NARROW = Outcome("fail", headline="limited by float32 inside: off by 7.4e-08", reason="float32 inside")
COARSE = Outcome("fail", headline="mlp alone: off", diffs=(Diff("mlp", "alone", 6e-7, 1e-7, 3e-7),))
OVERFLOW = Outcome("fail", headline="mlp: NaN", diffs=(Diff("mlp", "alone", float("inf"), None, 0.0, "NaN"),))
STRAYS = Outcome("fail", headline="step 09", diffs=(Diff("step 09/loss", "free", 4e-6, 1e-9, 2e-6),))
BLOCKED = Outcome("blocked", blocked_by="float64")


def ladder(**outcomes):
    return types.SimpleNamespace(name="mine", outcomes={Case("twin:digits"): outcomes})


RUNS = (
    ({"float64": PASS}, "pass", "mine is the same model as its references in 1 case"),
    (
        {"float64": PASS, "trajectory": PASS},
        "pass",
        "mine is the same model as its references in 1 case, and trains as they do in 1 case",
    ),
    (
        {"float64": PASS, "trajectory": LACKING},
        "pass",
        "mine is the same model as its references in 1 case; 1 rung not verified",
    ),
    ({"schedule": PASS}, "pass", "mine holds on 1 rung"),
    ({"float64": PASS, "loss": NOT_RUN}, "incomplete", "what was run holds: 1 of 2 rungs"),
    ({"float64": NOT_RUN, "loss": NOT_RUN}, "incomplete", "nothing was verified"),
    ({"trajectory": LACKING}, "incomplete", "nothing was verified; 1 rung not verified"),
    ({"float64": UNBUILT, "loss": UNBUILT}, "incomplete", "nothing was verified; 2 rungs not verified"),
    (
        {"float64": PASS, "loss": FAIL},
        "fail",
        "mine differs in 1 case; first digits-twin-8x8-depth4 at loss: loss alone: off",
    ),
    (
        {"loss": FAIL, "metric": NOT_RUN},
        "fail",
        "mine differs in 1 case; first digits-twin-8x8-depth4 at loss: loss alone: off; 1 rung not run",
    ),
    (
        {"loss": CRASH},
        "fail",
        "mine crashed in 1 case; first digits-twin-8x8-depth4 at loss: crashed: KeyError: 'x' (mine.py:2, in taps)",
    ),
)


@pytest.mark.parametrize(("outcomes", "expected", "said"), RUNS, ids=[said for _, _, said in RUNS])
def test_a_run_is_called_no_better_than_what_was_seen(outcomes, expected, said):
    assert verdict([outcomes]) == expected
    assert headline(ladder(**outcomes)) == said


def test_a_test_that_fails_elsewhere_in_the_session_is_a_failure():
    found = ladder(float64=PASS)

    assert verdict(found.outcomes.values(), ["tests/test_x.py::test_y"]) == "fail"
    said = headline(found, ["tests/test_x.py::test_y"], exit_status=1)
    assert (
        said
        == "what was run holds: 1 of 1 rung, but 1 other test of this session failed, first tests/test_x.py::test_y"
    )


@pytest.mark.parametrize("pytests", [1, 2, 3, 4, 5])
def test_no_run_passes_that_pytest_does_not_pass(pytests):
    assert verdict([{"float64": PASS}], exit_status=pytests) == "incomplete"
    assert exit_status(verdict([{"float64": PASS}], exit_status=pytests), pytests) != 0


@pytest.mark.parametrize("pytests", range(6))
def test_the_exit_status_is_that_of_the_verdict_or_says_that_there_was_no_session(pytests):
    for outcomes in ({"loss": FAIL}, {"loss": NOT_RUN}, {"loss": PASS}):
        said = verdict([outcomes], exit_status=pytests)
        assert exit_status(said, pytests) == (pytests if pytests > 2 else EXIT_STATUS[said])
    assert EXIT_STATUS == {"pass": 0, "fail": 1, "incomplete": 2}


OF_CASES = (
    ({"float64": PASS, "loss": PASS}, "the same", None),
    ({"float64": PASS, "loss": LACKING}, "the same", None),
    ({"float64": PASS, "randomness": UNBUILT}, "the same", None),
    ({"float64": PASS, "float16": UNRUN}, "the same", None),
    (
        {"float64": PASS, "float32": COARSE},
        "the same maths but rounds worse",
        "at worst 6 times what must be granted, where 3 is allowed, in float32 at mlp alone",
    ),
    (
        {"float64": PASS, "trajectory float32": STRAYS},
        "the same maths but rounds worse",
        "at worst 2 times the limit, in trajectory float32 at step 09/loss free",
    ),
    ({"float64": PASS, "float16": OVERFLOW}, "differs", "mlp: NaN"),
    ({"float64": PASS, "float32": COARSE, "loss": FAIL}, "differs", "mlp alone: off"),
    ({"float64": NOT_RUN, "float32": COARSE}, "differs", "mlp alone: off"),
    ({"float64": NARROW, "float32": BLOCKED}, "limited by float32 inside", "limited by float32 inside: off by 7.4e-08"),
    ({"float64": NARROW, "loss": FAIL}, "differs", "limited by float32 inside: off by 7.4e-08"),
    ({"float64": FAIL, "loss": PASS}, "differs", "loss alone: off"),
    ({"float64": CRASH, "loss": FAIL}, "crashed", "crashed: KeyError: 'x' (mine.py:2, in taps)"),
    ({"float64": UNBUILT, "loss": UNBUILT}, "cannot be built for this config", UNBUILT.headline),
    ({"float64": UNRUN, "loss": PASS}, "cannot run in this precision", UNRUN.headline),
    ({"float64": PASS, "loss": NOT_RUN}, "incomplete", "1 of 2 rungs not run"),
    ({"float64": PASS, "loss": Outcome(headline="the process died")}, "incomplete", "the process died"),
    ({"loss": LACKING}, "not verified", None),
)


@pytest.mark.parametrize(("outcomes", "said", "detail"), OF_CASES)
def test_a_case_gets_the_word_for_what_was_found(outcomes, said, detail):
    assert word(outcomes) == (said, detail)


def test_there_is_a_case_for_every_word():
    assert {said for _, said, _ in OF_CASES} == set(WORDS)


def test_rounding_is_judged_on_every_rung_that_is_not_in_float64():
    assert set(ROUNDING) == {
        "float32", "float32 default", "float32 offset", "bfloat16", "float16", "loss bfloat16",
        "gradients float32", "gradients bfloat16", "trajectory float32",
    }  # fmt: skip
