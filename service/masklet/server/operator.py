"""SessionService: the sessions of this server, for operators."""

from __future__ import annotations

import itertools
from typing import Any

from masklet.errors import LimitExceeded, RequestError
from masklet.server.enums import EnumTable
from masklet.server.responses import to_duration
from masklet.session.registry import SessionRegistry, SessionSnapshot, SessionState
from masklet.v1 import session_pb2 as pb
from masklet.v1.session_pb2_grpc import SessionServiceServicer

MAX_PAGE_SIZE = 1000
DEFAULT_PAGE_SIZE = 100
SESSION_STATES = EnumTable(pb.SessionState, SessionState, "SESSION_STATE")


class SessionServicer(SessionServiceServicer):
    """Lists and closes sessions.

    Sessions are numbered as they are first listed, oldest first; a page token is the number of the last one shown. So
    sessions that end between two pages make nobody else skipped or shown twice.
    """

    def __init__(self, registry: SessionRegistry) -> None:
        self._registry = registry
        self._counter = itertools.count(1)
        self._numbers: dict[str, int] = {}

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        """A page of sessions, oldest first."""
        size, shown = _page_size(request.page_size), _page_start(request.page_token)
        sessions = self._registry.list()
        known = self._numbers
        self._numbers = {one.session_id: known.get(one.session_id) or next(self._counter) for one in sessions}
        rest = [one for one in sessions if self._numbers[one.session_id] > shown]
        page = rest[:size]
        token = str(self._numbers[page[-1].session_id]) if len(rest) > size else ""
        return pb.ListSessionsResponse(sessions=[to_session(one) for one in page], next_page_token=token)

    async def CloseSession(self, request: pb.CloseSessionRequest, context: Any) -> pb.CloseSessionResponse:
        """Ends one session."""
        self._registry.close(request.session_id)
        return pb.CloseSessionResponse()


def to_session(snapshot: SessionSnapshot) -> pb.Session:
    """One session on the wire."""
    height, width = snapshot.size
    return pb.Session(
        session_id=snapshot.session_id,
        state=SESSION_STATES.to_wire(snapshot.state),
        age=to_duration(snapshot.age_s),
        idle=to_duration(snapshot.idle_s),
        objects=snapshot.objects,
        frames_answered=snapshot.frames_answered,
        frames_dropped=snapshot.frames_dropped,
        peer=snapshot.peer,
        height=height,
        width=width,
    )


def _page_size(wanted: int) -> int:
    if wanted > MAX_PAGE_SIZE:
        raise LimitExceeded(f"page_size is {wanted}, at most {MAX_PAGE_SIZE}", field="page_size")
    return wanted or DEFAULT_PAGE_SIZE


def _page_start(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) < 20):
        raise RequestError(f"page_token is {token[:40]!r}, which this server did not give", field="page_token")
    return int(token or 0)
