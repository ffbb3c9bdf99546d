"""glibc's allocator, told to keep what it has freed.

By default it returns every large block to the system at once. Each activation of each frame is such a block, so its
pages are cleared and faulted in anew: with `nano` 1,500 page faults a frame, and up to 14 % of a frame's CPU time
(`python loadtests/bench_allocator.py`).
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)
_LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024  # glibc refuses more
_KEPT_BYTES = 512 * 1024 * 1024
_STEP_BYTES = 64 * 1024 * 1024


def keep_freed_memory() -> bool:
    """Let the process keep up to 512 MiB of freed memory for reuse.

    Returns:
        Whether the C library took it: False without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    options = {_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD, _TRIM_THRESHOLD: _KEPT_BYTES, _TOP_PAD: _STEP_BYTES}
    taken = [mallopt(option, value) == 1 for option, value in options.items()]
    return all(taken)
