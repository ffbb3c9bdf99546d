"""Work on sessions: one at a time for each, and once begun it goes on even if its caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, TypeVar

from masklet.errors import BackendUnavailable
from masklet.routing.record import RoutedSession

_T = TypeVar("_T")


class Working:
    """What is under way."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        """How much is under way."""
        return len(self._tasks)

    async def do(self, session: RoutedSession, work: Callable[[RoutedSession], Awaitable[_T]]) -> _T:
        """Does `work` when the session is free. Raises what that raises, and BackendUnavailable if it was stopped."""

        async def begun() -> _T:
            try:
                return await work(session)
            except asyncio.CancelledError:
                raise BackendUnavailable("the backend was left") from None
            finally:
                session.lock.release()

        await session.lock.acquire()
        task = asyncio.ensure_future(begun())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Ends what is under way."""
        await ended(self._tasks)

    def _done(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, even if nobody waits any more


async def ended(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancels them, and waits for them to end."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
