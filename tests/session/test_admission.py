"""Load: who is refused at `open`, which prompts are, and that nobody who was admitted ever is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.session.conftest import BLOCKING, FRAME, OPEN, SIZE, MakeWorld, Peer, World, click

from masklet.codecs.frames import encode_frame
from masklet.config import LimitsConfig, RoutingConfig
from masklet.errors import OverCapacity
from masklet.session.image import segment_image
from masklet.session.messages import Close, Open, Opened, PromptApplied, RemoveObject, RequestFailed, Result
from masklet.types import FrameCodec, Prompt, StateOrigin

TEN = RoutingConfig(capacity_object_frames_s=10.0, reserved_object_frames_s=3.0)
FOUR_HZ = replace(BLOCKING, target_frame_rate_hz=4.0)


@pytest.fixture
async def full(make_world: MakeWorld) -> World:
    """Two sessions of 4 frames/s where there is room for 10."""
    world = await make_world(routing=TEN)
    for _ in range(2):
        await world.opened(FOUR_HZ)
    return world


async def turned_away(world: World, wanted: Open) -> OverCapacity:
    peer = world.peer().start()
    peer.send(wanted)
    await peer.ended()
    assert isinstance(peer.error, OverCapacity)
    return peer.error


async def test_a_newcomer_without_room_is_told_what_is_asked_and_when_to_come_back(full: World) -> None:
    error = await turned_away(full, FOUR_HZ)
    assert str(error).startswith("4.0 objects x frames/s more are asked for; 8.0 of 10.0 are taken. Come again later")
    assert error.retry_after_s == 2.0
    assert full.sample("sessions_rejected_total", reason="OVER_CAPACITY") == 1
    assert full.sample("sessions_rejected_total", reason="ADMISSION_REFUSED") == 0
    assert (len(full.context.registry), full.sample("session_duration_seconds_count")) == (2, 0)


async def test_a_newcomer_with_room_gets_in_beside(full: World) -> None:
    await full.opened(replace(OPEN, target_frame_rate_hz=2.0))
    error = await turned_away(full, OPEN)
    assert "10.0 of 10.0 are taken" in str(error)
    assert len(full.context.registry) == 3


async def test_who_leaves_makes_room(full: World) -> None:
    full.peers[0].send(Close())
    await full.peers[0].ended()
    newcomer = await full.opened(FOUR_HZ)
    assert newcomer.all(Opened)
    assert len(full.context.registry) == 2


async def test_an_image_is_refused_likewise(full: World) -> None:
    payload = encode_frame(FrameCodec.RGB8, np.zeros((*SIZE, 3), np.uint8))
    prompts = [Prompt.clicks(1, [(3, 3)])]
    with pytest.raises(OverCapacity):
        await segment_image(full.context, FrameCodec.RGB8, payload, SIZE, prompts)
    assert full.sample("sessions_rejected_total", reason="OVER_CAPACITY") == 1
    assert len(full.context.registry) == 2


async def test_an_image_with_more_objects_than_have_room_is_refused_and_leaves_nothing(make_world: MakeWorld) -> None:
    world = await make_world(routing=TEN)
    await world.opened(FOUR_HZ)
    payload = encode_frame(FrameCodec.RGB8, np.zeros((*SIZE, 3), np.uint8))
    clicks = [Prompt.clicks(object_id, [(3, 3)]) for object_id in (1, 2, 2, 3, 4, 5, 6, 7)]
    with pytest.raises(OverCapacity):
        await segment_image(world.context, FrameCodec.RGB8, payload, SIZE, clicks)
    assert world.sample("sessions_rejected_total", reason="OVER_CAPACITY") == 1
    assert (len(world.context.registry), world.backend.stats().sessions, world.backend.stats().load) == (1, 1, 4.0)
    objects, _ = await segment_image(world.context, FrameCodec.RGB8, payload, SIZE, clicks[:7])
    assert len(objects) == 6


async def answered(peer: Peer, *prompts: int) -> None:
    """A frame with clicks on these objects."""
    before = len(peer.all(Result))
    for object_id in prompts:
        peer.send(click(object_id))
    peer.send(FRAME)
    await peer.until(Result, before + 1)


async def test_an_object_too_many_is_refused_and_the_session_goes_on(full: World) -> None:
    peer = full.peers[0]
    await answered(peer, 1, 2)
    refused = peer.all(RequestFailed)
    assert [type(one.error) for one in refused] == [OverCapacity]
    assert [one.object_id for one in peer.all(PromptApplied)] == [1]
    await answered(peer, 1)  # what is there may be corrected
    peer.send(RemoveObject(1))
    await answered(peer, 2)  # and be replaced by another
    assert len(peer.all(RequestFailed)) == 1


async def test_a_correction_adds_no_object_without_room(full: World) -> None:
    peer = full.peers[0]
    await answered(peer, 1)
    peer.send(click(2, frame_seq=peer.all(Result)[0].frame_seq))
    assert isinstance((await peer.until(RequestFailed)).error, OverCapacity)


async def test_objects_are_added_while_there_is_room(make_world: MakeWorld) -> None:
    world = await make_world(routing=TEN)
    peer = await world.opened(FOUR_HZ)
    await world.opened(replace(OPEN, target_frame_rate_hz=1.0))
    await answered(peer, 1, 2)
    assert (len(peer.all(PromptApplied)), world.backend.stats().load) == (2, 9.0)


async def test_who_is_alone_may_have_all_objects_it_wants(make_world: MakeWorld) -> None:
    world = await make_world(routing=TEN)
    peer = await world.opened(replace(BLOCKING, target_frame_rate_hz=30.0))
    await answered(peer, 1, 2, 3, 4)
    assert len(peer.all(PromptApplied)) == 4


async def test_a_resumed_session_is_let_in_however_full_it_is(make_world: MakeWorld) -> None:
    world = await make_world(routing=TEN, limits=LimitsConfig(max_sessions=2))
    peer = await world.opened(FOUR_HZ)
    await world.opened(replace(OPEN, target_frame_rate_hz=6.0))
    token = peer.all(Opened)[0].resume_token
    await peer.vanish()
    back = await world.opened(replace(FOUR_HZ, resume_token=token, target_frame_rate_hz=5.0))
    assert back.all(Opened)[0].state_origin is StateOrigin.INTACT
