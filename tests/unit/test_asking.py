"""A target that goes wrong while it is asked: told in a sentence, and never taken for something else."""

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import numpy as np
import pytest

from conformance.asking import CannotBuild, CannotRun, Crash, Late, asked, no_exit, warnings_stay_warnings, within


class Side:
    def __init__(self, act):
        self.act = act

    def taps(self):
        return self.act()


def ask(act):
    return asked(lambda config: Side(act), set())(None).taps()


def raising(error):
    def act():
        raise error

    return act


def test_an_answer_is_handed_on_and_what_a_side_lacks_it_lacks():
    answer = {"logits": np.zeros(2)}
    assert ask(lambda: answer) is answer
    assert not hasattr(asked(lambda config: Side(None), set())(None), "gradients")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no"),
        KeyError("x"),
        ValueError("shape"),
        SystemExit(0),
        MemoryError(),
        pytest.exit.Exception("bye"),
    ],
)
def test_whatever_a_target_raises_is_a_crash_of_the_target(error):
    with pytest.raises(Crash, match=type(error).__name__):
        ask(raising(error))


REFUSALS = (
    NotImplementedError("no half here"),
    RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'"),
    TypeError("can't convert np.ndarray of type ml_dtypes.bfloat16. The only supported types are: float64"),
    type("JaxRuntimeError", (RuntimeError,), {})("UNIMPLEMENTED: dot on this backend"),
)


@pytest.mark.parametrize("error", REFUSALS)
def test_what_a_target_has_not_got_it_cannot_run(error):
    with pytest.raises(CannotRun, match=r"half here|Half|bfloat16|UNIMPLEMENTED"):
        ask(raising(error))


def test_a_factory_that_refuses_a_config_declares_and_one_that_raises_crashes():
    def build(error):
        return asked(lambda config: raising(error)(), set())

    with pytest.raises(CannotBuild, match="square images only"):
        build(ValueError("square images only"))(None)
    with pytest.raises(Crash, match="no such kernel"):
        build(RuntimeError("no such kernel"))(None)


ANSWERS = (None, [1.0], {"logits": [1.0]}, {7: np.zeros(2)})


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_an_answer_that_is_no_dict_of_arrays_is_the_targets_crash(answer):
    with pytest.raises(Crash, match=r"TypeError: taps returned \w+") as crash:
        ask(lambda: answer)

    assert "asking.py" not in str(crash.value)


def test_control_c_is_nobodys_crash():
    with pytest.raises(KeyboardInterrupt):
        ask(raising(KeyboardInterrupt()))


def test_a_crash_names_the_users_last_line_and_no_librarys(tmp_path, monkeypatch):
    (tmp_path / "users.py").write_text("import numpy as np\ndef taps():\n    return np.concatenate([1, 2])\n")
    monkeypatch.syspath_prepend(tmp_path)
    from users import taps

    with pytest.raises(Crash) as crash:
        ask(taps)

    assert str(crash.value).endswith("users.py:3, in taps)")
    assert "in concatenate" not in str(crash.value)
    assert "users.py" in crash.value.trace


def test_a_crash_is_one_printable_line():
    with pytest.raises(Crash) as crash:
        ask(raising(RuntimeError("red: \x1b[31m\nhalf: \ud800")))

    assert str(crash.value).startswith("RuntimeError: red: \\x1b[31m\\nhalf: \\ud800 (")
    assert str(crash.value).isprintable()
    assert crash.value.trace.replace("\n", "").isprintable()


def test_a_target_cannot_end_the_session():
    with no_exit(), pytest.raises(Crash, match=r"os._exit\(0\)"):
        ask(lambda: os._exit(0))


ENDS = {
    "a process that the target forked": (
        7,
        """
        with no_exit():
            child = os.fork()
            if child == 0:
                os._exit(7)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        raise SystemExit(status)
    """,
    ),
    "this process after the climb": (
        5,
        """
        with no_exit():
            pass
        os._exit(5)
    """,
    ),
}


@pytest.mark.parametrize(("status", "program"), ENDS.values(), ids=ENDS)
def test_may_end_itself(status, program):
    program = textwrap.dedent("        import os\n        from conformance.asking import no_exit" + program)
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == status


def test_a_thread_that_is_still_asking_cannot_end_the_session_later():
    asking, raised = threading.Event(), []

    def act():
        asking.wait()
        os._exit(0)

    def work():
        try:
            ask(act)
        except Crash as crash:
            raised.append(str(crash))

    with no_exit():
        thread = threading.Thread(target=work)
        thread.start()
    asking.set()
    thread.join()

    assert raised[0].startswith("Exited: os._exit(0)")


def test_a_targets_warning_stays_a_warning_and_is_shown():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("error")
        with warnings_stay_warnings():
            warnings.warn("old", DeprecationWarning, stacklevel=1)
        with pytest.raises(DeprecationWarning):
            warnings.warn("ours", DeprecationWarning, stacklevel=1)

    assert [str(warning.message) for warning in shown] == ["old"]


def test_time_is_up_even_for_a_target_that_catches_everything():
    def stubborn():
        while True:
            with contextlib.suppress(Exception):
                time.sleep(10)

    with pytest.raises(Late, match=r"0.05 s"), within(0.05):
        ask(stubborn)


def test_what_is_done_in_time_is_left_alone():
    with within(0.05):
        pass
    time.sleep(0.1)
    with within(None):
        pass


def test_what_has_not_been_answered_is_known_while_it_is_asked():
    unanswered, during = set(), []
    side = asked(lambda config: Side(lambda: during.append(len(unanswered)) or {}), unanswered)(None)

    side.taps()

    assert (during, unanswered) == ([1], set())


def test_what_time_ran_out_for_stays_unanswered():
    unanswered = set()
    side = asked(lambda config: Side(lambda: time.sleep(10)), unanswered)(None)

    with pytest.raises(Late), within(0.05):
        side.taps()

    assert len(unanswered) == 1
