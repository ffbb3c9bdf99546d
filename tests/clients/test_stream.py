"""One stream against a real server: prompts, events, errors, endings."""

import asyncio
import logging

import numpy as np
import pytest

import masklet_client
from masklet.backends.fake import FakeBackend, Hold
from masklet.errors import (
    InvalidFrame,
    InvalidOpen,
    InvalidPrompt,
    LimitExceeded,
    ProtocolViolation,
    ServerDraining,
    UnknownObject,
)
from masklet.types import DropPolicy, ImageArray, MaskEncoding, ObjectState
from masklet_client import Dropped, PromptApplied, RequestFailed, Result, call
from masklet_client.settings import StreamOptions

from .conftest import SIZE, connected, running


async def test_opened_tells_what_is_in_force(address: str) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE, policy="block") as stream:
        assert stream.opened.drop_policy is DropPolicy.BLOCK
        assert stream.opened.session_id


async def test_click_then_frame_then_mask(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        await stream.click(1, (30, 20))
        seq = await stream.send(frames[0], capture_time_ns=1_000)
        result = await anext(stream)
    assert (result.frame_seq, result.frame_index, result.capture_time_ns) == (seq, 0, 1_000)
    assert result[1].mask[20, 30] and result[1].state is ObjectState.VISIBLE and result[1].visible
    assert [found.object_id for found in result] == [1]


@pytest.mark.parametrize("encoding", ["rle", "png", "bits"])
async def test_every_encoding_gives_the_mask_that_was_given(
    address: str, frames: list[ImageArray], encoding: str
) -> None:
    given = np.zeros(SIZE, np.bool_)
    given[3:9, 4:30] = True
    async with masklet_client.connect(address) as client, client.track(SIZE, mask_encoding=encoding) as stream:
        await stream.mask(5, given)
        await stream.send(frames[0])
        found = (await anext(stream))[5]
    assert np.array_equal(found.mask, given) and found.area_px == given.sum() and not found.mask.flags.writeable


async def test_encoding_none_gives_boxes_but_no_mask(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE, mask_encoding="none") as stream:
        await stream.box(1, (2, 3, 12, 23))
        await stream.send(frames[0])
        found = (await anext(stream))[1]
    assert found.box == (2, 3, 12, 23) and found.mask_encoding is MaskEncoding.NONE
    with pytest.raises(InvalidOpen, match="no masks"):
        _ = found.mask


async def test_encoded_payloads_pass_as_they_are(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE, codec="rgb8") as stream:
        await stream.send(frames[0].tobytes())
        assert (await anext(stream)).objects == ()


async def test_remove_and_reset_forget_objects(address: str, frames: list[ImageArray]) -> None:
    seen = []
    async with masklet_client.connect(address) as client, client.track(SIZE, policy="block") as stream:
        await stream.click(1, (30, 20))
        await stream.click(2, (10, 20))
        for change in (None, stream.remove(1), stream.reset()):
            if change is not None:
                await change
            await stream.send(frames[0])
            seen.append([found.object_id for found in (await anext(stream)).objects])
    assert seen == [[1, 2], [2], []]


async def test_events_give_prompts_and_results_in_order(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        prompt_seq = await stream.click(1, (30, 20))
        frame_seq = await stream.send(frames[0])
        await stream.finish()
        events = [event async for event in stream.events()]
    assert PromptApplied(prompt_seq, frame_seq, 1) in events
    assert [event.frame_seq for event in events if isinstance(event, Result)] == [frame_seq]


async def test_on_event_sees_what_iterating_leaves_out(address: str, frames: list[ImageArray]) -> None:
    seen: list[masklet_client.Event] = []
    async with masklet_client.connect(address) as client, client.track(SIZE, on_event=seen.append) as stream:
        await stream.click(1, (30, 20))
        await stream.send(frames[0])
        await anext(stream)
    assert {PromptApplied, Result} <= {type(event) for event in seen}


async def test_refused_request_is_kept_and_logged_and_the_stream_lives(
    address: str, frames: list[ImageArray], caplog: pytest.LogCaptureFixture
) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE, policy="block") as stream:
        with caplog.at_level(logging.WARNING, "masklet_client"):
            await stream.send(b"not a jpeg")
            good = await stream.send(frames[0])
            assert (await anext(stream)).frame_seq == good
        assert stream.dropped == 1
        assert [type(failed.error) for failed in stream.failures] == [InvalidFrame]
    assert "FRAME_INVALID" in caplog.text


async def test_refused_request_raises_when_asked_for_and_the_stream_lives(
    address: str, frames: list[ImageArray]
) -> None:
    options: StreamOptions = {"policy": "block", "raise_request_errors": True}
    async with masklet_client.connect(address) as client, client.track(SIZE, **options) as stream:
        await stream.remove(9)
        await stream.send(frames[0])
        with pytest.raises(UnknownObject):
            await anext(stream)
        await stream.send(frames[0])
        assert isinstance(await anext(stream), Result)


async def test_frames_the_server_skips_are_reported(frames: list[ImageArray]) -> None:
    release = asyncio.Event()
    async with connected(FakeBackend([Hold(release, step=1)])) as client, client.track(SIZE) as stream:
        sent = [await stream.send(frame) for frame in frames]
        while stream.dropped < 5:
            await asyncio.sleep(0.01)
        release.set()
        await stream.finish()
        events = [event async for event in stream.events()]
    answered = [event.frame_seq for event in events if isinstance(event, Result)]
    skipped = [event.frame_seq for event in events if isinstance(event, Dropped)]
    assert sorted(answered + skipped) == sent and stream.dropped == len(skipped)


async def test_latest_skips_to_the_newest_result(address: str, frames: list[ImageArray]) -> None:
    seen: list[masklet_client.Event] = []
    options: StreamOptions = {"policy": "block"}
    async with masklet_client.connect(address) as client, client.track(SIZE, on_event=seen.append, **options) as stream:
        assert stream.latest() is None
        for frame in frames[:4]:
            await stream.send(frame)
        async with asyncio.timeout(10):
            while sum(isinstance(event, Result) for event in seen) < 4:
                await asyncio.sleep(0.01)
        newest = stream.latest()
        assert newest is not None and newest.frame_index == 3 and stream.latest() is None


async def test_cancelled_read_and_send_do_no_harm(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE, policy="block") as stream:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.05)
        sending = asyncio.create_task(stream.send(frames[0]))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        seq = await stream.send(frames[1])
        while (await asyncio.wait_for(anext(stream), 5)).frame_seq != seq:
            pass


