"""Events between the task that reads the connection and whoever iterates: bounded, ended once, safe to cancel."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

from masklet.errors import MaskletError
from masklet.types import DropReason
from masklet_client.events import Dropped, Event, Result

_MOST_DROPPED = 65_536  # kept unread, with `fresh`: half an hour's at 30 Hz


class Inbox:
    """A queue with an end, bounded by who sends: `wait_for_room` lets nobody send more while it is full.

    The reader does not wait: who does not read the connection is not heard either, and its session would end as idle.
    With `fresh` it is never full of frames: only so many of the newest unread results are kept, and `Dropped` takes the
    place of older ones; other events wait for room.

    Attributes:
        ended: whether no more events come.
        error: what broke the stream.
        error_seen: whether somebody has been told of it.
    """

    def __init__(self, limit: int, *, fresh: int | None = None) -> None:
        """`limit`: events kept before it is full, with `fresh` besides `Dropped`; `fresh`: results kept; None: all."""
        self._limit, self._fresh = limit, fresh
        self._dropped = 0
        self._events: deque[Event] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._discarding = False
        self.error_seen = False
        self.ended = False
        self.error: MaskletError | None = None

    async def put(self, event: Event) -> bool:
        """Add an event; events after `discard` vanish. Whether an unread result made way for it."""
        while self._full(event) and not self._discarding:
            self._room.clear()
            await self._room.wait()
        if self._discarding:
            return False
        self._events.append(event)
        self._dropped += isinstance(event, Dropped)
        self._news.set()
        overtaken = self._overtake()
        self._trim()
        return overtaken

    async def wait_for_room(self) -> None:
        """Returns when fewer events are unread than the limit, or no more come; with `fresh` at once."""
        while self._fresh is None and len(self._events) >= self._limit and not (self.ended or self._discarding):
            self._room.clear()
            await self._room.wait()

    @property
    def unread(self) -> int:
        """Events not taken yet."""
        return len(self._events)

    def end(self, error: MaskletError | None) -> None:
        """No more events; `error` if the stream broke."""
        if not self.ended:
            self.ended, self.error = True, error
            self._news.set()
            self._room.set()

    def discard(self) -> None:
        """Forget what is here and what is still to come, so that the reader never waits again."""
        self._discarding = True
        self._events.clear()
        self._dropped = 0
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
        event = self._events.popleft()
        self._dropped -= isinstance(event, Dropped)
        return event

    def _full(self, event: Event) -> bool:
        if self._fresh is None or isinstance(event, Dropped):
            return False
        return len(self._events) - self._dropped >= self._limit

    def _trim(self) -> None:
        if self._fresh is not None and self._dropped > _MOST_DROPPED:
            oldest = next(place for place, kept in enumerate(self._events) if isinstance(kept, Dropped))
            del self._events[oldest]
            self._dropped -= 1

    def _overtake(self) -> bool:
        """Of more unread results than are to be kept, the oldest becomes a `Dropped`."""
        places = (place for place in range(len(self._events) - 1, -1, -1) if _is_answer(self._events[place]))
        oldest = None if self._fresh is None else next(islice(places, self._fresh, None), None)
        if oldest is None:
            return False
        result = self._events[oldest]
        assert isinstance(result, Result)
        self._events[oldest] = Dropped(result.frame_seq, result.frame_index, DropReason.QUEUE_FULL)
        self._dropped += 1
        return True

    @property
    def unseen_error(self) -> MaskletError | None:
        """What broke the stream, unless somebody has been told."""
        return None if self.error_seen else self.error


def _is_answer(event: Event) -> bool:
    return isinstance(event, Result) and not event.revised
