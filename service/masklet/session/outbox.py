"""What waits to be written to one client: bounded, numbered, in order, whatever becomes of the connection.

Putting never waits, so that an answer once computed is never held back by a slow reader; instead, whoever makes
answers asks for room *before* taking on more work. A client that does not read thus stops inference first (at
`max_results`), then the reading of its requests (at `max_messages`), and memory stays bounded. While nobody is
connected there is always room: what can still come is only what was accepted before.
"""

from __future__ import annotations

import asyncio
from collections import deque

from masklet.errors import MaskletError, SessionSuperseded
from masklet.session.messages import Result, ServerBody
from masklet.session.ring import Outgoing, Ring, body_bytes, frame_told


class Outbox:
    """A queue with one taker at a time, known by the number `attach` gave it; a newer taker fences the older.

    Args:
        ring: keeps what was taken.
        max_results: results that may wait.
        max_messages: messages of any kind that may wait.
        next_seq: number of the first message.
    """

    def __init__(self, ring: Ring, *, max_results: int, max_messages: int, next_seq: int = 1) -> None:
        self._ring = ring
        self._max_results = max_results
        self._max_messages = max_messages
        self._next_seq = next_seq
        self._waiting: deque[Outgoing] = deque()
        self._results = 0
        self._closed = False
        self._taker = 0
        self._attached = False
        self._stream_over = False
        self._stream_error: MaskletError | None = None
        self._news = asyncio.Event()
        self._room_for_message = asyncio.Event()
        self._room_for_result = asyncio.Event()
        self._signal()

    def __len__(self) -> int:
        """Messages waiting."""
        return len(self._waiting)

    @property
    def byte_count(self) -> int:
        """About how much memory the messages waiting hold, and those kept of what was taken."""
        return self._ring.byte_count + sum(body_bytes(one.body) for one in self._waiting)

    @property
    def attached(self) -> bool:
        """Whether there is a taker."""
        return self._attached

    def put(self, body: ServerBody, *, frame_received_s: float | None = None) -> None:
        """Adds an answer; goes over the bounds by what one request leads to, no more."""
        self._waiting.append(Outgoing(self._next_seq, body, frame_received_s))
        self._next_seq += 1
        self._results += isinstance(body, Result)
        self._signal()

    def attach(self, last_seen: int) -> tuple[int, list[int]]:
        """A taker that has seen everything up to `last_seen`: what came after is handed out again.

        Returns:
            The taker's number, and the frames whose answers it cannot be given any more.
        """
        again, lost = self._ring.take_after(last_seen)
        self._waiting.extendleft(reversed(again))
        self._results += sum(isinstance(one.body, Result) for one in again)
        self._next_seq = max(self._next_seq, last_seen + 1)
        self._taker += 1
        self._attached, self._stream_over, self._stream_error = True, False, None
        self._signal()
        return self._taker, lost

    def detach(self, taker: int) -> bool:
        """The taker is gone; False if it had been fenced, or gone, before."""
        if taker != self._taker or not self._attached:
            return False
        self._attached = False
        self._signal()
        return True

    def end_stream(self, taker: int, error: MaskletError | None = None) -> None:
        """The taker gets what waits now, and then the end; raises `error` there."""
        if taker == self._taker:
            self._stream_over, self._stream_error = True, error
            self._signal()

    def close(self) -> None:
        """No more to come; what waits can still be taken."""
        self._closed = True
        self._signal()

    @property
    def taker(self) -> int:
        """The newest taker's number."""
        return self._taker

    def frames_told(self) -> set[int]:
        """Frames whose first answer waits."""
        return {frame_seq for one in self._waiting if (frame_seq := frame_told(one.body)) is not None}

    async def take(self, taker: int) -> Outgoing | None:
        """The oldest answer; None after the last.

        Raises:
            SessionSuperseded: there is a newer taker.
            MaskletError: what `end_stream` was given.
        """
        while True:
            if taker != self._taker:
                raise SessionSuperseded("a newer stream has gone on with the session")
            if self._waiting:
                break
            if self._closed:
                return None
            if self._stream_over:
                if self._stream_error is not None:
                    raise self._stream_error
                return None
            await self._news.wait()
        outgoing = self._waiting.popleft()
        self._results -= isinstance(outgoing.body, Result)
        self._ring.add(outgoing)
        self._signal()
        return outgoing

    async def room_for_message(self) -> None:
        """Waits until fewer than `max_messages` wait."""
        await self._room_for_message.wait()

    async def room_for_result(self) -> None:
        """Waits until fewer than `max_results` results and `max_messages` messages wait."""
        await self._room_for_result.wait()

    def _signal(self) -> None:
        message_room = len(self._waiting) < self._max_messages or not self._attached
        result_room = message_room and (self._results < self._max_results or not self._attached)
        _set(self._room_for_message, message_room)
        _set(self._room_for_result, result_room)
        self._news.set()  # whoever waits looks again, an older taker too
        self._news = asyncio.Event()


def _set(event: asyncio.Event, wanted: bool) -> None:
    if wanted:
        event.set()
    else:
        event.clear()
