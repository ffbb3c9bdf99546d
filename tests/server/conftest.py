from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc.aio
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from masklet.backends.fake import FakeBackend
from masklet.codecs.frames import encode_frame
from masklet.config import Config, LimitsConfig, ServerConfig
from masklet.server.lifecycle import Server
from masklet.types import FrameCodec
from masklet.v1 import prompt_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceStub
from masklet.v1.session_pb2_grpc import SessionServiceStub

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
HEIGHT, WIDTH = 16, 24
IMAGE = encode_frame(FrameCodec.PNG, np.zeros((HEIGHT, WIDTH, 3), np.uint8))


class Talk:
    """One Track call, message by message."""

    def __init__(self, stub: Any) -> None:
        self.call = stub.Track()
        self.seq = 0

    async def send(self, **message: Any) -> int:
        self.seq += 1
        await self.call.write(pb.TrackRequest(seq=self.seq, **message))
        return self.seq

    async def open(self) -> pb.Opened:
        wanted = pb.Open(codec=pb.FRAME_CODEC_PNG, height=HEIGHT, width=WIDTH, drop_policy=pb.DROP_POLICY_BLOCK)
        await self.send(open=wanted)
        return (await self.receive("opened")).opened

    async def frame(self, payload: bytes = IMAGE) -> int:
        return await self.send(frame=pb.Frame(payload=payload))

    async def settle(self) -> None:
        """Waits until the server has read everything sent so far."""
        await self.send(ping=pb.Ping())
        await self.receive("pong")

    async def click(self, object_id: int, x: float, y: float) -> int:
        point = prompt_pb2.Point(x=x, y=y, label=prompt_pb2.POINT_LABEL_INCLUDE)
        return await self.send(prompt=prompt_pb2.Prompt(object_id=object_id, points=prompt_pb2.Points(points=[point])))

    async def receive(self, kind: str) -> pb.TrackResponse:
        """The next answer, which must be of this kind."""
        async with asyncio.timeout(10):
            response: pb.TrackResponse = await self.call.read()
        assert response is not EOF, f"stream ended, {kind} expected"
        assert response.WhichOneof("message") == kind
        return response

    async def close(self) -> list[pb.TrackResponse]:
        """Says close and returns all answers still to come."""
        await self.send(close=pb.Close())
        await self.call.done_writing()
        async with asyncio.timeout(10):
            return [response async for response in self._rest()]

    async def failure(self) -> grpc.aio.AioRpcError:
        """The status the stream ends with, which must be an error."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(10):
                async for _ in self._rest():
                    pass
        return caught.value

    async def _rest(self) -> AsyncIterator[pb.TrackResponse]:
        while (response := await self.call.read()) is not EOF:
            yield response


@dataclass(frozen=True)
class Client:
    """Every service of one server."""

    channel: grpc.aio.Channel
    tracker: Any
    operator: Any

    def talk(self) -> Talk:
        return Talk(self.tracker)

    async def health(self, service: str = "") -> str:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=10)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


@asynccontextmanager
async def connect_to(port: int) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Client(channel, SegmentationServiceStub(channel), SessionServiceStub(channel))


def explain(error: grpc.aio.AioRpcError) -> tuple[str, str, str]:
    """Code, reason and field of an error."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    (detail,) = (one for one in status.details if one.Is(info.DESCRIPTOR))
    detail.Unpack(info)
    return error.code().name, info.reason, info.metadata.get("field", "")


@pytest.fixture
def config() -> Config:
    return Config(
        server=ServerConfig(port=0, metrics_port=0, backend="fake", drain_timeout_s=5.0),
        limits=LimitsConfig(max_frame_bytes=100_000),
    )


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
async def server(config: Config, backend: FakeBackend) -> AsyncIterator[Server]:
    async with Server(config, backend=backend) as running:
        yield running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with connect_to(server.port) as connected:
        yield connected


@pytest.fixture
def connect() -> Callable[[int], AbstractAsyncContextManager[Client]]:
    return connect_to


@pytest.fixture
def reason_of() -> Callable[[grpc.aio.AioRpcError], tuple[str, str, str]]:
    return explain


@pytest.fixture
def image() -> bytes:
    return IMAGE
