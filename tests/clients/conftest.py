"""A real server on a free port, and small videos to send to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from tests.elsewhere import elsewhere

from masklet.backends.fake import FakeBackend
from masklet.config import Config, LimitsConfig, ServerConfig, SessionConfig
from masklet.server.lifecycle import Server
from masklet.types import ImageArray
from masklet_client.client import Client, connect
from masklet_client.video_file import VideoFile

SIZE = (48, 64)


@asynccontextmanager
async def running(backend: FakeBackend | None = None, **limits: int) -> AsyncIterator[Server]:
    """A server in this event loop."""
    config = Config(
        server=ServerConfig(port=0, metrics_port=0, backend="fake", drain_timeout_s=1.0),
        limits=LimitsConfig(**limits),
        session=SessionConfig(),
    )
    async with Server(config, backend=backend or FakeBackend()) as server:
        yield server


@asynccontextmanager
async def connected(backend: FakeBackend) -> AsyncIterator[Client]:
    """A client of a server with this backend."""
    async with running(backend) as server, connect(f"127.0.0.1:{server.port}") as client:
        yield client


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with running() as server:
        yield f"127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def far_address() -> Iterator[str]:
    """A server in another thread, for clients that run a loop of their own."""
    with elsewhere(running()) as (server, _):
        yield f"127.0.0.1:{server.port}"


@pytest.fixture
def frames() -> list[ImageArray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 255, (*SIZE, 3), np.uint8) for _ in range(10)]


@pytest.fixture
def video(tmp_path: Path, frames: list[ImageArray]) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoFile(path, SIZE, Fraction(12)) as file:
        for frame in frames:
            file.write(frame)
    return path
