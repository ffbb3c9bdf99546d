"""The first SIGTERM or SIGINT asks, the second ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def first_signal(ask: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Within the block, the first signal calls `ask` in the event loop; the next one exits with 128 + its number."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def first(received: signal.Signals) -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            # Not SIG_DFL: the kernel ignores that for process 1, which is what a container's server is.
            signal.signal(number, _exit_now)
        ask(received)

    for number in _SIGNALS:
        loop.add_signal_handler(number, first, number)
    try:
        yield
    finally:
        for number, earlier in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, earlier or signal.SIG_DFL)


def _exit_now(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
