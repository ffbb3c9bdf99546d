"""SIGTERM cancels what runs, so that processes started on the way are stopped, and files made on the way removed."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress


@asynccontextmanager
async def terminable() -> AsyncIterator[None]:
    """Within the block, SIGTERM cancels the task that runs it."""
    loop, running = asyncio.get_running_loop(), asyncio.current_task()
    assert running is not None
    with suppress(NotImplementedError):  # Windows has no SIGTERM to handle
        loop.add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGTERM)


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Within the block, which the main thread runs, SIGTERM raises SystemExit: status 143, as a shell would say."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
