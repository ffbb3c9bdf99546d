"""Calls on a connection that ends, and looks at a Triton that does not say whether it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from masklet.backends.triton_channel import TritonChannel
from masklet.backends.triton_messages import Call, SentFrame
from masklet.backends.triton_tensors import Operation
from masklet.errors import BackendUnavailable
from masklet.types import FrameCodec, StepRequest


async def test_a_connection_closed_while_a_frame_is_packed_is_one_that_is_gone():
    pixels = np.zeros((720, 1280, 3), np.uint8)
    call = Call(Operation.STEP, step=StepRequest(1, None), frame=SentFrame(FrameCodec.RGB8, (720, 1280), pixels))
    channel = TritonChannel("127.0.0.1:1")
    channel.connect()
    asking = asyncio.create_task(channel.infer("s", call))
    await asyncio.sleep(0)  # it is packed in a thread now
    await channel.close()
    with pytest.raises(BackendUnavailable, match=r"Triton at 127\.0\.0\.1:1 is not connected"):
        await asking


class Looked(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Fails each look at its health with `status`; None: it says nothing for long."""

    def __init__(self, status: grpc.StatusCode | None, message: str = "noise") -> None:
        self._status = status
        self._message = message

    async def ServerReady(self, request: Any, context: Any) -> Any:
        if self._status is None:
            await asyncio.sleep(60)
            return service_pb2.ServerReadyResponse(ready=True)
        await context.abort(self._status, self._message)


@asynccontextmanager
async def connected(servicer: Looked) -> AsyncIterator[TritonChannel]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = TritonChannel(f"127.0.0.1:{port}")
    channel.connect()
    try:
        yield channel
    finally:
        await channel.close()
        await server.stop(None)


@pytest.mark.parametrize(
    "status", [one for one in grpc.StatusCode if one is not grpc.StatusCode.OK], ids=lambda one: str(one.name)
)
async def test_a_look_that_fails_in_any_way_is_unavailable(status):
    async with connected(Looked(status)) as channel:
        with pytest.raises(BackendUnavailable, match=rf"Triton at 127\.0\.0\.1:\d+ failed: {status.name}: noise"):
            await channel.is_ready()


async def test_one_that_exits_is_not_ready():
    async with connected(Looked(grpc.StatusCode.UNAVAILABLE, "Server exiting")) as channel:
        assert await channel.is_ready() is False


async def test_a_connection_closed_during_a_look_is_one_that_is_gone():
    async with connected(Looked(None)) as channel:
        looking = asyncio.create_task(channel.is_ready())
        await asyncio.sleep(0.1)
        await channel.close()
        with pytest.raises(BackendUnavailable, match="was closed"):
            await looking


async def test_a_look_that_is_cancelled_is_cancelled_even_if_the_connection_is_closed():
    async with connected(Looked(None)) as channel:
        looking = asyncio.create_task(channel.is_ready())
        await asyncio.sleep(0.1)
        looking.cancel()
        await channel.close()
        with pytest.raises(asyncio.CancelledError):
            await looking
