"""Sessions that go on at another server of the fleet, over the same backend."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.fronts import Front, Shared
from tests.session.conftest import BLOCKING, FRAME, Peer, World, click
from tests.session.returning import Clock, back, gone, made, refused, server_seqs, told

from masklet.backends.fake import FakeBackend
from masklet.config import SessionConfig
from masklet.errors import (
    AccessDenied,
    ServerDraining,
    SessionStateLost,
    SessionSuperseded,
)
from masklet.session.messages import (
    Dropped,
    GoAway,
    Opened,
    PromptApplied,
    RequestFailed,
    Result,
)
from masklet.types import BankSummary, DropReason, StateOrigin


@pytest.fixture
def shared() -> Shared:
    backend = FakeBackend()
    backend._entered = True
    return Shared(backend)


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


async def test_a_front_that_takes_over_before_any_answer_expects_what_follows_open(shared: Shared) -> None:
    first, second = made(Front(shared)), made(Front(shared))
    peer = await first.opened(BLOCKING)
    again = await back(second, peer)
    assert again.all(Opened)[0].next_seq == 2
    for body in (click(), FRAME):
        again.send(body)
    assert (await again.until(Result)).frame_seq == 3
    assert not again.all(RequestFailed)
    await gone(first, second)


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


async def test_a_front_that_is_full_takes_over_what_others_had_admitted(shared: Shared) -> None:
    first, second = made(Front(shared)), made(Front(shared), max_sessions=1)
    await second.opened(BLOCKING)
    peer = await first.opened(BLOCKING)
    await peer.vanish()
    again = await back(second, peer)
    assert again.all(Opened)[0].state_origin is StateOrigin.INTACT
    again.send(FRAME)
    await again.until(Result)
    assert len(second.context.registry) == 2
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


async def test_a_session_is_as_old_elsewhere_as_it_was(shared: Shared) -> None:
    clock = Clock()
    first, second = made(Front(shared), clock), made(Front(shared), clock)
    second.context = replace(second.context, session=SessionConfig(max_session_age_s=130.0))
    peer = await first.opened(BLOCKING)
    clock.now_s += 100.0
    again = await back(second, peer)
    (shown,) = second.context.registry.list()
    assert shown.age_s == 100.0
    await clock.pass_by(second, 29.0)
    assert not again.all(GoAway)
    await clock.pass_by(second, 1.0)
    assert (await again.until(GoAway)).resume_token == b""
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


class Held(Front):
    """Attaches once released, even if the caller has gone, as the router does."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self.asked, self.release = asyncio.Event(), asyncio.Event()

    async def attach(self, session_id: str, epoch: int, *, location: str = "") -> BankSummary:
        self.asked.set()
        return await asyncio.shield(asyncio.ensure_future(self._attach_late(session_id, epoch, location)))

    async def _attach_late(self, session_id: str, epoch: int, location: str) -> BankSummary:
        await self.release.wait()
        return await super().attach(session_id, epoch, location=location)


async def resumed_and_cut(world: World, peer: Peer, front: Held) -> None:
    """The client comes back, and its connection is lost again before it is answered."""
    again = world.peer().start()
    again.send(replace(BLOCKING, resume_token=peer.all(Opened)[0].resume_token, last_server_seq=1))
    await front.asked.wait()
    await again.vanish()
    assert again.messages == []


async def test_a_resume_cut_half_way_costs_no_answer(shared: Shared) -> None:
    front = Held(shared)
    world = made(front)
    peer = await world.opened(BLOCKING)
    for body in (click(), FRAME, FRAME):
        peer.send(body)
    await peer.until(Result, 2)
    await peer.vanish()
    await resumed_and_cut(world, peer, front)
    front.release.set()
    again = await back(world, peer, last_server_seq=1, unanswered_seqs=(3, 4))
    await again.until(Result, 2)
    assert (list(told(again)), again.all(Dropped)) == ([3, 4], [])
    again.send(FRAME)
    assert (await again.until(Result, 3)).objects[0].box == (8, 6, 12, 10)
    await gone(world)


async def test_a_resume_cut_half_way_owns_nothing_that_went_on_elsewhere(shared: Shared) -> None:
    front = Held(shared)
    first, second = made(front), made(Front(shared))
    peer = await first.opened(BLOCKING)
    peer.send(FRAME)
    await peer.until(Result)
    await peer.vanish()
    await resumed_and_cut(first, peer, front)
    away = await back(second, peer)
    away.send(FRAME)
    await away.until(Result)
    await away.vanish()
    front.release.set()  # refused now
    home = await back(first, away)
    assert home.all(Opened)[0].next_seq == 4
    home.send(FRAME)
    assert (await home.until(Result)).frame_seq == 4
    await gone(first, second)
