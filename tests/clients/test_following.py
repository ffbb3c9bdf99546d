"""Sources that stall while the stream ends: nobody is held up, and nothing is closed under the thread that reads."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import aclosing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import masklet_client
from masklet.errors import MaskletError
from masklet.types import ImageArray, Prompt
from masklet_client import following
from masklet_client.outputs import Outputs
from masklet_client.source import SourceFrame
from masklet_client.tracking import Tracking

from .conftest import SIZE, running

FRAME = np.zeros((*SIZE, 3), np.uint8)
GIVE_UP_S = 30.0


class Stalling:
    """A camera that gives one frame, and then none until `release` is set."""

    def __init__(self) -> None:
        self.size, self.frame_rate, self.pixel_aspect = SIZE, Fraction(30), Fraction(1)
        self.timed = self.live = True
        self.frame_count: int | None = None
        self.stalled = self.over = False
        self.release = threading.Event()

    def __enter__(self) -> Stalling:
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()

    def images(self) -> Iterator[ImageArray]:
        yield FRAME
        self.stalled = True
        self.release.wait(GIVE_UP_S)
        self.over = True

    def frames(self) -> Iterator[SourceFrame]:
        for index, image in enumerate(self.images()):
            yield SourceFrame(index, index / 30, image)

    async def wait_stalled(self) -> None:
        async with asyncio.timeout(GIVE_UP_S):
            while not self.stalled:
                await asyncio.sleep(0.01)


async def test_leaving_a_source_that_stalls_holds_up_neither_the_loop_nor_the_interpreter(address: str) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    with Stalling() as source:
        async with masklet_client.connect(address) as client:
            async with aclosing(client.follow(source.images(), [])) as results:
                await anext(results)
                await source.wait_stalled()
                beside = asyncio.create_task(others())
            beside.cancel()
        assert turns > 1 and not source.over
        threads = [thread for thread in threading.enumerate() if thread.name == "masklet-frames"]
        assert threads and all(thread.daemon for thread in threads)


async def test_an_error_is_seen_while_the_source_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_LEAVE_S", 0.1)
    with Stalling() as source:
        async with running() as server, masklet_client.connect(f"127.0.0.1:{server.port}") as client:
            results = client.follow(source.images(), [], reconnect=None)
            await anext(results)
            await source.wait_stalled()
            await server._grpc.stop(None)
            with pytest.raises(MaskletError):
                await anext(results)
        assert not source.over


async def test_a_source_that_is_slow_is_not_read_any_more_after_leaving(address: str) -> None:
    with Stalling() as source:
        async with masklet_client.connect(address) as client, aclosing(client.follow(source.images(), [])) as results:
            await anext(results)
            await source.wait_stalled()
            asyncio.get_running_loop().call_later(0.2, source.release.set)
        assert source.over


async def test_what_a_source_raises_is_raised_here(address: str) -> None:
    def images() -> Iterator[ImageArray]:
        yield FRAME
        raise OSError("unplugged")

    async with masklet_client.connect(address) as client:
        with pytest.raises(OSError, match="unplugged"):
            async for _ in client.follow(images(), []):
                pass


async def test_a_second_ctrl_c_stops_although_the_camera_stalls(address: str, tmp_path: Path) -> None:
    with Stalling() as source, Outputs.create(None, tmp_path / "o.jsonl", source) as outputs:
        async with masklet_client.connect(address) as client:
            tracking = Tracking(source, outputs, max_frames=None, quiet=True)
            prompts = {0: [Prompt.clicks(1, [(9, 9)])]}
            running = asyncio.create_task(tracking.run(client, prompts, policy="latest", codec="png"))
            await source.wait_stalled()
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
                await asyncio.sleep(0.1)
            await asyncio.wait([running], timeout=GIVE_UP_S)
            assert running.cancelled() and not source.over
