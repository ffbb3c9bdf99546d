"""Tells the client, the metrics and the registry the same thing, in one place."""

from __future__ import annotations

from masklet.errors import MaskletError
from masklet.observability.metrics import Metrics
from masklet.observability.tracing import FrameTrace
from masklet.session.edits import Refusal
from masklet.session.messages import Dropped, PromptApplied, RequestFailed, Result, ServerBody, Timing
from masklet.session.outbox import Outbox
from masklet.session.registry import SessionRecord
from masklet.types import DropReason, Prompt


class Reporter:
    """Puts answers into one stream's outbox and counts them."""

    def __init__(self, outbox: Outbox, metrics: Metrics, record: SessionRecord, *, trace: FrameTrace) -> None:
        self._outbox = outbox
        self._metrics = metrics
        self._record = record
        self._trace = trace

    def tell(self, body: ServerBody) -> None:
        """An answer that is not counted."""
        self._outbox.put(body)

    def dropped(self, frame_seq: int, reason: DropReason) -> None:
        """A frame is not going to be answered."""
        self._record.frame_dropped()
        self._metrics.frame_results.labels("dropped", reason).inc()
        self._trace.end(frame_seq, reason)
        self._outbox.put(Dropped(frame_seq, reason))

    def lost(self, frame_seq: int) -> None:
        """A frame was dealt with before, but the client cannot be told how."""
        self._metrics.frame_results.labels("lost", DropReason.CONNECTION_LOST).inc()
        self._outbox.put(Dropped(frame_seq, DropReason.CONNECTION_LOST))

    def answered(self, result: Result, *, received_s: float) -> None:
        """A frame has its masks."""
        self._record.frame_answered()
        self._metrics.frame_results.labels("answered", "none").inc()
        self._metrics.object_frames.inc(len(result.objects))
        self._observe(result.timing)
        self._outbox.put(result, frame_received_s=received_s)

    def applied(self, seq: int, prompt: Prompt, *, frame_seq: int) -> None:
        """A prompt took effect."""
        self._metrics.prompts.labels(_kind(prompt), "applied").inc()
        self._outbox.put(PromptApplied(seq, frame_seq, prompt.object_id))

    def failed(self, seq: int, error: MaskletError, *, prompt: Prompt | None = None) -> None:
        """A request is not going to be carried out."""
        if prompt is not None:
            self._metrics.prompts.labels(_kind(prompt), "refused").inc()
        self._outbox.put(RequestFailed(seq, error))

    def refused(self, refusals: list[Refusal]) -> None:
        """Requests are not going to be carried out."""
        for refusal in refusals:
            self.failed(refusal.seq, refusal.error, prompt=refusal.prompt)

    def _observe(self, timing: Timing) -> None:
        stages = (
            ("queue", timing.queue_s),
            ("decode", timing.decode_s),
            ("inference", timing.inference_s),
            ("encode", timing.encode_s),
        )
        for stage, seconds in stages:
            self._metrics.stage.labels(stage).observe(seconds)


def _kind(prompt: Prompt) -> str:
    if prompt.mask is not None:
        return "mask"
    return "points" if prompt.box is None else "box"
