"""A thread for which nobody waits."""

import subprocess
import sys
import threading
import time
import weakref

import pytest

from conformance.beside import Beside


def test_calls_are_made_one_after_another_and_answer():
    seen = []
    with Beside() as beside:
        first = beside.submit(lambda: (time.sleep(0.05), seen.append(1)))
        second = beside.submit(lambda x: seen.append(x), x=2)
        second.result()

    assert first.done()
    assert seen == [1, 2]


def test_an_error_is_raised_where_the_answer_is_wanted():
    with Beside() as beside:
        answer = beside.submit(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            answer.result()


def test_an_answer_lets_go_of_what_was_called():
    class Side:
        def taps(self):
            begin.wait(10)

    side, begin, held = Side(), threading.Event(), []
    seen = weakref.ref(side)
    with Beside() as beside:
        answer = beside.submit(side.taps)
        answer.add_done_callback(lambda _: held.append(seen()))  # called by the thread itself, as it answers
        del side
        begin.set()
        answer.result(10)

    assert held == [None]


def test_leaving_waits_for_nothing_and_starts_nothing_more():
    hangs, started = threading.Event(), []
    start = time.monotonic()
    with Beside() as beside:
        beside.submit(hangs.wait)
        beside.submit(started.append, "more")
    left = time.monotonic() - start
    hangs.set()
    time.sleep(0.05)

    assert left < 1
    assert started == []


def test_python_ends_though_a_call_never_does():
    program = "import time; from conformance.beside import Beside\nwith Beside() as b: b.submit(time.sleep, 1000)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
