"""Spans of frames that came over real gRPC, up to a real collector and to one that is not there."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import masklet
from masklet.backends.fake import Cue, FakeBackend, Hold
from masklet.config import Config, TracingConfig
from masklet.errors import ConfigError
from masklet.observability.metrics import STAGES, Metrics
from masklet.observability.spans import SpanTracing
from masklet.observability.tracing import NoTracing, make_tracing
from masklet.server.lifecycle import Server

TRACE_ID, SPAN_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
CALLER = f"00-{TRACE_ID:032x}-{SPAN_ID:016x}"
ON = TracingConfig(sample_ratio=1.0)
NEVER = TracingConfig(sample_ratio=1e-12)


class WithMetadata:
    """A stub whose Track calls carry metadata."""

    def __init__(self, stub: Any, **metadata: str) -> None:
        self._stub, self._metadata = stub, tuple(metadata.items())

    def Track(self) -> Any:
        return self._stub.Track(metadata=self._metadata)


@asynccontextmanager
async def traced(
    config: Config, connect: Any, tracing: TracingConfig, *script: Cue
) -> AsyncIterator[tuple[Any, list[ReadableSpan]]]:
    """A client of a service that traces, and the spans, which are there after the block."""
    exporter, found = InMemorySpanExporter(), list[ReadableSpan]()
    own = SpanTracing(tracing, Metrics(), exporter=exporter)
    async with Server(config, backend=FakeBackend(script), tracing=own) as server, connect(server.port) as client:
        yield client, found
    found += exporter.get_finished_spans()


async def three_frames(talk: Any, **broken: bytes) -> None:
    await talk.open()
    await talk.click(5, 4, 4)
    for _ in range(3):
        await talk.frame(**broken)
    await talk.close()


def frames_of(spans: list[ReadableSpan]) -> list[ReadableSpan]:
    return [span for span in spans if span.name == "frame"]


def parent_of(span: ReadableSpan) -> tuple[int, int]:
    assert span.parent is not None
    return span.parent.trace_id, span.parent.span_id


def own_ids(span: ReadableSpan) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


async def test_frames_are_spans_of_the_caller_s_trace(config: Config, connect: Any) -> None:
    async with traced(config, connect, NEVER) as (client, spans):
        await three_frames(type(client.talk())(WithMetadata(client.tracker, traceparent=f"{CALLER}-01")))
    frames = frames_of(spans)
    assert [parent_of(frame) for frame in frames] == [(TRACE_ID, SPAN_ID)] * 3
    assert [frame.attributes["masklet.frame_seq"] for frame in frames if frame.attributes] == [3, 4, 5]
    assert {frame.attributes["masklet.outcome"] for frame in frames if frame.attributes} == {"answered"}


async def test_every_stage_is_a_span_within_its_frame_s(config: Config, connect: Any) -> None:
    async with traced(config, connect, ON) as (client, spans):
        await three_frames(client.talk())
    for frame in frames_of(spans):
        stages = [span for span in spans if span.parent and parent_of(span) == own_ids(frame)]
        assert sorted(stage.name for stage in stages) == sorted(STAGES)
        for stage in stages:
            times = [frame.start_time, stage.start_time, stage.end_time, frame.end_time]
            assert all(abs(moment / 1e9 - time.time()) < 60 for moment in times if moment)
            slack_ns = 1_000_000  # the two clocks are not read at the same moment
            assert times[0] - slack_ns <= times[1] <= times[2] <= times[3] + slack_ns  # type: ignore[operator]


async def test_frames_without_a_caller_s_trace_are_traces_of_their_own(config: Config, connect: Any) -> None:
    async with traced(config, connect, ON) as (client, spans):
        await three_frames(client.talk())
    assert len({frame.context.trace_id for frame in frames_of(spans)}) == 3
    assert [frame.parent for frame in frames_of(spans)] == [None] * 3


async def test_a_caller_that_is_not_sampled_is_not_traced(config: Config, connect: Any) -> None:
    async with traced(config, connect, ON) as (client, spans):
        await three_frames(type(client.talk())(WithMetadata(client.tracker, traceparent=f"{CALLER}-00")))
    assert spans == []


@pytest.mark.parametrize(
    "traceparent", ["", "nonsense", f"{CALLER}-01-more", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"]
)
async def test_a_broken_traceparent_is_none(config: Config, connect: Any, traceparent: str) -> None:
    async with traced(config, connect, ON) as (client, spans):
        await three_frames(type(client.talk())(WithMetadata(client.tracker, traceparent=traceparent)))
    assert [frame.parent for frame in frames_of(spans)] == [None] * 3


async def test_a_frame_that_is_dropped_says_why(config: Config, connect: Any) -> None:
    async with traced(config, connect, ON) as (client, spans):
        await three_frames(client.talk(), payload=b"no image")
    outcomes = [frame.attributes["masklet.outcome"] for frame in spans if frame.attributes]
    assert outcomes == ["decode_error"] * 3


async def test_frames_that_nobody_waits_for_any_more_say_so(config: Config, connect: Any) -> None:
    async with traced(config, connect, ON, Hold(asyncio.Event())) as (client, spans):
        talk = client.talk()
        await talk.open()
        for _ in range(2):
            await talk.frame()
        await talk.settle()
        talk.call.cancel()
    outcomes = [frame.attributes["masklet.outcome"] for frame in frames_of(spans) if frame.attributes]
    assert outcomes == ["abandoned"] * 2


async def test_the_share_of_frames_is_the_ratio(config: Config, connect: Any) -> None:
    async with traced(config, connect, TracingConfig(sample_ratio=0.5)) as (client, spans):
        talk = client.talk()
        await talk.open()
        for _ in range(100):
            await talk.frame(payload=b"no image")
        await talk.close()
    assert 20 <= len(frames_of(spans)) <= 80  # fails once in a billion runs


class Collector(otlp_grpc.TraceServiceServicer):
    """Takes spans as a collector does."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    async def Export(self, request: Any, context: Any) -> Any:
        self.spans += [span for one in request.resource_spans for scope in one.scope_spans for span in scope.spans]
        return otlp.ExportTraceServiceResponse()


