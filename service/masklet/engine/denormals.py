"""Numbers too small for a normal float32, taken for zero.

Softmax over thousands of memories leaves many, and a matrix product of them takes a CPU twenty times as long. None is
large enough to change a mask.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def denormals_are_zero() -> Iterator[None]:
    """Within it, for this thread and for the threads torch starts for it; afterwards as before.

    Threads that torch has started already stay as they are: what starts them should be within it too.
    """
    before = denormals_are_zero_here()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def denormals_are_zero_here() -> bool:
    """Whether this thread takes them for zero; torch cannot be asked."""
    smallest = sys.float_info.min
    return smallest / 2 == 0
