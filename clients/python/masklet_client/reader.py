"""The task that reads a stream: responses become events, in order, until the stream ends."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import grpc.aio

from masklet.errors import MaskletError, ProtocolViolation
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.events import Dropped, Event, GoAway, Opened, PromptApplied, RequestFailed
from masklet_client.inbox import Inbox
from masklet_client.outbox import Call
from masklet_client.status import error_from_rpc, error_from_status
from masklet_client.wire import opened_from_proto, reason_from_proto, result_from_proto

_KEPT_FAILURES = 256
_KEPT_INDICES = 1024
logger = logging.getLogger("masklet_client")


class Reader:
    """Reads one call into an inbox and keeps count of what went wrong on the way.

    Attributes:
        dropped: frames the server did not answer.
        failures: the last 256 refused requests.
        resume_token: newest token of the session.
        go_away: set once the server drains.
    """

    def __init__(self, call: Call, inbox: Inbox, *, address: str, on_event: Callable[[Event], None] | None) -> None:
        """`on_event` is called with every event as it arrives."""
        self._call, self._inbox, self._address, self._on_event = call, inbox, address, on_event
        self._index_of_seq: dict[int, int] = {}
        self._frames_sent = 0
        self.dropped = 0
        self.failures: deque[RequestFailed] = deque(maxlen=_KEPT_FAILURES)
        self.resume_token = b""
        self.go_away: GoAway | None = None

    def expect(self, frame_seq: int) -> None:
        """A frame was sent; answers to it are going to carry its place among all frames."""
        self._index_of_seq[frame_seq] = self._frames_sent
        self._frames_sent += 1

    async def read_opened(self) -> Opened:
        """The answer to `open`.

        Raises:
            MaskletError: what the server refused it with, or BackendUnavailable if there is no server.
            ProtocolViolation: anything but `opened` came back.
        """
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, self._address) from error
        kind = response.WhichOneof("message") if isinstance(response, pb.TrackResponse) else "nothing"
        if not isinstance(response, pb.TrackResponse) or kind != "opened":
            raise ProtocolViolation(f"{self._address} answered `open` with {kind}")
        self.resume_token = response.opened.resume_token
        return opened_from_proto(response.opened)

    async def read(self) -> None:
        """Read until the stream ends, and end the inbox however that happens: nobody shall wait for ever."""
        failure: MaskletError | None = None
        try:
            while isinstance(response := await self._call.read(), pb.TrackResponse):
                await self._take(response)
        except grpc.aio.AioRpcError as error:
            failure = error_from_rpc(error, self._address)
        except Exception as error:
            failure = MaskletError(f"reading from {self._address} failed: {error!r}")
            failure.__cause__ = error
        finally:
            self._inbox.end(failure)

    async def _take(self, response: pb.TrackResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "token_renewed":
            self.resume_token = response.token_renewed.resume_token
            return
        event = self._event(kind, response)
        if event is None:
            return
        self._note(event)
        if self._on_event is not None:
            self._on_event(event)
        await self._inbox.put(event)

    def _event(self, kind: str | None, response: pb.TrackResponse) -> Event | None:
        """The event for a response; None for a pong (it answers our own ping) and for kinds of newer servers."""
        match kind:
            case "result":
                return result_from_proto(response.result, self._index(response.result.frame_seq))
            case "dropped":
                seq = response.dropped.frame_seq
                return Dropped(seq, self._index(seq), reason_from_proto(response.dropped.reason))
            case "prompt_applied":
                applied = response.prompt_applied
                return PromptApplied(applied.prompt_seq, applied.frame_seq, applied.object_id)
            case "error":
                return RequestFailed(response.error.request_seq, error_from_status(response.error.status))
            case "go_away":
                return GoAway(response.go_away.resume_token, response.go_away.deadline.ToNanoseconds())
        return None

    def _note(self, event: Event) -> None:
        if isinstance(event, Dropped):
            self.dropped += 1
        elif isinstance(event, RequestFailed):
            self.failures.append(event)
            logger.warning("request %d refused: %s: %s", event.request_seq, event.error.reason, event.error)
        elif isinstance(event, GoAway):
            self.go_away, self.resume_token = event, event.resume_token
            logger.warning("%s is draining and is going to end this stream", self._address)

    def _index(self, frame_seq: int) -> int:
        """Place of a frame among those sent; all but the last 1024 answered ones are forgotten."""
        index = self._index_of_seq[frame_seq]
        while len(self._index_of_seq) > _KEPT_INDICES and (oldest := next(iter(self._index_of_seq))) < frame_seq:
            del self._index_of_seq[oldest]
        return index
