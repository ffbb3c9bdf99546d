"""When one stream must end though nobody asked: an operator, a drain, its age, a silent client."""

from __future__ import annotations

import asyncio

from masklet.errors import IdleTimeout, ServerDraining, SessionClosed
from masklet.session.context import StreamContext
from masklet.session.messages import GoAway
from masklet.session.outbox import Outbox
from masklet.session.protocol import StreamEvent, StreamProtocol, StreamState
from masklet.session.registry import RETRY_AFTER_S, SessionRecord
from masklet.session.timeline import Timeline


class Lifetime:
    """Watches one session's clock and its registry entry.

    A stream is idle while no request is received *and* no step is made: a slow server ends nobody's stream, and a
    client that sends but never reads (so that work and reading have stopped) is idle.
    """

    def __init__(
        self,
        context: StreamContext,
        record: SessionRecord,
        *,
        protocol: StreamProtocol,
        timeline: Timeline,
        outbox: Outbox,
    ) -> None:
        self._context = context
        self._record = record
        self._protocol = protocol
        self._timeline = timeline
        self._outbox = outbox

    async def watch(self) -> None:
        """Never returns.

        Raises:
            SessionClosed: an operator ended the session.
            ServerDraining: the drain's deadline has passed.
            IdleTimeout: nothing happened for `idle_timeout_s`.
        """
        while True:
            self._record.ordered.clear()
            now_s = self._context.clock()
            self._obey(now_s)
            try:
                async with asyncio.timeout(max(0.001, self._next_s() - now_s)):
                    await self._record.ordered.wait()
            except TimeoutError:
                continue

    def ended_by_drain(self) -> ServerDraining:
        """What a drained stream ends with."""
        if self._context.registry.draining:
            text = "the server is draining; reconnect to another"
        else:
            text = f"the stream has reached its maximum age of {self._context.session.max_session_age_s:g} s; reconnect"
        return ServerDraining(text, retry_after_s=RETRY_AFTER_S)

    def _obey(self, now_s: float) -> None:
        if self._record.closing:
            raise SessionClosed(f"session {self._record.session_id} was ended by an operator")
        if self._record.drain_at_s is None and now_s >= self._ages_s():
            self._context.registry.drain_session(self._record.session_id, self._context.session.idle_timeout_s)
        if self._record.drain_at_s is not None:
            self._drain(now_s, self._record.drain_at_s)
        if now_s >= self._idles_s():
            limit_s = self._context.session.idle_timeout_s
            raise IdleTimeout(f"nothing was sent, or nothing read, for {limit_s:g} s")

    def _drain(self, now_s: float, at_s: float) -> None:
        if now_s >= at_s:
            raise self.ended_by_drain()
        if self._protocol.state is StreamState.STREAMING:
            self._protocol.handle(StreamEvent.DRAIN)
            self._outbox.put(GoAway(resume_token=b"", deadline_s=at_s - now_s))
            self._timeline.finish()

    def _ages_s(self) -> float:
        return self._record.opened_s + self._context.session.max_session_age_s

    def _idles_s(self) -> float:
        if self._record.stepping:
            return self._context.clock() + self._context.session.idle_timeout_s
        return max(self._record.last_request_s, self._record.last_step_s) + self._context.session.idle_timeout_s

    def _next_s(self) -> float:
        ends_s = self._ages_s() if self._record.drain_at_s is None else self._record.drain_at_s
        return min(ends_s, self._idles_s())
