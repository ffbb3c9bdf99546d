"""SIGTERM cancels what runs, so that processes started on the way are stopped too."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


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
