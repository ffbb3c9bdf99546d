"""Banks that may have been left behind at an endpoint, and are closed there when that is possible."""

from __future__ import annotations

import asyncio
import logging

from masklet.errors import BackendUnavailable, BackendUncertain, MaskletError
from masklet.routing.link import RoutedTo

_MAX_ORPHANS = 4096
_LOG = logging.getLogger(__name__)


class Orphans:
    """Session ids, each with an epoch above that of the bank that may be there.

    Args:
        address: where.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._epochs: dict[str, int] = {}
        self._closing: dict[tuple[RoutedTo, str], asyncio.Task[None]] = {}

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._epochs)

    def remember(self, session_id: str, epoch: int) -> None:
        """A session may be left behind here; `epoch` is above its own, below that of any copy that will be wanted."""
        self._epochs[session_id] = max(epoch, self._epochs.pop(session_id, 0))
        while len(self._epochs) > _MAX_ORPHANS:
            del self._epochs[next(iter(self._epochs))]

    def forget(self, session_id: str, epoch: int) -> None:
        """What was remembered with this epoch is to be left alone; with a later one it still is to be closed."""
        if self._epochs.get(session_id) == epoch:
            del self._epochs[session_id]

    async def close(self, backend: RoutedTo, only: str | None = None) -> None:
        """Close what may be left behind, or one such session.

        The one begun is closed even if the caller is cancelled.

        Raises:
            BackendUnavailable: the endpoint is gone.
            BackendUncertain: whether `only` is closed is not known; without `only`, such a one stays for the next time.
        """
        for session_id in [only] if only else list(self._epochs):
            try:
                while session_id in self._epochs:
                    await asyncio.shield(self._closed(backend, session_id))
            except BackendUncertain as error:
                if only:
                    raise
                why = {"session": session_id, "endpoint": self._address, "why": str(error)}
                _LOG.info("session left behind may not be closed yet", extra=why)

    async def wait_closed(self) -> None:
        """Until nothing is being closed any more."""
        if self._closing:
            await asyncio.wait(self._closing.values())

    def _closed(self, backend: RoutedTo, session_id: str) -> asyncio.Task[None]:
        """Closes what may be left of it; the same task for all who wait for that."""
        key = (backend, session_id)
        if key not in self._closing:
            self._closing[key] = asyncio.create_task(self._close(backend, session_id, self._epochs[session_id]))
            self._closing[key].add_done_callback(lambda done: self._finish(key, done))
        return self._closing[key]

    def _finish(self, key: tuple[RoutedTo, str], done: asyncio.Task[None]) -> None:
        del self._closing[key]
        if not done.cancelled():
            done.exception()  # seen, even if nobody waits any more

    async def _close(self, backend: RoutedTo, session_id: str, epoch: int) -> None:
        try:
            await backend.close_copy(session_id, epoch)
        except (BackendUnavailable, BackendUncertain):
            raise
        except MaskletError:
            pass  # it cannot be closed
        except Exception:  # one session's surprise must not keep the others from being closed
            _LOG.exception("session left behind not closed", extra={"session": session_id, "endpoint": self._address})
        self.forget(session_id, epoch)
