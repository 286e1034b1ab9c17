"""Settings of the C library's memory for training: freed memory is kept, in large pages."""

from __future__ import annotations

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # parameters of glibc's mallopt(3)
_MADV_HUGEPAGE = 14  # of Linux's madvise(2)
_PAGE = 1 << 12
RESERVED = 8 << 30  # bytes of address space; memory is used only where it is written


@functools.cache
def keep_freed_memory() -> bool:
    """Make the C library keep freed memory and use large pages for it; return whether it does.

    XLA on a CPU allocates the memory of all intermediate values again at each step. glibc maps blocks of that
    size from the system and unmaps them afterwards, so that every step clears all its pages
    again, four kilobytes at a time: a large part of a training step. With these settings they are kept
    in one region with large pages. This applies to the whole process, so commands call it
    before JAX's first operation, and no import does.
    """
    if not sys.platform.startswith("linux"):
        return False
    c = ctypes.CDLL(None, use_errno=True)
    if not hasattr(c, "mallopt") or not hasattr(c, "madvise"):  # another C library
        return False
    largest = 2**31 - 1
    kept = [c.mallopt(_MMAP_MAX, 0), c.mallopt(_TRIM_THRESHOLD, largest), c.mallopt(_ARENA_MAX, 1)]
    return all(kept) and _in_large_pages(c, RESERVED)


def _in_large_pages(c: ctypes.CDLL, size: int) -> bool:
    """Let the heap grow by ``size`` bytes and ask for large pages there."""
    c.malloc.restype, c.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    c.free.restype, c.free.argtypes = None, [ctypes.c_void_p]
    c.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    region = c.malloc(size)
    if not region:
        return size > (1 << 30) and _in_large_pages(c, size // 2)
    first = -(-region // _PAGE) * _PAGE
    done = c.madvise(first, (region + size - first) // _PAGE * _PAGE, _MADV_HUGEPAGE)
    c.free(region)
    return bool(done == 0)
