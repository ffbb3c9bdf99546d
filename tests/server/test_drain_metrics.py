"""What an alert on a drain that does not end needs to know."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

from masklet.backends.fake import FakeBackend, Hold
from masklet.config import Config
from masklet.server.lifecycle import Server


def drain_of(server: Server) -> tuple[float | None, ...]:
    sample = server.metrics.registry.get_sample_value
    return tuple(sample(f"masklet_{name}") for name in ("ready", "draining", "drain_started_time_seconds"))


async def test_a_drain_shows_while_it_lasts(config: Config, connect: Any) -> None:
    release = asyncio.Event()
    server = Server(config, backend=FakeBackend([Hold(release)]))
    assert drain_of(server) == (0, 0, 0)
    async with server, connect(server.port) as client:
        assert drain_of(server) == (1, 0, 0)
        talk = client.talk()
        await talk.open()
        await talk.frame()
        await talk.settle()
        draining = asyncio.create_task(server.drain())
        await talk.receive("go_away")
        ready, is_draining, since = drain_of(server)
        assert (ready, is_draining) == (0, 1)
        assert since is not None and abs(since - time.time()) < 10
        release.set()
        assert await draining


async def test_how_long_it_may_take_is_exported(config: Config) -> None:
    times = dataclasses.replace(config.server, drain_delay_s=2.0, drain_timeout_s=5.0)
    server = Server(dataclasses.replace(config, server=times))
    assert server.metrics.registry.get_sample_value("masklet_drain_timeout_seconds") == 7
