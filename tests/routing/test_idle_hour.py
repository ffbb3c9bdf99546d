"""A connected client that says nothing but pings for an hour, while the model forgets its bank."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tests.routing.farm import Client, Farm, Place
from tests.routing.simulated import SimulatedLoop, now_s
from tests.session.conftest import BLOCKING, FRAME, Peer, World, click
from tests.session.returning import gone, made

from masklet.backends.base import Backend
from masklet.backends.fake import FakeBackend
from masklet.config import TritonConfig
from masklet.session.messages import Opened, Ping, Pong, Result, TokenRenewed
from masklet.types import StateOrigin

IDLE_S = TritonConfig().idle_timeout_s
PING_S = 15.0
BEFORE, AFTER = 9, 3


class WorkInline(SimulatedLoop):
    """Work for other threads is done at once: simulated time would not wait for them."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done


class Asking(Client):
    """Notes when each session was asked for."""

    def __init__(self, place: Place, asked_s: dict[str, float]) -> None:
        super().__init__(place)
        self._asked_s = asked_s

    async def _owned(self, session_id: str) -> None:
        self._asked_s[session_id] = now_s()
        await super()._owned(session_id)


class ForgetfulFarm(Farm):
    """Its places forget sessions nobody asked for, as `TritonModel.reap` does."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.asked_s: dict[str, float] = {}
        self.reaped = 0

    def client(self, address: str) -> Client:
        return Asking(self.places[address], self.asked_s)

    async def reap(self) -> None:
        while True:
            await asyncio.sleep(IDLE_S / 10)
            for place in self.places.values():
                for session_id in place.sessions:
                    if now_s() - self.asked_s.setdefault(session_id, now_s()) > IDLE_S:
                        await place.backend.close(session_id)
                        self.reaped += 1


async def answers(peer: Peer, frames: int) -> list[Result]:
    """To so many more frames, at ten a second."""
    known = len(peer.all(Result))
    for count in range(1, frames + 1):
        peer.send(FRAME)
        await peer.until(Result, known + count)
        await asyncio.sleep(0.1)
    return peer.all(Result)[known:]


async def an_hour_of_pings(peer: Peer) -> None:
    for nonce in range(1, int(3600 / PING_S) + 1):
        await asyncio.sleep(PING_S)
        peer.send(Ping(nonce))
        await peer.until(Pong, nonce)


async def stream(backend: Backend, pause: Callable[[Peer], Awaitable[None]] | None = None) -> tuple[World, Peer]:
    """Frames, `pause`, and some more frames."""
    world = made(backend, now_s)  # type: ignore[arg-type]
    peer = await world.opened(BLOCKING)
    peer.send(click())
    await answers(peer, BEFORE)
    if pause is not None:
        await pause(peer)
    await answers(peer, AFTER)
    return world, peer


def masks(results: list[Result]) -> list[list[Any]]:
    return [[(found.object_id, found.box, found.mask) for found in one.objects] for one in results]


async def scenario() -> None:
    farm = ForgetfulFarm("a:1", "b:1")

    async def hour(peer: Peer) -> None:
        await an_hour_of_pings(peer)
        assert farm.holding(peer.all(Opened)[0].session_id) == set()

    async with farm.routed() as backend:
        reaper = asyncio.create_task(farm.reap())
        world, peer = await stream(backend, hour)
        results, renewed = peer.all(Result), peer.all(TokenRenewed)
        await gone(world)
        reaper.cancel()
    assert farm.reaped == 1
    assert renewed
    assert [one.recovered for one in results] == [None] * BEFORE + [StateOrigin.RESTORED] + [None] * (AFTER - 1)
    async with FakeBackend() as calm:
        undisturbed, other = await stream(calm)
        expected = other.all(Result)
        await gone(undisturbed)
    assert masks(results) == masks(expected)
    assert all(one.objects for one in results)


def test_after_an_idle_hour_a_forgotten_session_is_restored_and_says_so():
    with asyncio.Runner(loop_factory=WorkInline) as runner:
        runner.run(scenario())
