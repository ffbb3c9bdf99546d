"""Five hundred streams that are opened and left: the server is as it was before."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from pathlib import Path

import pytest
from tests.e2e.conftest import Served
from tests.e2e.talk import JPEG, Talk, click, talk_to

from masklet.v1 import segmentation_pb2 as pb

STREAMS = 500
AT_ONCE = 10
EXECUTOR_THREADS = min(32, (os.cpu_count() or 1) + 4)  # asyncio's own, started as needed
SPARE_DESCRIPTORS = 8  # gRPC keeps a few of its own around


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def abandon(talk: Talk, number: int) -> None:
    """Leaves at one of six points of a stream's life."""
    leave = number % 6
    await talk.send(open=pb.Open(codec=pb.FRAME_CODEC_JPEG, height=48, width=64))
    if leave == 0:
        return
    await talk.receive("opened")
    if leave == 1:
        return
    await talk.send(prompt=click(1))
    await talk.frame(b"" if leave == 4 else JPEG)
    if leave == 5:
        await talk.call.done_writing()
    if leave > 2:
        await talk.read()


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
async def test_abandoned_streams_leave_nothing_behind(served: Served) -> None:
    async with talk_to(served.address) as first:
        for number in range(AT_ONCE):
            await one_on(first, number)
        await served.settled()
        await asyncio.sleep(0.1)
        gc.collect()
        before = threading.active_count(), descriptors(), stray_streams()
        for start in range(0, STREAMS, AT_ONCE):
            await asyncio.gather(*(one_on(first, start + number) for number in range(AT_ONCE)))
    await served.settled()
    assert served.stats().bank_bytes == 0
    gc.collect()
    assert threading.active_count() <= before[0] + EXECUTOR_THREADS
    for _ in range(300):  # handlers of calls that were cut may still be unwinding
        if descriptors() <= before[1] + SPARE_DESCRIPTORS and stray_streams() <= before[2]:
            break
        await asyncio.sleep(0.1)
        gc.collect()
    assert descriptors() <= before[1] + SPARE_DESCRIPTORS
    assert stray_streams() <= before[2]


async def one_on(first: Talk, number: int) -> None:
    """One abandoned stream; every other one cuts a connection of its own, the others share one."""
    if number % 2:
        async with talk_to(first.address) as talk:
            await abandon(talk, number // 2)
        return
    talk = Talk(first.channel, first.address)
    await abandon(talk, number // 2)
    talk.call.cancel()


def stray_streams() -> int:
    """Parts of streams that are still in memory though their sessions are gone."""
    return sum(type(one).__name__ in ("SessionStream", "Intake", "Tracking") for one in gc.get_objects())
