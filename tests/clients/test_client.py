"""Connecting, describing, following and segmenting against a real server."""

import asyncio
import socket
from collections.abc import AsyncIterator

import numpy as np
import pytest

import masklet_client
from masklet.backends.fake import Delay, FakeBackend, Fault, Hold
from masklet.errors import BackendError, BackendUnavailable, InvalidFrame, InvalidPrompt, RequestError
from masklet.types import ImageArray, Prompt
from masklet_client.events import Dropped, Result
from masklet_client.following import follow_all

from .conftest import SIZE, connected

CLICK = [Prompt.clicks(1, [(20, 20)])]


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_connecting_tells_what_runs_there(address: str) -> None:
    async with masklet_client.connect(address) as client:
        assert client.server.model.backend == "fake"
        assert client.server.limits.max_objects == 64


async def test_nobody_there_names_the_address_and_the_way_out() -> None:
    address = f"127.0.0.1:{_closed_port()}"
    with pytest.raises(BackendUnavailable, match=rf"no masklet server answers at {address}.*masklet serve"):
        async with masklet_client.connect(address):
            pass


async def test_follow_answers_every_frame_in_order(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client:
        results = [result async for result in client.follow(frames, CLICK)]
    assert [result.frame_index for result in results] == list(range(10))
    columns = [np.nonzero(result[1].mask)[1].min() for result in results]
    assert np.diff(columns).tolist() == [1] * 9  # the fake backend moves masks one pixel a frame


async def test_follow_takes_an_async_source(address: str, frames: list[ImageArray]) -> None:
    async def camera() -> AsyncIterator[ImageArray]:
        for frame in frames:
            await asyncio.sleep(0)
            yield frame

    async with masklet_client.connect(address) as client:
        assert len([result async for result in client.follow(camera(), CLICK)]) == 10


async def test_follow_applies_prompts_on_their_frames(address: str, frames: list[ImageArray]) -> None:
    later = {0: CLICK, 4: [Prompt(2, box=np.asarray((1, 2, 9, 10), np.float32))]}
    async with masklet_client.connect(address) as client:
        ids = [[o.object_id for o in result.objects] async for result in client.follow(frames, later)]
    assert ids == [[1]] * 4 + [[1, 2]] * 6


async def test_follow_says_when_a_prompt_lies_beyond_the_end(address: str, frames: list[ImageArray]) -> None:
    answered = 0
    async with masklet_client.connect(address) as client:
        with pytest.raises(RequestError, match="prompt for frame 30 never applied: the source has 10 frames"):
            async for _ in client.follow(frames, {0: CLICK, 30: CLICK}):
                answered += 1
    assert answered == 10


async def test_follow_of_nothing_yields_nothing(address: str) -> None:
    async with masklet_client.connect(address) as client:
        assert [result async for result in client.follow([], [])] == []


async def test_follow_raises_what_the_source_raises(address: str, frames: list[ImageArray]) -> None:
    def broken():
        yield frames[0]
        raise OSError("cable pulled")

    async with masklet_client.connect(address) as client:
        with pytest.raises(OSError, match="cable pulled"):
            _ = [result async for result in client.follow(broken(), CLICK)]


async def test_follow_raises_a_frame_of_another_size(address: str, frames: list[ImageArray]) -> None:
    odd = [frames[0], np.zeros((10, 10, 3), np.uint8)]
    async with masklet_client.connect(address) as client:
        with pytest.raises(InvalidFrame, match=r"image is \[10, 10, 3\].*\[48, 64, 3\]"):
            _ = [result async for result in client.follow(odd, CLICK)]


async def test_follow_keeps_frames_in_flight_bounded(frames: list[ImageArray]) -> None:
    taken = 0

    def counted():
        nonlocal taken
        for frame in frames:
            taken += 1
            yield frame

    ahead = []
    async with connected(FakeBackend([Delay(0.02)])) as client:
        async for result in client.follow(counted(), CLICK, in_flight=2):
            ahead.append(taken - result.frame_index)
    assert max(ahead) <= 5 and len(ahead) == 10


async def test_follow_raises_a_backend_failure(frames: list[ImageArray]) -> None:
    async with connected(FakeBackend([Fault(BackendError("out of memory"), step=3)])) as client:
        with pytest.raises(BackendError, match="out of memory"):
            _ = [result async for result in client.follow(frames, CLICK)]


async def test_latest_policy_accounts_for_every_frame(frames: list[ImageArray]) -> None:
    async with connected(FakeBackend([Delay(0.05)])) as client:
        answers = [a async for a in follow_all(client, frames, CLICK, policy="latest")]
    assert sorted(a.frame_index for a in answers if isinstance(a, Result | Dropped)) == list(range(10))
    assert {type(answer) for answer in answers} == {Result, Dropped}


async def test_leaving_follow_early_lets_the_next_one_work(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client:
        results = client.follow(frames, CLICK)
        await anext(results)
        await results.aclose()
        assert len([result async for result in client.follow(frames, CLICK)]) == 10


async def test_leaving_follow_early_does_not_wait_for_a_stalled_server(frames: list[ImageArray]) -> None:
    backend = FakeBackend([Hold(asyncio.Event(), step=2)])
    async with connected(backend) as client, asyncio.timeout(10):
        results = client.follow(frames, CLICK, in_flight=64)
        assert (await anext(results)).frame_index == 0
        await results.aclose()
        assert backend.steps_started == 2  # the second one is still held


async def test_segment_of_an_array(address: str, frames: list[ImageArray]) -> None:
    box = Prompt(7, box=np.asarray((10, 5, 20, 15), np.float32))
    async with masklet_client.connect(address) as client:
        found = (await client.segment(frames[0], [box])).objects[0]
    assert found.object_id == 7 and found.mask.sum() == 100 and found.mask[5:15, 10:20].all()
    assert found.box == (10, 5, 20, 15)


async def test_segment_refuses_a_click_outside(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client:
        with pytest.raises(InvalidPrompt, match="click at 64,99 lies outside the frame, which is 64 wide and 48 high"):
            await client.segment(frames[0], [Prompt.clicks(1, [(64, 99)])])


async def test_segment_of_rubbish_is_the_servers_error(address: str) -> None:
    async with masklet_client.connect(address) as client:
        with pytest.raises(InvalidFrame):
            await client.segment(b"no image", CLICK)


async def test_size_of_the_stream_is_that_of_the_first_frame(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client:
        async for result in client.follow(frames[:1], CLICK):
            assert result[1].mask.shape == SIZE
