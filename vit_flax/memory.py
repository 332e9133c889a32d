"""Memory that a process keeps for its next step."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_memory() -> bool:
    """glibc keeps what is freed, and hands it out again; elsewhere nothing happens. Says whether it was set.

    XLA on CPUs takes its memory anew for each step and frees it after. By default glibc returns large blocks to the
    kernel, which then maps and clears every page again: a quarter of the time of a step (docs/performance.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, -1))
