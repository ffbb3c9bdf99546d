"""Clients that vanish, never read, or flood: the session goes, the others stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import numpy as np
import pytest
from tests.e2e.conftest import CONFIG, Bystander, Served
from tests.e2e.talk import Talk, click, opening, talk_to

from masklet.codecs.frames import encode_frame
from masklet.types import FrameCodec
from masklet.v1 import mask_pb2
from masklet.v1 import segmentation_pb2 as pb

IDLE_TIMEOUT_S = CONFIG.session.idle_timeout_s


class Wire:
    """A TCP relay to the server: `cut` resets all connections, `stall` keeps them open and passes nothing on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, inner_writer]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(reader, inner_writer))
            group.create_task(self._pump(inner_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, OSError):
            while piece := await reader.read(65536):
                await self._flowing.wait()
                writer.write(piece)
                await writer.drain()
        writer.transport.abort()

    def stall(self) -> None:
        self._flowing.clear()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._flowing.set()


@asynccontextmanager
async def over_a_wire(served: Served) -> AsyncIterator[tuple[Wire, Talk]]:
    wire = Wire(served.server.port)
    listening = await asyncio.start_server(wire.relay, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening, talk_to(f"127.0.0.1:{port}") as talk:
        yield wire, talk
        wire.cut()


async def tracking(talk: Talk) -> None:
    await talk.open()
    await talk.send(prompt=click(1))
    await talk.frame()
    await talk.receive("prompt_applied")
    await talk.receive("result")


async def test_a_cut_connection_ends_its_session_at_once(served: Served, bystander: Bystander) -> None:
    async with over_a_wire(served) as (wire, talk):
        await tracking(talk)
        assert served.stats().sessions == 2
        await talk.frame()
        wire.cut()
        async with asyncio.timeout(IDLE_TIMEOUT_S / 2):
            await served.settled(1)


async def test_a_connection_that_falls_silent_ends_its_session_in_the_end(served: Served, bystander: Bystander) -> None:
    async with over_a_wire(served) as (wire, talk):
        await tracking(talk)
        wire.stall()
        await bystander.go_on(2)
        assert served.stats().sessions == 2
        async with asyncio.timeout(IDLE_TIMEOUT_S + 2):
            await served.settled(1)


async def test_a_client_that_never_reads_is_cut_off(served: Served, bystander: Bystander, talk: Talk) -> None:
    large = encode_frame(FrameCodec.JPEG, np.zeros((512, 512, 3), np.uint8))
    before = served.calls_ended("DEADLINE_EXCEEDED")
    bits = mask_pb2.MASK_ENCODING_BITS
    await talk.send(open=opening(height=512, width=512, mask_encoding=bits))
    for object_id in range(1, 17):
        await talk.send(prompt=click(object_id))
    for _ in range(40):  # half a megabyte of masks each
        await talk.frame(large)
    async with asyncio.timeout(4 * IDLE_TIMEOUT_S):
        while served.calls_ended("DEADLINE_EXCEEDED") == before:  # the call goes too, not only its session
            await asyncio.sleep(0.05)
    assert served.stats().sessions == 1
    code, reason, text = await talk.end()
    assert (code, reason) == ("DEADLINE_EXCEEDED", "IDLE_TIMEOUT")
    assert "read" in text
    assert sum(one.HasField("result") for one in talk.said) < 40


@pytest.mark.parametrize("policy", ["LATEST", "BLOCK"])
async def test_a_flood_is_answered_or_reported_frame_by_frame(bystander: Bystander, talk: Talk, policy: str) -> None:
    frames = 300 if policy == "LATEST" else 24
    await talk.open(policy=policy)
    await talk.send(prompt=click(1))
    sent = [await talk.frame() for _ in range(frames)]
    rest = await talk.close()
    answered = [one.result.frame_seq for one in rest if one.HasField("result")]
    dropped = [one.dropped.frame_seq for one in rest if one.HasField("dropped")]
    assert sorted(answered + dropped) == sent
    assert answered == sorted(answered)
    assert answered[-1] == sent[-1]  # the newest frame is never the one given up
    assert {one.dropped.reason for one in rest if one.HasField("dropped")} <= {pb.DROP_REASON_QUEUE_FULL}
    assert (len(dropped) > 0) is (policy == "LATEST")
    assert [one.prompt_applied.prompt_seq for one in rest if one.HasField("prompt_applied")] == [2]
