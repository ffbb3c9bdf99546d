"""The wire, spoken by hand: what a client of another make, a clumsy one or a hostile one, would send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from masklet.codecs.frames import encode_frame
from masklet.types import FrameCodec
from masklet.v1 import mask_pb2, prompt_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceStub
from masklet_client.call import send_request

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
HEIGHT, WIDTH = 48, 64
_RANDOM = np.random.default_rng(0)
JPEGS = [
    encode_frame(FrameCodec.JPEG, _RANDOM.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8), quality=50) for _ in range(8)
]
JPEG = JPEGS[0]


def opening(*, policy: str = "BLOCK", **fields: Any) -> pb.Open:
    """A good `open`, but for `fields`."""
    wanted = {"codec": pb.FRAME_CODEC_JPEG, "height": HEIGHT, "width": WIDTH}
    return pb.Open(**{**wanted, "drop_policy": pb.DropPolicy.Value(f"DROP_POLICY_{policy}"), **fields})


def click(object_id: int, x: float = 20.0, y: float = 20.0, *, times: int = 1, frame_seq: int = 0) -> prompt_pb2.Prompt:
    """A click, or `times` of them in one prompt."""
    points = [prompt_pb2.Point(x=x, y=y, label=prompt_pb2.POINT_LABEL_INCLUDE)] * times
    return prompt_pb2.Prompt(object_id=object_id, points=prompt_pb2.Points(points=points), frame_seq=frame_seq)


def box(object_id: int, *edges: float) -> prompt_pb2.Prompt:
    """A box (x_min, y_min, x_max, y_max)."""
    x_min, y_min, x_max, y_max = edges
    wire = mask_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
    return prompt_pb2.Prompt(object_id=object_id, box=wire)


class Talk:
    """One Track call, message by message. `said` is every answer so far."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self.channel, self.address = channel, address
        self.call: Any = SegmentationServiceStub(channel).Track()  # type: ignore[call-arg]
        self.seq = 0
        self.said: list[pb.TrackResponse] = []

    async def send(self, **message: Any) -> int:
        """The next request; returns its seq."""
        self.seq += 1
        await send_request(self.call, pb.TrackRequest(seq=self.seq, **message))
        return self.seq

    async def open(self, **fields: Any) -> pb.Opened:
        await self.send(open=opening(**fields))
        return (await self.receive("opened")).opened

    async def frame(self, payload: bytes = JPEG) -> int:
        return await self.send(frame=pb.Frame(payload=payload))

    async def read(self) -> pb.TrackResponse | None:
        """The next answer; None at the end."""
        async with asyncio.timeout(20):
            response: pb.TrackResponse = await self.call.read()
        if response is EOF:
            return None
        self.said.append(response)
        return response

    async def receive(self, kind: str) -> pb.TrackResponse:
        """The next answer, which must be of this kind."""
        response = await self.read()
        assert response is not None, f"stream ended, {kind} expected"
        assert response.WhichOneof("message") == kind, response
        return response

    async def refusal(self) -> tuple[str, str, str]:
        """Code, reason and message of the next answer, which must be an error on a stream that goes on."""
        error = (await self.receive("error")).error
        assert error.request_seq == self.seq
        return explain(error.status)

    async def close(self) -> list[pb.TrackResponse]:
        """Says close; all answers still to come."""
        await self.send(close=pb.Close())
        await self.call.done_writing()
        return [response async for response in self._rest()]

    async def end(self) -> tuple[str, str, str]:
        """Code, reason and message of the status the stream ends with, which must be an error."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in self._rest():
                pass
        trailing: Any = caught.value.trailing_metadata()
        packed = dict(trailing)["grpc-status-details-bin"]
        code, reason, message = explain(status_pb2.Status.FromString(packed))
        assert (code, message) == (caught.value.code().name, caught.value.details())
        return code, reason, message

    async def _rest(self) -> AsyncIterator[pb.TrackResponse]:
        while (response := await self.read()) is not None:
            yield response


@asynccontextmanager
async def talk_to(address: str) -> AsyncIterator[Talk]:
    """A call on a connection of its own; cancelled at the end, if it has not ended."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        talk = Talk(channel, address)
        try:
            yield talk
        finally:
            talk.call.cancel()


def explain(status: status_pb2.Status) -> tuple[str, str, str]:
    """Code, reason and message of a status, which must have exactly one ErrorInfo, of our domain."""
    info = error_details_pb2.ErrorInfo()
    (detail,) = (one for one in status.details if one.Is(info.DESCRIPTOR))
    detail.Unpack(info)
    assert info.domain == "masklet"
    (code,) = (one.name for one in grpc.StatusCode if one.value[0] == status.code)
    return code, info.reason, status.message
