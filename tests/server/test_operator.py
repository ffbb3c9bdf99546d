from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest

from masklet.backends.fake import FakeBackend, Hold
from masklet.config import Config
from masklet.server.lifecycle import Server
from masklet.v1 import prompt_pb2, segmentation_pb2
from masklet.v1 import session_pb2 as pb


async def open_sessions(client: Any, count: int) -> tuple[list[Any], list[str]]:
    talks = [client.talk() for _ in range(count)]
    return talks, [(await talk.open()).session_id for talk in talks]


async def page(client: Any, size: int, token: str = "") -> pb.ListSessionsResponse:
    request = pb.ListSessionsRequest(page_size=size, page_token=token)
    response: pb.ListSessionsResponse = await client.operator.ListSessions(request, timeout=10)
    return response


def ids(response: pb.ListSessionsResponse) -> list[str]:
    return [session.session_id for session in response.sessions]


async def test_no_sessions_is_an_empty_last_page(client: Any) -> None:
    assert await page(client, 0) == pb.ListSessionsResponse()


async def test_pages_hold_each_session_once_oldest_first(client: Any) -> None:
    _talks, expected = await open_sessions(client, 5)
    first = await page(client, 2)
    second = await page(client, 2, first.next_page_token)
    third = await page(client, 2, second.next_page_token)
    assert [ids(first), ids(second), ids(third)] == [expected[:2], expected[2:4], expected[4:]]
    assert (third.next_page_token, ids(await page(client, 5))) == ("", expected)


async def test_sessions_that_end_between_pages_make_no_other_skipped(client: Any) -> None:
    talks, expected = await open_sessions(client, 4)
    first = await page(client, 2)
    await talks[0].close()
    await talks[1].close()
    assert ids(await page(client, 2, first.next_page_token)) == expected[2:]


async def test_a_session_is_shown_with_what_it_did(client: Any) -> None:
    talk = client.talk()
    await talk.open()
    await talk.click(1, 4, 4)
    await talk.frame()
    await talk.receive("prompt_applied")
    await talk.receive("result")
    (session,) = (await page(client, 0)).sessions
    assert (session.state, session.objects, session.frames_answered) == (pb.SESSION_STATE_ATTACHED, 1, 1)
    assert (session.height, session.width, session.frames_dropped) == (16, 24, 0)
    assert session.peer.startswith("ipv4:127.0.0.1:")
    assert session.age.ToNanoseconds() >= session.idle.ToNanoseconds() > 0


async def test_a_closed_session_ends_with_aborted(client: Any, reason_of: Any) -> None:
    (talk,), (session_id,) = await open_sessions(client, 1)
    await client.operator.CloseSession(pb.CloseSessionRequest(session_id=session_id), timeout=10)
    assert reason_of(await talk.failure())[:2] == ("ABORTED", "SESSION_CLOSED")
    assert ids(await page(client, 0)) == []


async def test_closing_an_unknown_session_is_not_found(client: Any, reason_of: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.operator.CloseSession(pb.CloseSessionRequest(session_id="gone"), timeout=10)
    assert reason_of(caught.value) == ("NOT_FOUND", "SESSION_NOT_FOUND", "session_id")


@pytest.mark.parametrize(
    ("size", "token", "field"), [(1001, "", "page_size"), (1, "x", "page_token"), (1, "9" * 99, "page_token")]
)
async def test_bad_pages_are_refused(client: Any, reason_of: Any, size: int, token: str, field: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await page(client, size, token)
    assert (reason_of(caught.value)[0], reason_of(caught.value)[2]) == ("INVALID_ARGUMENT", field)


async def test_a_session_without_a_stream_is_listed_as_detached_and_can_be_ended(server: Any, client: Any) -> None:
    talk = client.talk()
    opened = await talk.open()
    talk.call.cancel()
    async with asyncio.timeout(10):
        while (found := (await page(client, 1)).sessions[0]).state == pb.SESSION_STATE_ATTACHED:
            await asyncio.sleep(0.01)
    assert (found.session_id, found.state) == (opened.session_id, pb.SESSION_STATE_DETACHED)
    await client.operator.CloseSession(pb.CloseSessionRequest(session_id=found.session_id))
    assert await server.registry.wait_empty(10)


async def test_an_image_is_no_session(config: Config, connect: Any, image: bytes, reason_of: Any) -> None:
    release = asyncio.Event()
    backend = FakeBackend([Hold(release)])
    async with Server(config, backend=backend) as server, connect(server.port) as client:
        points = prompt_pb2.Points(points=[prompt_pb2.Point(x=1, y=1, label=prompt_pb2.POINT_LABEL_INCLUDE)])
        asked = segmentation_pb2.SegmentImageRequest(codec=segmentation_pb2.FRAME_CODEC_PNG, payload=image)
        asked.prompts.add(object_id=1, points=points)
        call = asyncio.ensure_future(client.tracker.SegmentImage(asked, timeout=10))
        async with asyncio.timeout(10):
            while not backend.steps_started:
                await asyncio.sleep(0.01)
        assert ids(await page(client, 0)) == []
        (session_id,) = server.registry._records
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.operator.CloseSession(pb.CloseSessionRequest(session_id=session_id), timeout=10)
        assert reason_of(caught.value)[:2] == ("NOT_FOUND", "SESSION_NOT_FOUND")
        release.set()
        assert len((await call).objects) == 1
        assert server.metrics.registry.get_sample_value("masklet_session_duration_seconds_count") == 0
