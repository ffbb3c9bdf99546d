"""What waits to be written to one client: bounded, numbered, in order.

Putting never waits, so that an answer once computed is never held back by a slow reader; instead, whoever makes
answers asks for room *before* taking on more work. A client that does not read thus stops inference first (at
`max_results`), then the reading of its requests (at `max_messages`), and memory stays bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from masklet.session.messages import Result, ServerBody


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """One answer waiting; `frame_received_s` is set for the first answer to a frame."""

    body: ServerBody
    frame_received_s: float | None = None


class Outbox:
    """A queue with one taker, and two bounds that producers wait for."""

    def __init__(self, *, max_results: int, max_messages: int) -> None:
        self._max_results = max_results
        self._max_messages = max_messages
        self._waiting: deque[Outgoing] = deque()
        self._results = 0
        self._closed = False
        self._filled = asyncio.Event()
        self._room_for_message = asyncio.Event()
        self._room_for_result = asyncio.Event()
        self._signal()

    def __len__(self) -> int:
        """Messages waiting."""
        return len(self._waiting)

    def put(self, body: ServerBody, *, frame_received_s: float | None = None) -> None:
        """Adds an answer; goes over the bounds by what one request leads to, no more."""
        self._waiting.append(Outgoing(body, frame_received_s))
        self._results += isinstance(body, Result)
        self._signal()

    def close(self) -> None:
        """No more to come; what waits can still be taken."""
        self._closed = True
        self._signal()

    async def take(self) -> Outgoing | None:
        """The oldest answer; None once closed and empty."""
        await self._filled.wait()
        if not self._waiting:
            return None
        outgoing = self._waiting.popleft()
        self._results -= isinstance(outgoing.body, Result)
        self._signal()
        return outgoing

    async def room_for_message(self) -> None:
        """Waits until fewer than `max_messages` wait."""
        await self._room_for_message.wait()

    async def room_for_result(self) -> None:
        """Waits until fewer than `max_results` results and `max_messages` messages wait."""
        await self._room_for_result.wait()

    def _signal(self) -> None:
        message_room = len(self._waiting) < self._max_messages
        _set(self._filled, bool(self._waiting) or self._closed)
        _set(self._room_for_message, message_room)
        _set(self._room_for_result, message_room and self._results < self._max_results)


def _set(event: asyncio.Event, wanted: bool) -> None:
    if wanted:
        event.set()
    else:
        event.clear()
