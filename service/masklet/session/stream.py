"""One stream from `open` to its end: an async iterator of requests in, an async iterator of answers out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from masklet.errors import IdleTimeout, MaskletError, ProtocolViolation
from masklet.session.context import StreamContext
from masklet.session.intake import Intake
from masklet.session.live import MAX_UNSENT_MESSAGES, MAX_UNSENT_RESULTS, LiveSession
from masklet.session.messages import ClientMessage, Malformed, Open, Result, ServerMessage
from masklet.session.opening import Caller, Joined, join
from masklet.session.protocol import check_open_seq, event_of
from masklet.session.ring import Outgoing

__all__ = ["MAX_UNSENT_MESSAGES", "MAX_UNSENT_RESULTS", "SessionStream", "StreamContext"]


class SessionStream:
    """One stream; `run` it once.

    Reading is a task of its own; tracking and watching are the session's; writing is done by whoever iterates `run`.
    Close the iterator (`contextlib.aclosing`) and the stream is gone; its session is then detached, or gone too if the
    client said `close` or sessions cannot be resumed.

    Args:
        context: what all streams share.
        peer: address of the client.
        tenant: who the client is; "" as long as nobody is told apart.
        trace_headers: W3C trace context of the call, `traceparent` and `tracestate`.
    """

    def __init__(
        self,
        context: StreamContext,
        *,
        peer: str = "",
        tenant: str = "",
        trace_headers: Mapping[str, str] | None = None,
    ) -> None:
        self._context = context
        self._caller = Caller(peer, tenant, trace_headers or {})
        self._session: LiveSession | None = None

    async def run(self, requests: AsyncIterator[ClientMessage]) -> AsyncGenerator[ServerMessage, None]:
        """Serve one stream.

        Ends normally after `close` or the end of requests; raises a MaskletError when the stream must end with a
        status. Answers made before the end are handed out first.
        """
        self._context.metrics.streams_active.inc()
        reason = "cancelled"
        try:
            async with aclosing(self._answers(requests)) as answers:
                async for answer in answers:
                    yield answer
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

    async def _answers(self, requests: AsyncIterator[ClientMessage]) -> AsyncGenerator[ServerMessage, None]:
        self._context.registry.check_draining()
        first = await self._first(requests)
        if first is None:
            return
        joined = await join(self._context, first, self._caller)
        self._session = session = joined.session
        reading = asyncio.create_task(self._read(joined, requests))
        session.read_with(reading)
        try:
            yield joined.greeting
            while (outgoing := await session.outbox.take(joined.taker)) is not None:
                written_from_s = self._context.clock()
                yield ServerMessage(outgoing.server_seq, session.protocol.acked_seq, outgoing.body)
                self._written(session, outgoing, written_from_s)
            await self._end(session, reading)
        finally:
            try:
                await _cancel(reading)
            finally:  # also if the call is cancelled just now, since the client went while its stream was ending
                await session.leave(joined.taker)

    async def _end(self, session: LiveSession, reading: asyncio.Task[None]) -> None:
        """Raises what the stream or its session ended with."""
        if reading.done() and not reading.cancelled():
            reading.result()
            if not session.closing:
                return
        await session.wait_ended()

    async def _read(self, joined: Joined, requests: AsyncIterator[ClientMessage]) -> None:
        session = joined.session
        intake = Intake(self._context, session, self._caller.trace_headers)
        try:
            if await intake.run(requests):
                return
            await session.tracking.wait_idle()
        except Exception:
            session.outbox.end_stream(joined.taker)
            raise
        session.outbox.end_stream(joined.taker)

    def _written(self, session: LiveSession, outgoing: Outgoing, from_s: float) -> None:
        if outgoing.frame_received_s is None or not isinstance(outgoing.body, Result):
            return
        now_s = self._context.clock()
        metrics = self._context.metrics
        metrics.stage.labels("write").observe(now_s - from_s)
        metrics.frame_latency.observe(now_s - outgoing.frame_received_s)
        session.tracking.trace.stage(outgoing.body.frame_seq, "write", from_s, now_s)
        session.tracking.trace.end(outgoing.body.frame_seq, "answered")
        if outgoing.body.capture_time_ns is not None:
            metrics.result_staleness.observe(max(0.0, (time.time_ns() - outgoing.body.capture_time_ns) / 1e9))

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
        check_open_seq(message.seq)
        return message.body


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # seen: raised already, or nobody is there to be told
