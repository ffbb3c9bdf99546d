"""Works through one session's timeline: frames become results, edits take effect, all in the order sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any

from masklet.errors import InvalidFrame, MaskletError, RequestError, SessionError
from masklet.session.answer import encode_objects
from masklet.session.context import StreamContext
from masklet.session.edits import Edit, PendingEdits
from masklet.session.lookahead import Lookahead
from masklet.session.messages import ObjectResult, Result, Timing
from masklet.session.object_states import ObjectStates
from masklet.session.outbox import Outbox
from masklet.session.registry import SessionRecord
from masklet.session.reporter import Reporter
from masklet.session.terms import Terms
from masklet.session.timeline import Correction, Entry, Timeline, WaitingFrame
from masklet.session.validation import limits_of_frames
from masklet.types import BankSummary, DropPolicy, DropReason, ImageArray, ObjectState, StepRequest, StepResult

_log = logging.getLogger(__name__)


class Tracking:
    """One session's only caller of the backend, hence never two steps at a time.

    A failed step leaves the backend's session as it was. After a fault of the backend, edits stay pending for the next
    frame (the client may `reset` them away); after a fault of the request they are refused. Errors of the session
    itself end the stream.

    Attributes:
        timeline: what is to be done.
        edits: what is to happen to the objects on the next frame.
        lookahead: decodes the next frame during inference, and has the backend begin on it.
        turn: held during each step.
        trace: follows single frames.
    """

    def __init__(self, context: StreamContext, terms: Terms, record: SessionRecord, *, outbox: Outbox) -> None:
        latest = terms.drop_policy is DropPolicy.LATEST
        self.timeline = Timeline(
            terms.drop_policy,
            max_frames=context.session.latest_queue_frames if latest else context.session.block_queue_frames,
            max_edits=context.limits.max_prompts_per_frame,
        )
        self.edits = PendingEdits(
            limits_of_frames(context.limits, terms.size),
            history_frames=terms.settings.history_frames,
            reserve=partial(context.backend.reserve, record.session_id),
        )
        self.lookahead = Lookahead(terms.codec, terms.size, clock=context.clock, begin=context.backend.begin)
        self._context = context
        self._terms = terms
        self._record = record
        self._outbox = outbox
        self.trace = context.tracing.session(record.session_id)
        self._report = Reporter(outbox, context.metrics, record, trace=self.trace)
        self._states = ObjectStates(context.session.lost_after_frames)
        self._taken: Entry | None = None
        self._entry_done = asyncio.Event()
        self.turn = asyncio.Lock()

    async def run(self) -> None:
        """Takes entry after entry until the timeline is finished and empty."""
        while True:
            await self.timeline.wait_filled()
            await self._outbox.room_for_result()
            entry = self.timeline.pop()
            if entry is None:
                return
            self._taken = entry
            await self._take(entry)
            self._taken = None
            self._entry_done.set()

    async def wait_idle(self) -> None:
        """Waits until everything received has had its turn."""
        while len(self.timeline) or self._taken is not None:
            self._entry_done.clear()
            await self._entry_done.wait()

    def adopt(self, bank: BankSummary) -> None:
        """Goes on where another left the memory bank; how long objects have been absent is not known."""
        self.edits.adopt(bank.object_ids, bank.history)
        self._record.objects = len(bank.object_ids)

    def frames_pending(self) -> set[int]:
        """Frames that are still to be answered."""
        taken = {self._taken.seq} if isinstance(self._taken, WaitingFrame) else set()
        return taken | self.timeline.frame_seqs()

    def report_lost(self, frame_seqs: Iterable[int]) -> None:
        """Frames that were dealt with, but nobody can say how any more."""
        for frame_seq in frame_seqs:
            self._report.lost(frame_seq)

    def refuse_pending(self, error: MaskletError) -> None:
        """Reports prompts for which no frame is going to come."""
        self._report.refused(self.edits.refuse_all(error))

    async def _take(self, entry: Entry) -> None:
        if isinstance(entry, Edit):
            self._report.refused(self.edits.fold(entry))
        elif isinstance(entry, Correction):
            await self._correct(entry)
        else:
            self._context.metrics.frame_queue_depth.dec()
            await self._track(entry)

    async def _track(self, waiting: WaitingFrame) -> None:
        turn_s = self._context.clock()
        queue_s = turn_s - waiting.received_s
        if self._terms.max_staleness_s is not None and queue_s > self._terms.max_staleness_s:
            self._report.dropped(waiting.seq, DropReason.STALE)
            return
        decoded = await self.lookahead.decode(waiting)
        if decoded.image is None:
            self._undecodable(waiting, decoded.error)
            return
        started_s = self._context.clock()
        result = await self._step_frame(waiting, decoded.image, decoded.begun)
        if result is not None:
            ended_s, decode_s = self._context.clock(), decoded.ended_s - decoded.started_s
            self.trace.stage(waiting.seq, "queue", waiting.received_s, turn_s)
            self.trace.stage(waiting.seq, "decode", decoded.started_s, decoded.ended_s)
            self.trace.stage(waiting.seq, "inference", started_s, ended_s)
            await self._answer(waiting, result, Timing(queue_s, decode_s, ended_s - started_s))

    def _undecodable(self, waiting: WaitingFrame, error: Exception | None) -> None:
        if not isinstance(error, MaskletError):  # a decoder's own surprise must not end an hour of tracking
            _log.error("frame not decoded", exc_info=error, extra={"session": self._record.session_id})
            error = InvalidFrame(f"{self._terms.codec} frame cannot be decoded", field="frame.payload")
        self._report.failed(waiting.seq, error)
        self._report.dropped(waiting.seq, DropReason.DECODE_ERROR)

    async def _step_frame(
        self, waiting: WaitingFrame, image: ImageArray, begun: Future[Any] | None
    ) -> StepResult | None:
        request = StepRequest(
            frame_seq=waiting.seq,
            image=image,
            prompts=tuple(prompted.prompt for prompted in self.edits.prompts),
            remove=tuple(sorted(self.edits.remove)),
            reset=self.edits.reset,
            with_logits=self._terms.with_logits,
            begun=begun,
        )
        self.lookahead.start(self.timeline.first_frame)
        try:
            return await self._step(request)
        except SessionError:
            raise
        except MaskletError as error:
            if isinstance(error, RequestError):
                self._report.refused(self.edits.refuse_all(error))
            self._report.failed(waiting.seq, error)
            self._report.dropped(waiting.seq, DropReason.BACKEND_ERROR)
            return None

    async def _step(self, request: StepRequest) -> StepResult:
        self._record.stepping = True
        try:
            async with self.turn:
                return await self._context.backend.step(self._record.session_id, request)
        finally:
            self._record.stepping = False
            self._record.last_step_s = self._context.clock()

    async def _answer(self, waiting: WaitingFrame, result: StepResult, timing: Timing) -> None:
        states = self._advance(result)
        prompts = tuple(self.edits.prompts)
        self.edits.answered(waiting.seq, waiting.frame.capture_time_ns, states)
        self._record.objects = len(states)
        objects, timing = await self._encode(result, states, timing)
        for prompted in prompts:
            self._report.applied(prompted.seq, prompted.prompt, frame_seq=waiting.seq)
        answer = Result(
            waiting.seq,
            waiting.frame.capture_time_ns,
            objects,
            timing,
            recovered=result.recovered,
            recovery_s=result.recovery_s,
        )
        self._taken = None  # told, as far as we are concerned
        self._report.answered(answer, received_s=waiting.received_s)

    def _advance(self, result: StepResult) -> dict[int, ObjectState]:
        if self.edits.reset:
            self._states.clear()
        self._states.forget(self.edits.remove)
        return self._states.advance(result.objects)

    async def _correct(self, wanted: Correction) -> None:
        started_s = self._context.clock()
        try:
            points = self.edits.check_correction(wanted.prompt, wanted.frame_seq)
            result = await self._step_correction(wanted)
        except SessionError:
            raise
        except MaskletError as error:
            self._report.failed(wanted.seq, error, prompt=wanted.prompt)
            return
        timing = Timing(queue_s=started_s - wanted.received_s, inference_s=self._context.clock() - started_s)
        self._states.forget(self.edits.remove)
        self.edits.corrected(wanted.frame_seq, wanted.prompt.object_id, points)
        self._record.objects = len(self.edits.tracked)
        await self._revise(wanted, result, timing)

    async def _step_correction(self, wanted: Correction) -> StepResult:
        request = StepRequest(
            frame_seq=wanted.frame_seq,
            image=None,
            prompts=(wanted.prompt,),
            remove=tuple(sorted(self.edits.remove)),
            with_logits=self._terms.with_logits,
        )
        return await self._step(request)

    async def _revise(self, wanted: Correction, result: StepResult, timing: Timing) -> None:
        history = self.edits.history
        states = self._states.revise(result.objects, newest=wanted.frame_seq == next(reversed(history)))
        objects, timing = await self._encode(result, states, timing)
        self._report.applied(wanted.seq, wanted.prompt, frame_seq=wanted.frame_seq)
        capture_time_ns = history[wanted.frame_seq].capture_time_ns
        revision = Result(
            wanted.frame_seq,
            capture_time_ns,
            objects,
            timing,
            revised=True,
            recovered=result.recovered,
            recovery_s=result.recovery_s,
        )
        self._report.tell(revision)

    async def _encode(
        self, result: StepResult, states: dict[int, ObjectState], timing: Timing
    ) -> tuple[tuple[ObjectResult, ...], Timing]:
        started_s = self._context.clock()
        objects = await asyncio.to_thread(encode_objects, result.objects, states, self._terms.mask_encoding)
        ended_s = self._context.clock()
        self.trace.stage(result.frame_seq, "encode", started_s, ended_s)
        return objects, Timing(timing.queue_s, timing.decode_s, timing.inference_s, ended_s - started_s)
