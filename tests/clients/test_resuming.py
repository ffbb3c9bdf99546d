"""Connections that are lost, servers that go away: what a client's caller sees of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.clients.conftest import SIZE
from tests.fronts import Front, Shared
from tests.lines import Line, line_to

import masklet_client
import masklet_client.sync
from masklet.backends.base import Backend
from masklet.backends.fake import Delay, FakeBackend, Hold
from masklet.config import Config, ServerConfig, SessionConfig
from masklet.errors import BackendUnavailable, MaskletError, ProtocolViolation, SessionExpired, SessionSuperseded
from masklet.server.lifecycle import Server
from masklet.types import DropReason, FrameCodec, ImageArray, StateOrigin
from masklet_client import Dropped, Event, Reconnect, RequestFailed, Result, Resumed, TrackStream

CONFIG = Config(server=ServerConfig(port=0, metrics_port=0, backend="fake", drain_timeout_s=5.0))
QUICK = Reconnect(give_up_s=20.0, first_delay_s=0.02, max_delay_s=0.2)
FRAME = np.zeros((*SIZE, 3), np.uint8)


@asynccontextmanager
async def front(backend: Backend | None = None, **session: object) -> AsyncIterator[Server]:
    config = replace(CONFIG, session=SessionConfig(**session))  # type: ignore[arg-type]
    async with Server(config, backend=backend or FakeBackend()) as server:
        yield server


@asynccontextmanager
async def tracking(
    *addresses: str, reconnect: Reconnect | None = QUICK, **options: object
) -> AsyncIterator[TrackStream]:
    chosen = {"policy": "block", "codec": "png", **options}
    client = masklet_client.connect(addresses)
    async with client, client.track(SIZE, reconnect=reconnect, **chosen) as stream:  # type: ignore[arg-type]
        yield stream


@asynccontextmanager
async def cut_line() -> AsyncIterator[tuple[Server, Line, TrackStream]]:
    async with front() as server, line_to(server.port) as line, tracking(line.address) as stream:
        yield server, line, stream


def kinds(events: list[Event], kind: type[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


async def rest(stream: TrackStream) -> list[Event]:
    await stream.finish()
    async with asyncio.timeout(60):
        return [event async for event in stream.events()]


async def test_results_go_on_over_a_cut_as_if_nothing_had_been() -> None:
    async with cut_line() as (server, line, stream):
        await stream.click(1, (10, 20))
        first = await stream.send(FRAME)
        assert (await anext(stream)).frame_seq == first
        line.cut()
        seqs = [await stream.send(FRAME) for _ in range(3)]
        events = await rest(stream)
        (resumed,) = kinds(events, Resumed)
        assert isinstance(resumed, Resumed) and resumed.origin is StateOrigin.INTACT
        assert [event.frame_seq for event in events if isinstance(event, Result)] == seqs
        assert [event[1].box for event in events if isinstance(event, Result)] == [
            (x, 14, x + 12, 26) for x in (5, 6, 7)
        ]
        assert await server.registry.wait_empty(5)


@pytest.mark.parametrize("policy", ["block", "latest"])
@pytest.mark.parametrize("seed", [1, 2])
async def test_with_cuts_at_random_every_frame_is_accounted_for_once(policy: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    backend = FakeBackend([Delay(0.003)])
    async with (
        front(backend, ring_messages=64) as server,
        line_to(server.port) as line,
        tracking(line.address, policy=policy) as stream,
    ):
        events: list[Event] = []
        reading = asyncio.create_task(read_all(stream, events))
        sent = []
        for _ in range(60):
            if random.random() < 0.12:
                line.cut()
            sent.append(await stream.send(FRAME))
            await asyncio.sleep(random.random() * 0.01)
        await stream.finish()
        await asyncio.wait_for(reading, 60)
    told = [event.frame_seq for event in events if isinstance(event, Result | Dropped)]
    assert sorted(told) == sent
    answered = [event.frame_seq for event in events if isinstance(event, Result)]
    assert answered == sorted(answered)
    assert policy == "latest" or answered == sent
    assert kinds(events, Resumed)


async def read_all(stream: TrackStream, events: list[Event]) -> None:
    async for event in stream.events():
        events.append(event)


async def test_a_drained_front_hands_over_and_no_frame_is_lost(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ab" * 32)
    async with FakeBackend([Delay(0.01)]) as inner:
        shared = Shared(inner)
        async with (
            front(Front(shared), resume_key_file=str(keys)) as first,
            front(Front(shared), resume_key_file=str(keys)) as second,
            tracking(f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}") as stream,
        ):
            events: list[Event] = []
            reading = asyncio.create_task(read_all(stream, events))
            sent = [await stream.send(FRAME) for _ in range(5)]
            draining = asyncio.create_task(first.drain())
            sent += [await stream.send(FRAME) for _ in range(20)]
            await stream.finish()
            await asyncio.wait_for(reading, 60)
            assert await draining
        assert inner.stats().sessions == 0
    assert [event.frame_seq for event in events if isinstance(event, Result)] == sent
    assert [type(event) for event in kinds(events, Dropped) + kinds(events, RequestFailed)] == []


async def test_a_session_nobody_knows_any_more_begins_anew_from_its_last_masks() -> None:
    async with front() as first, line_to(first.port) as line, front() as second, tracking(line.address) as stream:
        await stream.click(1, (10, 20))
        await stream.click(2, (62, 20))
        frame_seq = await stream.send(FRAME)
        before = await anext(stream)
        line.port = second.port
        line.cut()
        later = await stream.send(FRAME)
        corrected = await stream.click(1, (10, 20), frame_seq=frame_seq)
        newest = await stream.send(FRAME)
        events = await rest(stream)
    (resumed,) = kinds(events, Resumed)
    assert isinstance(resumed, Resumed) and (resumed.origin, resumed.lost_objects) == (StateOrigin.RESEEDED, ())
    results = [event for event in events if isinstance(event, Result)]
    assert [(result.frame_seq, result.frame_index) for result in results] == [(later, 1), (newest, 2)]
    assert np.array_equal(results[0][1].mask, before[1].mask)  # the fake's mask is the prompt's on its first frame
    (failed,) = (event for event in events if isinstance(event, RequestFailed))
    assert (failed.request_seq, failed.error.reason) == (corrected, "FRAME_UNKNOWN")


async def test_without_reseeding_a_forgotten_session_is_an_error() -> None:
    wanted = replace(QUICK, reseed=False)
    async with front() as first, line_to(first.port) as line, front() as second:
        with pytest.raises(MaskletError, match="is not one of this service"):
            async with tracking(line.address, reconnect=wanted) as stream:
                line.port = second.port
                line.cut()
                await anext(stream)


async def test_giving_up_reports_every_frame_and_then_the_error() -> None:
    backend = FakeBackend([Hold(asyncio.Event())])
    wanted = replace(QUICK, give_up_s=0.3)
    async with front(backend) as server, line_to(server.port) as line, masklet_client.connect(line.address) as client:
        with pytest.raises(BackendUnavailable):
            async with client.track(SIZE, policy="block", reconnect=wanted) as stream:
                sent = [await stream.send(FRAME) for _ in range(4)]
                line.refusing = True
                line.cut()
                events = []
                async for event in stream.events():
                    events.append(event)
    assert events == [Dropped(seq, index, DropReason.CONNECTION_LOST) for index, seq in enumerate(sent)]


async def test_sending_while_cut_off_waits_and_ends_with_the_stream() -> None:
    wanted = replace(QUICK, give_up_s=0.3)
    async with front() as server, line_to(server.port) as line, masklet_client.connect(line.address) as client:
        with pytest.raises(BackendUnavailable):
            async with client.track(SIZE, policy="block", reconnect=wanted) as stream:
                line.refusing = True
                line.cut()
                async with asyncio.timeout(20):
                    while True:
                        await stream.send(FRAME)


async def test_a_live_camera_is_not_held_up_while_cut_off_and_the_newest_frame_counts() -> None:
    async with front() as server, line_to(server.port) as line, tracking(line.address, policy="latest") as stream:
        await stream.click(1, (20.0, 20.0))
        await stream.send(FRAME)
        await anext(stream)
        line.refusing = True
        line.cut()
        await asyncio.sleep(0.05)
        await stream.click(2, (40.0, 20.0))
        async with asyncio.timeout(30):  # patience once, and encoding
            sent = [await stream.send(FRAME) for _ in range(100)]
        line.refusing = False
        await stream.finish()
        events = await rest(stream)
    answered = [event for event in events if isinstance(event, Result)]
    dropped = [event for event in events if isinstance(event, Dropped)]
    assert sorted([one.frame_seq for one in answered] + [one.frame_seq for one in dropped]) == sent
    assert answered[-1].frame_seq == sent[-1]
    assert [found.object_id for found in answered[-1].objects] == [1, 2]  # prompts are never skipped
    assert {event.reason for event in dropped} == {DropReason.QUEUE_FULL}
    assert stream.dropped == len(dropped) > 50


async def test_a_click_while_cut_off_holds_nobody_up() -> None:
    async with front() as server, line_to(server.port) as line, tracking(line.address, policy="latest") as stream:
        line.refusing = True
        line.cut()
        await asyncio.sleep(0.05)
        async with asyncio.timeout(30):
            for object_id in (1, 2, 3):
                await stream.send(FRAME)
                await stream.send(FRAME)
                await stream.click(object_id, (20.0, 20.0))
            last = await stream.send(FRAME)
        line.refusing = False
        await stream.finish()
        results = [event for event in await rest(stream) if isinstance(event, Result)]
    assert (results[-1].frame_seq, [found.object_id for found in results[-1].objects]) == (last, [1, 2, 3])


async def test_a_callback_that_raises_on_a_skipped_frame_ends_the_stream() -> None:
    def on_event(event: Event) -> None:
        if isinstance(event, Dropped):
            raise ValueError("not this one")

    async with front() as server, line_to(server.port) as line:
        client = masklet_client.connect([line.address])
        with pytest.raises(MaskletError, match="not this one"):
            async with client, client.track(SIZE, policy="latest", reconnect=QUICK, on_event=on_event) as stream:
                line.refusing = True
                line.cut()
                await asyncio.sleep(0.05)
                async with asyncio.timeout(10):
                    while True:
                        await stream.send(FRAME)


async def test_a_session_begun_anew_forgets_frames_skipped_before() -> None:
    async with (
        front(resume_ttl_s=0.1) as server,
        line_to(server.port) as line,
        tracking(line.address, policy="latest") as stream,
    ):
        line.refusing = True
        line.cut()
        await asyncio.sleep(0.05)
        sent = [await stream.send(FRAME) for _ in range(400)]  # more than unread events are kept
        line.refusing = False
        await stream.finish()
        events = await rest(stream)
    assert [event.origin for event in events if isinstance(event, Resumed)] == [StateOrigin.NEW]
    told = [event.frame_seq for event in events if isinstance(event, (Result, Dropped))]
    assert sorted(told) == sent


async def test_a_halted_line_holds_a_live_camera_up_once() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    async with front() as server, line_to(server.port) as line:
        client = masklet_client.connect([line.address])
        async with client, client.track(picture.shape[:2], policy="latest", codec="rgb8", reconnect=QUICK) as stream:
            line.halt()
            async with asyncio.timeout(30):
                sent = [await stream.send(picture) for _ in range(60)]
            assert stream.dropped > 20
            line.go_on()
            await stream.finish()
            events = await rest(stream)
    assert [event for event in events if isinstance(event, (Result, Dropped))][-1].frame_seq == sent[-1]


async def test_it_can_be_switched_off() -> None:
    async with front() as server, line_to(server.port) as line:
        with pytest.raises(BackendUnavailable):
            async with tracking(line.address, reconnect=None) as stream:
                line.cut()
                async with asyncio.timeout(20):
                    await anext(stream)


async def test_a_stream_that_was_superseded_does_not_fight_back() -> None:
    async with (
        front() as server,
        tracking(f"127.0.0.1:{server.port}") as stream,
        masklet_client.connect(f"127.0.0.1:{server.port}") as client,
    ):
        thief = client.track(SIZE, policy="block", codec=FrameCodec.PNG)
        thief._reader.resume_token = stream.resume_token
        await thief._resuming._resume()
        with pytest.raises(SessionSuperseded):
            await asyncio.wait_for(anext(stream), 20)
        thief._resuming.stop()


async def test_a_cut_while_closing_is_no_error() -> None:
    async with cut_line() as (_, line, stream):
        await stream.send(FRAME)
        assert len(await rest(stream)) == 1
        line.cut()
    assert stream.dropped == 0


async def test_leaving_while_cut_off_does_not_take_long() -> None:
    async with (
        front() as server,
        line_to(server.port) as line,
        masklet_client.connect(line.address) as client,
        asyncio.timeout(15),
        client.track(SIZE, policy="block") as stream,
    ):
        line.refusing = True
        line.cut()
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await stream.close(timeout_s=0.5)
        assert time.monotonic() - began < 10
        with pytest.raises(ProtocolViolation):
            await stream.send(FRAME)


async def test_an_expired_session_is_one_that_nobody_knows() -> None:
    wanted = replace(QUICK, reseed=False, first_delay_s=0.3)
    async with front(resume_ttl_s=0.05) as server, line_to(server.port) as line:
        with pytest.raises(SessionExpired):
            async with tracking(line.address, reconnect=wanted) as stream:
                line.refusing = True
                line.cut()
                assert await server.registry.wait_empty(10)
                line.refusing = False
                async with asyncio.timeout(20):
                    await anext(stream)


def test_the_sync_client_resumes_as_well(far_address: str, frames: list[ImageArray]) -> None:
    with masklet_client.sync._Loop() as loop:
        carried = line_to(int(far_address.rsplit(":", 1)[1]))
        line = loop.run(carried.__aenter__())
        with masklet_client.sync.connect([line.address]) as client, client.track(SIZE, policy="block") as stream:
            stream.click(1, (10, 20))
            stream.send(frames[0])
            before = next(stream)
            loop.run(now(line.cut))
            stream.send(frames[1])
            after = next(stream)
            assert (before[1].box, after[1].box) == ((4, 14, 16, 26), (5, 14, 17, 26))
            assert stream.opened.state_origin is StateOrigin.INTACT
        loop.run(carried.__aexit__(None, None, None))


async def now(work: Callable[[], None]) -> None:
    """In the loop's thread."""
    work()
