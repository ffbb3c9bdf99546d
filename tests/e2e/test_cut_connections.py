"""The real engine behind a line that is cut at random: the masks are those of an undisturbed run, bit for bit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from tests.e2e.conftest import CONFIG, MODEL
from tests.e2e.talk import HEIGHT, JPEGS, WIDTH
from tests.lines import Line, line_to

import masklet_client
from masklet.backends.embedded import EmbeddedBackend
from masklet.config import SessionConfig
from masklet.server.lifecycle import Server
from masklet_client import Reconnect, Result, StateOrigin
from masklet_client.settings import StreamOptions

FRAMES = 24
RECONNECT = Reconnect(give_up_s=60.0, first_delay_s=0.05)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    config = replace(CONFIG, session=SessionConfig(resume_ttl_s=60.0))
    async with Server(config, backend=EmbeddedBackend(MODEL)) as running:
        yield running


async def followed(address: str, line: Line | None = None, *, cuts: tuple[int, ...] = ()) -> tuple[list[Result], int]:
    """Results of one clip with two clicks and a correction, and how often the stream was resumed."""
    results: list[Result] = []
    seen: list[masklet_client.Event] = []
    async with masklet_client.connect(address) as client:
        options: StreamOptions = {"policy": "block", "reconnect": RECONNECT, "with_logits": True}
        async with client.track((HEIGHT, WIDTH), on_event=seen.append, **options) as stream:
            reading = asyncio.create_task(collect(stream, results))
            for index in range(FRAMES):
                if index in (0, 9):
                    await stream.click(1 + index, (20.0 + index, 20.0))
                if index in cuts and line is not None:
                    line.cut()
                await stream.send(JPEGS[index % len(JPEGS)])
            await stream.finish()
            await asyncio.wait_for(reading, 100)
    origins = [event.origin for event in seen if isinstance(event, masklet_client.Resumed)]
    assert set(origins) <= {StateOrigin.INTACT}
    return results, len(origins)


async def collect(stream: masklet_client.TrackStream, results: list[Result]) -> None:
    async for result in stream:
        results.append(result)


def exact(result: Result) -> list[tuple[object, ...]]:
    return [
        (one.object_id, one.mask_bytes, one.score, one.iou, np.asarray(one.logits).tobytes()) for one in result.objects
    ]


@pytest.mark.timeout(300)
async def test_masks_are_bit_for_bit_those_of_an_undisturbed_run(server: Server) -> None:
    undisturbed, _ = await followed(f"127.0.0.1:{server.port}")
    assert len(undisturbed) == FRAMES
    async with line_to(server.port) as line:
        for seed in (1, 2):
            cuts = tuple(int(cut) for cut in np.random.default_rng(seed).integers(1, FRAMES, 4))
            results, resumes = await followed(line.address, line, cuts=cuts)
            assert resumes >= 1
            assert [result.frame_index for result in results] == list(range(FRAMES))
            assert [exact(result) for result in results] == [exact(result) for result in undisturbed]
    assert await server.registry.wait_empty(10)
