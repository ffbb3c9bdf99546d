"""What is left behind: nothing, however and whenever a stream or a client is left."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import re
import threading
import time
from typing import Any

import numpy as np
import pytest

import masklet_client
from masklet.errors import ProtocolViolation
from masklet.types import ImageArray
from masklet_client import Result, sync
from masklet_client import stream as stream_module

from .conftest import SIZE, running
from .test_resuming import front

FRAME = np.zeros((*SIZE, 3), np.uint8)
GIVE_UP_S = 30.0


@pytest.mark.parametrize("turns", range(4))
async def test_a_stream_cancelled_twice_leaves_no_task(address: str, turns: int) -> None:
    async def once() -> None:
        async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
            reading = stream._reading
            assert reading is not None
            await stream.step(FRAME)
            reading.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])

    await once()
    async with asyncio.timeout(GIVE_UP_S):
        while left := [task for task in asyncio.all_tasks() if "report_skipped" in repr(task)]:
            assert all(task.cancelling() for task in left), "waits for ever"
            await asyncio.sleep(0)


async def test_a_client_that_is_left_takes_its_streams_along() -> None:
    async with running() as server:
        async with masklet_client.connect(f"127.0.0.1:{server.port}") as client:
            stream = await client.track(SIZE, policy="block").__aenter__()
            reading = asyncio.create_task(anext(stream, None))
            await stream.send(FRAME)
            results = client.follow([FRAME] * 9, [])
            await anext(results)
            assert len(client._streams) == 2
        assert await asyncio.wait_for(reading, GIVE_UP_S) is not None
        assert await asyncio.wait_for(anext(stream, None), GIVE_UP_S) is None
        assert await server.registry.wait_empty(5)
        with pytest.raises(ProtocolViolation, match="nothing can be sent"):
            await stream.send(FRAME)
        assert not client._channels and not client._streams
        await results.aclose()


async def test_a_client_that_is_not_connected_opens_nothing(address: str, frames: list[ImageArray]) -> None:
    client = masklet_client.connect(address)
    for work in (client.track(SIZE).__aenter__(), client.describe(), client.segment(frames[0], [])):
        with pytest.raises(ProtocolViolation, match="not connected: `async with`"):
            await work
    assert not client._channels


async def test_a_client_is_entered_once_at_a_time(address: str) -> None:
    async with masklet_client.connect(address) as client:
        with pytest.raises(ProtocolViolation, match="one block at a time"):
            await client.__aenter__()
        assert (await client.describe()).version
    async with client:
        assert (await client.describe()).version


def test_the_other_client_is_entered_once_at_a_time(far_address: str) -> None:
    before = threading.active_count()
    with sync.connect(far_address) as client:
        with pytest.raises(ProtocolViolation, match="one block at a time"), client:
            pass
        assert client.describe().version
    assert threading.active_count() <= before


def test_a_thread_that_waits_while_another_leaves_the_client_is_told(far_address: str) -> None:
    said: list[Any] = []

    def wait() -> None:
        try:
            said.append(client._loop.run(asyncio.sleep(GIVE_UP_S)))
        except BaseException as error:
            said.append(error)

    with sync.connect(far_address) as client:
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
    thread.join(GIVE_UP_S)
    assert isinstance(said[0], ProtocolViolation) and "closed meanwhile" in str(said[0])


def _in_a_fork(client: sync.Client, told: Any) -> None:
    try:
        with client:  # as when the block was left after a fork
            pass
    except BaseException as error:
        told.send(repr(error))
    client.__exit__(None, None, None)
    try:
        told.send(client.describe().version)
    except BaseException as error:
        told.send(repr(error))


def test_a_client_does_not_wait_for_ever_in_a_forked_process(far_address: str) -> None:
    forked = multiprocessing.get_context("fork")
    with sync.connect(far_address) as client:
        here, there = forked.Pipe()
        child = forked.Process(target=_in_a_fork, args=(client, there))
        child.start()
        try:
            told = [here.recv() if here.poll(GIVE_UP_S) else "hangs" for _ in range(2)]
        finally:
            child.kill()
            child.join()
        assert client.describe().version
    assert "one block at a time" in told[0] and "connected in another process" in told[1]


async def test_whoever_pauses_reading_is_waited_for_and_keeps_the_session(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream_module, "_UNREAD_EVENTS", 5)
    monkeypatch.setattr(stream_module, "_UNREAD_S", 0.1)
    told: list[masklet_client.Event] = []
    options: Any = {"policy": "block", "codec": "rgb8", "on_event": told.append}
    async with (
        front(idle_timeout_s=0.6) as server,
        masklet_client.connect(f"127.0.0.1:{server.port}") as client,
        client.track(SIZE, **options) as stream,
    ):
        sending = asyncio.create_task(_send_all(stream, 100))
        await asyncio.sleep(2)
        assert not sending.done() and len(told) < 50
        results = [result async for result in stream]
        await sending
    assert [result.frame_index for result in results] == list(range(100))
    assert {type(event) for event in told} == {Result}
    (told_so,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert re.fullmatch(r"`send` waits because \d+ events are unread: read in another task", told_so)


async def test_step_never_waits_for_a_reader(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "_UNREAD_EVENTS", 5)
    async with masklet_client.connect(address) as client, client.track(SIZE, policy="block", codec="rgb8") as stream:
        for _ in range(5):
            await stream.send(FRAME)
        await stream.click(1, (5, 5))
        async with asyncio.timeout(GIVE_UP_S):
            while stream._inbox.unread < 5:
                await asyncio.sleep(0.01)
            assert (await stream.step(FRAME)).frame_index == 5


async def _send_all(stream: masklet_client.TrackStream, count: int) -> None:
    for _ in range(count):
        await stream.send(FRAME)
    await stream.finish()
