"""Objects out of sight when a session has to begin anew: whoever asked for them is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from tests.clients.conftest import SIZE
from tests.clients.test_resuming import FRAME, QUICK, front, rest, tracking
from tests.lines import line_to

import masklet_client
from masklet.errors import UnknownObject
from masklet.types import ImageArray, Prompt
from masklet_client import Result, Resumed, TrackStream
from masklet_client.outputs import Outputs
from masklet_client.source import SourceFrame
from masklet_client.tracking import Tracking

CLICKS = [Prompt.clicks(1, [(10, 20)]), Prompt.clicks(2, [(62, 20)])]  # the fake's masks move right, 2 leaves the frame


class Fleet:
    """A line to a server, and another server that knows nothing of its sessions."""

    def __init__(self, line: Any, other: int) -> None:
        self.address: str = line.address
        self._line, self._other = line, other

    def lose_sessions(self) -> None:
        self._line.port = self._other
        self._line.cut()

    async def footage(self) -> AsyncIterator[ImageArray]:
        """Frames; before the 20th the sessions are lost."""
        for number in range(30):
            if number == 20:
                self.lose_sessions()
            await asyncio.sleep(0.01)
            yield FRAME


@asynccontextmanager
async def fleet() -> AsyncIterator[Fleet]:
    async with front() as first, line_to(first.port) as line, front() as second:
        yield Fleet(line, second.port)


@asynccontextmanager
async def out_of_sight(**options: Any) -> AsyncIterator[TrackStream]:
    """A stream of which object 2 was lost."""
    async with fleet() as servers, tracking(servers.address, **options) as stream:
        for click in CLICKS:
            await stream.prompt(click)
        for _ in range(12):
            assert 2 in await stream.step(FRAME)
        servers.lose_sessions()
        await stream.send(FRAME)
        yield stream


async def test_events_the_log_and_results_tell_it(caplog: pytest.LogCaptureFixture) -> None:
    async with out_of_sight() as stream:
        events = await rest(stream)
    (resumed,) = (event for event in events if isinstance(event, Resumed))
    (result,) = (event for event in events if isinstance(event, Result))
    assert resumed.lost_objects == (2,) and "no longer followed: object 2" in str(resumed.error)
    assert "no longer followed: object 2" in caplog.text
    assert 2 not in result and 1 in result and result.get(2) is None and result.get(1) is result[1]


@pytest.mark.parametrize("how", ["step", "anext"])
async def test_reading_raises_it_if_asked_to_and_goes_on(how: str) -> None:
    async with out_of_sight(raise_request_errors=True) as stream:
        with pytest.raises(UnknownObject, match="object 2"):
            await (stream.step(FRAME) if how == "step" else anext(stream))
        assert (await stream.step(FRAME)).get(2) is None


async def test_follow_raises_it() -> None:
    async with fleet() as servers, masklet_client.connect(servers.address) as client:
        results = []
        with pytest.raises(UnknownObject, match="object 2"):
            async for result in client.follow(servers.footage(), CLICKS, reconnect=QUICK):
                results.append(result)
        assert 0 < len(results) <= 20


async def test_follow_passes_it_over_if_asked_to() -> None:
    async with fleet() as servers, masklet_client.connect(servers.address) as client:
        results = client.follow(servers.footage(), CLICKS, reconnect=QUICK, raise_request_errors=False)
        assert [result.frame_index async for result in results] == list(range(30))


class Footage:
    """The same as a source of `masklet track`, which reads it in a thread."""

    def __init__(self, servers: Fleet) -> None:
        self.size, self.frame_rate, self.pixel_aspect = SIZE, Fraction(30), Fraction(1)
        self.frame_count: int | None = None
        self.timed = self.live = False
        self._servers, self._loop = servers, asyncio.get_running_loop()

    def __enter__(self) -> Footage:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def frames(self) -> Iterator[SourceFrame]:
        footage = self._servers.footage()
        for index in range(30):
            image = asyncio.run_coroutine_threadsafe(_next(footage), self._loop).result(60)
            yield SourceFrame(index, index / 30, image)


async def _next(footage: AsyncIterator[ImageArray]) -> ImageArray:
    return await anext(footage)


async def test_track_goes_on_counts_it_and_ends_with_another_status(tmp_path: Path) -> None:
    async with fleet() as servers, masklet_client.connect(servers.address) as client:
        source = Footage(servers)
        with Outputs.create(None, tmp_path / "o.jsonl", source) as outputs:
            job = Tracking(source, outputs, max_frames=None, quiet=True)
            status = await job.run(client, {0: CLICKS}, policy="block", codec="png")
    assert (status, job.answered, list(job.lost)) == (1, 30, [2])
    assert 12 <= job.lost[2] <= 20
