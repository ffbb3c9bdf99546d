"""One stream from `open` to its end: an async iterator of requests in, an async iterator of answers out."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator

from masklet.errors import IdleTimeout, MaskletError, ProtocolViolation, UnknownFrame
from masklet.session.closing import close_bank
from masklet.session.context import StreamContext
from masklet.session.intake import Intake
from masklet.session.lifetime import Lifetime
from masklet.session.messages import ClientMessage, Malformed, Open, Result, ServerMessage
from masklet.session.outbox import Outbox, Outgoing
from masklet.session.protocol import StreamEvent, StreamProtocol, StreamState, event_of
from masklet.session.registry import SessionRecord
from masklet.session.terms import Terms, announce_limits, grant, opened
from masklet.session.tracking import Tracking
from masklet.session.validation import check_open

__all__ = ["MAX_UNSENT_MESSAGES", "MAX_UNSENT_RESULTS", "SessionStream", "StreamContext"]

MAX_UNSENT_RESULTS = 4
"""Results that wait for a client that does not read before inference for it stops."""
MAX_UNSENT_MESSAGES = 256
"""Answers of any kind that wait before the reading of its requests stops too."""

_log = logging.getLogger(__name__)


class SessionStream:
    """One stream; `run` it once.

    Reading, tracking and watching are tasks of one group; writing is done by whoever iterates `run`. Close the iterator
    (`contextlib.aclosing`) and everything is gone: tasks, the registry entry, the memory bank.
    """

    def __init__(self, context: StreamContext, *, peer: str = "") -> None:
        self._context = context
        self._peer = peer
        self._protocol = StreamProtocol()
        self._outbox = Outbox(max_results=MAX_UNSENT_RESULTS, max_messages=MAX_UNSENT_MESSAGES)
        self._server_seq = 0
        self._ended = asyncio.Event()

    async def run(self, requests: AsyncIterator[ClientMessage]) -> AsyncGenerator[ServerMessage, None]:
        """Serve one stream.

        Ends normally after `close` or the end of requests; raises a MaskletError when the stream must end with a
        status. Answers made before the end are handed out first.
        """
        serving = asyncio.create_task(self._serve(requests))
        self._context.metrics.streams_active.inc()
        reason = "cancelled"
        try:
            while (outgoing := await self._outbox.take()) is not None:
                written_from_s = self._context.clock()
                yield self._number(outgoing)
                self._written(outgoing, written_from_s)
            await serving
            reason = "close"
        except MaskletError as error:
            reason = error.reason
            raise
        except Exception:
            reason = MaskletError.reason
            raise
        finally:
            self._context.metrics.streams_active.dec()
            self._context.metrics.stream_closed.labels(reason).inc()
            await _cancel(serving)

    async def wait_ended(self) -> None:
        """Waits until the session is gone, though answers may still wait for a client that does not read."""
        await self._ended.wait()

    def _number(self, outgoing: Outgoing) -> ServerMessage:
        self._server_seq += 1
        return ServerMessage(self._server_seq, self._protocol.acked_seq, outgoing.body)

    def _written(self, outgoing: Outgoing, from_s: float) -> None:
        if outgoing.frame_received_s is None or not isinstance(outgoing.body, Result):
            return
        now_s = self._context.clock()
        metrics = self._context.metrics
        metrics.stage.labels("write").observe(now_s - from_s)
        metrics.frame_latency.observe(now_s - outgoing.frame_received_s)
        if outgoing.body.capture_time_ns is not None:
            metrics.result_staleness.observe(max(0.0, (time.time_ns() - outgoing.body.capture_time_ns) / 1e9))

    async def _serve(self, requests: AsyncIterator[ClientMessage]) -> None:
        try:
            self._context.registry.check_draining()
            wanted = await self._first(requests)
            if wanted is not None:
                await self._serve_session(wanted, requests)
        except BaseExceptionGroup as group:
            raise _cause(group) from None
        finally:
            self._protocol.handle(StreamEvent.END)
            self._outbox.close()
            self._ended.set()

    async def _first(self, requests: AsyncIterator[ClientMessage]) -> Open | None:
        """The `open` message, or None if there are no requests at all."""
        timeout_s = self._context.session.first_message_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                message = await anext(requests, None)
        except TimeoutError:
            raise IdleTimeout(f"no `open` within {timeout_s:g} s") from None
        if message is None:
            return None
        if isinstance(message.body, Malformed):
            raise message.body.error
        if not isinstance(message.body, Open):
            raise ProtocolViolation(f"the first message is `{event_of(message.body)}`, must be `open`")
        self._protocol.receive(message.seq, message.body)
        return message.body

    async def _serve_session(self, wanted: Open, requests: AsyncIterator[ClientMessage]) -> None:
        check_open(wanted, self._context.limits)
        terms = grant(wanted, self._context.session)
        session_id = uuid.uuid4().hex
        record = self._context.registry.add(session_id, peer=self._peer, size=terms.size)
        try:
            await self._context.backend.open(session_id, terms.settings)
            _log.info("session opened", extra={"session": session_id, "peer": self._peer})
            limits = announce_limits(self._context.limits, self._context.session)
            self._outbox.put(opened(session_id, terms, limits=limits, next_seq=self._protocol.acked_seq + 1))
            await self._attend(terms, record, requests)
        finally:
            await self._forget(record)

    async def _attend(self, terms: Terms, record: SessionRecord, requests: AsyncIterator[ClientMessage]) -> None:
        context, protocol, outbox = self._context, self._protocol, self._outbox
        tracking = Tracking(context, terms, record, outbox=outbox)
        intake = Intake(context, terms, record, protocol=protocol, tracking=tracking, outbox=outbox)
        lifetime = Lifetime(context, record, protocol=protocol, timeline=tracking.timeline, outbox=outbox)
        try:
            async with asyncio.TaskGroup() as group:
                others = [group.create_task(lifetime.watch()), group.create_task(intake.run(requests))]
                await tracking.run()
                if protocol.state is StreamState.DRAINING:
                    tracking.refuse_pending(lifetime.ended_by_drain())
                    raise lifetime.ended_by_drain()
                tracking.refuse_pending(UnknownFrame("the stream was closed before a frame came for this prompt"))
                for task in others:
                    task.cancel()
        finally:
            context.metrics.frame_queue_depth.dec(tracking.timeline.frames_waiting)
            await tracking.lookahead.stop()

    async def _forget(self, record: SessionRecord) -> None:
        self._context.registry.remove(record.session_id)
        _log.info(
            "session ended",
            extra={
                "session": record.session_id,
                "answered": record.frames_answered,
                "dropped": record.frames_dropped,
            },
        )
        try:
            await close_bank(self._context.backend, record.session_id)
        except MaskletError as error:  # the stream's own end matters more, and the backend forgets by itself
            _log.warning("memory bank not closed", extra={"session": record.session_id, "error": str(error)})


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # seen: raised already, or nobody is there to be told


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
