"""When one session must end though nobody asked: an operator, a drain, its age, a client that is silent or gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from masklet.errors import IdleTimeout, ServerDraining, SessionClosed, SessionExpired
from masklet.session.context import StreamContext
from masklet.session.messages import GoAway, TokenRenewed
from masklet.session.protocol import StreamEvent, StreamState
from masklet.session.registry import RETRY_AFTER_S
from masklet.session.terms import TOKEN_LIFETIME_TTLS

if TYPE_CHECKING:
    from masklet.session.live import LiveSession


class Lifetime:
    """Watches one session's clock and its registry entry.

    A stream is idle while no request is received *and* no step is made: a slow server ends nobody's stream, and a
    client that sends but never reads (so that work and reading have stopped) is idle. An idle stream is ended; its
    session is then detached as if the connection were lost.
    """

    def __init__(self, context: StreamContext, session: LiveSession) -> None:
        self._context = context
        self._session = session
        self._record = session.record
        self._token_given_s = context.clock()

    def token_given(self) -> None:
        """The client gets a token now; it is renewed long before it expires."""
        self._token_given_s = self._context.clock()

    async def watch(self) -> None:
        """Never returns.

        Raises:
            SessionClosed: an operator ended the session.
            ServerDraining: the drain's deadline has passed.
            IdleTimeout: nothing happened for `idle_timeout_s`, and the session cannot be resumed.
            SessionExpired: nobody came back within `resume_ttl_s`.
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
        if self._record.detached_s is not None:
            self._expire(now_s, self._record.detached_s)
            return
        if now_s >= self._idles_s():
            self._idle()
        if self._session.resumable and now_s >= self._renews_s():
            self._session.outbox.put(TokenRenewed(self._session.token()))

    def _drain(self, now_s: float, at_s: float) -> None:
        session = self._session
        if now_s >= at_s:
            raise self.ended_by_drain()
        if session.protocol.state is StreamState.STREAMING:
            session.protocol.handle(StreamEvent.DRAIN)
            token = session.token() if self._context.registry.draining else b""  # too old here is too old anywhere
            session.outbox.put(GoAway(token, deadline_s=at_s - now_s))
            session.tracking.timeline.finish()

    def _expire(self, now_s: float, detached_s: float) -> None:
        ttl_s = self._context.session.resume_ttl_s
        if now_s >= detached_s + ttl_s:
            raise SessionExpired(f"nobody resumed session {self._record.session_id} within {ttl_s:g} s")

    def _idle(self) -> None:
        limit_s = self._context.session.idle_timeout_s
        error = IdleTimeout(f"nothing was sent, or nothing read, for {limit_s:g} s")
        if not self._session.resumable:
            raise error
        self._session.end_stream(error)

    def _ages_s(self) -> float:
        return self._record.opened_s + self._context.session.max_session_age_s

    def _idles_s(self) -> float:
        if self._record.stepping:
            return self._context.clock() + self._context.session.idle_timeout_s
        return max(self._record.last_request_s, self._record.last_step_s) + self._context.session.idle_timeout_s

    def _renews_s(self) -> float:
        return self._token_given_s + self._context.session.resume_ttl_s * TOKEN_LIFETIME_TTLS / 2

    def _next_s(self) -> float:
        ends_s = self._ages_s() if self._record.drain_at_s is None else self._record.drain_at_s
        if self._record.detached_s is not None:
            return min(ends_s, self._record.detached_s + self._context.session.resume_ttl_s)
        if self._session.resumable:
            ends_s = min(ends_s, self._renews_s())
        return min(ends_s, self._idles_s())
