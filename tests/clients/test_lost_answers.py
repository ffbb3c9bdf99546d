"""Answers that were lost with a connection, on servers that do not remember them: every frame is accounted for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_status import rpc_status
from tests.clients.test_flapping import Flapping, _opened, serving

from masklet.errors import RequestError, SessionExpired
from masklet.server.status import to_status
from masklet.types import DropReason, Prompt
from masklet.v1 import segmentation_pb2 as pb
from masklet_client import Dropped, Reconnect, Result, connect

from .conftest import SIZE

FRAME = np.zeros((*SIZE, 3), np.uint8)
QUICK = Reconnect(give_up_s=20.0, first_delay_s=0.01, max_delay_s=0.05)
GIVE_UP_S = 30.0


class Forgetful(Flapping):
    """Loses the answers of the frames 2 and 3 with the connection, says 3 again on the next, and breaks before it says
    that 2 is lost; then nobody knows the session."""

    async def Track(self, requests: Any, context: Any) -> AsyncIterator[pb.TrackResponse]:
        opening = await anext(aiter(requests))
        self.opened.append(0.0)
        turn = len(self.opened)
        if turn == 3:
            gone = rpc_status.to_status(to_status(SessionExpired("gone")))
            await context.abort(gone.code, gone.details, gone.trailing_metadata)
        yield pb.TrackResponse(server_seq=1, opened=_opened(4 if turn == 2 else 2))
        assert bool(opening.open.resume_token) == (turn == 2)
        if turn == 1:
            for _ in range(2):
                await anext(aiter(requests))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "broke")
        if turn == 2:
            yield pb.TrackResponse(server_seq=3, result=pb.Result(frame_seq=3))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "broke again")
        async for request in requests:
            if request.HasField("close"):
                return


async def test_a_frame_that_no_session_can_answer_any_more_is_reported() -> None:
    async with (
        serving(Forgetful(0)) as address,
        connect(address) as client,
        asyncio.timeout(GIVE_UP_S),
        client.track(SIZE, policy="block", codec="rgb8", reconnect=QUICK) as stream,
    ):
        lost, answered = await stream.send(FRAME), await stream.send(FRAME)
        await stream.finish()
        events = [event async for event in stream.events()]
    assert [event.frame_seq for event in events if isinstance(event, Result)] == [answered]
    assert [(event.frame_seq, event.reason) for event in events if isinstance(event, Dropped)] == [
        (lost, DropReason.CONNECTION_LOST)
    ]


class Careless(Flapping):
    """Answers every frame but the third."""

    async def Track(self, requests: Any, context: Any) -> AsyncIterator[pb.TrackResponse]:
        async for request in requests:
            if request.HasField("open"):
                yield pb.TrackResponse(server_seq=1, opened=_opened(2))
            elif request.seq == 5:
                lost = pb.Dropped(frame_seq=5, reason=pb.DROP_REASON_CONNECTION_LOST)
                yield pb.TrackResponse(server_seq=request.seq, dropped=lost)
            elif request.HasField("frame"):
                yield pb.TrackResponse(server_seq=request.seq, result=pb.Result(frame_seq=request.seq))
            elif request.HasField("close"):
                return


async def test_follow_leaves_no_frame_out_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    prompts, seen = [Prompt.clicks(1, [(10, 20)])], []
    async with serving(Careless(0)) as address, connect(address) as client, asyncio.timeout(GIVE_UP_S):
        with pytest.raises(RequestError, match=r"frame 2 \(from 0\) is not answered: connection_lost"):
            async for result in client.follow([FRAME] * 6, prompts, in_flight=1, codec="rgb8"):
                seen.append(result.frame_index)
        assert seen == [0, 1]
        calm = client.follow([FRAME] * 6, prompts, codec="rgb8", raise_request_errors=False)
        assert [result.frame_index async for result in calm] == [0, 1, 3, 4, 5]
        live = client.follow([FRAME] * 6, prompts, codec="rgb8", policy="latest")
        assert [result.frame_index async for result in live] == [0, 1, 3, 4, 5]
    assert caplog.text.count("frame 2 is not answered") == 2


class Impatient(Flapping):
    """Says that its idle timeout is a fifth of a second, and counts pings."""

    pings = 0

    async def Track(self, requests: Any, context: Any) -> AsyncIterator[pb.TrackResponse]:
        async for request in requests:
            if request.HasField("open"):
                opened = _opened(2)
                opened.limits.idle_timeout.FromMilliseconds(200)
                yield pb.TrackResponse(server_seq=1, opened=opened)
            elif request.HasField("ping"):
                self.pings += 1
            elif request.HasField("close"):
                return


async def test_a_short_idle_timeout_is_pinged_for() -> None:
    servicer = Impatient(0)
    async with (
        serving(servicer) as address,
        connect(address) as client,
        asyncio.timeout(GIVE_UP_S),
        client.track(SIZE, policy="block"),
    ):
        while servicer.pings < 3:
            await asyncio.sleep(0.02)
