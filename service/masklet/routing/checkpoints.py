"""The newest exported state of each session, within one budget of bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Kept:
    state: bytes
    since_s: float


class Checkpoints:
    """States by session id.

    Args:
        max_bytes: of all of them.
        clock: seconds.

    Attributes:
        byte_count: bytes held.
        evicted: states that gave way to others so far.
    """

    def __init__(self, max_bytes: int, *, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self.byte_count = 0
        self.evicted = 0

    def __len__(self) -> int:
        """States held."""
        return len(self._kept)

    def put(self, session_id: str, state: bytes) -> bool:
        """Keep this one instead of the session's last; False if it is larger than the whole budget: the last stays."""
        if len(state) > self._max_bytes:
            _LOG.warning("a state of %d bytes is above routing.checkpoint_bytes, %d", len(state), self._max_bytes)
            return False
        self.drop(session_id)
        while self.byte_count + len(state) > self._max_bytes:
            self.drop(self._least_worth())
            self.evicted += 1
        self._kept[session_id] = _Kept(state, self._clock())
        self.byte_count += len(state)
        return True

    def get(self, session_id: str) -> bytes | None:
        """The session's state, if it is still here."""
        kept = self._kept.get(session_id)
        return kept.state if kept else None

    def drop(self, session_id: str) -> None:
        """Forget a state; an unknown one is no error."""
        if kept := self._kept.pop(session_id, None):
            self.byte_count -= len(kept.state)

    def _least_worth(self) -> str:
        """The oldest and largest: bytes times age."""
        now_s = self._clock()
        return max(self._kept, key=lambda name: len(self._kept[name].state) * (1.0 + now_s - self._kept[name].since_s))
