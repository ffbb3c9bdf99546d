"""Who owns which session: the epoch of the owner, which only rises, so that an owner of old is refused."""

from __future__ import annotations

from masklet.backends.base import FIRST_EPOCH
from masklet.errors import BackendError, SessionStateLost, SessionSuperseded


class Owners:
    """The epochs of the sessions that are open in one place."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}

    def add(self, session_id: str, epoch: int = FIRST_EPOCH) -> None:
        """A session that was opened or imported just now."""
        self._epochs[session_id] = epoch

    def remove(self, session_id: str) -> None:
        """A session that was closed; an unknown one is no error."""
        self._epochs.pop(session_id, None)

    def attach(self, session_id: str, epoch: int) -> None:
        """Raises SessionStateLost if the session is not open, SessionSuperseded if `epoch` is not above the owner's."""
        current = self._epoch(session_id)
        if epoch <= current:
            raise SessionSuperseded(f"session {session_id} has an owner of epoch {current}, not below {epoch}")
        self._epochs[session_id] = epoch

    def check(self, session_id: str, epoch: int) -> None:
        """Raises SessionStateLost if the session is not open, SessionSuperseded if `epoch` is an old owner's."""
        current = self._epoch(session_id)
        if epoch < current:
            raise SessionSuperseded(f"session {session_id} belongs to epoch {current} now, this is epoch {epoch}")
        if epoch > current:
            raise BackendError(f"session {session_id} is of epoch {current}, epoch {epoch} never attached to it")

    def _epoch(self, session_id: str) -> int:
        if session_id not in self._epochs:
            raise SessionStateLost(f"session {session_id} is not open here; {len(self._epochs)} are")
        return self._epochs[session_id]
