"""What comes back on a stream: responses become events, in order and once each, over however many connections."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from masklet.errors import MaskletError, ProtocolViolation, SequenceGap, ServerDraining
from masklet.types import DropReason, Prompt
from masklet.v1 import prompt_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.events import Dropped, Event, GoAway, ObjectResult, PromptApplied, RequestFailed, Result
from masklet_client.inbox import Inbox
from masklet_client.journal import Journal
from masklet_client.status import error_from_status
from masklet_client.wire import box_prompt, prompts_to_proto, reason_from_proto, result_from_proto

_KEPT_FAILURES = 256
logger = logging.getLogger("masklet_client")


class Reader:
    """Turns responses into events and settles the journal.

    Attributes:
        last_server_seq: the newest response seen of the session.
        dropped: frames that are not answered, or whose results newer ones overtook unread.
        failures: the last 256 refused requests.
        resume_token: newest token of the session.
        go_away: set once the server drains.
    """

    def __init__(
        self, journal: Journal, inbox: Inbox, *, on_event: Callable[[Event], None] | None, resumes: bool
    ) -> None:
        """`on_event` is called with every event as it arrives; `resumes`: a drain is no reason to give up a frame."""
        self._journal, self._inbox, self._on_event, self._resumes = journal, inbox, on_event, resumes
        self._newest: Result | None = None
        self.last_server_seq = 0
        self.dropped = 0
        self.failures: deque[RequestFailed] = deque(maxlen=_KEPT_FAILURES)
        self.resume_token = b""
        self.go_away: GoAway | None = None

    async def take(self, response: pb.TrackResponse) -> None:
        """One response; those seen before are passed over."""
        if response.server_seq <= self.last_server_seq:
            return
        self.last_server_seq = response.server_seq
        event = self._event(response)
        if event is not None:
            await self.emit(event)

    async def emit(self, event: Event) -> None:
        """Gives an event out, and keeps count."""
        if isinstance(event, Dropped):
            self.dropped += 1
        elif isinstance(event, RequestFailed):
            self.failures.append(event)
            if not self._journal.hurried:  # closing early leaves prompts without a frame: no news
                logger.warning("request %d refused: %s: %s", event.request_seq, event.error.reason, event.error)
        if self._on_event is not None:
            self._on_event(event)
        if await self._inbox.put(event):
            self.dropped += 1

    async def report_skipped(self) -> None:
        """Reports the frames that newer ones took the place of before they were written, until the journal ends."""
        while (skipped := await self._journal.skipped.get()) is not None:
            await self.emit(Dropped(*skipped, DropReason.QUEUE_FULL))

    async def give_up(self) -> None:
        """Reports all frames that nobody is going to answer."""
        await self._give_up(list(self._journal.pending))

    async def give_up_lost(self) -> None:
        """Reports the frames that a session begun anew cannot be told of any more."""
        await self._give_up(self._journal.lost_frames())

    async def _give_up(self, frame_seqs: list[int]) -> None:
        for frame_seq in frame_seqs:
            index = self._journal.pending[frame_seq]
            self._journal.reported(frame_seq)
            await self.emit(Dropped(frame_seq, index, DropReason.CONNECTION_LOST))

    @property
    def newest_frame(self) -> int:
        """The newest frame with a result; 0: none."""
        return self._newest.frame_seq if self._newest else 0

    def reseeding(self) -> tuple[list[prompt_pb2.Prompt], tuple[int, ...]]:
        """Prompts that say where the objects were last seen, and the ids of those that were not to be seen then."""
        found = self._newest.objects if self._newest else ()
        prompts = [prompt for one in found if one.area_px for prompt in _as_prompts(one)]
        return prompts, tuple(one.object_id for one in found if not one.area_px)

    def _event(self, response: pb.TrackResponse) -> Event | None:
        """The event for a response; None for a pong (it answers our own ping) and for kinds of newer servers."""
        match response.WhichOneof("message"):
            case "result":
                return self._result(response.result)
            case "dropped":
                return self._dropped(response.dropped)
            case "prompt_applied":
                return self._applied(response.prompt_applied)
            case "error":
                return self._failed(response.error)
            case "go_away":
                return self._going(response.go_away)
            case "token_renewed":
                self.resume_token = response.token_renewed.resume_token
        return None

    def _result(self, message: pb.Result) -> Result | None:
        frame_seq = self._journal.app_seq(message.frame_seq)
        index = self._journal.index_of(frame_seq)
        if index is None or not (message.revised or self._journal.answered(frame_seq)):
            return None
        result = result_from_proto(message, frame_seq, index, self._journal.captured_ns(frame_seq))
        if not message.revised:
            self._newest = result
        elif self._newest is not None and self._newest.frame_seq == frame_seq:
            self._newest = _merged(self._newest, result)
        return result

    def _dropped(self, message: pb.Dropped) -> Dropped | None:
        frame_seq, reason = self._journal.app_seq(message.frame_seq), reason_from_proto(message.reason)
        index = self._journal.index_of(frame_seq)
        if reason is DropReason.DRAINING and self._resumes_elsewhere:
            return None  # the next server gets it
        if index is None or not self._journal.reported(frame_seq):
            return None
        return Dropped(frame_seq, index, reason)

    def _applied(self, message: pb.PromptApplied) -> PromptApplied | None:
        seq = self._journal.app_seq(message.prompt_seq)
        self._journal.settled(seq, refused=False)
        return PromptApplied(seq, self._journal.app_seq(message.frame_seq), message.object_id) if seq else None

    def _failed(self, message: pb.RequestError) -> RequestFailed | None:
        seq, error = self._journal.app_seq(message.request_seq), error_from_status(message.status)
        if isinstance(error, ServerDraining) and self._resumes_elsewhere:
            return None
        self._journal.settled(seq, refused=True)
        if isinstance(error, SequenceGap | ProtocolViolation):  # of a frame, too, nothing else will be heard
            self._journal.reported(seq)
        if seq:
            return RequestFailed(seq, error)
        object_id = self._journal.prelude_object(message.request_seq)
        return None if object_id is None else RequestFailed(0, _of_object(error, object_id))

    def _going(self, message: pb.GoAway) -> GoAway:
        self.go_away = GoAway(message.resume_token, message.deadline.ToNanoseconds())
        self.resume_token = message.resume_token
        logger.warning("the server is draining and is going to end this stream")
        return self.go_away

    @property
    def _resumes_elsewhere(self) -> bool:
        return self._resumes and self.go_away is not None


def _merged(seen: Result, revised: Result) -> Result:
    objects = {found.object_id: found for found in (*seen.objects, *revised.objects)}
    return replace(seen, objects=tuple(objects[object_id] for object_id in sorted(objects)))


def _of_object(error: MaskletError, object_id: int) -> MaskletError:
    message = f"object {object_id} is not followed any further: {error}"
    return type(error)(message, retry_after_s=error.retry_after_s, field=error.field)


def _as_prompts(found: ObjectResult) -> list[prompt_pb2.Prompt]:
    if found.mask_bytes:
        return list(prompts_to_proto(Prompt(found.object_id, mask=found.mask)))
    return [] if found.box is None else [box_prompt(found.object_id, found.box)]
