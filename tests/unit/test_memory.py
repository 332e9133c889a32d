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


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not memory.keep_memory()
