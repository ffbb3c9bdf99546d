"""The sessions of one server: who is here, who may come in, and how all of them are sent away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from masklet.errors import AdmissionRefused, MaskletError, ServerDraining, SessionNotFound
from masklet.observability.metrics import Metrics
from masklet.types import Size

RETRY_AFTER_S = 1.0
"""What a refused client is told to wait; long enough not to be hammered, short enough not to be missed."""


class SessionState(StrEnum):
    """What a session is doing."""

    ATTACHED = "attached"
    DETACHED = "detached"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """One session as it is now; `size` is that of its frames."""

    session_id: str
    state: SessionState
    age_s: float
    idle_s: float
    objects: int
    frames_answered: int
    frames_dropped: int
    peer: str
    size: Size


class SessionRecord:
    """One session's entry: counters its stream keeps, and orders its stream obeys.

    Attributes:
        ordered: set when `closing` or `drain_at_s` changes; the stream waits for it.
        closing: an operator wants the session ended.
        image: whether it is no session but one image's place, which nobody can look at or end.
        stepping: whether the backend works for the session now.
        last_step_s: when it last finished doing so.
        detached_s: since when there is no stream; None: there is one.
        drain_at_s: when a draining session must have ended, on the registry's clock; None: not draining.
    """

    def __init__(self, session_id: str, *, peer: str, size: Size, now_s: float, image: bool = False) -> None:
        self.session_id = session_id
        self.image = image
        self.peer = peer
        self.size = size
        self.opened_s = now_s
        self.last_request_s = now_s
        self.objects = 0
        self.frames_answered = 0
        self.frames_dropped = 0
        self.stepping = False
        self.last_step_s = now_s
        self.ordered = asyncio.Event()
        self.closing = False
        self.drain_at_s: float | None = None
        self.detached_s: float | None = None
        self._owed_since_s: float | None = None
        self._frames_owed = 0

    @property
    def state(self) -> SessionState:
        """Draining once told to, else attached or detached."""
        if self.drain_at_s is not None:
            return SessionState.DRAINING
        return SessionState.ATTACHED if self.detached_s is None else SessionState.DETACHED

    def frame_taken(self, now_s: float) -> None:
        """A frame was received; it is owed an answer."""
        self._frames_owed += 1
        if self._owed_since_s is None:
            self._owed_since_s = now_s

    def frame_answered(self) -> None:
        """A frame has its masks."""
        self.frames_answered += 1
        self._settle()

    def frame_dropped(self) -> None:
        """A frame is not going to be answered."""
        self.frames_dropped += 1
        self._settle(restart=False)

    def waiting_s(self, now_s: float) -> float:
        """How long the client has been waiting for a result; 0: it is owed none."""
        return 0.0 if self._owed_since_s is None else now_s - self._owed_since_s

    def _settle(self, *, restart: bool = True) -> None:
        self._frames_owed -= 1
        if self._frames_owed <= 0:
            self._owed_since_s = None
        elif restart:
            self._owed_since_s = self.last_step_s

    def order_close(self) -> None:
        """The stream is to end with `SessionClosed`."""
        self.closing = True
        self.ordered.set()

    def order_drain(self, at_s: float) -> None:
        """The stream is to finish what it has accepted and end by `at_s`."""
        self.drain_at_s = at_s if self.drain_at_s is None else min(at_s, self.drain_at_s)
        self.ordered.set()

    def snapshot(self, now_s: float) -> SessionSnapshot:
        """The session at `now_s`."""
        return SessionSnapshot(
            session_id=self.session_id,
            state=self.state,
            age_s=now_s - self.opened_s,
            idle_s=now_s - self.last_request_s,
            objects=self.objects,
            frames_answered=self.frames_answered,
            frames_dropped=self.frames_dropped,
            peer=self.peer,
            size=self.size,
        )


class SessionRegistry:
    """The sessions of one server. Used from the event loop only.

    Args:
        max_sessions: how many may be open at a time.
        metrics: where counts by state and refusals go, if anywhere.
        clock: monotonic seconds, the same as the streams'.
    """

    def __init__(
        self, max_sessions: int, *, metrics: Metrics | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_sessions = max_sessions
        self._metrics = metrics
        self._clock = clock
        self._records: dict[str, SessionRecord] = {}
        self._drain_at_s: float | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        if metrics is not None:
            metrics.sessions_limit.set(max_sessions)
        self._count_states()

    def __len__(self) -> int:
        """Sessions open."""
        return len(self._records)

    @property
    def draining(self) -> bool:
        """Whether new sessions are refused because the server goes away."""
        return self._drain_at_s is not None

    def add(
        self, session_id: str, *, peer: str, size: Size, resumed_at_s: float | None = None, image: bool = False
    ) -> SessionRecord:
        """Admits a session, or an `image`; a session resumed at this age was admitted before, here or elsewhere.

        Raises:
            ServerDraining: the server is going away.
            AdmissionRefused: `max_sessions` are open.
        """
        self.check_draining()
        if resumed_at_s is None and len(self._records) >= self._max_sessions:
            message = f"{len(self._records)} sessions are open, the limit is {self._max_sessions}"
            raise self._rejected(AdmissionRefused(message, retry_after_s=RETRY_AFTER_S))
        record = SessionRecord(session_id, peer=peer, size=size, now_s=self._clock(), image=image)
        record.opened_s -= resumed_at_s or 0.0
        self._records[session_id] = record
        self._changed()
        return record

    def check_draining(self) -> None:
        """Raises ServerDraining if the server is going away."""
        if self.draining:
            message = "the server is draining; open the session on another"
            raise self._rejected(ServerDraining(message, retry_after_s=RETRY_AFTER_S))

    def withdraw(self, session_id: str, error: BaseException) -> None:
        """A session could not be begun: it was none, and `error` may be a refusal."""
        self._records.pop(session_id, None)
        if isinstance(error, AdmissionRefused):
            self._rejected(error)
        self._changed()

    def remove(self, session_id: str) -> None:
        """Forgets a session; an unknown one is no error."""
        record = self._records.pop(session_id, None)
        if record is not None and self._metrics and not record.image:
            self._metrics.session_duration.observe(self._clock() - record.opened_s)
        self._changed()

    def list(self) -> tuple[SessionSnapshot, ...]:
        """All sessions, oldest first; images are none."""
        now_s = self._clock()
        return tuple(record.snapshot(now_s) for record in self._records.values() if not record.image)

    def close(self, session_id: str) -> None:
        """Ends one session; its stream ends with `SessionClosed`.

        Raises:
            SessionNotFound: no such session.
        """
        record = self._records.get(session_id)
        if record is None or record.image:
            raise SessionNotFound(f"no session {session_id!r}; {len(self._records)} are open", field="session_id")
        record.order_close()

    def drain(self, deadline_s: float) -> None:
        """Refuses new sessions and sends all streams away; they end within `deadline_s` seconds from now."""
        self._drain_at_s = self._clock() + deadline_s
        for record in self._records.values():
            record.order_drain(self._drain_at_s)
        self._changed()

    def drain_session(self, session_id: str, deadline_s: float) -> None:
        """Sends one stream away; it ends within `deadline_s` seconds from now. An unknown session is no error."""
        if record := self._records.get(session_id):
            record.order_drain(self._clock() + deadline_s)
            self._count_states()

    def attached(self, record: SessionRecord) -> None:
        """A stream has the session now."""
        now_s = self._clock()
        if record.detached_s is not None and self._metrics:
            self._metrics.session_detached.observe(now_s - record.detached_s)
        record.detached_s = None
        record.last_request_s = now_s
        record.ordered.set()
        self._count_states()

    def detached(self, record: SessionRecord) -> None:
        """The session has lost its stream."""
        record.detached_s = self._clock()
        record.ordered.set()
        self._count_states()

    def longest_wait_s(self) -> float:
        """The longest time that any client connected has been waiting for a result."""
        now_s = self._clock()
        waits = [record.waiting_s(now_s) for record in self._records.values() if record.detached_s is None]
        return max(waits, default=0.0)

    async def wait_empty(self, timeout_s: float) -> bool:
        """Whether all sessions have ended, waiting for it `timeout_s` seconds at most."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def _rejected(self, error: MaskletError) -> MaskletError:
        if self._metrics:
            self._metrics.sessions_rejected.labels(error.reason).inc()
        return error

    def _changed(self) -> None:
        if self._records:
            self._empty.clear()
        else:
            self._empty.set()
        self._count_states()

    def _count_states(self) -> None:
        if self._metrics is None:
            return
        states = [record.state for record in self._records.values()]
        for state in SessionState:
            self._metrics.sessions.labels(state).set(states.count(state))
