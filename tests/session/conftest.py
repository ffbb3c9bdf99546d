"""A client for one stream, in process: sends requests, keeps what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pytest

from masklet.backends.fake import Cue, FakeBackend
from masklet.codecs.frames import encode_frame
from masklet.config import LimitsConfig, RoutingConfig, SessionConfig
from masklet.observability.metrics import Metrics
from masklet.session.context import StreamContext
from masklet.session.messages import (
    ClientBody,
    ClientMessage,
    Frame,
    Open,
    Opened,
    PromptFor,
    ServerBody,
    ServerMessage,
)
from masklet.session.registry import SessionRegistry
from masklet.session.stream import SessionStream
from masklet.types import DropPolicy, FrameCodec, MaskEncoding, Prompt

Body = TypeVar("Body")
SIZE = (16, 24)
OPEN = Open(FrameCodec.RGB8, SIZE, mask_encoding=MaskEncoding.BITS)
BLOCKING = replace(OPEN, drop_policy=DropPolicy.BLOCK)
FRAME = Frame(encode_frame(FrameCodec.RGB8, np.zeros((*SIZE, 3), np.uint8)))
TIMEOUT_S = 20.0


def click(object_id: int = 1, x: float = 8.0, y: float = 8.0, *, frame_seq: int = 0) -> PromptFor:
    return PromptFor(Prompt.clicks(object_id, [(x, y)]), frame_seq)


@dataclass
class Peer:
    """One client: `send` numbers requests; what comes back is in `messages`."""

    stream: SessionStream
    messages: list[ServerMessage] = field(default_factory=list)
    error: BaseException | None = None
    _seq: int = 0
    _requests: asyncio.Queue[ClientMessage | None] = field(default_factory=asyncio.Queue)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None
    requests_read: int = 0

    def send(self, body: ClientBody, *, seq: int | None = None, age_s: float = 0.0) -> int:
        """Sends one request; returns its seq."""
        self._seq = self._seq + 1 if seq is None else seq
        self._requests.put_nowait(ClientMessage(self._seq, body, time.monotonic() - age_s))
        return self._seq

    def half_close(self) -> None:
        self._requests.put_nowait(None)

    async def requests(self) -> AsyncIterator[ClientMessage]:
        while (message := await self._requests.get()) is not None:
            self.requests_read += 1
            yield message

    def start(self) -> Peer:
        self._task = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        try:
            async with aclosing(self.stream.run(self.requests())) as answers:
                async for message in answers:
                    self.messages.append(message)
                    self._arrived.set()
        except Exception as error:
            self.error = error
        finally:
            self._arrived.set()

    async def vanish(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait([self._task])

    async def ended(self) -> Peer:
        """Waits for the stream's end."""
        assert self._task is not None
        await asyncio.wait_for(asyncio.shield(self._task), TIMEOUT_S)
        return self

    async def until(self, kind: type[Body], count: int = 1) -> Body:
        """Waits until `count` answers of a kind have come; returns the last of them."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.all(kind)) < count:
                assert not (self._task and self._task.done()), f"stream ended: {self.error!r}, {self.bodies}"
                self._arrived.clear()
                await self._arrived.wait()
        return self.all(kind)[count - 1]

    @property
    def bodies(self) -> list[ServerBody]:
        return [message.body for message in self.messages]

    def all(self, kind: type[Body]) -> list[Body]:
        return [body for body in self.bodies if isinstance(body, kind)]


@dataclass
class World:
    """A server without a network."""

    context: StreamContext
    backend: FakeBackend
    peers: list[Peer] = field(default_factory=list)

    def peer(self) -> Peer:
        peer = Peer(SessionStream(self.context, peer="test"))
        self.peers.append(peer)
        return peer

    async def opened(self, wanted: Open = OPEN) -> Peer:
        peer = self.peer().start()
        peer.send(wanted)
        await peer.until(Opened)
        return peer

    def sample(self, name: str, **labels: str) -> float:
        return self.context.metrics.registry.get_sample_value(f"masklet_{name}", labels) or 0.0


MakeWorld = Callable[..., Awaitable[World]]


@pytest.fixture
async def make_world() -> AsyncIterator[MakeWorld]:
    """Makes worlds; at the end all streams must be gone, and no task may be left."""
    worlds: list[World] = []
    before = asyncio.all_tasks()

    async def make(
        script: Sequence[Cue] = (),
        *,
        limits: LimitsConfig | None = None,
        session: SessionConfig | None = None,
        routing: RoutingConfig | None = None,
    ) -> World:
        backend = FakeBackend(script, routing=routing)
        await backend.__aenter__()
        metrics = Metrics()
        allowed = limits or LimitsConfig()
        registry = SessionRegistry(allowed.max_sessions, metrics=metrics)
        context = StreamContext(backend, registry, allowed, session or SessionConfig(), metrics)
        worlds.append(World(context, backend))
        return worlds[-1]

    yield make
    for world in worlds:
        for peer in world.peers:
            if peer._task is not None:
                await peer.vanish()
        await world.context.live.aclose()
        assert len(world.context.registry) == 0
        assert world.backend.stats().sessions == 0 or world.context.registry.draining  # left to another server
    await asyncio.sleep(0)
    for world in worlds:
        await world.backend.__aexit__(None, None, None)
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


@pytest.fixture
async def world(make_world: MakeWorld) -> World:
    """A world with defaults."""
    return await make_world()
