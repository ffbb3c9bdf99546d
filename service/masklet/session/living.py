"""The sessions of one server that are alive, with a stream or without."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from masklet.session.closed import ClosedSessions

if TYPE_CHECKING:
    from masklet.session.live import LiveSession

_REMEMBERED = 4096


class LiveSessions:
    """Finds sessions by id, and remembers for a while which have ended. Used from the event loop only.

    Attributes:
        closed: sessions that ended with `close` not long ago; they are not alive.
    """

    def __init__(self) -> None:
        self.closed = ClosedSessions()
        self._sessions: dict[str, LiveSession] = {}
        self._ended: deque[str] = deque(maxlen=_REMEMBERED)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        """Sessions alive."""
        return len(self._sessions)

    def add(self, session: LiveSession) -> None:
        """A session began, or was taken over from another server."""
        self._sessions[session.session_id] = session

    def remove(self, session: LiveSession, *, ended: bool) -> None:
        """A session is over here; `ended`: it is so everywhere, unless another server went on with it unseen."""
        if self._sessions.get(session.session_id) is session:
            del self._sessions[session.session_id]
        if ended:
            self._ended.append(session.session_id)

    def get(self, session_id: str) -> LiveSession | None:
        """The session, if it is alive here."""
        return self._sessions.get(session_id)

    def has_ended(self, session_id: str) -> bool:
        """Whether the session was here and ended not long ago; it may be alive elsewhere all the same."""
        return session_id in self._ended

    def turn(self, session_id: str) -> asyncio.Lock:
        """A lock for whoever wants to take the session over: one at a time."""
        return self._turns.setdefault(session_id, asyncio.Lock())

    async def aclose(self) -> None:
        """Ends all sessions."""
        for session in list(self._sessions.values()):
            await session.stop()
