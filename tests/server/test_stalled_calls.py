"""Calls that take a place and say nothing: others still get one, and they end."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from masklet.config import Config, SessionConfig
from masklet.server import lifecycle
from masklet.server.lifecycle import Server
from masklet.server.raw_call import EOF
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceStub

IMAGE = "/masklet.v1.SegmentationService/SegmentImage"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"


@asynccontextmanager
async def connection(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    """One that nobody shares."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
        yield channel


def start(channel: grpc.aio.Channel, method: str, count: int) -> list[Any]:
    """Calls that never send their request."""
    stalled: Any = channel.stream_stream(method)  # type: ignore[call-arg]
    return [stalled() for _ in range(count)]


async def usable(server: Server) -> str:
    """What a probe and a client on another connection are told."""
    async with connection(server) as channel:
        probe = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        stub: Any = SegmentationServiceStub(channel)
        described = await stub.DescribeModel(pb.DescribeModelRequest(), timeout=5)
    return f"{health_pb2.HealthCheckResponse.ServingStatus.Name(probe.status)}, {described.model}"


@pytest.mark.parametrize("method", [IMAGE, CHECK, WATCH])
async def test_one_connection_cannot_take_all_places(server: Server, method: str) -> None:
    async with connection(server) as channel:
        calls = start(channel, method, 1000)
        await asyncio.sleep(1.0)
        assert await usable(server) == "SERVING, fake"
        for call in calls:
            call.cancel()


async def status(call: Any) -> tuple[str, str]:
    """How the call ends, once it is waited for."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(10):
            while await call.read() is not EOF:
                pass
    return caught.value.code().name, caught.value.details() or ""


@pytest.mark.parametrize(("method", "limit_s"), [(IMAGE, "0.4"), (CHECK, "0.2"), (WATCH, "0.2")])
async def test_a_request_that_does_not_come_ends_its_call(config: Config, method: str, limit_s: str) -> None:
    timeouts = SessionConfig(first_message_timeout_s=0.2, idle_timeout_s=0.4)
    async with Server(dataclasses.replace(config, session=timeouts)) as server, connection(server) as channel:
        (call,) = start(channel, method, 1)
        expected = "DEADLINE_EXCEEDED", f"the request has not come in full within {limit_s} s"
        assert await status(call) == expected


async def test_a_call_without_a_request_is_told_so(client: Any, reason_of: Any) -> None:
    call = client.channel.stream_unary(IMAGE)(iter(()), timeout=10)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert reason_of(caught.value)[:2] == ("INVALID_ARGUMENT", "PROTOCOL_VIOLATION")


def watch(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())


def reflect(channel: grpc.aio.Channel) -> Any:
    return reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()


async def test_watches_beyond_their_limit_are_to_come_again(
    config: Config, reason_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_PROBE_STREAMS", 1)
    monkeypatch.setattr(lifecycle, "_CALLS_BESIDE", 1)
    one_session = dataclasses.replace(config, limits=dataclasses.replace(config.limits, max_sessions=1))
    async with Server(one_session) as server, connection(server) as full, connection(server) as further:
        watches = [watch(full), watch(full)]
        assert {(await call.read()).status for call in watches} == {health_pb2.HealthCheckResponse.SERVING}
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch(further).read()
        assert reason_of(caught.value)[:2] == ("RESOURCE_EXHAUSTED", "ADMISSION_REFUSED")
        assert await usable(server) == "SERVING, fake"
        watches[0].cancel()
        await asyncio.sleep(0.3)
        assert (await watch(further).read()).status == health_pb2.HealthCheckResponse.SERVING


async def test_streams_of_reflection_beyond_their_limit_are_to_come_again(
    config: Config, reason_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_PROBE_STREAMS", 1)
    async with Server(config) as server, connection(server) as channel:
        first = reflect(channel)
        await first.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await first.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflect(channel).read()
        assert reason_of(caught.value)[:2] == ("RESOURCE_EXHAUSTED", "ADMISSION_REFUSED")
        assert (await watch(channel).read()).status == health_pb2.HealthCheckResponse.SERVING
        await first.done_writing()
        assert await first.read() is EOF


@pytest.mark.parametrize("stream", [watch, reflect])
async def test_watches_do_not_last_for_ever(config: Config, stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_PROBE_STREAM_S", 0.3)
    async with Server(config) as server, connection(server) as channel:
        expected = "DEADLINE_EXCEEDED", "the stream has lasted 0.3 s; open another"
        assert await status(stream(channel)) == expected


async def test_a_service_that_is_unknown_is_not_found(client: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.health("nobody")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_who_watches_health_hears_of_a_drain_though_others_have_left(server: Server) -> None:
    async with connection(server) as first, connection(server) as second:
        calls = [watch(one) for one in (first, second)]
        assert [(await call.read()).status for call in calls] == [health_pb2.HealthCheckResponse.SERVING] * 2
        calls[0].cancel()
        await asyncio.sleep(0.3)
        draining = asyncio.create_task(server.drain())
        async with asyncio.timeout(5):
            assert (await calls[1].read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await draining