async def test_finish_ends_iteration_after_the_last_answer(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE, policy="block") as stream:
        for frame in frames:
            await stream.send(frame)
        await stream.finish()
        assert len([result async for result in stream]) == 10
        with pytest.raises(ProtocolViolation, match="after `finish`"):
            await stream.send(frames[0])


async def test_unread_results_do_not_keep_a_stream_from_closing(address: str, frames: list[ImageArray]) -> None:
    options: StreamOptions = {"policy": "block", "codec": "rgb8"}
    async with masklet_client.connect(address) as client, client.track((8, 8), **options) as stream:
        async with asyncio.timeout(20):
            sent = [await stream.send(bytes(192)) for _ in range(200)]
            await stream.close()
        assert len(set(sent)) == 200
        with pytest.raises(ProtocolViolation):
            await stream.send(bytes(192))


async def test_size_beyond_the_limit_is_refused_when_opening() -> None:
    async with running(max_frame_width=32) as server, masklet_client.connect(f"127.0.0.1:{server.port}") as client:
        with pytest.raises((InvalidOpen, LimitExceeded), match="32"):
            async with client.track(SIZE):
                pass


async def test_unknown_option_lists_those_offered(address: str) -> None:
    async with masklet_client.connect(address) as client:
        with pytest.raises(InvalidOpen, match=r"codec is 'gif', must be one of: .*jpeg"):
            client.track(SIZE, codec="gif")


async def test_bad_prompts_and_frames_raise_where_they_are_given(address: str) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        with pytest.raises(InvalidPrompt, match="outside the frame"):
            await stream.click(1, (65, 10))
        with pytest.raises(InvalidPrompt, match="inside out"):
            await stream.box(1, (10, 10, 5, 20))
        with pytest.raises(InvalidPrompt, match=r"mask is \[4, 4\]"):
            await stream.mask(1, np.ones((4, 4), np.bool_))
        with pytest.raises(InvalidPrompt, match="object id 0"):
            await stream.click(0, (5, 5))
        with pytest.raises(InvalidFrame):
            await stream.send(np.zeros((2, 2, 3), np.uint8))


async def test_draining_server_says_so_and_then_the_stream_ends(frames: list[ImageArray]) -> None:
    async with running() as server, masklet_client.connect(f"127.0.0.1:{server.port}") as client:
        with pytest.raises(ServerDraining):
            async with client.track(SIZE, reconnect=None) as stream:
                draining = asyncio.create_task(server.drain())
                async for _ in stream:
                    pass
        await draining
        assert stream.go_away is not None


async def test_killed_server_ends_iteration_with_an_error(frames: list[ImageArray]) -> None:
    async with running() as server, masklet_client.connect(f"127.0.0.1:{server.port}") as client:
        with pytest.raises(masklet_client.MaskletError):
            async with client.track(SIZE, reconnect=None) as stream:
                await server._grpc.stop(None)
                async with asyncio.timeout(10):
                    await anext(stream)


async def test_error_nobody_read_is_raised_on_leaving(frames: list[ImageArray]) -> None:
    async with running() as server, masklet_client.connect(f"127.0.0.1:{server.port}") as client:
        with pytest.raises(masklet_client.MaskletError):
            async with client.track(SIZE, reconnect=None) as stream:
                await server._grpc.stop(None)
                assert stream._reading is not None
                await asyncio.wait([stream._reading], timeout=10)


async def test_idle_stream_pings(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call.TrackCall.__init__, "__kwdefaults__", {"ping_interval_s": 0.05})
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        await asyncio.sleep(0.3)
        seq = await stream.click(1, (5, 5))
    assert seq >= 4  # open, at least two pings, the click: pings take numbers too


async def test_request_failed_carries_the_request(address: str) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        seq = await stream.remove(3)
        await stream.send(np.zeros((*SIZE, 3), np.uint8))
        await stream.finish()
        failed = [event async for event in stream.events() if isinstance(event, RequestFailed)]
    assert [event.request_seq for event in failed] == [seq]
