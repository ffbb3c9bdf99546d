"""Ctrl-C and SIGTERM let a run finish its step and save."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ECHO_S = 2.0


class Interrupts:
    """What was received.

    Attributes:
        received: the first signal's number; 0: none.
    """

    def __init__(self) -> None:
        self.received = 0


@contextmanager
def interrupts(stop: Callable[[], None]) -> Iterator[Interrupts]:
    """Within the block, the first SIGINT or SIGTERM calls `stop`; one more, later than its echo, is carried out.

    torchrun hands its own signals on to processes that had them from the terminal already: for two seconds they count
    once. In other threads than the main one signals cannot be handled, and nothing happens.
    """
    found, first_s = Interrupts(), 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_s
        if not found.received:
            found.received, first_s = number, time.monotonic()
            stop()
        elif time.monotonic() > first_s + _ECHO_S:
            for each, handler in before.items():
                signal.signal(each, handler)
            signal.raise_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
