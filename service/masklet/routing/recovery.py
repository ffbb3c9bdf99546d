"""A session whose endpoint fails or drains goes on elsewhere.

| what there is                               | what is done                                | its owner is told |
|---------------------------------------------|---------------------------------------------|-------------------|
| an endpoint that drains                     | export there, import elsewhere              | MIGRATED          |
| a checkpoint or the opening, and all since  | import or open elsewhere, do it all again   | RESTORED          |
| the newest answer                           | open elsewhere, its masks as prompts        | RESEEDED          |
| nothing                                     | SessionStateLost                            |                   |
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from weakref import WeakKeyDictionary

from masklet.config import RoutingConfig
from masklet.errors import AdmissionRefused, BackendUnavailable, BackendUncertain, MaskletError, SessionStateLost
from masklet.observability.metrics import Metrics
from masklet.routing.checkpoints import Checkpoints
from masklet.routing.fleet import Fleet
from masklet.routing.link import Link
from masklet.routing.record import RoutedSession
from masklet.routing.replay import Base
from masklet.types import StateOrigin

_RETRY_AFTER_S = 2.0
_REBUILDS_AT_A_TIME = 4
_LEAST_S = 5.0  # for a rebuild, however short the wait for a place may be
_UNCLEAR = 9  # restores that end without a clear answer, until what is to be restored is held to be the reason
_LOG = logging.getLogger(__name__)


class Recovery:
    """Moves sessions. Whoever calls it holds the session's lock.

    Args:
        fleet: where to.
        checkpoints: what is known of sessions.
        settings: bounds in time and number.
        metrics: recoveries are counted there.
        clock: seconds.
    """

    def __init__(
        self,
        fleet: Fleet,
        checkpoints: Checkpoints,
        settings: RoutingConfig,
        *,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._checkpoints = checkpoints
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._gates: WeakKeyDictionary[Link, asyncio.Semaphore] = WeakKeyDictionary()

    def lose(self, session: RoutedSession) -> None:
        """The session is no longer where it was, or not as it was."""
        if session.lost_s is None:
            session.lost_s = self._clock()
            session.leave()
            session.epoch = session.left_epoch = session.move_epoch()
            self._fleet.leave_behind(session.link, session.session_id, session.left_epoch)

    async def recover(self, session: RoutedSession) -> None:
        """Have the session somewhere.

        Raises:
            SessionStateLost: nothing is known to go on from, or nobody wants it any more.
            BackendUnavailable: nothing could be used in time, or took the session in time; it can be recovered later.
            AdmissionRefused: everything was full for that time; likewise.
        """
        self.lose(session)
        deadline_s = self._clock() + self._settings.recovery_timeout_s
        try:
            await self._try_links(session, deadline_s)
        except MaskletError as error:
            if not session.closed:
                self._metrics.recoveries.labels("none", error.reason).inc()
            raise

    async def migrate(self, session: RoutedSession) -> None:
        """Move a session away from a living endpoint; without a place for it, or if that fails, it stays.

        Raises:
            BackendUnavailable: there is no place, or one of the two failed, which is ejected unless it only drains.
            MaskletError: it cannot be moved.
        """
        source, started_s = session.link, self._clock()
        target = self._fleet.choose(None, but=frozenset([source]))
        with self._moving(session, target) as epoch:
            try:
                state = await source.backend.export_state(session.session_id)
            except BackendUnavailable as error:
                self._fleet.eject(source, str(error))
                raise
            with self._sending(session, target, epoch):
                await self._import(session, target, state, epoch)
                _check_wanted(session)
            self.keep(session, state)
            self._arrived(session, target, epoch, origin=StateOrigin.MIGRATED, started_s=started_s)
        await self._close_copy(source, session.session_id)

    def keep(self, session: RoutedSession, state: bytes) -> None:
        """A state that was fetched just now: the checkpoint to start from."""
        evicted = self._checkpoints.evicted
        kept = self._checkpoints.put(session.session_id, state)
        self._metrics.checkpoints.labels("kept" if kept else "refused").inc()
        self._metrics.checkpoints.labels("evicted").inc(self._checkpoints.evicted - evicted)
        if kept:  # else it is still replayed from where it was before, as far as that goes
            session.replay.rebase(Base.CHECKPOINT)
        self._metrics.checkpoint_bytes.set(self._checkpoints.byte_count)

    async def _try_links(self, session: RoutedSession, deadline_s: float) -> None:
        failure: MaskletError | None = None
        slow: BackendUnavailable | None = None
        refused: frozenset[Link] = frozenset()
        for _ in range(self._settings.recovery_attempts):
            left_s = max(0.0, deadline_s - self._clock())
            try:
                link = await self._place(session, left_s, but=refused)
            except AdmissionRefused:
                if slow is None:
                    raise
                raise slow from None
            started_s = self._clock() if session.lost_s is None else session.lost_s
            try:
                with self._moving(session, link) as epoch:
                    origin = await self._rebuild_in_turn(session, link, epoch)
                    self._arrived(session, link, epoch, origin=origin, started_s=started_s)
                    return
            except TimeoutError:
                message = f"{link.address} did not take session {session.session_id} in time"
                failure = slow = BackendUnavailable(message, retry_after_s=_RETRY_AFTER_S)
                refused |= {link}  # slow, which is no reason to eject it; what hangs is found out by its progress
            except AdmissionRefused as error:
                refused, failure = refused | {link}, error
            except BackendUncertain as error:
                session.doubted |= {link}
                failure = error
            except BackendUnavailable as error:
                await self._fleet.suspect(link, error)
                failure = error
        attempts = self._settings.recovery_attempts
        message = f"session {session.session_id} could not be recovered, {attempts} Tritons failed: {failure}"
        raise BackendUnavailable(message, retry_after_s=_RETRY_AFTER_S)

    async def _place(self, session: RoutedSession, timeout_s: float, *, but: frozenset[Link]) -> Link:
        """Where it may be rebuilt, as `Fleet.wait_for` says it; where it is doubted only if nowhere else."""
        with suppress(BackendUnavailable, AdmissionRefused):
            return self._fleet.choose(None, but=but | session.doubted)
        return await self._fleet.wait_for(timeout_s, but=but)

    @contextmanager
    def _moving(self, session: RoutedSession, target: Link) -> Iterator[int]:
        """The epoch of the copy there. Its load counts already."""
        epoch = session.epoch = session.move_epoch()  # no two attempts share one, see `leave_behind`
        target.loads[session.session_id] = session.meter
        try:
            yield epoch
        finally:
            if session.link is not target or session.lost_s is not None:
                target.loads.pop(session.session_id, None)

    @contextmanager
    def _sending(self, session: RoutedSession, target: Link, epoch: int) -> Iterator[None]:
        """From here on a copy may be there; if it fails, it is left behind."""
        try:
            yield
        except BaseException:
            session.epoch = epoch + 1
            self._fleet.leave_behind(target, session.session_id, session.epoch)
            raise

    async def _rebuild_in_turn(self, session: RoutedSession, link: Link, epoch: int) -> StateOrigin:
        """Rebuild it there, beside a few others. Raises TimeoutError if its turn is late, or takes too long."""
        limit_s = max(_LEAST_S, self._settings.recovery_timeout_s)
        gate = self._gates.setdefault(link, asyncio.Semaphore(_REBUILDS_AT_A_TIME))
        async with asyncio.timeout(limit_s) as limit, gate:
            limit.reschedule(asyncio.get_running_loop().time() + limit_s)
            _check_wanted(session)
            if not link.takes_sessions:
                raise AdmissionRefused(f"{link.address} takes no sessions any more", retry_after_s=_RETRY_AFTER_S)
            with self._sending(session, link, epoch):
                await self._fleet.sweep(link, session.session_id)
                origin = await self._rebuild(session, link, epoch)
                _check_wanted(session)
                return origin

    async def _rebuild(self, session: RoutedSession, link: Link, epoch: int) -> StateOrigin:
        """Make the session's bank there. Raises BackendUnavailable, BackendUncertain, SessionStateLost."""
        if session.replay.base is not Base.NOTHING:
            try:
                await self._restore(session, link, epoch)
                return StateOrigin.RESTORED
            except (BackendUnavailable, AdmissionRefused):
                raise
            except MaskletError as error:
                session.unclear += isinstance(error, BackendUncertain)
                if isinstance(error, BackendUncertain) and session.unclear < _UNCLEAR:
                    raise
                why = {"session": session.session_id, "why": str(error)}
                _LOG.warning("session cannot be restored, going on from its last masks", extra=why)
                await self._close_copy(link, session.session_id)
        await self._reseed(session, link, epoch)
        return StateOrigin.RESEEDED

    async def _restore(self, session: RoutedSession, link: Link, epoch: int) -> None:
        if session.replay.base is Base.CHECKPOINT:
            state = self._checkpoints.get(session.session_id)
            if state is None:
                raise SessionStateLost(f"the checkpoint of session {session.session_id} gave way to others")
            await self._import(session, link, state, epoch)
        else:
            await link.backend.open(session.session_id, session.settings, epoch=epoch)
        for request in session.replay.requests():
            await link.backend.step(session.session_id, request)

    async def _reseed(self, session: RoutedSession, link: Link, epoch: int) -> None:
        seed = session.last.as_request()
        if seed is None:
            raise SessionStateLost(f"the memory of session {session.session_id} is gone, and no answer to go on from")
        await link.backend.open(session.session_id, session.settings, epoch=epoch)
        try:
            await link.backend.step(session.session_id, seed)
        except MaskletError:
            await self._close_copy(link, session.session_id)
            raise
        session.replay.rebase(Base.NOTHING)

    async def _import(self, session: RoutedSession, link: Link, state: bytes, epoch: int) -> None:
        try:
            await link.backend.import_state(session.session_id, state, epoch=epoch)
        except BackendUnavailable as error:
            await self._fleet.suspect(link, error)
            raise

    async def _close_copy(self, link: Link, session_id: str) -> None:
        with suppress(MaskletError):
            await link.backend.close(session_id)

    def _arrived(
        self, session: RoutedSession, link: Link, epoch: int, *, origin: StateOrigin, started_s: float
    ) -> None:
        session.settle(link, epoch)
        session.recovery_s = self._clock() - started_s
        session.origin = _worse(session.origin, origin)
        self._metrics.recoveries.labels(origin, "recovered").inc()
        self._metrics.session_recovery.observe(session.recovery_s)
        self._fleet.touch()
        where = {"session": session.session_id, "endpoint": link.address, "seconds": round(session.recovery_s, 3)}
        _LOG.warning("session %s", origin, extra=where)


def _check_wanted(session: RoutedSession) -> None:
    """Raises SessionStateLost if it was given up meanwhile, which waits for nobody."""
    if session.closed:
        raise SessionStateLost(f"session {session.session_id} is not wanted here any more")


_BY_LOSS = (None, StateOrigin.MIGRATED, StateOrigin.RESTORED, StateOrigin.RESEEDED)


def _worse(one: StateOrigin | None, other: StateOrigin) -> StateOrigin:
    """Of two recoveries between two answers, the one that lost more is told."""
    return max(one or other, other, key=_BY_LOSS.index)
