"""Events between the task that reads the connection and whoever iterates: bounded, ended once, safe to cancel."""

from __future__ import annotations

import asyncio
from collections import deque

from masklet.errors import MaskletError
from masklet_client.events import Event


class Inbox:
    """A bounded queue with an end. When it is full the reader waits, and so in the end does the server.

    Attributes:
        ended: whether no more events come.
        error: what broke the stream.
        error_seen: whether somebody has been told of it.
    """

    def __init__(self, limit: int) -> None:
        """`limit`: events kept at most."""
        self._limit = limit
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._discarding = False
        self.error_seen = False
        self.ended = False
        self.error: MaskletError | None = None

    async def put(self, event: Event) -> None:
        """Wait for room and add an event; events after `discard` vanish."""
        while len(self._events) >= self._limit and not self._discarding:
            self._room.clear()
            await self._room.wait()
        if not self._discarding:
            self._events.append(event)
            self._news.set()

    def end(self, error: MaskletError | None) -> None:
        """No more events; `error` if the stream broke."""
        if not self.ended:
            self.ended, self.error = True, error
            self._news.set()

    def discard(self) -> None:
        """Forget what is here and what is still to come, so that the reader never waits again."""
        self._discarding = True
        self._events.clear()
        self._room.set()

    async def get(self) -> Event | None:
        """The next event, or None after the last; raises what ended the stream, if it broke."""
        while not self._events:
            if self.ended:
                self.error_seen = True
                if self.error is not None:
                    raise self.error
                return None
            self._news.clear()
            await self._news.wait()
        return self.take()

    def take(self) -> Event | None:
        """The next event if there is one now."""
        if not self._events:
            return None
        self._room.set()
        return self._events.popleft()

    @property
    def unseen_error(self) -> MaskletError | None:
        """What broke the stream, unless somebody has been told."""
        return None if self.error_seen else self.error
