"""The engine inside a Triton: one sequence per session, one request of it on its way at a time.

A request that was sent is never cancelled, because Triton would end its whole sequence: whoever stops waiting leaves it
to finish, and the session's next request waits for it. For the same reason steps have no deadline; a peer that vanishes
is found out by keepalive pings.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from masklet.backends.base import FIRST_EPOCH
from masklet.backends.triton_channel import SequenceNotStarted, TritonChannel
from masklet.backends.triton_frames import SharedSlot, SlotPool, as_jpeg, as_raw, as_shared, sweep
from masklet.backends.triton_messages import Answer, Call, ModelFacts, SentFrame, check_result
from masklet.backends.triton_tensors import Operation
from masklet.errors import (
    BackendError,
    BackendUnavailable,
    BackendUncertain,
    ConfigError,
    MaskletError,
    SessionStateLost,
    SessionSuperseded,
)
from masklet.types import (
    BackendStats,
    BankSummary,
    ImageArray,
    ModelDescription,
    StepRequest,
    StepResult,
    TrackSettings,
)

_ANSWER_TIMEOUT_S = 10.0  # of the first call, by a model that says it is ready
_LEAVING_S = 5.0  # for requests on their way
_NO_STATS = BackendStats(0, 0, 0, 0)
_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(slots=True)
class _Owned:
    """A session that is ours; the lock is held while a request of it is on its way."""

    epoch: int
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class TritonBackend:
    """`Backend` over one Triton.

    Args:
        endpoint: host:port of its gRPC port.
        transport: how frames travel: "shm", "raw", "jpeg" (lossy), or "auto": "shm" if the model sees ours, else "raw".
        connect_timeout_s: how long to wait for a model that is not ready.
        quiet_s: how long a session may go without requests here; a model that forgets sooner is warned about.
    """

    def __init__(
        self, endpoint: str, *, transport: str = "auto", connect_timeout_s: float = 30.0, quiet_s: float = 0.0
    ) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._connect_timeout_s = connect_timeout_s
        self._quiet_s = quiet_s
        self._channel = TritonChannel(endpoint)
        self._facts: ModelFacts | None = None
        self._stats = _NO_STATS
        self._sessions: dict[str, _Owned] = {}
        self._sending: set[asyncio.Future[Any]] = set()
        self._slots = SlotPool()
        self._frames_shared = False
        self._out_of_slots = False

    async def __aenter__(self) -> Self:
        """Wait for the model. Raises BackendUnavailable, or ConfigError if frames cannot be shared but must be."""
        sweep()
        self._channel.connect()
        try:
            await self._channel.wait_ready(self._connect_timeout_s)
            self._facts = await self._first_call()
        except BaseException:
            await self._disconnect()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let requests on their way finish, close the sessions that are ours, free everything.

        With an error, at once: what is on its way raises BackendUnavailable, sessions are left to themselves.
        """
        if error is not None:
            await self._disconnect()
            return
        closing = [asyncio.ensure_future(self.close(session_id)) for session_id in list(self._sessions)]
        if waiting := {*closing, *self._sending}:
            await asyncio.wait(waiting, timeout=_LEAVING_S)
        await self._disconnect()
        await asyncio.gather(*closing, return_exceptions=True)

    @property
    def facts(self) -> ModelFacts:
        """What the model runs and how much it takes. Raises BackendUnavailable before the backend is entered."""
        if self._facts is None:
            raise BackendUnavailable(f"Triton at {self._endpoint} is not connected")
        return self._facts

    def describe(self) -> ModelDescription:
        """What the model said when the backend was entered."""
        return self.facts.description

    def stats(self) -> BackendStats:
        """What the model holds, for all its clients, as of its newest answer to this one."""
        return self._stats

    def stats_age_s(self) -> float:
        """How long ago the newest answer came, and `stats` with it, seconds."""
        return self._channel.age_s()

    async def ask_stats(self) -> BackendStats:
        """What the model holds, for all its clients, asked now."""
        name, call = uuid.uuid4().hex, Call(Operation.STAT)
        await self._run(_Owned(FIRST_EPOCH), lambda: self._ask(name, call, start=True, end=True))
        return self._stats

    @property
    def max_sessions(self) -> int:
        """Memory banks the model takes, of all its clients."""
        return self.facts.max_sessions

    @property
    def measured_capacity(self) -> float:
        """Objects times frames per second that the model was measured to make; 0: not measured."""
        return self.facts.capacity

    async def is_ready(self) -> bool:
        """Whether it takes new sessions; one that drains does not. Raises BackendUnavailable if it does not answer."""
        return await self._channel.is_ready()

    def waiting_s(self) -> float:
        """How long requests have been under way without any answer, seconds; 0: none are, or answers come."""
        return self._channel.waiting_s()

    def oldest_s(self) -> float:
        """How long the oldest request has been under way, whatever else was answered, seconds; 0: none is."""
        return self._channel.oldest_s()

    async def open(self, session_id: str, settings: TrackSettings, *, epoch: int = FIRST_EPOCH) -> None:
        """Start an empty memory bank."""
        await self._begin(session_id, Call(Operation.OPEN, epoch, settings=settings))

    async def import_state(self, session_id: str, state: bytes, *, epoch: int = FIRST_EPOCH) -> None:
        """Open a session with an exported state."""
        await self._begin(session_id, Call(Operation.IMPORT, epoch, state=state))

    def reserve(self, session_id: str, objects: int) -> None:
        """Nothing to do: the model counts, and whoever chooses between several Tritons refuses."""

    async def attach(self, session_id: str, epoch: int, *, location: str = "") -> BankSummary:
        """Own a session that is open in this Triton."""
        known = self._sessions.get(session_id)
        attached = _Owned(epoch, known.lock) if known else _Owned(epoch)
        try:
            answer = await self._run(attached, lambda: self._ask(session_id, Call(Operation.ATTACH, epoch)))
        except SessionStateLost:
            if self._sessions.get(session_id) is known:
                self._sessions.pop(session_id, None)  # it may be opened again
            raise
        if answer.bank is None:
            raise BackendUncertain(f"Triton at {self._endpoint} does not say what session {session_id} holds")
        self._sessions[session_id] = attached
        return answer.bank

    def location(self, session_id: str) -> str:
        """Nothing to be said: this backend knows one Triton."""
        return ""

    def disown(self, session_id: str) -> None:
        """Leave a session to whoever attaches to it: leaving the backend will not close it."""
        self._sessions.pop(session_id, None)

    def begin(self, image: ImageArray) -> None:
        """Nothing is begun: frames are sent in their turn."""

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        """Track one frame, or correct one."""
        owned = self._owned(session_id)
        return await self._run(owned, lambda: self._step(session_id, owned, request))

    async def export_state(self, session_id: str) -> bytes:
        """The session's whole state."""
        owned = self._owned(session_id)
        answer = await self._run(owned, lambda: self._ask(session_id, Call(Operation.EXPORT, owned.epoch)))
        if answer.state is None:
            raise BackendError(f"Triton at {self._endpoint} exported no state of session {session_id}")
        return answer.state

    async def close(self, session_id: str) -> None:
        """Forget a session; one that Triton has lost, or given to another owner, is no error.

        Raises BackendUnavailable or BackendUncertain if it may be left there, until Triton forgets it when idle.
        """
        owned = self._sessions.pop(session_id, None)
        if owned is None:
            return
        call = Call(Operation.CLOSE, owned.epoch)
        with suppress(SessionStateLost, SessionSuperseded):
            await self._run(owned, lambda: self._ask(session_id, call, end=True))

    async def close_copy(self, session_id: str, epoch: int) -> None:
        """Close a session whose owners are all below `epoch`; asked again after an answer was lost, it is carried on.

        A session that is lost, or has a later owner, is no error. Raises BackendUnavailable or BackendUncertain.
        """
        known = self._sessions.get(session_id)
        if known and known.epoch < epoch:
            del self._sessions[session_id]
        closing = _Owned(epoch, known.lock) if known else _Owned(epoch)
        with suppress(SessionStateLost):
            await self._run(closing, lambda: self._fence_and_close(session_id, epoch))

    async def _fence_and_close(self, session_id: str, epoch: int) -> None:
        with suppress(SessionSuperseded):  # maybe by this very epoch, and the answer was lost
            await self._ask(session_id, Call(Operation.ATTACH, epoch))
        with suppress(SessionSuperseded):
            await self._ask(session_id, Call(Operation.CLOSE, epoch), end=True)

    async def _first_call(self) -> ModelFacts:
        """Asks what runs there, and whether the model sees our shared memory."""
        probe = self._slot(1) if self._transport in ("auto", "shm") else None
        try:
            call = Call(Operation.STAT, probe=probe.name if probe else "")
            name = uuid.uuid4().hex
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                answer = await self._run(_Owned(FIRST_EPOCH), lambda: self._ask(name, call, start=True, end=True))
        except TimeoutError as error:
            message = f"Triton at {self._endpoint} did not answer within {_ANSWER_TIMEOUT_S:g} s"
            raise BackendUnavailable(message) from error
        finally:
            if probe:
                probe.close()
        facts = answer.facts
        if facts is None:
            raise BackendError(f"Triton at {self._endpoint} does not say what it runs")
        if self._transport == "shm" and not facts.sees_probe:
            raise ConfigError(
                f"triton.transport is 'shm', but {self._endpoint} does not see this host's shared memory",
                field="triton.transport",
            )
        if facts.idle_timeout_s <= self._quiet_s:
            _LOG.warning(
                "Triton at %s forgets sessions after triton.idle_timeout_s = %g s, which must be more than "
                "session.idle_timeout_s + session.resume_ttl_s = %g s",
                self._endpoint,
                facts.idle_timeout_s,
                self._quiet_s,
            )
        self._frames_shared = facts.sees_probe
        return facts

    async def _disconnect(self) -> None:
        self._facts = None
        self._sessions.clear()
        await self._channel.close()
        if self._sending:
            await asyncio.wait(self._sending)
        self._slots.close()

    def _owned(self, session_id: str) -> _Owned:
        self._channel.check()
        if session_id not in self._sessions:
            raise SessionStateLost(f"session {session_id} is not open here; {len(self._sessions)} are")
        return self._sessions[session_id]

    async def _begin(self, session_id: str, call: Call) -> None:
        if session_id in self._sessions:
            raise BackendError(f"session {session_id} is already open")
        owned = self._sessions[session_id] = _Owned(call.epoch)

        async def begin() -> None:  # to the end of it even if the caller is cancelled
            try:
                await self._ask(session_id, call, start=True)
            except BackendUncertain:
                raise  # it may be there: still ours, to be closed
            except MaskletError:
                if self._sessions.get(session_id) is owned:
                    del self._sessions[session_id]
                raise

        await self._run(owned, begin)

    async def _run(self, owned: _Owned, work: Callable[[], Awaitable[_T]]) -> _T:
        """Do `work` once the session's last request is answered. It goes on even if the caller is cancelled."""
        await owned.lock.acquire()
        sending = asyncio.ensure_future(work())
        self._sending.add(sending)

        def finish(done: asyncio.Future[_T]) -> None:
            self._sending.discard(done)
            owned.lock.release()
            if not done.cancelled():
                done.exception()  # seen, even if nobody waits any more

        sending.add_done_callback(finish)
        return await asyncio.shield(sending)

    async def _step(self, session_id: str, owned: _Owned, request: StepRequest) -> StepResult:
        with ExitStack() as stack:
            frame = None if request.image is None else await self._sent(request.image, stack)
            answer = await self._ask(session_id, Call(Operation.STEP, owned.epoch, step=request, frame=frame))
        if answer.result is None:
            raise BackendUncertain(f"Triton at {self._endpoint} answered frame {request.frame_seq} without a result")
        check_result(answer.result, request, self.facts.description.input_size)
        return answer.result

    async def _sent(self, image: ImageArray, stack: ExitStack) -> SentFrame:
        """The frame on its way; shared memory is lent for as long as `stack` is open."""
        if self._transport == "jpeg":
            return await asyncio.to_thread(as_jpeg, image)
        if self._frames_shared:
            try:
                sent = as_shared(image, stack.enter_context(self._slots.lent(image.nbytes)))
                self._out_of_slots = False
                return sent
            except OSError as error:
                if not self._out_of_slots:  # said once each time it is full
                    _LOG.warning("no shared memory for a frame of %d bytes, sending it raw: %s", image.nbytes, error)
                self._out_of_slots = True
        return as_raw(image)

    def _slot(self, byte_count: int) -> SharedSlot | None:
        try:
            return SharedSlot(byte_count)
        except OSError as error:
            _LOG.warning("no shared memory here: %s", error)
            return None

    async def _ask(self, session_id: str, call: Call, *, start: bool = False, end: bool = False) -> Answer:
        """The model's answer. Raises the error it answers with, BackendUnavailable or BackendUncertain."""
        started = start
        try:
            answer = await self._infer(session_id, call, start=start, end=end)
        except SequenceNotStarted:
            started = True
            answer = await self._infer(session_id, call, start=True, end=end)
        if answer.error and started and not end:
            with suppress(BackendError, SequenceNotStarted):  # nothing lives in the sequence just started
                await self._infer(session_id, Call(Operation.STAT), end=True)
        return _accepted(answer)

    async def _infer(self, session_id: str, call: Call, *, start: bool = False, end: bool = False) -> Answer:
        answer = await self._channel.infer(session_id, call, start=start, end=end)
        self._stats = answer.stats
        return answer


def _accepted(answer: Answer) -> Answer:
    if answer.error is not None:
        raise answer.error
    return answer
