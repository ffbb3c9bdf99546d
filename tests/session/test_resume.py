"""Streams that end without `close`, and what their clients find when they come back."""

from __future__ import annotations

import asyncio

import pytest
from tests.session.conftest import BLOCKING, FRAME, OPEN, MakeWorld, World, click
from tests.session.returning import Clock, back, gone, made, refused, server_seqs, told

from masklet.backends.fake import Delay, FakeBackend, Hold
from masklet.config import LimitsConfig, SessionConfig
from masklet.errors import (
    AdmissionRefused,
    IdleTimeout,
    InvalidOpen,
    LimitExceeded,
    SessionClosed,
    SessionExpired,
    SessionSuperseded,
)
from masklet.session import closed
from masklet.session.messages import (
    Close,
    Dropped,
    Opened,
    Ping,
    Pong,
    RequestFailed,
    Result,
    TokenRenewed,
)
from masklet.session.registry import SessionState
from masklet.session.ring import LOST_FRAMES
from masklet.types import DropReason, FrameCodec, StateOrigin


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


async def test_a_call_cancelled_while_it_ends_detaches_its_session_too(world: World) -> None:
    peer = await world.opened()
    assert peer._task is not None
    peer._task.cancel()
    await asyncio.sleep(0)  # it stops reading now
    await peer.vanish()
    (snapshot,) = world.context.registry.list()
    assert snapshot.state is SessionState.DETACHED


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


async def test_who_comes_back_again_and_again_without_reading_is_refused(world: World) -> None:
    peer = await world.opened(BLOCKING)
    peer.send(FRAME, seq=10**9)  # a gap, and everything before it is taken for dealt with
    await peer.until(RequestFailed)
    session = world.context.live.get(peer.all(Opened)[0].session_id)
    assert session is not None
    for first in range(3, 3 + 8 * LOST_FRAMES, LOST_FRAMES):
        try:
            session.attach(0, range(first, first + LOST_FRAMES), peer="test")
        except LimitExceeded as error:
            assert "answers wait to be read, the limit is" in str(error)
            break
    assert 2 * LOST_FRAMES < len(session.outbox) < 4 * LOST_FRAMES


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


async def test_close_frees_at_once_and_nothing_but_answers_is_left(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for body in (FRAME, FRAME, Close()):
        peer.send(body)
    await peer.ended()
    assert (len(world.context.registry), world.backend.stats().sessions, len(world.context.live)) == (0, 0, 0)
    again = await back(world, peer, last_server_seq=2, unanswered_seqs=(3,))
    again.send(FRAME)
    await again.ended()
    assert (list(told(again)), again.error) == ([3], None)
    assert (len(world.context.registry), world.backend.stats().sessions) == (0, 0)


async def test_answers_of_closed_sessions_are_kept_for_the_time_to_live(make_world: MakeWorld) -> None:
    world = await make_world(session=SessionConfig(resume_ttl_s=0.2))
    peer = await world.opened(BLOCKING)
    peer.send(Close())
    await peer.ended()
    assert len(world.context.live.closed) == 1
    await asyncio.sleep(0.3)
    assert len(world.context.live.closed) == 0
    assert isinstance(await refused(world, peer), SessionExpired)


@pytest.mark.parametrize(("most", "most_bytes"), [(2, 1 << 20), (99, 600)])
async def test_few_closed_sessions_are_kept(
    world: World, monkeypatch: pytest.MonkeyPatch, most: int, most_bytes: int
) -> None:
    monkeypatch.setattr(closed, "_MOST", most)
    monkeypatch.setattr(closed, "_MOST_BYTES", most_bytes)
    peers = [await world.opened(BLOCKING) for _ in range(3)]
    for peer in peers:
        for body in (FRAME, Close()):
            peer.send(body)
        await peer.ended()
    assert len(world.context.live.closed) == 2
    assert isinstance(await refused(world, peers[0]), SessionExpired)
    again = await (await back(world, peers[1], last_server_seq=1)).ended()
    assert list(told(again)) == [2]


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
        assert world.sample("resumes_total", origin="none", outcome="SESSION_EXPIRED") == 1


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
