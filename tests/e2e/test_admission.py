"""A service as full as it may be: over real gRPC, with the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.e2e.conftest import CONFIG, MODEL
from tests.e2e.talk import Talk, click, opening, talk_to

from masklet.config import RoutingConfig
from masklet.server.lifecycle import Server

FOUR_HZ: dict[str, Any] = {"target_frame_rate_hz": 4.0}


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """It takes ten objects x frames/s: two streams of four."""
    async with Server(replace(CONFIG, routing=RoutingConfig(capacity_object_frames_s=10.0))) as running:
        yield running


@pytest.fixture
async def streams(server: Server) -> AsyncIterator[list[Talk]]:
    """Two of them, each with an answer."""
    async with AsyncExitStack() as stack:
        talks = [await stack.enter_async_context(talk_to(f"127.0.0.1:{server.port}")) for _ in range(2)]
        for talk in talks:
            await talk.open(**FOUR_HZ)
            await talk.send(prompt=click(1))
            await answered(talk)
        yield talks


async def answered(talk: Talk) -> None:
    """A frame, and everything up to its masks."""
    await talk.frame()
    async with asyncio.timeout(20):
        while (await talk.read()).WhichOneof("message") != "result":  # type: ignore[union-attr]
            pass


async def turned_away(server: Server) -> grpc.aio.AioRpcError:
    async with talk_to(f"127.0.0.1:{server.port}") as talk:
        await talk.send(open=opening(**FOUR_HZ))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await talk.read()
        return caught.value


def detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    found = kind()
    (packed,) = (one for one in rpc_status.from_call(error).details if one.Is(kind.DESCRIPTOR))  # type: ignore
    packed.Unpack(found)
    return found


async def test_the_next_is_refused_until_one_leaves(server: Server, streams: list[Talk]) -> None:
    error = await turned_away(server)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "of 10.0 are taken" in str(error.details())
    assert detail(error, error_details_pb2.ErrorInfo).reason == "OVER_CAPACITY"
    assert detail(error, error_details_pb2.RetryInfo).retry_delay == Duration(seconds=2)
    for talk in streams:
        await answered(talk)
    await streams[0].close()
    async with talk_to(f"127.0.0.1:{server.port}") as talk, asyncio.timeout(20):
        await talk.open(**FOUR_HZ)
        await answered(talk)


async def test_refusals_load_and_capacity_are_exported(server: Server, streams: list[Talk]) -> None:
    await turned_away(server)
    server.metrics.observe_backend(server._backend.stats())
    sample = server.metrics.registry.get_sample_value
    assert sample("masklet_sessions_rejected_total", {"reason": "OVER_CAPACITY"}) == 1
    assert (sample("masklet_session_load"), sample("masklet_session_capacity")) == (8.0, 10.0)


async def test_an_object_too_many_is_refused_on_a_stream_that_goes_on(server: Server, streams: list[Talk]) -> None:
    await streams[0].send(prompt=click(2))
    await streams[0].frame()
    error = (await streams[0].receive("error")).error
    assert error.request_seq == streams[0].seq - 1
    assert [one.object_id for one in (await streams[0].receive("result")).result.objects] == [1]


async def test_what_was_measured_when_loading_is_the_capacity() -> None:
    async with Server(replace(CONFIG, model=replace(MODEL, calibration_s=0.2))) as server:
        capacity = server._backend.stats().capacity
        assert capacity > 0
        async with talk_to(f"127.0.0.1:{server.port}") as talk:
            await talk.open(target_frame_rate_hz=capacity)
            assert (await turned_away(server)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
