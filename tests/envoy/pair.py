"""Two fronts that share a key and a backend, with an Envoy before them and lines between, which can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tests.envoy.proxy import Envoy, envoy_before
from tests.fronts import Front, Shared
from tests.lines import Line, line_to

import masklet_client
from masklet.backends.fake import FakeBackend
from masklet.config import Config, ServerConfig, SessionConfig
from masklet.server.lifecycle import Server
from masklet_client import Event, Reconnect, Result, TrackStream

SIZE = (48, 64)
FRAME = np.zeros((*SIZE, 3), np.uint8)
CONFIG = Config(server=ServerConfig(port=0, metrics_port=0, backend="fake", drain_timeout_s=5.0))
QUICK = Reconnect(give_up_s=30.0, first_delay_s=0.02, max_delay_s=0.2)


@dataclass(frozen=True, slots=True)
class Pair:
    """What is between a client and the shared backend; `servers[i]` is behind `lines[i]`."""

    envoy: Envoy
    lines: list[Line]
    servers: list[Server]
    fronts: list[Front]

    def sessions(self) -> list[int]:
        """How many each front has."""
        return [len(server.registry) for server in self.servers]

    def owner(self) -> int:
        """Which front has the only session."""
        return self.sessions().index(1)

    def resumed(self) -> list[int]:
        """How many sessions were resumed at each front, as its metrics say."""
        return [_resumed(server) for server in self.servers]

    @asynccontextmanager
    async def tracking(self, **options: object) -> AsyncIterator[TrackStream]:
        """A stream through Envoy."""
        chosen = {"policy": "block", "codec": "png", "reconnect": QUICK, **options}
        client = masklet_client.connect(self.envoy.address)
        async with client, client.track(SIZE, **chosen) as stream:  # type: ignore[arg-type]
            yield stream


@asynccontextmanager
async def pair(folder: Path, *, drain_delay_s: float = 0.0, **envoy: str) -> AsyncIterator[Pair]:
    """All of it, ready."""
    keys = folder / "keys"
    keys.write_text("ab" * 32)
    server = replace(CONFIG.server, drain_delay_s=drain_delay_s)
    config = replace(CONFIG, server=server, session=SessionConfig(resume_key_file=str(keys)))
    async with AsyncExitStack() as stack:
        shared = Shared(await stack.enter_async_context(FakeBackend()))
        fronts = [Front(shared), Front(shared)]
        servers = [await stack.enter_async_context(Server(config, backend=front)) for front in fronts]
        lines = [await stack.enter_async_context(line_to(server.port)) for server in servers]
        ports = [int(line.address.rsplit(":")[-1]) for line in lines]
        proxy = await stack.enter_async_context(envoy_before(ports, folder, changes=envoy))
        yield Pair(proxy, lines, servers, fronts)


async def answered(stream: TrackStream) -> Result:
    """One more frame."""
    seq = await stream.send(FRAME)
    result = [event async for event in until_result(stream)][-1]
    assert isinstance(result, Result) and result.frame_seq == seq
    return result


async def until_result(stream: TrackStream) -> AsyncIterator[Event]:
    """What is said up to the next result, which comes last."""
    async with asyncio.timeout(30):
        async for event in stream.events():
            yield event
            if isinstance(event, Result):
                return


def _resumed(server: Server) -> int:
    samples = next(iter(server.metrics.resumes.collect())).samples
    return int(sum(one.value for one in samples if one.name.endswith("_total") and one.labels["outcome"] == "resumed"))
