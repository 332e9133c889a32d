"""Ctrl-C and SIGTERM stop a training between two steps, in a sentence; given twice, at once."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from vit_flax.interrupt import interruptible

PATIENCE = 300  # seconds, for a machine that has other things to do
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TRAIN = """
import sys
from vit_flax.cli import main
from vit_flax.config import PRESETS
PRESETS["digits"] = PRESETS["digits"].replace(num_layers=1)
sys.exit(main(["train", "--epochs", "500", "--out", sys.argv[1]]))
"""
BUSY = """
import hashlib
from vit_flax.interrupt import interruptible
with interruptible(lambda: print("first", flush=True)):
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # in C, as XLA: no handler of Python's is called meanwhile
"""


def wait_for(condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_is_announced_once_and_then_there_to_be_asked_for(number):
    heard = []
    with interruptible(lambda: heard.append(number)) as came:
        assert not came
        os.kill(os.getpid(), number)
        wait_for(lambda: heard)
        assert came
        assert came.status == 128 + number
    assert heard == [number]


def test_other_signals_change_nothing():
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    with interruptible(lambda: pytest.fail("heard")) as came:
        os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, before)
    assert not came


def test_afterwards_all_is_as_it_was():
    handlers = [signal.getsignal(number) for number in SIGNALS]
    threads = threading.active_count()
    with interruptible(lambda: None):
        assert [signal.getsignal(number) for number in SIGNALS] != handlers
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert threading.active_count() == threads


def test_outside_the_main_thread_nothing_comes():
    found = []

    def elsewhere():
        with interruptible(lambda: None) as came:
            found.append(bool(came))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_second_one_ends_the_process_at_once_even_in_a_long_computation(number):
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "first\n"
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE) == 128 + number


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_training_keeps_its_state_and_says_how_to_go_on(tmp_path, number):
    out = tmp_path / "my run"
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(out)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_for(lambda: process.poll() is not None or [*out.glob("checkpoints/*0")])
            process.send_signal(number)
            printed, said = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    step = re.fullmatch(rf"stopped after step (\d+): to go on, run vit-flax train --resume --out '{out}'\n", printed)[1]
    assert (out / "checkpoints" / step).is_dir()
    assert "vit-flax: stopping after the steps under way (once more: at once)\n" in said
    assert "Traceback" not in said
