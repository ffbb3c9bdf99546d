"""A span per frame and a child span per stage, sent with OpenTelemetry (OTLP over gRPC).

Spans are made from times that the stages measure anyway, and sent by a thread of their own from a bounded queue: a
collector that is slow or away costs spans, never frames.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import masklet
from masklet.config import TracingConfig
from masklet.observability.metrics import Metrics

_SEND_TIMEOUT_S = 5.0
_STOP_TIMEOUT_S = 2.0
_NS = 1_000_000_000
_CALLER = TraceContextTextMapPropagator()


class SpanTracing:
    """`Tracing` with OpenTelemetry. A caller's W3C `traceparent` decides for all its frames, else the ratio for each.

    What the configuration does not say (headers, certificates, resource attributes, batch sizes) is read from the
    environment variables that OpenTelemetry defines, OTEL_*.

    Args:
        config: how many frames, and where spans go.
        metrics: counts spans sent and lost.
        exporter: used instead of one to `config.endpoint`.
        clock: the clock of all times given, in seconds.
    """

    def __init__(
        self,
        config: TracingConfig,
        metrics: Metrics,
        *,
        exporter: SpanExporter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._exporter = exporter
        self._clock = clock
        self._provider = self._make_provider()

    def session(self, session_id: str) -> SpanFrameTrace:
        """For the frames of one session."""
        tracer = self._provider.get_tracer("masklet", masklet.__version__)
        return SpanFrameTrace(tracer, session_id, clock=self._clock)

    async def __aenter__(self) -> Self:
        """Start the thread that sends."""
        exporter = self._exporter or OTLPSpanExporter(self._config.endpoint, timeout=_SEND_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(_Counted(exporter, self._metrics)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is left. A daemon thread does it, so that a collector that hangs keeps nobody from leaving."""
        closing = threading.Thread(target=self._provider.shutdown, name="masklet-spans", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _STOP_TIMEOUT_S)

    def _make_provider(self) -> TracerProvider:
        ours = {SERVICE_NAME: "masklet", SERVICE_VERSION: masklet.__version__}
        resource = Resource.create({**ours, **OTELResourceDetector().detect().attributes})  # OTEL_... wins
        sampler = ParentBased(TraceIdRatioBased(self._config.sample_ratio))
        return TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)


@dataclass(frozen=True, slots=True)
class _Followed:
    """A frame that was sampled: its span, and the context its stages' spans are opened in."""

    span: Span
    context: Context


class SpanFrameTrace:
    """`FrameTrace` that opens spans.

    Args:
        tracer: makes them.
        session_id: told in each.
        clock: the clock of all times given, in seconds.
    """

    def __init__(self, tracer: Tracer, session_id: str, *, clock: Callable[[], float]) -> None:
        self._tracer = tracer
        self._session_id = session_id
        self._clock = clock
        self._followed: dict[int, _Followed] = {}

    def begin(self, frame_seq: int, received_s: float, caller: Mapping[str, str]) -> None:
        """Opens the frame's span, if it is sampled."""
        span = self._tracer.start_span(
            "frame",
            _CALLER.extract(caller, Context()),
            kind=SpanKind.SERVER,
            attributes={"masklet.session_id": self._session_id, "masklet.frame_seq": frame_seq},
            start_time=self._unix_ns(received_s),
        )
        if span.is_recording():
            self._followed[frame_seq] = _Followed(span, set_span_in_context(span, Context()))

    def stage(self, frame_seq: int, name: str, started_s: float, ended_s: float) -> None:
        """A child span."""
        if followed := self._followed.get(frame_seq):
            span = self._tracer.start_span(name, followed.context, start_time=self._unix_ns(started_s))
            span.end(self._unix_ns(ended_s))

    def end(self, frame_seq: int, outcome: str) -> None:
        """Closes the frame's span, now."""
        if followed := self._followed.pop(frame_seq, None):
            followed.span.set_attribute("masklet.outcome", outcome)
            followed.span.end(time.time_ns())

    def stop(self) -> None:
        """Closes what is open."""
        for frame_seq in list(self._followed):
            self.end(frame_seq, "abandoned")

    def _unix_ns(self, clock_s: float) -> int:
        return time.time_ns() - int((self._clock() - clock_s) * _NS)


class _Counted(SpanExporter):
    """Counts what another sends."""

    def __init__(self, exporter: SpanExporter, metrics: Metrics) -> None:
        self._exporter = exporter
        self._metrics = metrics

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        outcome = "sent" if result is SpanExportResult.SUCCESS else "lost"
        self._metrics.trace_spans.labels(outcome).inc(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
