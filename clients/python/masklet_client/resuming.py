"""One session over as many connections as it takes: reopened with its token, or begun anew from its last masks."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from masklet.errors import (
    AccessDenied,
    AdmissionRefused,
    BackendUnavailable,
    IdleTimeout,
    MaskletError,
    ServerDraining,
    SessionExpired,
    SessionNotFound,
    SessionStateLost,
)
from masklet.types import StateOrigin
from masklet.v1 import prompt_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.call import Call, CallFailed, TrackCall
from masklet_client.events import Opened, Resumed
from masklet_client.journal import Journal
from masklet_client.reader import Reader
from masklet_client.settings import Reconnect, StreamSettings
from masklet_client.wire import open_to_proto, opened_from_proto

OPEN_TIMEOUT_S = 30.0
_ATTEMPT_TIMEOUT_S = 10.0
_LASTING_S = 5.0
_PASSING = (ServerDraining, BackendUnavailable, AdmissionRefused, IdleTimeout)
_FORGOTTEN = (SessionExpired, SessionNotFound, SessionStateLost, AccessDenied)
logger = logging.getLogger("masklet_client")


@dataclass(slots=True)
class _Outage:
    """Since when no frame was settled, and the next pause between attempts.

    A connection that opens does not end it: it may break each time, before it has settled a frame or lasted for long.
    """

    since_s: float
    delay_s: float


class Resuming:
    """The connection of one stream; a lost one is replaced.

    Attributes:
        opened: as granted, newest session.
    """

    opened: Opened

    def __init__(
        self,
        dial: Callable[[str, str], Call],
        addresses: Sequence[str],
        settings: StreamSettings,
        *,
        journal: Journal,
        reader: Reader,
    ) -> None:
        """`dial` begins a call to one of the addresses, and to the server which a proxy there calls so ("": any)."""
        self._dial, self._addresses, self._settings = dial, tuple(addresses), settings
        self._journal, self._reader = journal, reader
        self._at = 0
        self._front = ""
        self._call: TrackCall | None = None
        self._outage: _Outage | None = None
        self._resumed_s = 0.0

    @property
    def address(self) -> str:
        """The server in use."""
        return self._addresses[self._at]

    async def open(self) -> None:
        """Open a new session at the first address that takes it; raises what the last one refused it with."""
        for last in range(len(self._addresses)):
            try:
                await self._begin(timeout_s=OPEN_TIMEOUT_S)
                return
            except CallFailed as failure:
                if last == len(self._addresses) - 1 or not passes(failure.error, on_the_way=failure.on_the_way):
                    raise failure.error from failure
                self._move_on()

    async def run(self) -> None:
        """Serve until the stream ends. Raises what it ended with, once every frame sent is accounted for."""
        try:
            while True:
                assert self._call is not None
                try:
                    await self._call.run(self._journal, self._take)
                    return
                except CallFailed as failure:
                    if self._journal.finished or self._journal.hurried:
                        return
                    await self._reopen(failure)
        finally:
            self.stop()

    def stop(self) -> None:
        """Cut off the call in use."""
        if self._call is not None:
            self._call.stop()

    async def _reopen(self, failure: CallFailed) -> None:
        """A connection that serves the session again; raises the error to end with if there is none to be had."""
        wanted = self._settings.reconnect
        lost = isinstance(failure.error, SessionStateLost)
        if wanted is None or not (passes(failure.error, on_the_way=failure.on_the_way) or (lost and wanted.reseed)):
            raise failure.error
        logger.warning("lost %s: %s; resuming", self.address, failure.error)
        if lost:
            self._reader.resume_token = b""
        lost_s = time.monotonic()
        outage = self._outage
        if outage is not None and lost_s - self._resumed_s < _LASTING_S:
            await self._pause(wanted, outage, failure.error)
        else:
            outage = self._outage = _Outage(lost_s, wanted.first_delay_s)
            if isinstance(failure.error, ServerDraining):
                self._leave()
        for attempt in itertools.count(1):
            try:
                event = await self._attempt(attempt, lost_s)
                break
            except CallFailed as refused:
                if not passes(refused.error, on_the_way=refused.on_the_way):
                    raise refused.error from refused
                await self._pause(wanted, outage, refused.error)
        self._resumed_s = time.monotonic()
        lost_objects = f"; {event.error}" if event.error else ""
        logger.warning("resumed at %s after %.1f s: %s%s", self.address, event.seconds, event.origin, lost_objects)
        await self._reader.emit(event)

    async def _pause(self, wanted: Reconnect, outage: _Outage, error: MaskletError) -> None:
        """Before the next attempt, elsewhere; raises `error` if that would be too late."""
        pause_s = max(random.uniform(0.5, 1.0) * outage.delay_s, error.retry_after_s or 0.0)
        if time.monotonic() + pause_s - outage.since_s > wanted.give_up_s:
            raise error
        self._leave()  # its server may be gone, and the proxy not know yet
        await asyncio.sleep(pause_s)
        outage.delay_s = min(2 * outage.delay_s, wanted.max_delay_s)

    async def _take(self, response: pb.TrackResponse) -> None:
        if response.WhichOneof("message") in ("result", "dropped"):
            self._outage = None
        await self._reader.take(response)

    async def _attempt(self, attempt: int, lost_s: float) -> Resumed:
        """One try: with the token if there is one, else, or if nobody knows the session any more, anew."""
        assert self._settings.reconnect is not None
        missing: tuple[int, ...] = ()
        try:
            if not self._reader.resume_token:
                raise CallFailed(SessionExpired("the session had no resume token"), on_the_way=False)
            await self._resume()
            origin = self.opened.state_origin
        except CallFailed as refused:
            if not isinstance(refused.error, _FORGOTTEN) or not self._settings.reconnect.reseed:
                raise
            prompts, missing = self._reader.reseeding()
            await self._begin(prompts, timeout_s=_ATTEMPT_TIMEOUT_S)
            origin = StateOrigin.RESEEDED if prompts else StateOrigin.NEW
        return Resumed(origin, self.address, attempt, time.monotonic() - lost_s, missing)

    async def _resume(self) -> None:
        wanted = open_to_proto(self._settings)
        wanted.resume_token = self._reader.resume_token
        wanted.last_server_seq = self._reader.last_server_seq
        wanted.unanswered_seqs.extend(self._journal.unanswered_wire())
        opened = await self._connect(wanted, timeout_s=_ATTEMPT_TIMEOUT_S, front=self._front)
        self._journal.rewind(opened.opened.next_seq)

    async def _begin(self, prelude: Sequence[prompt_pb2.Prompt] = (), *, timeout_s: float) -> None:
        opened = await self._connect(open_to_proto(self._settings), timeout_s=timeout_s)
        self._reader.last_server_seq = opened.server_seq
        self._journal.restart(prelude, seen_frame=self._reader.newest_frame if prelude else 0)
        await self._reader.give_up_lost()

    async def _connect(self, wanted: pb.Open, *, timeout_s: float, front: str = "") -> pb.TrackResponse:
        self.stop()
        self._call = TrackCall(self._dial(self.address, front), self.address)
        response = await self._call.open(wanted, timeout_s=timeout_s)
        self._front = self._call.front or front
        self.opened = opened_from_proto(response.opened)
        self._reader.resume_token, self._reader.go_away = response.opened.resume_token, None
        return response

    def _leave(self) -> None:
        self._move_on()
        self._front = ""

    def _move_on(self) -> None:
        self._at = (self._at + 1) % len(self._addresses)


def passes(error: MaskletError, *, on_the_way: bool) -> bool:
    """Whether it makes sense to try again, here or elsewhere."""
    return on_the_way or isinstance(error, _PASSING)


def given_up(error: BaseException) -> MaskletError:
    """What a stream ends with after `error`."""
    if isinstance(error, MaskletError):
        return error
    wrapped = MaskletError(f"the stream broke: {error!r}")
    wrapped.__cause__ = error
    return wrapped
