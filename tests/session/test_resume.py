"""Streams that end without `close`, and what their clients find when they come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.fronts import Front, Shared
from tests.session.conftest import BLOCKING, FRAME, OPEN, MakeWorld, Peer, World, click

from masklet.backends.base import Backend
from masklet.backends.fake import Delay, FakeBackend, Hold
from masklet.config import LimitsConfig, SessionConfig
from masklet.errors import (
    AccessDenied,
    AdmissionRefused,
    IdleTimeout,
    InvalidOpen,
    ServerDraining,
    SessionClosed,
    SessionExpired,
    SessionStateLost,
    SessionSuperseded,
)
from masklet.observability.metrics import Metrics
from masklet.session.context import StreamContext
from masklet.session.messages import (
    Close,
    Dropped,
    GoAway,
    Open,
    Opened,
    Ping,
    Pong,
    PromptApplied,
    Result,
    TokenRenewed,
)
from masklet.session.registry import SessionRegistry, SessionState
from masklet.session.tokens import TokenSigner
from masklet.types import DropReason, FrameCodec, StateOrigin


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


def made(backend: Backend, clock: Clock | None = None, *, key: bytes = b"k" * 32) -> World:
    """A front; without `clock` it lives in real time."""
    metrics, monotonic, wall = Metrics(), clock or time.monotonic, clock or time.time
    registry = SessionRegistry(99, metrics=metrics, clock=monotonic)
    signer, limits = TokenSigner([key], wall=wall), LimitsConfig()
    context = StreamContext(backend, registry, limits, SessionConfig(), metrics, clock=monotonic, signer=signer)
    return World(context, backend)  # type: ignore[arg-type]


@pytest.fixture
def shared() -> Shared:
    backend = FakeBackend()
    backend._entered = True
    return Shared(backend)


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


async def test_a_session_goes_on_where_its_stream_was_cut(world: World) -> None:
    peer = await world.opened(BLOCKING)
    peer.send(click())
    peer.send(FRAME)
    first = await peer.until(Result)
    await peer.vanish()
    (snapshot,) = world.context.registry.list()
    assert snapshot.state is SessionState.DETACHED
    again = await back(world, peer)
    again.send(FRAME)
    second = await again.until(Result)
    opened = again.all(Opened)[0]
    assert (opened.state_origin, opened.next_seq) == (StateOrigin.INTACT, 4)
    assert (first.objects[0].box, second.objects[0].box) == ((6, 6, 10, 10), (7, 6, 11, 10))
    assert server_seqs(peer, again) == [1, 2, 3, 4]
    assert world.sample("resumes_total", origin="intact", outcome="resumed") == 1
    assert world.sample("session_detached_seconds_count") == 1


async def test_accepted_frames_are_finished_while_nobody_is_there(make_world: MakeWorld) -> None:
    release = asyncio.Event()
    world = await make_world([Hold(release, step=1)])
    peer = await world.opened(BLOCKING)
    sent = [peer.send(FRAME) for _ in range(5)]
    while peer.requests_read < 6:
        await asyncio.sleep(0.001)
    await peer.vanish()
    release.set()
    while world.context.registry.list()[0].frames_answered < 5:
        await asyncio.sleep(0.001)
    again = await back(world, peer)
    await again.until(Result, 5)
    assert (list(told(again)), again.all(Opened)[0].next_seq) == (sent, 7)


async def test_latest_keeps_the_newest_frame_over_a_lost_connection(make_world: MakeWorld) -> None:
    release = asyncio.Event()
    world = await make_world([Hold(release, step=1)])
    peer = await world.opened()
    sent = [peer.send(FRAME) for _ in range(8)]
    while peer.requests_read < 9:
        await asyncio.sleep(0.001)
    await peer.vanish()
    release.set()
    again = await back(world, peer, OPEN)
    while set(told(peer, again)) != set(sent):
        await asyncio.sleep(0.001)
    assert sorted(told(peer, again)) == sent
    assert again.all(Result)[-1].frame_seq == sent[-1]


async def test_answers_not_seen_are_sent_again_with_their_numbers(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for _ in range(4):
        peer.send(FRAME)
    await peer.until(Result, 4)
    await peer.vanish()
    again = await back(world, peer, last_server_seq=2)
    await again.until(Result, 3)
    assert [one.server_seq for one in again.messages] == [2, 3, 4, 5]
    assert list(told(again)) == [3, 4, 5]


@pytest.mark.parametrize("named", [(), (2, 3, 4, 5, 9)])
async def test_what_fell_out_of_the_ring_is_reported(make_world: MakeWorld, named: tuple[int, ...]) -> None:
    world = await make_world(session=SessionConfig(ring_messages=1))
    peer = await world.opened(BLOCKING)
    sent = [peer.send(FRAME) for _ in range(4)]
    await peer.until(Result, 4)
    await peer.vanish()
    again = await back(world, peer, last_server_seq=1, unanswered_seqs=named)
    await again.until(Dropped, 3)
    assert sorted(told(again)) == sent
    assert {body.reason for body in again.all(Dropped)} == {DropReason.CONNECTION_LOST}


async def test_the_older_of_two_streams_is_fenced(world: World) -> None:
    peer = await world.opened(BLOCKING)
    again = await back(world, peer)
    await peer.ended()
    assert isinstance(peer.error, SessionSuperseded)
    peer.send(FRAME)  # into the void
    again.send(FRAME)
    await again.until(Result)
    assert (world.context.registry.list()[0].frames_answered, len(world.context.registry)) == (1, 1)


async def test_an_old_token_is_good_until_it_expires_and_fences_as_well(world: World) -> None:
    peer = await world.opened(BLOCKING)
    second = await back(world, peer)
    third = await back(world, peer)
    await second.ended()
    assert isinstance(second.error, SessionSuperseded)
    third.send(Ping(1))
    await third.until(Pong)


async def test_close_frees_at_once_and_nothing_is_left_to_resume(world: World) -> None:
    peer = await world.opened(BLOCKING)
    peer.send(Close())
    await peer.ended()
    assert (len(world.context.registry), world.backend.stats().sessions) == (0, 0)
    assert isinstance(await refused(world, peer), SessionExpired)


async def test_requests_that_end_without_close_leave_the_session(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for _ in range(6):
        peer.send(FRAME)
    peer.half_close()
    await peer.ended()
    assert (len(peer.all(Result)), peer.error) == (6, None)
    again = await back(world, peer)
    again.send(FRAME)
    await again.until(Result)


async def test_a_stream_cut_after_close_can_still_be_read_to_its_end(make_world: MakeWorld) -> None:
    world = await make_world([Delay(0.3)])
    peer = await world.opened(BLOCKING)
    for body in (FRAME, FRAME, Close()):
        peer.send(body)
    while peer.requests_read < 4:
        await asyncio.sleep(0.001)
    await peer.vanish()
    again = await back(world, peer)
    await again.ended()
    assert (list(told(again)), again.error) == ([2, 3], None)


async def test_a_detached_session_expires_and_its_bank_is_freed() -> None:
    clock, backend = Clock(), FakeBackend()
    async with backend:
        world = made(backend, clock)
        peer = await world.opened(BLOCKING)
        await peer.vanish()
        await clock.pass_by(world, 59.0)
        assert backend.stats().sessions == 1
        await clock.pass_by(world, 1.0)
        assert (backend.stats().sessions, len(world.context.registry), len(world.context.live)) == (0, 0, 0)
        assert isinstance(await refused(world, peer), SessionExpired)
        assert world.sample("resumes_total", origin="none", outcome="session_expired") == 1


async def test_an_idle_hour_with_pings_renews_the_token_before_it_expires() -> None:
    clock, backend = Clock(), FakeBackend()
    async with backend:
        world = made(backend, clock)
        peer = await world.opened(BLOCKING)
        for nonce in range(240):
            peer.send(Ping(nonce))
            await peer.until(Pong, nonce + 1)
            await clock.pass_by(world, 15.0)
        assert 28 <= len(peer.all(TokenRenewed)) <= 32
        await peer.vanish()
        await clock.pass_by(world, 55.0)
        again = await back(world, peer)
        assert again.all(Opened)[0].state_origin is StateOrigin.INTACT
        await gone(world)


async def test_an_idle_stream_ends_but_its_session_waits() -> None:
    clock, backend = Clock(), FakeBackend()
    async with backend:
        world = made(backend, clock)
        peer = await world.opened(BLOCKING)
        await clock.pass_by(world, 61.0)
        await peer.ended()
        assert isinstance(peer.error, IdleTimeout)
        await back(world, peer)
        await gone(world)


async def test_detached_sessions_count_and_operators_may_end_them(make_world: MakeWorld) -> None:
    world = await make_world(limits=LimitsConfig(max_sessions=1))
    peer = await world.opened()
    await peer.vanish()
    assert world.sample("sessions", state="detached") == 1
    newcomer = world.peer().start()
    newcomer.send(OPEN)
    await newcomer.ended()
    assert isinstance(newcomer.error, AdmissionRefused)
    world.context.registry.close(peer.all(Opened)[0].session_id)
    assert await world.context.registry.wait_empty(5)


@pytest.mark.parametrize(
    "change",
    [{"size": (24, 16)}, {"codec": FrameCodec.PNG}, {"with_logits": True}],
)
async def test_a_session_is_resumed_as_it_was_opened(world: World, change: dict[str, object]) -> None:
    peer = await world.opened(BLOCKING)
    assert isinstance(await refused(world, peer, **change), InvalidOpen)
    peer.send(FRAME)
    await peer.until(Result)


async def refused(world: World, peer: Peer, **fields: object) -> BaseException | None:
    token = peer.all(Opened)[-1].resume_token
    again = world.peer().start()
    again.send(replace(BLOCKING, resume_token=token, **fields))  # type: ignore[arg-type]
    await again.ended()
    assert again.bodies == []
    return again.error


async def test_another_front_goes_on_with_the_same_memory(shared: Shared) -> None:
    first, second = made(Front(shared)), made(Front(shared))
    peer = await first.opened(BLOCKING)
    for body in (click(), FRAME, FRAME):
        peer.send(body)
    await peer.until(Result, 2)
    await peer.vanish()
    again = await back(second, peer)
    opened = again.all(Opened)[0]
    assert (opened.state_origin, opened.next_seq) == (StateOrigin.INTACT, 5)
    again.send(FRAME)
    assert (await again.until(Result)).objects[0].box == (8, 6, 12, 10)
    assert server_seqs(peer, again) == [1, 2, 3, 4, 5]
    await gone(first, second)
    assert shared.backend.stats().sessions == 0


async def test_frames_another_front_answered_unseen_are_reported(shared: Shared) -> None:
    first, second = made(Front(shared)), made(Front(shared))
    peer = await first.opened(BLOCKING)
    for _ in range(4):
        peer.send(FRAME)
    await peer.until(Result, 4)
    again = await back(second, peer, last_server_seq=2, unanswered_seqs=(3, 4, 5))
    await again.until(Dropped, 3)
    assert again.all(Dropped) == [Dropped(seq, DropReason.CONNECTION_LOST) for seq in (3, 4, 5)]
    assert [one.server_seq for one in again.messages] == [2, 3, 4, 5]
    await gone(first, second)


async def test_edits_and_corrections_work_after_the_move(shared: Shared) -> None:
    first, second = made(Front(shared)), made(Front(shared))
    peer = await first.opened(BLOCKING)
    for body in (click(1), click(2), FRAME):
        peer.send(body)
    await peer.until(Result)
    again = await back(second, peer)
    correction = again.send(click(1, 12.0, 8.0, frame_seq=4))
    applied = await again.until(PromptApplied)
    assert (applied.prompt_seq, applied.frame_seq) == (correction, 4)
    await gone(first, second)


async def test_the_front_left_behind_notices_and_does_no_harm(shared: Shared) -> None:
    first, second = made(Front(shared)), made(Front(shared))
    peer = await first.opened(BLOCKING)
    peer.send(FRAME)
    await peer.until(Result)
    again = await back(second, peer)
    peer.send(FRAME)
    await peer.ended()
    assert isinstance(peer.error, SessionSuperseded)
    again.send(FRAME)
    await again.until(Result)
    await gone(first)
    again.send(FRAME)
    await again.until(Result, 2)
    await gone(second)


async def test_a_session_may_return_to_a_front_that_still_has_it_detached(shared: Shared) -> None:
    first, second = made(Front(shared)), made(Front(shared))
    peer = await first.opened(BLOCKING)
    peer.send(FRAME)
    await peer.until(Result)
    await peer.vanish()
    away = await back(second, peer)
    away.send(FRAME)
    await away.until(Result)
    await away.vanish()
    for known in (away, peer):  # the newest token, and one given out before the session was away
        home = await back(first, known, last_server_seq=4, unanswered_seqs=())
        assert home.all(Opened)[0].next_seq == home._seq + 1
        home.send(FRAME)
        await home.until(Result)
    await gone(first, second)
    assert shared.backend.stats().sessions == 0


async def test_a_drained_session_goes_on_elsewhere(shared: Shared) -> None:
    first, second = made(Front(shared)), made(Front(shared))
    peer = await first.opened(BLOCKING)
    detached = await first.opened(BLOCKING)
    await detached.vanish()
    for body in (click(), FRAME):
        peer.send(body)
    await peer.until(Result)
    first.context.registry.drain(5.0)
    goodbye = await peer.until(GoAway)
    await peer.ended()
    assert isinstance(peer.error, ServerDraining)
    assert await first.context.registry.wait_empty(5)
    again = await back(second, peer, resume_token=goodbye.resume_token)
    again.send(FRAME)
    assert (await again.until(Result)).objects[0].box == (7, 6, 11, 10)
    await back(second, detached)
    await gone(first, second)


async def test_a_lost_bank_is_said_to_be_lost(shared: Shared) -> None:
    first, second = made(Front(shared)), made(Front(shared))
    peer = await first.opened(BLOCKING)
    await gone(first)
    assert isinstance(await refused(second, peer), SessionStateLost)
    assert len(second.context.registry) == 0


async def test_a_front_with_another_key_refuses(shared: Shared) -> None:
    first, stranger = made(Front(shared)), made(Front(shared), key=b"s" * 32)
    peer = await first.opened(BLOCKING)
    assert isinstance(await refused(stranger, peer), AccessDenied)
    peer.send(FRAME)
    await peer.until(Result)
    await gone(first, stranger)


async def test_an_operator_s_end_is_final(world: World) -> None:
    peer = await world.opened(BLOCKING)
    world.context.registry.close(peer.all(Opened)[0].session_id)
    await peer.ended()
    assert isinstance(peer.error, SessionClosed)
    assert isinstance(await refused(world, peer), SessionExpired)


async def test_a_thousand_abandoned_sessions_leave_nothing() -> None:
    clock, backend = Clock(), FakeBackend()
    tasks = asyncio.all_tasks()
    async with backend:
        world = made(backend, clock)
        for _ in range(20):
            for _ in range(50):
                peer = await world.opened()
                peer.send(click())
                peer.send(FRAME)
                await peer.until(Result)
                await peer.vanish()
            world.peers.clear()
            assert backend.stats().sessions == len(world.context.registry) == 50
            await clock.pass_by(world, 60.0)
            assert await world.context.registry.wait_empty(10)
        assert (backend.stats().sessions, backend.stats().bank_bytes, len(world.context.live)) == (0, 0, 0)
        assert world.sample("frame_queue_depth") == world.sample("sessions", state="detached") == 0
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= tasks
