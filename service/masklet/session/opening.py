"""How a stream comes by its session: a new one, one that waits here, or one that another server has left."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from masklet.backends.base import FIRST_EPOCH, Backend
from masklet.errors import (
    BackendUnavailable,
    BackendUncertain,
    InvalidOpen,
    MaskletError,
    SessionExpired,
    SessionStateLost,
    SessionSuperseded,
)
from masklet.session.closing import close_bank
from masklet.session.context import StreamContext
from masklet.session.live import LiveSession
from masklet.session.messages import Open, Opened, ServerMessage
from masklet.session.protocol import FIRST_SEQ, StreamProtocol
from masklet.session.terms import Terms, announce_limits, grant, opened
from masklet.session.tokens import ResumeClaim
from masklet.session.validation import check_open, limits_of_frames
from masklet.types import BankSummary, StateOrigin, TrackSettings

_EPOCH_STEPS = tuple(2**power for power in range(21))
"""How far above a token's epoch the memory bank's may be: it rises by one whenever the session is resumed."""
_RETRY_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who opens a stream: address, tenant ("" as long as nobody is told apart), and the trace it is part of, if any."""

    peer: str = ""
    tenant: str = ""
    trace_headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Joined:
    """A stream's session, its number there, and what the client is told first."""

    session: LiveSession
    taker: int
    greeting: ServerMessage


async def join(context: StreamContext, wanted: Open, caller: Caller) -> Joined:
    """The session that `open` asks for.

    Raises:
        RequestError: it asks for something that is not offered.
        AccessDenied: the resume token is not ours, or not this tenant's.
        SessionExpired: the session to be resumed has ended.
        SessionStateLost: its memory bank is gone.
        AdmissionRefused: there is no room; OverCapacity: none for its load.
        ServerDraining: the server is going away.
        BackendError: the backend failed.
    """
    check_open(wanted, context.limits)
    terms = grant(wanted, context.session)
    if not wanted.resume_token:
        return await _begin(context, terms, caller)
    try:
        joined = await _resume(context, terms, wanted, caller)
    except MaskletError as error:
        context.metrics.resumes.labels("none", error.reason).inc()
        if isinstance(error, SessionStateLost):
            context.metrics.session_state_lost.labels("resume").inc()
        raise
    body = joined.greeting.body
    assert isinstance(body, Opened)
    context.metrics.resumes.labels(body.state_origin, "resumed").inc()
    return joined


async def open_bank(backend: Backend, session_id: str, settings: TrackSettings) -> None:
    """`backend.open` for a session nobody knows yet, so that a lost answer loses nothing: try again, with another.

    Raises:
        AdmissionRefused: there is no room; OverCapacity: none for its load.
        BackendUnavailable: it cannot be reached, or its answer was lost.
        BackendError: the backend failed.
    """
    try:
        await backend.open(session_id, settings)
    except BackendUncertain as error:
        raise BackendUnavailable(str(error), retry_after_s=_RETRY_AFTER_S) from error


async def _begin(context: StreamContext, terms: Terms, caller: Caller) -> Joined:
    session_id = uuid.uuid4().hex
    record = context.registry.add(session_id, peer=caller.peer, size=terms.size)
    try:
        await open_bank(context.backend, session_id, terms.settings)
    except BaseException as error:
        context.registry.withdraw(session_id, error)
        await close_bank(context.backend, session_id)  # whoever was cancelled meanwhile may have opened it
        raise
    protocol = StreamProtocol.opened(acked_seq=FIRST_SEQ)
    session = LiveSession(context, terms, record, tenant=caller.tenant, epoch=FIRST_EPOCH, protocol=protocol)
    session.start()
    taker = session.attach(1, (), peer=caller.peer)
    return Joined(session, taker, _greeting(context, session, 1, StateOrigin.NEW))


async def _resume(context: StreamContext, terms: Terms, wanted: Open, caller: Caller) -> Joined:
    context.registry.check_draining()
    claim = context.signer.verify(wanted.resume_token, tenant=caller.tenant)
    if claim.shape != terms.shape:
        raise InvalidOpen(f"the session to be resumed is {claim.shape}, `open` says {terms.shape}", field="open")
    async with context.live.turn(claim.session_id):
        session, origin = await _found(context, terms, claim, caller)
        taker = session.attach(wanted.last_server_seq, wanted.unanswered_seqs, peer=caller.peer)
        return Joined(session, taker, _greeting(context, session, wanted.last_server_seq, origin))


async def _found(
    context: StreamContext, terms: Terms, claim: ResumeClaim, caller: Caller
) -> tuple[LiveSession, StateOrigin]:
    """The session, owned with an epoch above all before it; or closed, and then only its last answers are to be had."""
    session = context.live.get(claim.session_id)
    if session is not None and session.ending:
        await session.wait_over()
        session = None
    closed = context.live.closed.get(claim.session_id)
    for known in (session, closed):
        if known is not None and known.terms != terms:
            raise InvalidOpen("`open` differs from the one that opened the session to be resumed", field="open")
    if session is not None:
        if await _own_here(session, claim):
            return session, StateOrigin.INTACT
        await session.abandon()
    if closed is not None and claim.epoch <= closed.epoch:
        return closed, StateOrigin.INTACT
    try:
        return await _take_over(context, terms, claim, caller)
    except SessionStateLost as error:
        if not context.live.has_ended(claim.session_id):
            raise
        text = f"session {claim.session_id} has ended; open a new one"
        raise SessionExpired(text, field="open.resume_token") from error


async def _own_here(session: LiveSession, claim: ResumeClaim) -> bool:
    """Whether nobody else has gone on with the session since we did."""
    if claim.epoch > session.epoch:
        return False
    try:
        await session.own()
    except SessionSuperseded:
        return False
    return True


async def _take_over(
    context: StreamContext, terms: Terms, claim: ResumeClaim, caller: Caller
) -> tuple[LiveSession, StateOrigin]:
    age_s = max(0, context.signer.wall_ms() - claim.opened_ms) / 1000
    record = context.registry.add(claim.session_id, peer=caller.peer, size=terms.size, resumed_at_s=age_s)
    try:
        bank, epoch = await _attach(context, claim)
    except BaseException as error:
        context.registry.withdraw(claim.session_id, error)
        raise
    protocol = StreamProtocol.opened(acked_seq=max(FIRST_SEQ, bank.last_frame_seq))
    session = LiveSession(context, terms, record, tenant=caller.tenant, epoch=epoch, protocol=protocol)
    session.start(bank)
    return session, bank.origin


async def _attach(context: StreamContext, claim: ResumeClaim) -> tuple[BankSummary, int]:
    """Older tokens stay valid: the bank's epoch may have risen since this one was given out, by how much is unknown."""
    for step in _EPOCH_STEPS:
        epoch = claim.epoch + step
        try:
            return await context.backend.attach(claim.session_id, epoch, location=claim.location), epoch
        except SessionSuperseded as error:
            fenced = error
    raise fenced


def _greeting(context: StreamContext, session: LiveSession, server_seq: int, origin: StateOrigin) -> ServerMessage:
    body = opened(
        session.session_id,
        session.terms,
        limits=announce_limits(limits_of_frames(context.limits, session.terms.size), context.session),
        next_seq=session.protocol.acked_seq + 1,
        origin=origin,
        token=session.token(),
    )
    return ServerMessage(server_seq, session.protocol.acked_seq, body)
