"""Clients that come back, and the servers they come back to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

from tests.session.conftest import BLOCKING, Peer, World

from masklet.backends.base import Backend
from masklet.config import LimitsConfig, SessionConfig
from masklet.observability.metrics import Metrics
from masklet.session.context import StreamContext
from masklet.session.messages import (
    Dropped,
    Open,
    Opened,
    Result,
    TokenRenewed,
)
from masklet.session.registry import SessionRegistry
from masklet.session.tokens import TokenSigner
from masklet.types import StateOrigin


class Clock:
    """Stands until it is moved; who waits for it is told."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    async def pass_by(self, world: World, seconds: float) -> None:
        self.now_s += seconds
        for record in list(world.context.registry._records.values()):
            record.ordered.set()
        for _ in range(20):
            await asyncio.sleep(0)


def made(backend: Backend, clock: Clock | None = None, *, key: bytes = b"k" * 32, max_sessions: int = 99) -> World:
    """A front; without `clock` it lives in real time."""
    metrics, monotonic, wall = Metrics(), clock or time.monotonic, clock or time.time
    registry = SessionRegistry(max_sessions, metrics=metrics, clock=monotonic)
    signer, limits = TokenSigner([key], wall=wall), LimitsConfig()
    context = StreamContext(backend, registry, limits, SessionConfig(), metrics, clock=monotonic, signer=signer)
    return World(context, backend)  # type: ignore[arg-type]


async def gone(*worlds: World) -> None:
    for world in worlds:
        for peer in world.peers:
            await peer.vanish()
        await world.context.live.aclose()


async def back(world: World, peer: Peer, wanted: Open = BLOCKING, **fields: object) -> Peer:
    """The same client on a new stream, with what it knows of the session."""
    seen = [one for one in peer.messages if isinstance(one.body, Opened)][-1]
    token = next(
        one.body.resume_token for one in reversed(peer.messages) if isinstance(one.body, Opened | TokenRenewed)
    )
    known = {"resume_token": token, "last_server_seq": peer.messages[-1].server_seq, **fields}
    again = world.peer().start()
    again.send(replace(wanted, **known))  # type: ignore[arg-type]
    opened = await again.until(Opened)
    assert isinstance(seen.body, Opened) and opened.session_id == seen.body.session_id
    again._seq = opened.next_seq - 1
    return again


def server_seqs(*peers: Peer) -> list[int]:
    """Of all but resumed streams' greetings."""
    return [one.server_seq for peer in peers for one in peer.messages if not resumed(one.body)]


def resumed(body: object) -> bool:
    return isinstance(body, Opened) and body.state_origin is not StateOrigin.NEW


def told(*peers: Peer) -> Iterator[int]:
    for peer in peers:
        yield from (body.frame_seq for body in peer.bodies if isinstance(body, Result | Dropped))


async def refused(world: World, peer: Peer, **fields: object) -> BaseException | None:
    token = peer.all(Opened)[-1].resume_token
    again = world.peer().start()
    again.send(replace(BLOCKING, resume_token=token, **fields))  # type: ignore[arg-type]
    await again.ended()
    assert again.bodies == []
    return again.error
