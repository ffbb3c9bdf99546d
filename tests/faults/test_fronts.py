"""Fronts as processes, over a real Triton, that are told to stop and killed while a stream is running."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.backends.contract import SIZE, picture
from tests.e2e.talk import click as wire_click
from tests.e2e.talk import talk_to
from tests.faults.camera import camera, undisturbed
from tests.faults.fleet import forget, running_tritons, start_triton
from tests.faults.front_process import FrontProcess, all_ready, fronts

from masklet.backends.triton_server import free_ports
from masklet.session.live import MAX_UNSENT_RESULTS
from masklet.types import DropReason, StateOrigin
from masklet.v1 import segmentation_pb2 as pb

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fronts")


@pytest.fixture
async def pair(folder: Path) -> AsyncIterator[list[FrontProcess]]:
    """Two, over one Triton."""
    with fronts(2, folder, running_tritons(1)) as made:
        await all_ready(made)
        yield made


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_when_a_front_ends_its_session_goes_on_at_the_other_as_if_nothing_had_been(
    pair: list[FrontProcess], how: signal.Signals
) -> None:
    async with camera([front.address for front in pair]) as one:
        await one.send(6)
        await one.told(3 if how is signal.SIGKILL else 6)
        ending = asyncio.create_task(pair[0].end(how))
        await one.send(8)
        await one.told(14)
        assert await ending == (0 if how is signal.SIGTERM else -how)
    assert one.account.resumed == {StateOrigin.INTACT: 1}
    assert not one.account.missing and not one.account.origins
    assert len(one.account.dropped) <= (MAX_UNSENT_RESULTS if how is signal.SIGKILL else 0)
    assert set(one.account.dropped.values()) <= {DropReason.CONNECTION_LOST}  # tracked, the answer died with the front
    assert one.account.masks == await undisturbed(one.account)
    assert pair[1].metric("masklet_resumes_total", origin="intact", outcome="resumed") == 1


async def test_of_two_owners_at_once_the_older_is_fenced(pair: list[FrontProcess]) -> None:
    async with talk_to(pair[0].address) as older, talk_to(pair[1].address) as newer:
        height, width = SIZE
        opened = await older.open(codec=pb.FRAME_CODEC_RGB8, height=height, width=width)
        await older.send(prompt=wire_click(1, 16.0, 24.0))
        await older.frame(picture(0).tobytes())
        await older.receive("prompt_applied")
        await older.receive("result")
        granted = await newer.open(
            codec=pb.FRAME_CODEC_RGB8, height=height, width=width, resume_token=opened.resume_token, last_server_seq=3
        )
        assert granted.state_origin == pb.STATE_ORIGIN_INTACT
        newer.seq = granted.next_seq - 1
        await older.frame(picture(1).tobytes())
        code, reason, _ = await older.end()
        assert (code, reason) == ("ABORTED", "SESSION_SUPERSEDED")
        await newer.frame(picture(1).tobytes())
        assert [found.object_id for found in (await newer.receive("result")).result.objects] == [1]


async def test_without_any_triton_a_front_ends_and_says_why(folder: Path) -> None:
    (port,) = free_ports("127.0.0.1", (0,))
    with fronts(1, folder, [f"127.0.0.1:{port}"], triton__connect_timeout_s="1") as (front,):
        assert await asyncio.to_thread(front.process.wait, 60) != 0
        assert re.search(rf"no Triton can be used after 1 s: 127\.0\.0\.1:{port} is connecting", front.log.read_text())


async def test_a_front_waits_for_a_triton_that_is_late_and_for_one_that_is_restarted(folder: Path) -> None:
    (port,) = free_ports("127.0.0.1", (0,))
    with fronts(1, folder, [f"127.0.0.1:{port}"]) as (front,):
        server = start_triton(grpc_port=port)
        await all_ready([front])
        async with camera(front.address) as one:
            await one.send(6)
            await one.told(6)
            server.process.kill()
            await asyncio.to_thread(server.process.wait)
            forget(server)
            start_triton(grpc_port=port)
            await one.send(6)
            await one.told(12)
    assert one.account.origins == {StateOrigin.RESTORED: 1}
    assert not one.account.resumed and not one.account.missing
    assert one.account.masks == await undisturbed(one.account)
