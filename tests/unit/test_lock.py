"""A folder is written to by one process at a time, and whoever comes second is told who came first."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from vit_flax.lock import LOCK, LockError, locked

HOLD = """
import sys, time
from pathlib import Path
from vit_flax.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_another_process_is_named(tmp_path, holder):
    who = f"process {holder.pid} on {re.escape(socket.gethostname())}"
    since = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"
    with pytest.raises(LockError, match=f"^{tmp_path} is in use by {who} since {since}: wait"), locked(tmp_path):
        pytest.fail("locked twice")


@pytest.mark.parametrize("end", (signal.SIGKILL, signal.SIGTERM), ids=lambda end: end.name)
def test_a_lock_ends_with_its_process(tmp_path, holder, end):
    holder.send_signal(end)
    holder.wait()
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()


def test_a_lock_holds_within_a_process_too_and_ends_with_its_context(tmp_path):
    with locked(tmp_path), pytest.raises(LockError, match=f"process {os.getpid()} "), locked(tmp_path):
        pytest.fail("locked twice")
    with locked(tmp_path):
        pass


def test_a_holder_that_has_not_yet_written_its_name_is_another_process(tmp_path):
    with locked(tmp_path):
        (tmp_path / LOCK).write_text("")
        with pytest.raises(LockError, match="is in use by another process: wait"), locked(tmp_path):
            pytest.fail("locked twice")
