"""The backend that sessions see: many endpoints that come, drain and die, and sessions that outlive them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from masklet.backends.base import FIRST_EPOCH
from masklet.backends.load import LoadMeter
from masklet.config import RoutingConfig
from masklet.errors import (
    AdmissionRefused,
    BackendError,
    BackendUnavailable,
    BackendUncertain,
    MaskletError,
    OverCapacity,
    SessionStateLost,
    SessionSuperseded,
)
from masklet.observability.metrics import Metrics
from masklet.routing.adoption import adopt
from masklet.routing.checkpoints import Checkpoints
from masklet.routing.discovery import Discovery
from masklet.routing.fleet import Fleet
from masklet.routing.keeper import Keeper
from masklet.routing.link import Link, RoutedTo
from masklet.routing.record import RoutedSession, owner_epoch
from masklet.routing.recovery import Recovery
from masklet.routing.replay import Base
from masklet.routing.working import Working, ended
from masklet.types import (
    BackendStats,
    BankSummary,
    ImageArray,
    ModelDescription,
    StateOrigin,
    StepRequest,
    StepResult,
    TrackSettings,
)

_RETRY_AFTER_S = 2.0
_MAX_LOCATION = 64
_SURVEY_S = 5.0
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


class RoutedBackend:
    """`Backend` over many.

    A session is pinned to the endpoint it was placed on. If that fails or drains, the session goes on elsewhere
    (`masklet.routing.recovery`), and the next result says so; the frame under way is answered late instead of failing.

    Args:
        discovery: which endpoints there are.
        make_backend: a backend for an address, not entered yet; called for each connection.
        settings: see `RoutingConfig`.
        first_timeout_s: how long entering waits for a first endpoint that can be used.
        metrics: where facts go; None: nowhere that anyone sees.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        discovery: Discovery,
        make_backend: Callable[[str], RoutedTo],
        settings: RoutingConfig,
        *,
        first_timeout_s: float = 30.0,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._first_timeout_s = first_timeout_s
        self._metrics = metrics or Metrics()
        self._metrics.checkpoint_bytes_limit.set(settings.checkpoint_bytes)
        self._clock = clock
        self._fleet = Fleet(discovery, make_backend, settings, metrics=self._metrics, drain=self._drain)
        self._checkpoints = Checkpoints(settings.checkpoint_bytes, clock=clock)
        self._recovery = Recovery(self._fleet, self._checkpoints, settings, metrics=self._metrics, clock=clock)
        self._keeper = Keeper(self._fleet, self._recovery, settings, metrics=self._metrics, clock=clock)
        self._sessions: dict[str, RoutedSession] = {}
        self._working = Working()
        self._beside: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._attendants: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Wait for a first endpoint. Raises BackendUnavailable or ConfigError."""
        await self._fleet.__aenter__()
        try:
            await self._fleet.wait_usable(self._first_timeout_s)
        except BaseException:
            await self._fleet.__aexit__(None, None, None)
            raise
        self._attendants = {asyncio.create_task(work()) for work in self._beside}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave all endpoints, which closes the sessions that are ours; unfinished steps raise BackendUnavailable."""
        for session in self._sessions.values():
            session.closed = True
        await ended(self._attendants)
        await self._keeper.stop()
        await self._fleet.__aexit__(None, None, None)
        await self._working.stop()
        for session_id in list(self._sessions):
            self._drop(session_id)

    def describe(self) -> ModelDescription:
        """What runs at all of them. Raises BackendUnavailable before the first could be used."""
        if self._fleet.description is None:
            raise BackendUnavailable(f"no Triton can be used: {self._fleet.why()}", retry_after_s=_RETRY_AFTER_S)
        return self._fleet.description

    def stats(self) -> BackendStats:
        """The sum over all that serve; the load is that of the sessions that are ours."""
        self._fleet.measure()
        stats = [link.stats() for link in self._fleet.links()]
        return BackendStats(
            sum(one.sessions for one in stats),
            sum(one.bank_bytes for one in stats),
            sum(one.batches for one in stats),
            sum(one.batched_steps for one in stats),
            load=self._fleet.load,
            capacity=self._fleet.capacity,
        )

    def run_beside(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Something to be run while the backend is entered, beginning with the next time, and cancelled after."""
        self._beside.append(work)

    async def survey(self) -> dict[str, int]:
        """What each endpoint holds for all its clients, asked now; those that do not answer are left out.

        Returns:
            Object-frames per second by address, rounded up, and not below the number of sessions.
        """
        links = self._fleet.links()
        answers = await asyncio.gather(
            *(asyncio.wait_for(link.backend.ask_stats(), _SURVEY_S) for link in links), return_exceptions=True
        )
        held = [(link.address, one) for link, one in zip(links, answers, strict=True) if isinstance(one, BackendStats)]
        return {address: math.ceil(max(one.sessions, one.load)) for address, one in held}

    def location(self, session_id: str) -> str:
        """The address of the session's endpoint."""
        session = self._sessions.get(session_id)
        return session.link.address if session and len(session.link.address) <= _MAX_LOCATION else ""

    async def open(self, session_id: str, settings: TrackSettings, *, epoch: int = FIRST_EPOCH) -> None:
        """Start an empty memory bank where there is most room.

        Raises:
            AdmissionRefused: there is none; OverCapacity: none for its load.
            BackendUnavailable: no endpoint can be used.
        """

        async def begin(link: Link, model_epoch: int) -> None:
            await link.backend.open(session_id, settings, epoch=model_epoch)
            try:
                self._fleet.check_placed(link)
            except OverCapacity:
                try:
                    await link.backend.close(session_id)
                except (BackendUnavailable, BackendUncertain):
                    self._fleet.leave_behind(link, session_id, model_epoch + 1)
                raise

        session = await self._place(session_id, settings, epoch, begin)
        session.replay.rebase(Base.OPENING)

    def reserve(self, session_id: str, objects: int) -> None:
        """The session is about to have so many objects. Raises OverCapacity if its endpoint has no room for them.

        One that is nowhere is let in with them when it is recovered: it was admitted before.
        """
        session = self._sessions.get(session_id)
        if session is None:
            return
        if session.is_placed:
            self._fleet.reserve(session.link, session.meter, objects)
        else:
            session.meter.objects = max(1, objects)

    async def import_state(self, session_id: str, state: bytes, *, epoch: int = FIRST_EPOCH) -> None:
        """Open a session with an exported state where there is most room."""

        async def begin(link: Link, model_epoch: int) -> None:
            session = self._sessions[session_id]
            await link.backend.import_state(session_id, state, epoch=model_epoch)
            session.epoch = session.move_epoch()
            self._learn(session, await link.backend.attach(session_id, session.epoch))

        session = await self._place(session_id, TrackSettings(), epoch, begin, admitted=True)
        self._recovery.keep(session, state)

    async def attach(self, session_id: str, epoch: int, *, location: str = "") -> BankSummary:
        """Own a session that is open at any of the endpoints."""
        if session_id not in self._sessions:
            link, summary = await adopt(self._fleet, session_id, owner_epoch(epoch), location=location)
            session = self._add(session_id, TrackSettings(), link)
            session.own(epoch)
            self._learn(session, summary)
            self._keeper.consider(session)
            return summary
        return await self._working_on(session_id, lambda session: self._attach(session, epoch))

    def disown(self, session_id: str) -> None:
        """Leave a session to whoever attaches to it."""
        session = self._sessions.get(session_id)
        if session is not None:
            session.link.backend.disown(session_id)
            if not session.is_placed:  # its bank may be there all the same, for whoever attaches to it
                self._fleet.leave_alone(session.link, session_id, session.left_epoch)
            self._drop(session_id)

    def begin(self, image: ImageArray) -> None:
        """Nothing is begun: frames are sent in their turn."""

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        """Track one frame, or correct one; late, if the session has to be recovered for it."""
        return await self._working_on(session_id, lambda session: self._step(session, request))

    async def export_state(self, session_id: str) -> bytes:
        """The session's whole state."""

        async def export(session: RoutedSession) -> bytes:
            await self._ensure(session)
            return await session.link.backend.export_state(session_id)

        return await self._working_on(session_id, export)

    async def close(self, session_id: str) -> None:
        """Forget a session, also if its endpoint is gone: what may be left there is closed when it comes back."""
        if session_id not in self._sessions:
            return

        async def end(session: RoutedSession) -> None:
            if session.closed:
                return
            placed = session.is_placed
            self._drop(session_id)
            try:
                if placed:
                    await session.link.backend.close(session_id)
            except (BackendUnavailable, BackendUncertain) as error:
                _LOG.info("session may not be closed yet", extra={"session": session_id, "why": str(error)})
                placed = False
            if not placed:
                self._fleet.leave_behind(session.link, session_id, session.move_epoch())

        await self._working_on(session_id, end)

    async def _working_on(self, session_id: str, work: Callable[[RoutedSession], Awaitable[_T]]) -> _T:
        return await self._working.do(self._session(session_id), work)

    async def _step(self, session: RoutedSession, request: StepRequest) -> StepResult:
        for attempt in range(1, self._settings.recovery_attempts + 1):
            await self._ensure(session)
            try:
                result = await session.link.backend.step(session.session_id, request)
            except (BackendUnavailable, BackendUncertain, SessionStateLost) as error:
                self._lost(session, error)
                if attempt == self._settings.recovery_attempts or session.closed:
                    raise _given_up(f"frame {request.frame_seq}", attempt, error) from error
            except SessionSuperseded:
                self._drop(session.session_id)
                raise
            else:
                return self._answered(session, request, result)
        raise AssertionError("recovery_attempts is at least 1")

    def _answered(self, session: RoutedSession, request: StepRequest, result: StepResult) -> StepResult:
        session.note(request, result)
        self._keeper.note(session, request, sessions=len(self._sessions))
        if session.origin is None:
            return result
        origin, session.origin = session.origin, None
        return replace(result, recovered=origin, recovery_s=session.recovery_s)

    async def _attach(self, session: RoutedSession, epoch: int) -> BankSummary:
        if epoch <= session.owner:
            name = session.session_id
            raise SessionSuperseded(f"session {name} has an owner of epoch {session.owner}, not below {epoch}")
        for attempt in range(1, self._settings.recovery_attempts + 1):
            await self._ensure(session)
            session.epoch = max(owner_epoch(epoch), session.move_epoch())  # also if the answer is lost
            try:
                summary = await session.link.backend.attach(session.session_id, session.epoch)
            except (BackendUnavailable, BackendUncertain, SessionStateLost) as error:
                self._lost(session, error)
                if attempt == self._settings.recovery_attempts or session.closed:
                    raise _given_up(f"attaching with epoch {epoch}", attempt, error) from error
            else:
                session.owner = epoch
                return replace(summary, origin=session.origin or StateOrigin.INTACT)  # the next result says it, too
        raise AssertionError("recovery_attempts is at least 1")

    async def _ensure(self, session: RoutedSession) -> None:
        """Have it somewhere."""
        if session.closed:
            raise SessionStateLost(f"session {session.session_id} was closed")
        if not session.is_placed:
            await self._recovery.recover(session)

    def _lost(self, session: RoutedSession, error: BackendError | SessionStateLost) -> None:
        if isinstance(error, BackendUnavailable):
            self._fleet.eject(session.link, str(error))
        elif isinstance(error, BackendUncertain):
            session.doubted |= {session.link}
        self._recovery.lose(session)

    async def _place(
        self,
        session_id: str,
        settings: TrackSettings,
        epoch: int,
        begin: Callable[[Link, int], Awaitable[None]],
        *,
        admitted: bool = False,
    ) -> RoutedSession:
        """A session at the first endpoint that takes it, the emptiest first."""
        if session_id in self._sessions:
            raise BackendError(f"session {session_id} is already open")
        refused: frozenset[Link] = frozenset()
        load = None if admitted else self._meter(settings).load
        model_epoch = owner_epoch(epoch)
        while True:
            link = self._fleet.choose(load, but=refused)
            session = self._add(session_id, settings, link)
            session.owner, session.epoch = epoch, model_epoch
            try:
                async with session.lock:  # an endpoint that begins to drain just now waits until it is there
                    await begin(link, model_epoch)
                return session
            except AdmissionRefused:
                refused |= {link}
            except BackendUnavailable as error:
                left_epoch = session.move_epoch()
                self._fleet.leave_behind(link, session_id, left_epoch)
                model_epoch = left_epoch + 1
                await self._fleet.suspect(link, error)
            except (asyncio.CancelledError, BackendUncertain):  # what was sent is carried out, or may have been
                self._fleet.leave_behind(link, session_id, session.move_epoch())
                self._drop(session_id)
                raise
            except BaseException:
                self._drop(session_id)
                raise
            self._drop(session_id)

    def _add(self, session_id: str, settings: TrackSettings, link: Link) -> RoutedSession:
        meter = self._meter(settings)
        session = RoutedSession(session_id, settings, link, meter=meter, base=Base.NOTHING)
        self._sessions[session_id] = session
        link.loads[session_id] = meter
        return session

    def _learn(self, session: RoutedSession, summary: BankSummary) -> None:
        """How a session that came with its bank is tracked, and its load."""
        session.settings = summary.settings or TrackSettings()
        session.meter = session.link.loads[session.session_id] = self._meter(session.settings)
        session.meter.objects = max(1, len(summary.object_ids))

    def _meter(self, settings: TrackSettings) -> LoadMeter:
        reserved = self._settings.reserved_object_frames_s
        return LoadMeter(reserved, frame_rate_hz=settings.frame_rate_hz, clock=self._clock)

    def _drop(self, session_id: str) -> None:
        if session := self._sessions.pop(session_id, None):
            session.closed = True
            session.leave()
            self._checkpoints.drop(session_id)
            self._metrics.checkpoint_bytes.set(self._checkpoints.byte_count)
            self._fleet.touch()

    def _session(self, session_id: str) -> RoutedSession:
        if session_id not in self._sessions:
            raise SessionStateLost(f"session {session_id} is not open here; {len(self._sessions)} are")
        return self._sessions[session_id]

    async def _drain(self, link: Link) -> None:
        await self._keeper.drain([session for session in self._sessions.values() if session.link is link])


def _given_up(what: str, attempts: int, error: MaskletError) -> BackendUnavailable:
    message = f"{what} was tried {attempts} times, and the Triton failed each time; the last one: {error}"
    return BackendUnavailable(message, retry_after_s=_RETRY_AFTER_S)
