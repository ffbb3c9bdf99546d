"""Prompts, corrections, removals and resets on a stream, in the order sent."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from tests.session.conftest import BLOCKING, FRAME, SIZE, MakeWorld, World, click

from masklet.backends.fake import Fault
from masklet.config import LimitsConfig, SessionConfig
from masklet.errors import BackendError, LimitExceeded, UnknownFrame, UnknownObject
from masklet.session.messages import Close, Frame, PromptApplied, PromptFor, RemoveObject, RequestFailed, Reset, Result
from masklet.types import ObjectState, Prompt


async def test_a_correction_revises_an_answered_frame(world: World) -> None:
    peer = await world.opened(BLOCKING)
    peer.send(click(1, 8, 8))
    first = peer.send(Frame(FRAME.payload, capture_time_ns=123))
    for body in (click(2, 16, 8), FRAME):
        peer.send(body)
    seq = peer.send(click(1, 4, 4, frame_seq=first))
    peer.send(FRAME)
    await peer.until(Result, 4)
    revised = peer.all(Result)[2]
    assert (revised.frame_seq, revised.revised, revised.capture_time_ns) == (first, True, 123)
    assert [(found.object_id, found.box) for found in revised.objects] == [(1, (2, 2, 6, 6))]
    assert peer.all(PromptApplied)[-1] == PromptApplied(seq, first, 1)
    assert [found.box for found in peer.all(Result)[3].objects] == [(4, 2, 8, 6), (15, 6, 19, 10)]


async def test_a_frame_that_left_the_history_cannot_be_corrected(make_world: MakeWorld) -> None:
    world = await make_world(session=SessionConfig(history_frames=2))
    peer = await world.opened(BLOCKING)
    frames = [peer.send(FRAME) for _ in range(3)]
    bad = [peer.send(click(frame_seq=seq)) for seq in (frames[0], 999)]
    good = peer.send(click(frame_seq=frames[1]))
    await peer.until(PromptApplied)
    assert [failed.request_seq for failed in peer.all(RequestFailed)] == bad
    assert {type(failed.error) for failed in peer.all(RequestFailed)} == {UnknownFrame}
    assert peer.all(PromptApplied) == [PromptApplied(good, frames[1], 1)]


async def test_many_corrections_of_a_paused_video_are_all_answered(world: World) -> None:
    peer = await world.opened(BLOCKING)
    frame = peer.send(FRAME)
    await peer.until(Result)
    for number in range(LimitsConfig().max_prompts_per_frame + 10):
        peer.send(click(frame_seq=frame))
        await peer.until(Result, number + 2)
    assert not peer.all(RequestFailed)


async def test_points_kept_over_corrections_are_bounded(make_world: MakeWorld) -> None:
    world = await make_world(limits=LimitsConfig(max_points_per_prompt=2))
    peer = await world.opened(BLOCKING)
    frame = peer.send(FRAME)
    for _ in range(3):
        peer.send(PromptFor(Prompt.clicks(1, [(8, 8)], keep_old_points=True), frame))
    failed = await peer.until(RequestFailed)
    assert isinstance(failed.error, LimitExceeded)
    assert len(peer.all(PromptApplied)) == 2


async def test_a_removal_takes_effect_in_order(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for body in (click(1), click(2), FRAME, RemoveObject(1), FRAME, Close()):
        peer.send(body)
    await peer.ended()
    shown = [[found.object_id for found in result.objects] for result in peer.all(Result)]
    assert shown == [[1, 2], [2]]


async def test_removing_what_is_not_there_is_an_error(world: World) -> None:
    peer = await world.opened(BLOCKING)
    seq = peer.send(RemoveObject(5))
    failed = await peer.until(RequestFailed)
    assert (failed.request_seq, type(failed.error)) == (seq, UnknownObject)


async def test_removing_an_object_only_prompted_refuses_the_prompt(world: World) -> None:
    peer = await world.opened(BLOCKING)
    prompt = peer.send(click(3))
    for body in (RemoveObject(3), FRAME):
        peer.send(body)
    result = await peer.until(Result)
    assert result.objects == ()
    assert [(failed.request_seq, type(failed.error)) for failed in peer.all(RequestFailed)] == [(prompt, UnknownObject)]


async def test_a_removed_object_can_be_prompted_anew(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for body in (click(1, 8, 8), FRAME, RemoveObject(1), click(1, 4, 4), FRAME):
        peer.send(body)
    (found,) = (await peer.until(Result, 2)).objects
    assert (found.box, found.state) == ((2, 2, 6, 6), ObjectState.VISIBLE)


async def test_an_object_removed_while_absent_and_prompted_anew_has_not_reappeared(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for body in (click(1, 23, 8), FRAME, FRAME, FRAME, FRAME, RemoveObject(1), click(1, 8, 8), FRAME):
        peer.send(body)
    await peer.until(Result, 5)
    states = [result.objects[0].state for result in peer.all(Result)[-2:]]
    assert states == [ObjectState.ABSENT, ObjectState.VISIBLE]


async def test_an_object_reset_while_absent_has_not_reappeared(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for body in (click(1, 23, 8), FRAME, FRAME, FRAME, FRAME, Reset(), click(1, 8, 8), FRAME):
        peer.send(body)
    (found,) = (await peer.until(Result, 5)).objects
    assert found.state is ObjectState.VISIBLE


async def test_a_removal_is_carried_out_before_a_correction_that_brings_the_object_back(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for body in (click(1, 23, 8), FRAME, FRAME, FRAME, FRAME):
        peer.send(body)
    last = peer.send(FRAME)
    for change in (RemoveObject(1), click(1, 8, 8, frame_seq=last), FRAME):
        peer.send(change)
    await peer.until(Result, 7)
    assert [result.objects[0].state for result in peer.all(Result)[-3:]] == [
        ObjectState.ABSENT,
        ObjectState.VISIBLE,
        ObjectState.VISIBLE,
    ]


async def test_mask_prompts_that_wait_are_bounded_in_bytes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masklet.session.intake.MAX_WAITING_MASK_BYTES", 2 * SIZE[0] * SIZE[1])
    peer = await world.opened(BLOCKING)
    sent = [peer.send(PromptFor(Prompt(number, mask=np.ones(SIZE, bool)))) for number in (1, 2, 3)]
    peer.send(FRAME)
    await peer.until(Result)
    assert [failed.request_seq for failed in peer.all(RequestFailed)] == sent[2:]
    peer.send(PromptFor(Prompt(3, mask=np.ones(SIZE, bool))))
    peer.send(FRAME)
    assert len((await peer.until(Result, 2)).objects) == 3


async def test_reset_forgets_objects_and_history(world: World) -> None:
    peer = await world.opened(BLOCKING)
    peer.send(click(1))
    first = peer.send(FRAME)
    peer.send(Reset())
    late = peer.send(click(1, frame_seq=first))
    for body in (click(2), FRAME):
        peer.send(body)
    result = await peer.until(Result, 2)
    assert [found.object_id for found in result.objects] == [2]
    assert [(failed.request_seq, type(failed.error)) for failed in peer.all(RequestFailed)] == [(late, UnknownFrame)]


async def test_a_correction_that_fails_is_an_error_and_changes_nothing(make_world: MakeWorld) -> None:
    world = await make_world([Fault(BackendError("no"), step=2)])
    peer = await world.opened(BLOCKING)
    peer.send(click(1, 8, 8))
    first = peer.send(FRAME)
    bad = peer.send(click(1, 4, 4, frame_seq=first))
    peer.send(FRAME)
    (found,) = (await peer.until(Result, 2)).objects
    assert found.box == (7, 6, 11, 10)
    assert [failed.request_seq for failed in peer.all(RequestFailed)] == [bad]


async def test_an_object_leaves_is_lost_and_reappears(make_world: MakeWorld) -> None:
    world = await make_world(session=SessionConfig(lost_after_frames=1))
    peer = await world.opened(BLOCKING)
    peer.send(click(1, 23, 8))
    for _ in range(6):
        peer.send(FRAME)
    for body in (click(1, 8, 8), FRAME, FRAME, Close()):
        peer.send(body)
    await peer.ended()
    states = [result.objects[0].state.value for result in peer.all(Result)]
    assert states == ["visible"] * 3 + ["absent"] + ["lost"] * 2 + ["reappeared", "visible"]


async def test_the_registry_shows_the_stream_s_work(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for body in (click(1), FRAME, FRAME, Frame(b"bad")):
        peer.send(body)
    await peer.until(Result, 2)
    await asyncio.sleep(0.01)
    (shown,) = world.context.registry.list()
    assert (shown.objects, shown.frames_answered, shown.frames_dropped, shown.peer) == (1, 2, 1, "test")
