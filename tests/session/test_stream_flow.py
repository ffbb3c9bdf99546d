"""Frames that come too fast, clients that do not read, streams sent away: what is dropped, and that it is said."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from tests.session.conftest import BLOCKING, FRAME, OPEN, MakeWorld, Peer, World, click

from masklet.backends.fake import Delay, Hold
from masklet.codecs.frames import decode_frame
from masklet.config import LimitsConfig, SessionConfig
from masklet.errors import IdleTimeout, LimitExceeded, ServerDraining
from masklet.session.messages import (
    Close,
    Dropped,
    GoAway,
    Open,
    Ping,
    Pong,
    PromptApplied,
    RequestFailed,
    Result,
    ServerMessage,
)
from masklet.session.stream import MAX_UNSENT_MESSAGES, MAX_UNSENT_RESULTS
from masklet.types import DropReason, FrameCodec, ImageArray, Size


async def step_begun(world: World, number: int = 1) -> None:
    async with asyncio.timeout(5):
        while world.backend.steps_started < number:
            await asyncio.sleep(0.001)


async def all_read(peer: Peer) -> None:
    """Waits until the stream has read all that was sent: it answers a ping only then."""
    peer.send(Ping(99))
    async with asyncio.timeout(5):
        while Pong(99) not in peer.bodies:
            await asyncio.sleep(0.001)


async def held(make_world: MakeWorld, wanted: Open = OPEN, **config: object) -> tuple[World, Peer, asyncio.Event, int]:
    """A stream whose first frame is in inference until the event is set."""
    release = asyncio.Event()
    world = await make_world([Hold(release, step=1)], **config)
    peer = await world.opened(wanted)
    seq = peer.send(FRAME)
    await step_begun(world)
    return world, peer, release, seq


async def test_latest_keeps_the_newest_and_reports_the_rest(make_world: MakeWorld) -> None:
    world, peer, release, first = await held(make_world)
    sent = [peer.send(FRAME) for _ in range(10)]
    await all_read(peer)
    assert peer.all(Dropped) == [Dropped(seq, DropReason.QUEUE_FULL) for seq in sent[:-2]]
    assert world.sample("frame_queue_depth") == 2
    release.set()
    peer.send(Close())
    await peer.ended()
    assert [result.frame_seq for result in peer.all(Result)] == [first, *sent[-2:]]


async def test_block_loses_nothing_and_stops_reading(make_world: MakeWorld) -> None:
    _, peer, release, first = await held(make_world, BLOCKING)
    sent = [peer.send(FRAME) for _ in range(10)]
    peer.send(Close())
    await asyncio.sleep(0.05)
    assert peer.requests_read == 2 + 4
    release.set()
    await peer.ended()
    assert [result.frame_seq for result in peer.all(Result)] == [first, *sent]


async def test_frames_too_old_when_their_turn_comes_are_stale(make_world: MakeWorld) -> None:
    _, peer, release, _ = await held(make_world, replace(OPEN, max_staleness_s=5.0))
    old, fresh = peer.send(FRAME, age_s=6.0), peer.send(FRAME)
    release.set()
    assert (await peer.until(Result, 2)).frame_seq == fresh
    assert peer.all(Dropped) == [Dropped(old, DropReason.STALE)]


async def test_block_knows_no_staleness(make_world: MakeWorld) -> None:
    world = await make_world()
    peer = await world.opened(replace(BLOCKING, max_staleness_s=0.1))
    old = peer.send(FRAME, age_s=6.0)
    assert (await peer.until(Result)).frame_seq == old
    assert not peer.all(Dropped)


async def test_prompts_of_dropped_frames_go_to_the_next_answered(make_world: MakeWorld) -> None:
    _, peer, release, _ = await held(make_world)
    prompts = []
    for object_id in (1, 2, 3):
        prompts.append(peer.send(click(object_id)))
        last = peer.send(FRAME)
    await all_read(peer)
    release.set()
    await peer.until(Result, 3)
    second_last = last - 2
    assert peer.all(PromptApplied) == [
        PromptApplied(prompts[0], second_last, 1),
        PromptApplied(prompts[1], second_last, 2),
        PromptApplied(prompts[2], last, 3),
    ]


async def test_a_prompt_does_not_reach_frames_sent_before_it(make_world: MakeWorld) -> None:
    _, peer, release, first = await held(make_world)
    second = peer.send(FRAME)
    prompt = peer.send(click())
    third = peer.send(FRAME)
    release.set()
    await peer.until(Result, 3)
    assert [(result.frame_seq, len(result.objects)) for result in peer.all(Result)] == [
        (first, 0),
        (second, 0),
        (third, 1),
    ]
    assert peer.all(PromptApplied) == [PromptApplied(prompt, third, 1)]


async def test_too_many_prompts_for_one_frame_are_refused(make_world: MakeWorld) -> None:
    world = await make_world(limits=LimitsConfig(max_prompts_per_frame=3))
    peer = await world.opened()
    sent = [peer.send(click(1)) for _ in range(5)]
    peer.send(FRAME)
    await peer.until(Result)
    assert [failed.request_seq for failed in peer.all(RequestFailed)] == sent[3:]
    assert {type(failed.error) for failed in peer.all(RequestFailed)} == {LimitExceeded}
    assert [applied.prompt_seq for applied in peer.all(PromptApplied)] == sent[:3]


async def test_too_many_objects_are_refused(make_world: MakeWorld) -> None:
    world = await make_world(limits=LimitsConfig(max_objects=2))
    peer = await world.opened()
    sent = [peer.send(click(object_id)) for object_id in (1, 2, 3)]
    peer.send(FRAME)
    result = await peer.until(Result)
    assert [found.object_id for found in result.objects] == [1, 2]
    assert [failed.request_seq for failed in peer.all(RequestFailed)] == sent[2:]


async def test_a_flood_of_bad_prompts_stops_nothing(world: World) -> None:
    peer = await world.opened()
    for _ in range(2000):
        peer.send(click(x=1e9))
    peer.send(FRAME)
    await peer.until(Result)
    assert len(peer.all(RequestFailed)) == 2000


async def test_a_flood_of_frames_is_accounted_for_one_by_one(world: World) -> None:
    peer = await world.opened()
    sent = [peer.send(FRAME) for _ in range(2000)]
    peer.send(Close())
    await peer.ended()
    accounted = [body.frame_seq for body in peer.bodies if isinstance(body, Result | Dropped)]
    assert sorted(accounted) == sent


async def unread(world: World, messages: int, wanted: Open = OPEN) -> Peer:
    """A client that sends frames without end and reads `messages` answers, then no more."""
    peer = world.peer()
    peer.send(wanted)
    for _ in range(2000):
        peer.send(FRAME)

    async def read_a_little() -> None:
        async with aclosing(peer.stream.run(peer.requests())) as answers:
            async for _ in answers:
                nonlocal messages
                messages -= 1
                if messages == 0:
                    await asyncio.Event().wait()

    peer._task = asyncio.create_task(read_a_little())
    before, now = (-1, -1), (0, 0)
    while now != before or 0 in now:
        before = now
        await asyncio.sleep(0.3)
        now = world.backend.steps_started, peer.requests_read
    return peer


async def test_a_client_that_never_reads_stops_inference_and_then_reading(world: World) -> None:
    peer = await unread(world, 1)
    steps, requests = world.backend.steps_started, peer.requests_read
    assert 1 <= steps <= MAX_UNSENT_RESULTS + 1
    assert requests <= MAX_UNSENT_MESSAGES + MAX_UNSENT_RESULTS + 4
    assert peer.stream._session is not None
    assert len(peer.stream._session.outbox) <= MAX_UNSENT_MESSAGES + MAX_UNSENT_RESULTS
    await asyncio.sleep(0.1)
    assert (world.backend.steps_started, peer.requests_read) == (steps, requests)


async def test_results_nobody_reads_stop_inference_under_block_too(world: World) -> None:
    peer = await unread(world, 1, BLOCKING)
    assert world.backend.steps_started == MAX_UNSENT_RESULTS
    assert peer.requests_read == 1 + MAX_UNSENT_RESULTS + SessionConfig().block_queue_frames


async def test_a_client_that_never_reads_stalls_nobody_else(world: World) -> None:
    await unread(world, 1)
    other = await world.opened(BLOCKING)
    sent = [other.send(FRAME) for _ in range(20)]
    await other.until(Result, 20)
    assert [result.frame_seq for result in other.all(Result)] == sent


async def test_a_client_that_never_reads_is_idle_in_the_end(make_world: MakeWorld) -> None:
    world = await make_world(session=SessionConfig(idle_timeout_s=0.1, resume_ttl_s=0))
    await unread(world, 1)
    assert await world.context.registry.wait_empty(5)
    await asyncio.sleep(0)
    assert world.backend.stats().sessions == 0


async def test_a_client_that_vanishes_in_mid_inference_leaves_nothing(make_world: MakeWorld) -> None:
    world, peer, _, _ = await held(make_world, session=SessionConfig(resume_ttl_s=0))
    peer.send(FRAME)
    await all_read(peer)
    await peer.vanish()
    assert len(world.context.registry) == 0
    assert world.backend.stats().sessions == 0
    assert world.sample("frame_queue_depth") == world.sample("streams_active") == 0
    assert world.sample("stream_closed_total", reason="cancelled") == 1


async def test_a_client_that_vanishes_before_open_leaves_nothing(world: World) -> None:
    peer = world.peer().start()
    await asyncio.sleep(0.01)
    await peer.vanish()
    assert world.sample("stream_closed_total", reason="cancelled") == 1


async def test_drain_finishes_what_was_accepted_and_refuses_the_rest(make_world: MakeWorld) -> None:
    world, peer, release, first = await held(make_world)
    accepted = peer.send(FRAME)
    await all_read(peer)
    world.context.registry.drain(5.0)
    goodbye = await peer.until(GoAway)
    late, prompt = peer.send(FRAME), peer.send(click())
    await peer.until(RequestFailed)
    release.set()
    await peer.ended()
    assert 0 < goodbye.deadline_s <= 5.0
    assert peer.all(Dropped) == [Dropped(late, DropReason.DRAINING)]
    assert [failed.request_seq for failed in peer.all(RequestFailed)] == [prompt]
    assert [result.frame_seq for result in peer.all(Result)] == [first, accepted]
    assert isinstance(peer.error, ServerDraining)
    assert peer.error.retry_after_s


async def test_drain_empties_the_registry_and_admits_nobody(world: World) -> None:
    peers = [await world.opened() for _ in range(3)]
    world.context.registry.drain(5.0)
    assert await world.context.registry.wait_empty(2.0)
    newcomer = await world.peer().start().ended()
    for peer in [*peers, newcomer]:
        assert isinstance((await peer.ended()).error, ServerDraining)


async def test_drain_does_not_wait_for_ever(make_world: MakeWorld) -> None:
    world, peer, _, _ = await held(make_world)
    world.context.registry.drain(0.05)
    await peer.ended()
    assert isinstance(peer.error, ServerDraining)
    assert peer.all(Result) == []


async def test_closing_while_draining_ends_normally(make_world: MakeWorld) -> None:
    world, peer, release, _ = await held(make_world)
    world.context.registry.drain(5.0)
    await peer.until(GoAway)
    peer.send(Close())
    await asyncio.sleep(0.01)
    release.set()
    await peer.ended()
    assert (peer.error, len(peer.all(Result))) == (None, 1)


async def test_prompts_waiting_when_a_drain_begins_are_refused(world: World) -> None:
    peer = await world.opened()
    seq = peer.send(click())
    await all_read(peer)
    world.context.registry.drain(5.0)
    await peer.ended()
    assert [(failed.request_seq, type(failed.error)) for failed in peer.all(RequestFailed)] == [(seq, ServerDraining)]


async def test_a_stream_that_grows_too_old_is_sent_away(make_world: MakeWorld) -> None:
    world = await make_world(session=SessionConfig(max_session_age_s=0.05))
    peer = await world.opened()
    await peer.ended()
    assert len(peer.all(GoAway)) == 1
    assert isinstance(peer.error, ServerDraining)
    assert "maximum age of 0.05 s" in str(peer.error)


async def test_a_slow_step_is_not_idleness(make_world: MakeWorld) -> None:
    world = await make_world([Delay(0.3, step=1)], session=SessionConfig(idle_timeout_s=0.1))
    peer = await world.opened()
    peer.send(FRAME)
    await peer.until(Result)
    await peer.ended()
    assert isinstance(peer.error, IdleTimeout)


async def test_the_next_frame_is_decoded_during_inference(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def decode(codec: FrameCodec, payload: bytes, size: Size) -> ImageArray:
        decoded.append(payload)
        return decode_frame(codec, payload, size)

    monkeypatch.setattr("masklet.session.lookahead.decode_frame", decode)
    _, peer, release, _ = await held(make_world)
    peer.send(FRAME)
    await all_read(peer)
    async with asyncio.timeout(5):
        while len(decoded) < 2:
            await asyncio.sleep(0.001)
    assert not peer.all(Result)
    release.set()
    await peer.until(Result, 2)
    assert len(decoded) == 2


async def test_sessions_run_side_by_side(make_world: MakeWorld) -> None:
    world, held_peer, release, _ = await held(make_world)
    other = await world.opened()
    other.send(FRAME)
    await other.until(Result)
    assert not held_peer.all(Result)
    release.set()
    await held_peer.until(Result)


async def test_answers_are_numbered_without_gaps_however_many_are_dropped(world: World) -> None:
    peer = await world.opened()
    for _ in range(50):
        peer.send(FRAME)
    peer.send(Close())
    await peer.ended()
    numbered: list[ServerMessage] = peer.messages
    assert [message.server_seq for message in numbered] == list(range(1, len(numbered) + 1))
