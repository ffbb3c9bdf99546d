"""Servers that take a session up and break before they answer: no client comes back for ever, or without a pause."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.clients.test_resuming import FRAME, rest, tracking

from masklet.errors import BackendUnavailable
from masklet.v1 import mask_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceServicer, add_SegmentationServiceServicer_to_server
from masklet_client import Reconnect, Result


class Flapping(SegmentationServiceServicer):
    """Opens, and breaks at the first frame; the first `answers` frames are answered before."""

    def __init__(self, answers: int) -> None:
        self.opened: list[float] = []
        self._answers = answers

    async def SegmentImage(self, request: Any, context: Any) -> pb.SegmentImageResponse:
        return pb.SegmentImageResponse()

    async def DescribeModel(self, request: Any, context: Any) -> pb.DescribeModelResponse:
        return pb.DescribeModelResponse()

    async def Track(self, requests: Any, context: Any) -> AsyncIterator[pb.TrackResponse]:
        async for request in requests:
            if request.HasField("open"):
                self.opened.append(time.monotonic())
                last = request.open.last_server_seq
                yield pb.TrackResponse(server_seq=last or 1, opened=_opened(2 if not last else last + 1))
            elif self._answers:
                self._answers -= 1
                yield pb.TrackResponse(server_seq=request.seq, result=pb.Result(frame_seq=request.seq))
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broke after an answer")
            else:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "broke at a frame")


def _opened(next_seq: int) -> pb.Opened:
    return pb.Opened(
        session_id="s",
        resume_token=b"t",
        next_seq=next_seq,
        state_origin=pb.STATE_ORIGIN_INTACT,
        drop_policy=pb.DROP_POLICY_BLOCK,
        profile=pb.PROFILE_VOS,
        mask_encoding=mask_pb2.MASK_ENCODING_RLE,
    )


@asynccontextmanager
async def serving(servicer: Flapping) -> AsyncIterator[str]:
    server = grpc.aio.server()
    add_SegmentationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_server_that_opens_and_breaks_each_time_is_given_up() -> None:
    servicer = Flapping(answers=0)
    async with asyncio.timeout(20), serving(servicer) as address:
        reconnect = Reconnect(give_up_s=1.0, first_delay_s=0.1, max_delay_s=0.4)
        with pytest.raises(BackendUnavailable, match="broke at a frame"):
            async with tracking(address, reconnect=reconnect) as stream:
                await stream.send(FRAME)
                await rest(stream)
    gaps = [later - earlier for earlier, later in zip(servicer.opened[1:], servicer.opened[2:], strict=False)]
    assert 2 < len(servicer.opened) < 15 and min(gaps) > 0.04


async def test_one_that_answers_before_it_breaks_is_come_back_to_at_once() -> None:
    servicer = Flapping(answers=6)
    async with asyncio.timeout(20), serving(servicer) as address:
        reconnect = Reconnect(give_up_s=1.0, first_delay_s=30.0, max_delay_s=30.0)
        async with tracking(address, reconnect=reconnect) as stream:
            for _ in range(6):
                await stream.send(FRAME)
                assert isinstance(await anext(stream), Result)
    assert len(servicer.opened) >= 6
