"""What sessions count: state that is lost, masks, limits, refusals."""

from __future__ import annotations

from tests.session.conftest import BLOCKING, FRAME, MakeWorld, click
from tests.session.returning import Clock, gone, made, refused

from masklet.backends.fake import FakeBackend, Fault
from masklet.config import LimitsConfig
from masklet.errors import SessionStateLost
from masklet.session.messages import Result


async def test_a_session_whose_memory_is_gone_is_counted(make_world: MakeWorld) -> None:
    world = await make_world([Fault(SessionStateLost("the bank is gone"), step=1)])
    peer = await world.opened(BLOCKING)
    peer.send(FRAME)
    await peer.ended()
    assert world.sample("session_state_lost_total", when="tracking") == 1
    assert world.sample("stream_closed_total", reason="SESSION_STATE_LOST") == 1


async def test_a_resume_that_finds_no_memory_is_counted() -> None:
    async with FakeBackend() as backend:
        first, second = made(backend, Clock()), made(backend, Clock())
        peer = await first.opened(BLOCKING)
        await gone(first)
        await refused(second, peer)
    assert second.sample("session_state_lost_total", when="resume") == 1
    assert second.sample("resumes_total", origin="none", outcome="SESSION_STATE_LOST") == 1


async def test_a_session_that_ends_well_has_lost_nothing(make_world: MakeWorld) -> None:
    world = await make_world()
    peer = await world.opened(BLOCKING)
    await peer.vanish()
    await gone(world)
    assert [world.sample("session_state_lost_total", when=when) for when in ("tracking", "resume")] == [0, 0]


async def test_masks_are_counted_by_object_and_frame(make_world: MakeWorld) -> None:
    world = await make_world(limits=LimitsConfig(max_sessions=7))
    peer = await world.opened(BLOCKING)
    for body in (click(1), click(2), FRAME, FRAME, FRAME):
        peer.send(body)
    await peer.until(Result, 3)
    assert world.sample("object_frames_total") == 6
    assert world.sample("sessions_limit") == 7
