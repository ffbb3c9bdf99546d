"""One server with the real engine for all tests of this folder, in a thread of its own: loading takes a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from tests.e2e.talk import JPEGS, Talk, click, talk_to
from tests.elsewhere import elsewhere

from masklet.backends.embedded import EmbeddedBackend
from masklet.config import Config, ModelConfig, ServerConfig, SessionConfig
from masklet.server.lifecycle import Server
from masklet.types import BackendStats

MODEL = ModelConfig(input_size=64, threads=1, device="cpu", precision="float32")
CONFIG = Config(
    server=ServerConfig(port=0, metrics_port=0, drain_timeout_s=5.0),
    model=MODEL,
    session=SessionConfig(first_message_timeout_s=1.0, idle_timeout_s=3.0, resume_ttl_s=0.0),
)


class Served:
    """A running server, in another thread."""

    def __init__(self, server: Server, backend: EmbeddedBackend) -> None:
        self.server, self.backend = server, backend
        self.address = f"127.0.0.1:{server.port}"

    def calls_ended(self, code: str) -> float:
        """Track calls that have ended so, on the server's side."""
        counter = self.server.metrics.rpcs.labels("/masklet.v1.SegmentationService/Track", code)
        return float(next(iter(counter.collect())).samples[0].value)

    def stats(self) -> BackendStats:
        return self.backend.stats()

    async def settled(self, sessions: int = 0) -> None:
        """Waits until so many sessions are left, here and in the engine."""
        async with asyncio.timeout(20):
            while (len(self.server.registry), self.stats().sessions) != (sessions, sessions):
                await asyncio.sleep(0.02)


@asynccontextmanager
async def _serving() -> AsyncIterator[Served]:
    backend = EmbeddedBackend(MODEL)
    async with Server(CONFIG, backend=backend) as server:
        yield Served(server, backend)


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    with elsewhere(_serving()) as (found, _):
        yield found


class Bystander:
    """A stream that minds its own business: a click, then a frame after each answer. `answered` counts them."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._asked_to_stop = asyncio.Event()
        self.answered = 0

    async def run(self) -> None:
        """Frames until `stop`; every one must be answered, in order, with the object, and nothing else come."""
        talk = self._talk
        await talk.open()
        await talk.send(prompt=click(1))
        while not self._asked_to_stop.is_set():
            seq = await talk.frame(JPEGS[self.answered % len(JPEGS)])
            if self.answered == 0:
                await talk.receive("prompt_applied")
            result = (await talk.receive("result")).result
            assert (result.frame_seq, [found.object_id for found in result.objects]) == (seq, [1])
            self.answered += 1
        assert await talk.close() == []
        assert [one.server_seq for one in talk.said] == list(range(1, len(talk.said) + 1))

    def stop(self) -> None:
        self._asked_to_stop.set()

    async def go_on(self, frames: int) -> None:
        """Waits until so many more frames were answered."""
        wanted = self.answered + frames
        async with asyncio.timeout(20):
            while self.answered < wanted:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def minding_its_own_business(address: str) -> AsyncIterator[Bystander]:
    async with talk_to(address) as talk:
        bystander = Bystander(talk)
        running = asyncio.create_task(bystander.run())
        try:
            await bystander.go_on(1)
            yield bystander
            await bystander.go_on(1)
            bystander.stop()
            async with asyncio.timeout(20):
                await running
        finally:
            running.cancel()


@pytest.fixture
async def bystander(served: Served) -> AsyncIterator[Bystander]:
    async with minding_its_own_business(served.address) as one:
        yield one
    await served.settled()


@pytest.fixture
async def talk(served: Served) -> AsyncIterator[Talk]:
    async with talk_to(served.address) as one:
        yield one
