"""Reads one stream's requests: checks them, answers what can be answered at once, queues the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from masklet.errors import LimitExceeded, MaskletError, ServerDraining
from masklet.session.context import StreamContext
from masklet.session.edits import Edit
from masklet.session.live import LiveSession
from masklet.session.messages import ClientMessage, Frame, Malformed, Ping, Pong, PromptFor, RemoveObject, Reset
from masklet.session.protocol import StreamEvent, StreamState
from masklet.session.reporter import Reporter
from masklet.session.timeline import Correction, WaitingFrame
from masklet.session.validation import check_object_id, check_payload, check_prompt
from masklet.types import DropReason

MAX_WAITING_MASK_BYTES = 1 << 27
"""Mask prompts unpacked: a few bytes on the wire become a byte per pixel here. 64 masks of 1080p fit."""


_OVER = (StreamState.CLOSING, StreamState.CLOSED)


class Intake:
    """One session's reader.

    Every frame taken (in sequence) leads to exactly one `Result` or `Dropped`; a frame that is refused at once gets
    an error and `Dropped` with DECODE_ERROR.
    """

    def __init__(self, context: StreamContext, session: LiveSession, trace_headers: Mapping[str, str]) -> None:
        self._context = context
        self._trace_headers = trace_headers
        self._terms = session.terms
        self._record = session.record
        self._protocol = session.protocol
        self._tracking = session.tracking
        self._timeline = session.tracking.timeline
        self._outbox = session.outbox
        self._resumable = session.resumable
        self._report = Reporter(session.outbox, context.metrics, session.record, trace=session.tracking.trace)

    async def run(self, requests: AsyncIterator[ClientMessage]) -> bool:
        """Reads until `close` or the end of requests; not while answers pile up unread, or BLOCK has no room.

        Returns:
            Whether the session is to end. Requests that end without `close` may be the first sign of a connection
            lost, so a session that can be resumed is not ended by it.
        """
        while self._protocol.state not in _OVER:
            await self._outbox.room_for_message()
            await self._timeline.wait_room()
            await asyncio.sleep(0)  # requests already here would be read without a pause: a flood must stall nobody
            message = await anext(requests, None)
            if self._protocol.state is StreamState.CLOSED:  # meanwhile: it is neither taken nor acknowledged
                break
            if message is not None:
                self._receive(message)
            elif self._resumable:
                return False
            else:
                self._protocol.handle(StreamEvent.HALF_CLOSE)
        self._timeline.finish()
        return True

    def _receive(self, message: ClientMessage) -> None:
        self._record.last_request_s = self._context.clock()
        if isinstance(message.body, Frame) or (isinstance(message.body, Malformed) and message.body.frame):
            self._context.metrics.frames_received.labels(self._terms.codec).inc()
        try:
            if self._protocol.receive(message.seq, message.body):
                self._dispatch(message)
            else:
                self._context.metrics.requests_repeated.inc()
        except MaskletError as error:
            prompt = message.body.prompt if isinstance(message.body, PromptFor) else None
            self._report.failed(message.seq, error, prompt=prompt)

    def _dispatch(self, message: ClientMessage) -> None:
        body = message.body
        if isinstance(body, Frame):
            self._receive_frame(message, body)
        elif isinstance(body, PromptFor | RemoveObject | Reset):
            self._receive_edit(message, body)
        elif isinstance(body, Ping):
            self._report.tell(Pong(body.nonce))
        elif isinstance(body, Malformed):
            self._receive_malformed(message.seq, body)

    def _receive_malformed(self, seq: int, body: Malformed) -> None:
        if not body.frame:
            raise body.error
        self._record.frame_taken(self._context.clock())
        self._report.failed(seq, body.error)
        self._report.dropped(seq, DropReason.DECODE_ERROR)

    def _receive_frame(self, message: ClientMessage, frame: Frame) -> None:
        self._record.frame_taken(self._context.clock())
        self._tracking.trace.begin(message.seq, message.received_s, self._trace_headers)
        if self._protocol.state is StreamState.DRAINING:
            self._report.dropped(message.seq, DropReason.DRAINING)
            return
        try:
            check_payload(self._terms.codec, frame.payload, self._terms.size, self._context.limits)
        except MaskletError as error:
            self._report.failed(message.seq, error)
            self._report.dropped(message.seq, DropReason.DECODE_ERROR)
            return
        self._context.metrics.frame_queue_depth.inc()
        dropped = self._timeline.push_frame(WaitingFrame(message.seq, frame, message.received_s))
        if dropped is not None:
            self._context.metrics.frame_queue_depth.dec()
            self._report.dropped(dropped.seq, DropReason.QUEUE_FULL)
        self._tracking.lookahead.start(self._timeline.first_frame)

    def _receive_edit(self, message: ClientMessage, body: PromptFor | RemoveObject | Reset) -> None:
        if self._protocol.state is StreamState.DRAINING:
            raise ServerDraining("the stream is draining; no frame is going to come for this request")
        folded = len(self._tracking.edits)
        if isinstance(body, PromptFor):
            self._timeline.push_edit(self._check_prompt(message, body), folded=folded)
            return
        if isinstance(body, RemoveObject):
            check_object_id(body.object_id, field="remove_object.object_id")
        self._timeline.push_edit(Edit(message.seq, body), folded=folded)

    def _check_prompt(self, message: ClientMessage, body: PromptFor) -> Edit | Correction:
        check_prompt(body.prompt, self._terms.size, self._context.limits)
        if body.prompt.mask is not None:
            self._check_mask_room(body.prompt.mask.nbytes)
        if body.frame_seq:
            return Correction(message.seq, body.prompt, body.frame_seq, message.received_s)
        return Edit(message.seq, body.prompt)

    def _check_mask_room(self, mask_bytes: int) -> None:
        waiting = self._timeline.mask_bytes + self._tracking.edits.mask_bytes
        if waiting + mask_bytes > MAX_WAITING_MASK_BYTES:
            raise LimitExceeded(
                f"mask prompts of {waiting + mask_bytes} bytes, unpacked, would wait for their frames,"
                f" the limit is {MAX_WAITING_MASK_BYTES}",
                field="prompt.mask",
            )