async def test_spans_reach_a_collector(config: Config, connect: Any) -> None:
    collector, far = Collector(), grpc.aio.server()
    otlp_grpc.add_TraceServiceServicer_to_server(collector, far)
    port = far.add_insecure_port("127.0.0.1:0")
    await far.start()
    tracing = TracingConfig(sample_ratio=1.0, endpoint=f"http://127.0.0.1:{port}")
    async with Server(dataclasses.replace(config, tracing=tracing)) as server, connect(server.port) as client:
        await three_frames(client.talk())
    await far.stop(None)
    assert sorted(span.name for span in collector.spans) == sorted(["frame", *STAGES] * 3)
    assert server.metrics.registry.get_sample_value("masklet_trace_spans_total", {"outcome": "sent"}) == 18


@pytest.fixture(params=["nobody", "silent"])
def bad_collector(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where nobody listens, and where somebody takes connections and says nothing."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if request.param == "silent":
            taken.listen()
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


async def test_a_collector_that_does_not_answer_costs_no_frame(
    config: Config, connect: Any, bad_collector: str
) -> None:
    tracing = TracingConfig(sample_ratio=1.0, endpoint=bad_collector)
    async with Server(dataclasses.replace(config, tracing=tracing)) as server, connect(server.port) as client:
        talk = client.talk()
        await talk.open()
        sent = [await talk.frame() for _ in range(200)]
        answers = await talk.close()
        assert [answer.result.frame_seq for answer in answers] == sent
        leaving_s = time.monotonic()
    assert time.monotonic() - leaving_s < 10


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"service.name": "masklet", "service.version": masklet.__version__}),
        ({"OTEL_SERVICE_NAME": "cameras"}, {"service.name": "cameras"}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=cameras,deployment.environment=test"},
            {"service.name": "cameras", "deployment.environment": "test"},
        ),
    ],
)
def test_opentelemetry_s_variables_say_who_sends(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tracing = SpanTracing(ON, Metrics(), exporter=InMemorySpanExporter())
    assert expected.items() <= dict(tracing._provider.resource.attributes).items()


def test_off_is_the_default_and_loads_nothing() -> None:
    assert isinstance(make_tracing(Config().tracing, Metrics()), NoTracing)
    program = (
        "import sys; from masklet.config import Config, ServerConfig; from masklet.server.lifecycle import Server;"
        "Server(Config(ServerConfig(backend='fake')));"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "masklet.observability.spans")
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    with pytest.raises(ConfigError, match=r"tracing.sample_ratio is 0.1, which needs opentelemetry.*extra 'tracing'"):
        make_tracing(TracingConfig(sample_ratio=0.1), Metrics())
