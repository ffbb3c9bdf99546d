"""The example that people copy, against the real engine."""

from __future__ import annotations

import asyncio
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
from tests.e2e.conftest import Served

from masklet_client.video_file import VideoFile

EXAMPLE = Path(__file__).parents[2] / "clients/python/examples/follow.py"
FRAMES = 12


async def follow(*words: str) -> tuple[int | None, str, str]:
    pipe = asyncio.subprocess.PIPE
    running = await asyncio.create_subprocess_exec(sys.executable, str(EXAMPLE), *words, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(60):
        out, err = await running.communicate()
    return running.returncode, out.decode(), err.decode()


async def test_the_example_follows_the_middle_of_a_video(served: Served, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    with VideoFile(clip, (48, 64), Fraction(12)) as video:
        for number in range(FRAMES):
            video.write(np.full((48, 64, 3), 20 * number, np.uint8))
    status, out, err = await follow(str(clip), served.address)
    assert (status, err) == (0, "")
    shown = [line.split()[0] for line in out.splitlines()]
    assert shown == [str(number) for number in range(FRAMES)]  # of a file none is dropped
    await served.settled()


def test_the_example_is_short_enough_to_read() -> None:
    assert len([line for line in EXAMPLE.read_text().splitlines() if line.strip()]) <= 25
