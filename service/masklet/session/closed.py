"""Sessions that ended with `close`: their last answers, for a client whose connection was lost before it had them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from masklet.session.live import LiveSession

_MOST = 256
_MOST_BYTES = 64 * 1024 * 1024


class ClosedSessions:
    """Bounded by count, by bytes of answers, and by time; the oldest give way. Used from the event loop only."""

    def __init__(self) -> None:
        self._kept: dict[str, LiveSession] = {}

    def __len__(self) -> int:
        """Sessions kept."""
        return len(self._kept)

    def keep(self, session: LiveSession, *, ttl_s: float) -> None:
        """A session has ended; its client may ask for `ttl_s` seconds."""
        self._kept[session.session_id] = session
        asyncio.get_running_loop().call_later(ttl_s, self._kept.pop, session.session_id, None)
        sizes = {session_id: one.outbox.byte_count for session_id, one in self._kept.items()}
        while len(self._kept) > _MOST or sum(sizes.values()) > _MOST_BYTES:
            oldest = next(iter(self._kept))
            del self._kept[oldest], sizes[oldest]

    def get(self, session_id: str) -> LiveSession | None:
        """The session, if it is kept."""
        return self._kept.get(session_id)
