"""Several processes: a case stays in one of them, what they find is merged rung by rung, and a death is told."""

import types

import pytest

from conformance.cases import Case, cases_for
from conformance.catalogue import FAULTS
from conformance.ladder import Outcome
from conformance.processes import packed, place_of, scheduler, unpacked
from conformance.session import WORSE, News, Session

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.suite

CASES = ["digits-twin-8x8-depth1", "digits-twin-8x8-depth12", "article-twin-32x48-depth12"]
PLACES = (
    ("conformance/test_loss.py::test_rule[digits-twin-8x8-depth1-loss]", ("digits-twin-8x8-depth1", "loss")),
    ("test_x.py::Test::test_y[digits-twin-8x8-depth12-float32]", ("digits-twin-8x8-depth12", "float32")),
    (
        "/lib/conformance/test_x.py::test_y[trajectory float32-article-twin-32x48-depth12]",
        ("article-twin-32x48-depth12", "trajectory float32"),
    ),
    (
        "test_x.py::test_y[mine-digits-twin-8x8-depth1-gradients float64-7]",
        ("digits-twin-8x8-depth1", "gradients float64"),
    ),
    ("tests/unit/test_x.py::test_y", None),
    ("tests/digits-twin-8x8-depth1/loss/test_x.py::test_y[a-b]", None),
    ("tests/unit/test_x.py::test_y[digits-twin-8x8-depth4-loss]", None),
    ("tests/unit/test_x.py::test_y[loss]", None),
)


@pytest.mark.parametrize(("nodeid", "place"), PLACES)
def test_case_and_rung_are_known_by_the_parameters_in_an_id_and_by_nothing_else(nodeid, place):
    assert place_of(nodeid, CASES) == place


def test_no_two_cases_of_the_main_job_have_one_name():
    names = [str(case) for case in cases_for(None)]
    assert len({*names}) == len(names)


class Node:
    """A worker as the scheduler sees it."""

    shutting_down = False

    def __init__(self):
        self.sent = []
        self.gateway = types.SimpleNamespace(id="gw")

    def send_runtest_some(self, indices):
        self.sent += indices

    def shutdown(self):
        self.shutting_down = True


IDS = [f"conformance/test_{rung}.py::test[{case}-{rung}]" for rung in ("loss", "metric") for case in CASES]


@pytest.fixture
def scheduled():
    return shared(IDS)


def shared(ids):
    """How two workers share tests out."""
    option = types.SimpleNamespace(loadscopereorder=False)
    config = types.SimpleNamespace(getvalue=lambda name: ["popen", "popen"], option=option)
    found, nodes = scheduler(config, None, CASES), (Node(), Node())
    for node in nodes:
        found.add_node(node)
    for node in nodes:
        found.add_node_collection(node, ids)
    found.schedule()
    return found, nodes


def test_every_rung_of_a_case_goes_to_one_process_whatever_file_it_is_in(scheduled):
    _, (first, second) = scheduled

    cases = [{place_of(IDS[index], CASES)[0] for index in node.sent} for node in (first, second)]
    assert not cases[0] & cases[1]
    assert {IDS[index] for index in first.sent} == {nodeid for nodeid in IDS if place_of(nodeid, CASES)[0] in cases[0]}


def test_the_faults_of_a_rung_go_to_one_process_and_those_of_all_to_both():
    planted = [f"conformance/test_faults.py::test_caught[{fault.name}]" for fault in FAULTS]
    rung_of = dict(zip(planted, (fault.rung for fault in FAULTS), strict=True))
    found, nodes = shared(planted)

    sent = [{rung_of[planted[index]] for index in node.sent} for node in nodes]
    assert all(sent)
    assert not sent[0] & sent[1]
    waiting = {rung_of[nodeid] for tests in found.workqueue.values() for nodeid in tests}
    assert sent[0] | sent[1] | waiting == {fault.rung for fault in FAULTS}


def test_what_a_process_died_of_is_given_to_no_other(scheduled):
    found, (first, second) = scheduled
    case = place_of(IDS[first.sent[0]], CASES)[0]

    crashed = found.remove_node(first)

    assert place_of(crashed, CASES)[0] == case
    assert all(place_of(IDS[index], CASES)[0] != case for index in second.sent)
    assert f"case {case}" not in found.workqueue


@pytest.fixture
def session():
    case = Case("twin:digits")
    config = types.SimpleNamespace(option=types.SimpleNamespace(report=None, collectonly=False))
    made = Session(config)
    made._ladder = types.SimpleNamespace(cases=[case], outcomes={case: {"loss": Outcome(), "metric": Outcome()}})
    return made, made._ladder.outcomes[case]


@pytest.mark.parametrize("worse", WORSE)
@pytest.mark.parametrize("better", WORSE)
def test_of_two_findings_of_a_rung_the_worse_is_kept_and_the_other_rung_left_alone(session, better, worse):
    if WORSE.index(better) > WORSE.index(worse):
        better, worse = worse, better
    made, outcomes = session
    for status in (worse, better):
        made.hear(unpacked(packed(News({("digits-twin-8x8-depth4", "loss"): Outcome(status)}, []))))

    assert outcomes["loss"].status == worse
    assert outcomes["metric"].status == "not run"


def test_news_is_told_once(session):
    made, outcomes = session
    outcomes["loss"].status = "pass"

    assert list(made.news().outcomes) == [("digits-twin-8x8-depth4", "loss")]
    assert made.news() is None


PLANT = ("--plant", "padding counted in the accuracy")


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_failure_is_a_failure_in_every_form_however_many_processes(suite, processes):
    arguments = [] if processes == 1 else ["-n", str(processes)]

    left = suite(*PLANT, *arguments, references=("article", "digits"))

    left.assert_that_all_agree()
    assert left.verdict == "fail"
    for case in (0, 1):
        statuses = {name: rung["status"] for name, rung in left.rungs(case).items()}
        assert statuses == {"weights": "pass", "loss": "pass", "metric": "fail"}


@pytest.mark.parametrize(("selected", "verdict"), [("test_", "pass"), ("test_loss", "incomplete")])
def test_two_processes_pass_what_is_whole_and_nothing_else(suite, selected, verdict):
    left = suite("-n", "2", "-k", selected, references=("article", "digits"))

    left.assert_that_all_agree()
    assert left.verdict == verdict


DIES = """
import os
from conformance.flax_side import FlaxSide

class Mine(FlaxSide):
    def loss(self, *arguments):
        if self.config.channels == 1:
            os.kill(os.getpid(), 9)
        return super().loss(*arguments)
"""


def test_a_process_that_dies_takes_its_case_with_it_and_is_not_started_again(suite):
    left = suite("-n", "2", target=DIES, references=("digits", "article"))

    left.assert_that_all_agree()
    assert left.verdict == "incomplete"
    digits, article = left.report["cases"]
    assert (digits["verdict"], digits["detail"]) == ("incomplete", "the process that climbed loss died")
    statuses = [rung["status"] for rung in left.rungs(0).values()]
    assert statuses == ["pass", "not run", "not run"]  # one process had all of it, and no other went on
    assert article["verdict"] == "the same"
    assert left.out.count("node down") == 1
