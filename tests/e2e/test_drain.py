"""`masklet serve` as a process of its own: told to stop while streams are running."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import grpc.aio
import pytest
from tests.e2e.talk import JPEGS, Talk, click, talk_to

from masklet.v1 import segmentation_pb2 as pb

DRAIN_TIMEOUT_S = 20.0
FLAGS = (
    "--port=0",
    "--metrics-port=0",
    "--model.input_size=64",
    "--model.threads=1",
    f"--server.drain_timeout_s={DRAIN_TIMEOUT_S}",
)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "masklet", "serve", *FLAGS]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    yield running
    running.kill()
    running.wait()
    assert running.stderr
    running.stderr.close()


def address_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"event=ready address=(\S+)", line):
            return found[1]
    raise AssertionError("the server ended before it was ready")


class BusyStream:
    """Frames as fast as the server takes them, until the stream ends; `status` is what it ended with."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.frames: list[int] = []
        self.under_way = asyncio.Event()
        self.status: tuple[str, str, str] | None = None

    async def run(self) -> None:
        await self._talk.open()
        await self._talk.send(prompt=click(1))
        sending = asyncio.create_task(self._send())
        try:
            for _ in range(6):
                await self._talk.read()
            self.under_way.set()
            self.status = await self._talk.end()
        finally:
            self.under_way.set()
            sending.cancel()

    async def _send(self) -> None:
        """Until told to go away; never more than the wire holds: a waiting write may hide why the stream ends."""
        while not any(one.HasField("go_away") for one in self._talk.said):
            self.frames.append(await self._talk.frame(JPEGS[len(self.frames) % len(JPEGS)]))
            while self._talk.seq - (self._talk.said[-1].acked_seq) > 8:
                await asyncio.sleep(0.005)

    def check_accounts(self) -> None:
        """Every frame the server took was answered or reported, once."""
        said = self._talk.said
        told = [one.result.frame_seq for one in said if one.HasField("result")]
        told += [one.dropped.frame_seq for one in said if one.HasField("dropped")]
        assert Counter(told) == Counter(seq for seq in self.frames if seq <= said[-1].acked_seq)
        assert {one.dropped.reason for one in said if one.HasField("dropped")} <= {pb.DROP_REASON_DRAINING}
        assert sum(one.HasField("go_away") for one in said) == 1
        assert [one.server_seq for one in said] == list(range(1, len(said) + 1))


async def test_a_drain_under_load_loses_nothing_and_ends_in_order(process: subprocess.Popen[str]) -> None:
    address = address_of(process)
    async with talk_to(address) as first, talk_to(address) as second:
        streams = [BusyStream(first), BusyStream(second)]
        running = [asyncio.create_task(stream.run()) for stream in streams]
        for stream in streams:
            await stream.under_way.wait()
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        await asyncio.gather(*running)
    status = await asyncio.to_thread(process.wait, DRAIN_TIMEOUT_S)
    assert (status, time.monotonic() - started < DRAIN_TIMEOUT_S) == (0, True)
    for stream in streams:
        assert stream.status is not None
        assert stream.status[:2] == ("UNAVAILABLE", "SERVER_DRAINING")
        stream.check_accounts()


async def test_a_second_signal_ends_it_at_once(process: subprocess.Popen[str]) -> None:
    async with talk_to(address_of(process)) as talk:
        await talk.open()
        await talk.send(prompt=click(1))
        for _ in range(200):  # more than a drain gets done before the second signal
            await talk.frame()
        process.send_signal(signal.SIGINT)
        while not (await talk.read()).HasField("go_away"):  # type: ignore[union-attr]
            pass
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        status = await asyncio.to_thread(process.wait, DRAIN_TIMEOUT_S)
        assert (status, time.monotonic() - started < 2) == (128 + signal.SIGTERM, True)
        with pytest.raises(grpc.aio.AioRpcError):
            while await talk.read() is not None:
                pass
