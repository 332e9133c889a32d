"""Freed memory is kept, on large pages: few are mapped the first time, and none the second."""

import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vit_flax import memory

PROGRAM = """
import resource, sys
from vit_flax.memory import keep_memory
if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
kept = sys.argv[1] != "default" and keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b'1') * 2**27
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(kept, faults(), faults())
"""
PAGES = 2**27 / resource.getpagesize()
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone has these switches")


def faults(mode):
    """Whether memory is kept, and how many pages were mapped for 128 MiB the first time and the second."""
    command = [sys.executable, "-c", PROGRAM, mode]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return said[0] == "True", int(said[1]), int(said[2])


@on_glibc
def test_memory_is_kept_and_would_not_be_otherwise():
    assert faults("keep")[2] < PAGES / 10
    assert faults("default")[2] > PAGES / 2


@on_glibc
@pytest.mark.skipif(
    not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(), reason="the kernel has no large pages for us"
)
def test_pages_are_large():
    assert faults("keep")[1] < PAGES / 10
    assert faults("default")[1] > PAGES / 2


@on_glibc
def test_a_process_that_may_not_have_so_much_goes_on_without():
    kept, _, again = faults("limited")
    assert not kept
    assert again < PAGES / 10


HANDING_BACK = """
import sys
from vit_flax.memory import hand_back, keep_memory
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
keep_memory()
between = []
for _ in range(4):
    unused = bytearray(b'1') * 2**26
    between.append(bytearray(2**20))
    between.append(unused)
full = resident()
del between[1::2], unused
kept = resident()
hand_back()
print(full, kept, resident())
"""


@on_glibc
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nothing tells how much is resident")
def test_what_lies_between_is_kept_until_it_is_handed_back():
    said = subprocess.run([sys.executable, "-c", HANDING_BACK], capture_output=True, text=True, check=True).stdout
    full, kept, handed_back = map(int, said.split())
    freed = 4 * 2**16  # kB
    assert full - kept < freed / 10
    assert full - handed_back > freed * 0.9


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not memory.keep_memory()
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # a call would raise
    memory.hand_back()
