"""Freed memory is kept: the second time, no page is mapped anew."""

import platform
import subprocess
import sys

import pytest

from vit_flax import memory

PROGRAM = """
import resource, sys
import numpy as np
from vit_flax.memory import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**27, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def second_time(mode):
    command = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone has these switches")
def test_memory_is_kept_and_would_not_be_otherwise():
    assert second_time("keep") < 2**27 / 4096 / 10
    assert second_time("default") > 10 * second_time("keep")


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not memory.keep_memory()
