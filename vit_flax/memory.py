"""Memory that a process keeps for its next step, on large pages."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h
MADV_HUGEPAGE, LARGE_PAGE = 14, 2**21  # mman.h; bytes


def keep_memory() -> bool:
    """glibc keeps what is freed, and hands it out again; elsewhere nothing happens. Says whether it was set.

    XLA on CPUs takes its memory anew for each step and frees it after. By default glibc returns large blocks to the
    kernel, which then maps and clears every page again: a quarter of the time of a step; and small pages cost as much
    again (docs/performance.md). Call it before threads are started: those that have a heap of their own keep that.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    kept = [libc.mallopt(*option) for option in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1))]
    return all(kept) and _on_large_pages(libc)


def hand_back() -> None:
    """What is kept and not in use goes back to the kernel, this once: before something that needs other sizes."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        _on_large_pages(libc)  # the heap has shrunk, and grows again without the mark


def _on_large_pages(libc: ctypes.CDLL) -> bool:
    """Half as much as the machine has is taken once, untouched, so that the heap that it stays in can be marked."""
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    block = libc.malloc(size)
    if block is None:  # the process may not have so much
        return False
    start = -(-block // LARGE_PAGE) * LARGE_PAGE
    marked = libc.madvise(start, (block + size - start) // LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE)
    libc.free(block)
    return bool(marked == 0)
