"""A session: what stays when a connection is lost. Its memory bank, what is still to be done, what was not read yet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from masklet.errors import (
    LimitExceeded,
    MaskletError,
    ServerDraining,
    SessionStateLost,
    SessionSuperseded,
    UnknownFrame,
)
from masklet.session.closing import close_bank
from masklet.session.context import StreamContext
from masklet.session.lifetime import Lifetime
from masklet.session.outbox import Outbox
from masklet.session.protocol import StreamEvent, StreamProtocol, StreamState
from masklet.session.registry import SessionRecord
from masklet.session.ring import LOST_FRAMES, Ring
from masklet.session.terms import TOKEN_LIFETIME_TTLS, Terms
from masklet.session.tokens import ResumeClaim
from masklet.session.tracking import Tracking
from masklet.types import BankSummary

MAX_UNSENT_RESULTS = 4
"""Results that wait for a client that does not read before inference for it stops."""
MAX_UNSENT_MESSAGES = 256
"""Answers of any kind that wait before the reading of its requests stops too."""
_MAX_UNREAD = MAX_UNSENT_MESSAGES + 2 * LOST_FRAMES

_log = logging.getLogger(__name__)


class LiveSession:
    """One session; `start` it once its memory bank is there. At most one stream is attached at a time, the newest.

    A stream that ends leaves the session detached: frames accepted are finished, and answers wait. With
    `resume_ttl_s` 0 the session ends with its stream.

    Args:
        context: as every stream's.
        terms: what it was granted.
        record: its entry in the registry.
        tenant: whose it is.
        epoch: of our ownership of the memory bank.
        protocol: sequence and state of requests.
    """

    def __init__(
        self,
        context: StreamContext,
        terms: Terms,
        record: SessionRecord,
        *,
        tenant: str,
        epoch: int,
        protocol: StreamProtocol,
    ) -> None:
        config = context.session
        ring = Ring(max_messages=config.ring_messages, max_bytes=config.ring_bytes)
        self.terms = terms
        self.record = record
        self.protocol = protocol
        self.epoch = epoch
        self.outbox = Outbox(ring, max_results=MAX_UNSENT_RESULTS, max_messages=MAX_UNSENT_MESSAGES)
        self.tracking = Tracking(context, terms, record, outbox=self.outbox)
        self._context = context
        self._tenant = tenant
        self._lifetime = Lifetime(context, self)
        self._reading: asyncio.Task[None] | None = None
        self._living: asyncio.Task[None] | None = None
        self._owning: set[asyncio.Task[None]] = set()
        self._lent = False
        self._ending = False

    @property
    def session_id(self) -> str:
        """Its id, which is also that of its memory bank."""
        return self.record.session_id

    @property
    def resumable(self) -> bool:
        """Whether it outlives its streams."""
        return self._context.session.resume_ttl_s > 0

    def start(self, bank: BankSummary | None = None) -> None:
        """Begins to live; `bank` is what a memory bank taken over holds."""
        if bank is not None:
            self.tracking.adopt(bank)
        self._context.live.add(self)
        self._living = asyncio.create_task(self._live())
        self._living.add_done_callback(_see)
        _log.info("session opened", extra={"session": self.session_id, "peer": self.record.peer, "epoch": self.epoch})

    def token(self) -> bytes:
        """A fresh resume token; b"" if the session cannot be resumed."""
        if not self.resumable:
            return b""
        location = self._context.backend.location(self.session_id)
        age_s = self._context.clock() - self.record.opened_s
        opened_ms = self._context.signer.wall_ms() - round(age_s * 1000)
        claim = ResumeClaim(self.session_id, self._tenant, self.epoch, location, self.terms.shape, opened_ms)
        lifetime_s = TOKEN_LIFETIME_TTLS * self._context.session.resume_ttl_s
        self._lifetime.token_given()
        return self._context.signer.sign(claim, lifetime_s=lifetime_s)

    async def own(self) -> None:
        """Owns the memory bank with a higher epoch, between two steps. Raises SessionSuperseded or SessionStateLost.

        It goes on even if the caller is cancelled, as the backend does: else the bank's epoch would rise unseen.
        """
        owning = asyncio.create_task(self._own())
        self._owning.add(owning)
        owning.add_done_callback(self._owning.discard)
        owning.add_done_callback(_see)
        await asyncio.shield(owning)

    def attach(self, last_seen: int, unanswered: Sequence[int], *, peer: str) -> int:
        """A stream whose client has seen all answers up to `last_seen`; the stream before it is fenced.

        Args:
            last_seen: a server seq.
            unanswered: frames the client has not been told about.
            peer: address of the client.

        Returns:
            The stream's number.

        Raises:
            LimitExceeded: too many answers wait for a client that comes again and again and does not read them.
        """
        if len(self.outbox) > _MAX_UNREAD:
            raise LimitExceeded(f"{len(self.outbox)} answers wait to be read, the limit is {_MAX_UNREAD}", field="open")
        if self._reading is not None:
            self._reading.cancel()
        taker, lost = self.outbox.attach(last_seen)
        coming = self.outbox.frames_told() | self.tracking.frames_pending()
        gone = {*lost, *(seq for seq in unanswered if seq <= self.protocol.acked_seq)} - coming
        self.tracking.report_lost(sorted(gone))
        self.record.peer = peer
        self._context.registry.attached(self.record)
        return taker

    def read_with(self, reading: asyncio.Task[None]) -> None:
        """The newest stream's reading of requests, which ends when another stream attaches."""
        self._reading = reading

    async def leave(self, taker: int) -> None:
        """The stream is over. Detaches the session, or ends it if it cannot be resumed."""
        if not self.outbox.detach(taker):
            return
        if self.ended:
            self.tracking.trace.stop()
        elif not self.resumable:
            await self.stop()
        elif self._living is not None:
            self._context.registry.detached(self.record)

    async def wait_ended(self) -> None:
        """Waits for the end of the session; raises what it ended with, SessionSuperseded if another goes on with it."""
        assert self._living is not None
        await asyncio.wait([self._living])
        if self._lent and self._living.cancelled():
            raise SessionSuperseded("another server has gone on with the session")
        self._living.result()

    def end_stream(self, error: MaskletError) -> None:
        """Ends the stream, if there is one, with `error`, and detaches the session at once."""
        taker = self.outbox.taker
        self.outbox.end_stream(taker, error)
        if self._reading is not None:
            self._reading.cancel()
        if self.outbox.detach(taker):
            self._context.registry.detached(self.record)

    @property
    def closing(self) -> bool:
        """Whether it ends once what was accepted is answered."""
        return self.protocol.state in (StreamState.CLOSING, StreamState.CLOSED)

    @property
    def ending(self) -> bool:
        """Whether it is over, or its memory bank is just being closed."""
        return self._ending

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._living is not None and self._living.done()

    async def wait_over(self) -> None:
        """Waits until it is over, whatever it ended with."""
        if self._living is not None:
            await asyncio.wait([self._living])

    async def stop(self) -> None:
        """Ends the session now; its memory bank is closed, unless the server drains and another may go on."""
        if self._living is not None:
            self._living.cancel()
            await self.wait_over()

    async def abandon(self) -> None:
        """Another server goes on with the session: ends it here and leaves the memory bank alone."""
        self._lent = True
        await self.stop()

    async def _own(self) -> None:
        async with self.tracking.turn:
            epoch, location = self.epoch + 1, self._context.backend.location(self.session_id)
            await self._context.backend.attach(self.session_id, epoch, location=location)
            self.epoch = epoch

    async def _live(self) -> None:
        error: BaseException | None = None
        try:
            await self._work()
        except BaseException as failure:
            error = _cause(failure) if isinstance(failure, BaseExceptionGroup) else failure
            raise error from None
        finally:
            self._ending = True
            try:
                await self._forget(error)
            finally:
                self.protocol.handle(StreamEvent.END)  # until now frames were taken
                self._context.metrics.frame_queue_depth.dec(self.tracking.timeline.frames_waiting)
                self.outbox.close()
                if not self.outbox.attached:
                    self.tracking.trace.stop()

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._lifetime.watch())
                await self.tracking.run()
                if self.protocol.state is StreamState.DRAINING:
                    self.tracking.refuse_pending(self._lifetime.ended_by_drain())
                    raise self._lifetime.ended_by_drain()
                self.tracking.refuse_pending(UnknownFrame("the stream was closed before a frame came for this prompt"))
                watching.cancel()
        finally:
            await self.tracking.lookahead.stop()

    async def _forget(self, error: BaseException | None) -> None:
        if isinstance(error, SessionStateLost):
            self._context.metrics.session_state_lost.labels("tracking").inc()
        record, draining = self.record, self._context.registry.draining and self.resumable
        left = self._lent or (draining and isinstance(error, ServerDraining | asyncio.CancelledError))
        self._context.registry.remove(record.session_id)
        extra = {"session": record.session_id, "answered": record.frames_answered, "dropped": record.frames_dropped}
        _log.info("session left to others" if left else "session ended", extra=extra)
        try:
            if left:
                self._context.backend.disown(record.session_id)
            else:
                await close_bank(self._context.backend, record.session_id)
        except MaskletError as failure:  # the session's own end matters more, and the backend forgets by itself
            _log.warning("memory bank not closed", extra={"session": record.session_id, "error": str(failure)})
        finally:  # not before: a client that comes back now must neither find the bank nor take it over
            self._context.live.remove(self, ended=not left and not isinstance(error, SessionSuperseded))
            if error is None and self.resumable:
                self._context.live.closed.keep(self, ttl_s=self._context.session.resume_ttl_s)


def _see(task: asyncio.Task[None]) -> None:
    """What a task ended with is no secret and no surprise, even if nobody waits for it."""
    if not task.cancelled():
        task.exception()


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a task group failed of: our own error if there is one, else the first."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if isinstance(leaf, MaskletError)), leaves[0])
