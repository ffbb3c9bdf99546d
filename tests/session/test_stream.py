"""A stream's ordinary life: opening, answering, closing, what ends it and what does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from tests.session.conftest import BLOCKING, FRAME, OPEN, SIZE, MakeWorld, World, click

from masklet.backends.fake import Fault
from masklet.codecs.frames import encode_frame
from masklet.codecs.masks import decode_mask
from masklet.config import LimitsConfig, SessionConfig
from masklet.errors import (
    AccessDenied,
    AdmissionRefused,
    BackendUnavailable,
    IdleTimeout,
    InvalidFrame,
    InvalidOpen,
    MaskletError,
    ProtocolViolation,
    SequenceGap,
    SessionClosed,
    SessionStateLost,
    UnknownFrame,
)
from masklet.session.messages import (
    Close,
    Dropped,
    Frame,
    Malformed,
    Open,
    Opened,
    Ping,
    Pong,
    PromptApplied,
    RequestFailed,
    Result,
)
from masklet.types import DropReason, FrameCodec, MaskEncoding, ObjectState, Profile, StateOrigin


async def test_a_click_becomes_a_disc_that_moves_right(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for body in (click(7, 8.0, 8.0), FRAME, FRAME, Close()):
        peer.send(body)
    await peer.ended()
    first, second = (result.objects[0] for result in peer.all(Result))
    assert (first.object_id, first.state, first.area_px) == (7, ObjectState.VISIBLE, 12)
    mask = decode_mask(first.mask, MaskEncoding.BITS, SIZE)
    assert np.array_equal(decode_mask(second.mask, MaskEncoding.BITS, SIZE), np.roll(mask, 1, axis=1))
    assert peer.error is None


async def test_answers_are_numbered_and_acknowledge(world: World) -> None:
    peer = await world.opened()
    peer.send(FRAME)
    await peer.until(Result)
    peer.send(Close())
    await peer.ended()
    assert [message.server_seq for message in peer.messages] == [1, 2]
    assert [message.acked_seq for message in peer.messages] == [1, 2]


async def test_opened_says_what_was_granted(world: World) -> None:
    peer = await world.opened(replace(OPEN, profile=Profile.VOS))
    opened = await peer.until(Opened)
    assert (opened.profile, opened.next_seq, opened.state_origin) == (Profile.VOS, 2, StateOrigin.NEW)
    assert len(opened.session_id) == 32
    assert opened.limits.max_frame_bytes == LimitsConfig().max_frame_bytes


async def test_close_and_half_close_answer_what_was_sent(world: World) -> None:
    for ending in (lambda peer: peer.send(Close()), lambda peer: peer.half_close()):
        peer = await world.opened(BLOCKING)
        for _ in range(6):
            peer.send(FRAME)
        ending(peer)
        await peer.ended()
        assert len(peer.all(Result)) == 6
        assert peer.error is None


async def test_a_stream_without_requests_ends_quietly(world: World) -> None:
    peer = world.peer().start()
    peer.half_close()
    await peer.ended()
    assert (peer.error, peer.bodies) == (None, [])


@pytest.mark.parametrize(
    ("first", "error"),
    [
        (FRAME, ProtocolViolation),
        (Ping(1), ProtocolViolation),
        (Malformed(InvalidOpen("odd")), InvalidOpen),
        (replace(OPEN, codec=FrameCodec.H264), InvalidOpen),
        (replace(OPEN, resume_token=b"t"), AccessDenied),
    ],
)
async def test_a_bad_first_message_ends_the_stream(world: World, first: Open, error: type[MaskletError]) -> None:
    peer = world.peer().start()
    peer.send(first)
    await peer.ended()
    assert type(peer.error) is error
    assert peer.bodies == []
    assert world.sample("stream_closed_total", reason=error.reason) == 1


async def test_silence_before_open_ends_the_stream(make_world: MakeWorld) -> None:
    world = await make_world(session=SessionConfig(first_message_timeout_s=0.02))
    peer = await world.peer().start().ended()
    assert isinstance(peer.error, IdleTimeout)


async def test_one_session_too_many_is_refused(make_world: MakeWorld) -> None:
    world = await make_world(limits=LimitsConfig(max_sessions=1))
    await world.opened()
    peer = world.peer().start()
    peer.send(OPEN)
    await peer.ended()
    assert isinstance(peer.error, AdmissionRefused)
    assert world.sample("sessions_rejected_total", reason="ADMISSION_REFUSED") == 1


async def test_a_second_open_is_an_error_on_a_living_stream(world: World) -> None:
    peer = await world.opened()
    seq = peer.send(OPEN)
    failed = await peer.until(RequestFailed)
    assert (failed.request_seq, type(failed.error)) == (seq, ProtocolViolation)
    peer.send(FRAME)
    await peer.until(Result)


async def test_a_gap_gives_one_error_and_a_repeat_none(world: World) -> None:
    peer = await world.opened()
    peer.send(Ping(1), seq=5)
    peer.send(Ping(2), seq=6)
    peer.send(Ping(3), seq=6)
    peer.send(Ping(4), seq=7)
    await peer.until(Pong, 2)
    (failed,) = peer.all(RequestFailed)
    assert (failed.request_seq, type(failed.error)) == (5, SequenceGap)
    assert peer.all(Pong) == [Pong(2), Pong(4)]
    assert world.sample("requests_repeated_total") == 1


async def test_a_malformed_message_is_answered_with_its_error(world: World) -> None:
    peer = await world.opened()
    seq = peer.send(Malformed(InvalidFrame("odd")))
    failed = await peer.until(RequestFailed)
    assert (failed.request_seq, failed.error.reason) == (seq, "FRAME_INVALID")
    assert peer.all(Dropped) == []


async def test_a_malformed_frame_is_dropped_too(world: World) -> None:
    peer = await world.opened()
    bad = peer.send(Malformed(InvalidFrame("odd"), frame=True))
    good = peer.send(FRAME)
    assert (await peer.until(Result)).frame_seq == good
    assert [failed.request_seq for failed in peer.all(RequestFailed)] == [bad]
    assert peer.all(Dropped) == [Dropped(bad, DropReason.DECODE_ERROR)]
    assert world.sample("frames_received_total", codec="rgb8") == 2
    assert world.sample("frame_results_total", outcome="dropped", reason="decode_error") == 1
    (session,) = world.context.registry.list()
    assert (session.frames_answered, session.frames_dropped) == (1, 1)


async def test_frames_refused_at_once_are_dropped_and_the_stream_goes_on(world: World) -> None:
    peer = await world.opened()
    bad = [peer.send(Frame(payload)) for payload in (b"", b"short", b"x" * (8 * 2**20 + 1))]
    peer.send(FRAME)
    await peer.until(Result)
    assert [failed.error.reason for failed in peer.all(RequestFailed)] == [
        "FRAME_INVALID",
        "FRAME_INVALID",
        "LIMIT_EXCEEDED",
    ]
    assert peer.all(Dropped) == [Dropped(seq, DropReason.DECODE_ERROR) for seq in bad]


async def test_a_body_that_does_not_decode_is_dropped_and_its_prompt_moves_on(world: World) -> None:
    png = encode_frame(FrameCodec.PNG, np.zeros((*SIZE, 3), np.uint8))
    corrupt = png[: len(png) // 2] + bytes(len(png) - len(png) // 2)
    peer = await world.opened(replace(BLOCKING, codec=FrameCodec.PNG))
    prompt_seq, bad_seq, good_seq = peer.send(click()), peer.send(Frame(corrupt)), peer.send(Frame(png))
    await peer.until(Result)
    (failed,) = peer.all(RequestFailed)
    assert (failed.request_seq, type(failed.error)) == (bad_seq, InvalidFrame)
    assert peer.all(Dropped) == [Dropped(bad_seq, DropReason.DECODE_ERROR)]
    assert peer.all(PromptApplied) == [PromptApplied(prompt_seq, good_seq, 1)]


async def test_a_backend_fault_drops_the_frame_and_keeps_its_prompt(make_world: MakeWorld) -> None:
    world = await make_world([Fault(BackendUnavailable("gone for a moment"), step=1)])
    peer = await world.opened(BLOCKING)
    prompt_seq, bad_seq, good_seq = peer.send(click()), peer.send(FRAME), peer.send(FRAME)
    await peer.until(Result)
    (failed,) = peer.all(RequestFailed)
    assert (failed.request_seq, failed.error.reason) == (bad_seq, "BACKEND_UNAVAILABLE")
    assert peer.all(Dropped) == [Dropped(bad_seq, DropReason.BACKEND_ERROR)]
    assert peer.all(PromptApplied) == [PromptApplied(prompt_seq, good_seq, 1)]


async def test_a_fault_of_the_request_refuses_its_prompts(make_world: MakeWorld) -> None:
    world = await make_world([Fault(InvalidFrame("cannot be used"), step=1)])
    peer = await world.opened(BLOCKING)
    prompt_seq, bad_seq, good_seq = peer.send(click()), peer.send(FRAME), peer.send(FRAME)
    result = await peer.until(Result)
    assert {failed.request_seq for failed in peer.all(RequestFailed)} == {prompt_seq, bad_seq}
    assert (result.frame_seq, result.objects) == (good_seq, ())


async def test_a_lost_state_ends_the_stream(make_world: MakeWorld) -> None:
    world = await make_world([Fault(SessionStateLost("the bank is gone"), step=2)])
    peer = await world.opened(BLOCKING)
    for _ in range(4):
        peer.send(FRAME)
    await peer.ended()
    assert isinstance(peer.error, SessionStateLost)
    assert len(peer.all(Result)) == 1


async def test_a_bug_ends_the_stream_as_itself(make_world: MakeWorld) -> None:
    world = await make_world([Fault(ZeroDivisionError("bug"), step=1)])  # type: ignore[arg-type]
    peer = await world.opened()
    peer.send(FRAME)
    await peer.ended()
    assert isinstance(peer.error, ZeroDivisionError)
    assert world.sample("stream_closed_total", reason="INTERNAL") == 1


async def test_an_operator_ends_one_session(world: World) -> None:
    peer, other = await world.opened(), await world.opened()
    opened = await peer.until(Opened)
    world.context.registry.close(opened.session_id)
    await peer.ended()
    assert isinstance(peer.error, SessionClosed)
    other.send(Ping(3))
    await other.until(Pong)


async def test_frames_taken_while_a_session_ends_do_not_stay_in_the_queue_s_depth(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, closing = asyncio.Event(), asyncio.Event()
    world = await make_world()
    really = world.backend.close
    peer = await world.opened()

    async def close(session_id: str) -> None:  # Triton's waits for the frame under way
        closing.set()
        await release.wait()
        await really(session_id)

    monkeypatch.setattr(world.backend, "close", close)
    world.context.registry.close(peer.all(Opened)[0].session_id)
    await asyncio.wait_for(closing.wait(), 20)
    for _ in range(3):
        peer.send(FRAME)
    async with asyncio.timeout(20):
        while peer.requests_read < 4:
            await asyncio.sleep(0.001)
    release.set()
    await peer.ended()
    assert world.sample("frame_queue_depth") == 0


async def test_idleness_ends_the_stream_and_pings_prevent_it(make_world: MakeWorld) -> None:
    world = await make_world(session=SessionConfig(idle_timeout_s=1.5))
    silent, pinging = await world.opened(), await world.opened()
    for nonce in range(5):
        pinging.send(Ping(nonce))
        await pinging.until(Pong, nonce + 1)
        await asyncio.sleep(0.4)
    await silent.ended()
    assert isinstance(silent.error, IdleTimeout)
    assert pinging.error is None


async def test_a_prompt_for_which_no_frame_comes_is_refused_at_the_end(world: World) -> None:
    peer = await world.opened()
    seq = peer.send(click())
    peer.send(Close())
    await peer.ended()
    (failed,) = peer.all(RequestFailed)
    assert (failed.request_seq, type(failed.error)) == (seq, UnknownFrame)


async def test_without_masks_results_carry_boxes_only(world: World) -> None:
    peer = await world.opened(replace(OPEN, mask_encoding=MaskEncoding.NONE))
    peer.send(click())
    peer.send(FRAME)
    (found,) = (await peer.until(Result)).objects
    assert (found.mask, found.box, found.mask_size) == (b"", (6, 6, 10, 10), SIZE)


async def test_logits_come_if_asked_for(world: World) -> None:
    peer = await world.opened(replace(OPEN, with_logits=True))
    peer.send(click())
    peer.send(FRAME)
    (found,) = (await peer.until(Result)).objects
    assert found.logits is not None
    assert found.logits.shape == (16, 16)


async def test_metrics_tell_what_became_of_frames_and_prompts(world: World) -> None:
    peer = await world.opened(BLOCKING)
    for body in (click(), FRAME, Frame(b"bad"), click(x=99), FRAME, Close()):
        peer.send(body)
    await peer.ended()
    assert world.sample("frames_received_total", codec="rgb8") == 3
    assert world.sample("frame_results_total", outcome="answered", reason="none") == 2
    assert world.sample("frame_results_total", outcome="dropped", reason="decode_error") == 1
    assert world.sample("prompts_total", kind="points", outcome="applied") == 1
    assert world.sample("prompts_total", kind="points", outcome="refused") == 1
    assert world.sample("frame_latency_seconds_count") == world.sample("stage_seconds_count", stage="write") == 2
    assert world.sample("frame_queue_depth") == world.sample("streams_active") == 0
    assert world.sample("stream_closed_total", reason="close") == 1
