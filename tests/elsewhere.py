"""Servers in a thread and an event loop of their own, for tests that run a loop themselves or none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from threading import Thread
from typing import TypeVar

T = TypeVar("T")

START_S = 60.0
STOP_S = 30.0


@contextmanager
def elsewhere(block: AbstractAsyncContextManager[T]) -> Iterator[tuple[T, asyncio.AbstractEventLoop]]:
    """What `block` gives, entered in another thread's loop, and that loop; left when the caller leaves."""
    entered: Future[T] = Future()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def stay() -> None:
        try:
            async with block as value:
                entered.set_result(value)
                await stop.wait()
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    thread = Thread(target=loop.run_until_complete, args=(stay(),), daemon=True)
    thread.start()
    try:
        yield entered.result(START_S), loop
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(STOP_S)
        assert not thread.is_alive(), f"the server did not stop within {STOP_S:g} s"
        loop.close()
