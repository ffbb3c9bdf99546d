"""What is done for sessions between their frames: checkpoints, and moves away from endpoints that drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from masklet.config import RoutingConfig
from masklet.errors import BackendUnavailable, MaskletError
from masklet.observability.metrics import Metrics
from masklet.routing.fleet import Fleet
from masklet.routing.record import RoutedSession
from masklet.routing.recovery import Recovery
from masklet.routing.replay import Base
from masklet.types import StepRequest

_MOVES_AT_A_TIME = 4
_SPARED = 10  # times as long as fetching a session's state took, until it is fetched again
_LOG = logging.getLogger(__name__)


class Keeper:
    """Fetches states and moves sessions, each under the session's lock: between two frames, one at a time.

    Args:
        fleet: is told of failures.
        recovery: keeps states and moves sessions.
        settings: when.
        metrics: how long it takes goes there.
        clock: seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        recovery: Recovery,
        settings: RoutingConfig,
        *,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._recovery = recovery
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def note(self, session: RoutedSession, request: StepRequest, *, sessions: int) -> None:
        """A frame was answered; `sessions` share the bytes for replays. Its lock is held."""
        max_bytes = self._settings.replay_bytes // max(1, sessions)
        session.replay.add(request, max_requests=self._settings.replay_frames, max_bytes=max_bytes)
        self.consider(session, max_bytes=max_bytes)

    def consider(self, session: RoutedSession, *, max_bytes: int = 1) -> None:
        """Fetch the session's state if it is time."""
        if session.checkpoint is None and self._is_due(session, max_bytes):
            session.fetched_s = self._clock()
            session.checkpoint = asyncio.create_task(self._fetch(session))
            self._tasks.add(session.checkpoint)
            session.checkpoint.add_done_callback(self._tasks.discard)

    async def drain(self, sessions: Iterable[RoutedSession]) -> None:
        """Move sessions away from where they are, as many as there is room for; the rest stay for now."""
        gate = asyncio.Semaphore(_MOVES_AT_A_TIME)
        await asyncio.gather(*(self._move(session, gate) for session in sessions))

    def _is_due(self, session: RoutedSession, max_bytes: int) -> bool:
        replay = session.replay
        full = 2 * replay.byte_count > max_bytes or len(replay) >= self._settings.checkpoint_every_frames
        if not (full or replay.edited or replay.base is Base.NOTHING):
            return False
        pause_s = max(self._settings.checkpoint_min_interval_s, _SPARED * session.fetch_s)
        return self._clock() - session.fetched_s >= pause_s

    async def _fetch(self, session: RoutedSession) -> None:
        link = session.link
        try:
            async with session.lock:
                link = session.link
                if session.is_placed and not session.closed:
                    with self._metrics.checkpoint_seconds.time(), self._timed(session):
                        state = await link.backend.export_state(session.session_id)
                    if not session.closed:  # nobody waits for the lock to disown it
                        self._recovery.keep(session, state)
        except BackendUnavailable as error:
            self._metrics.checkpoints.labels("failed").inc()
            self._fleet.eject(link, str(error))
        except MaskletError as error:
            self._metrics.checkpoints.labels("failed").inc()
            _LOG.warning("no checkpoint", extra={"session": session.session_id, "why": str(error)})
        finally:
            session.checkpoint = None

    @contextmanager
    def _timed(self, session: RoutedSession) -> Iterator[None]:
        began_s = self._clock()
        try:
            yield
        finally:
            session.fetch_s = self._clock() - began_s

    async def _move(self, session: RoutedSession, gate: asyncio.Semaphore) -> None:
        try:
            async with gate, session.lock:
                if session.is_placed and not session.closed and session.link.draining:
                    await self._recovery.migrate(session)
        except MaskletError as error:
            why = {"session": session.session_id, "endpoint": session.link.address, "why": str(error)}
            _LOG.info("session not moved yet", extra=why)
        except Exception:  # one session's surprise must not keep the others from being moved
            _LOG.exception("session not moved", extra={"session": session.session_id})
