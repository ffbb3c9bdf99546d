from __future__ import annotations

import asyncio

import numpy as np
import pytest

from masklet.errors import LimitExceeded
from masklet.session.edits import Edit
from masklet.session.messages import Frame, Reset
from masklet.session.timeline import Correction, Timeline, WaitingFrame
from masklet.types import DropPolicy, Prompt


def latest(**bounds: int) -> Timeline:
    return Timeline(DropPolicy.LATEST, **{"max_frames": 2, "max_edits": 3} | bounds)


def block(**bounds: int) -> Timeline:
    return Timeline(DropPolicy.BLOCK, **{"max_frames": 2, "max_edits": 3} | bounds)


def frame(seq: int) -> WaitingFrame:
    return WaitingFrame(seq, Frame(b"x"), 0.0)


def edit(seq: int) -> Edit:
    return Edit(seq, Reset())


def drain(timeline: Timeline) -> list[int]:
    entries = []
    while (entry := timeline.pop()) is not None:
        entries.append(entry.seq)
    return entries


def test_latest_keeps_the_newest_frames_and_all_edits_in_order() -> None:
    timeline = latest()
    dropped = [timeline.push_frame(frame(1))]
    timeline.push_edit(edit(2), folded=0)
    dropped += [timeline.push_frame(frame(seq)) for seq in (3, 4)]
    timeline.push_edit(edit(5), folded=0)
    dropped += [timeline.push_frame(frame(6))]
    assert [gone.seq for gone in dropped if gone] == [1, 3]
    assert drain(timeline) == [2, 4, 5, 6]


async def test_block_drops_nothing_and_makes_the_reader_wait() -> None:
    timeline = block()
    assert timeline.push_frame(frame(1)) is None
    await timeline.wait_room()
    timeline.push_frame(frame(2))
    waiting = asyncio.create_task(timeline.wait_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    timeline.pop()
    await asyncio.wait_for(waiting, 1)


async def test_latest_always_has_room() -> None:
    timeline = latest()
    for seq in range(1, 9):
        timeline.push_frame(frame(seq))
    waiting = asyncio.create_task(timeline.wait_room())
    await asyncio.sleep(0)
    assert waiting.done()


def test_under_latest_all_edits_waiting_count_since_any_frame_may_be_dropped() -> None:
    timeline = latest()
    timeline.push_edit(edit(1), folded=0)
    timeline.push_frame(frame(2))
    timeline.push_edit(edit(3), folded=1)
    with pytest.raises(LimitExceeded, match="3 prompts and removals wait for one frame, the limit is 3"):
        timeline.push_edit(edit(4), folded=1)


def test_under_block_edits_count_per_frame() -> None:
    timeline = block()
    for seq in (1, 2, 3):
        timeline.push_edit(edit(seq), folded=0)
    timeline.push_frame(frame(4))
    for seq in (5, 6, 7):
        timeline.push_edit(edit(seq), folded=0)
    with pytest.raises(LimitExceeded):
        timeline.push_edit(edit(8), folded=0)


def test_under_block_edits_that_pile_up_on_one_frame_are_bounded() -> None:
    timeline = block()
    timeline.push_frame(frame(1))
    timeline.push_edit(edit(2), folded=5)
    with pytest.raises(LimitExceeded):
        timeline.push_edit(edit(3), folded=5)


def test_corrections_make_room_when_done() -> None:
    timeline = latest(max_edits=1)
    for seq in range(1, 5):
        timeline.push_edit(Correction(seq, Prompt.clicks(1, [(1, 1)]), 1, 0.0), folded=0)
        assert timeline.pop() is not None


async def test_finishing_wakes_the_taker_and_hands_out_the_rest() -> None:
    timeline = latest()
    waiting = asyncio.create_task(timeline.wait_filled())
    await asyncio.sleep(0)
    assert not waiting.done()
    timeline.finish()
    await asyncio.wait_for(waiting, 1)
    assert timeline.pop() is None


def test_the_next_frame_is_known_and_masks_are_counted() -> None:
    timeline = latest()
    timeline.push_edit(Edit(1, Prompt(1, mask=np.ones((2, 3), bool))), folded=0)
    timeline.push_edit(Correction(2, Prompt(1, mask=np.ones((2, 3), bool)), 1, 0.0), folded=0)
    timeline.push_frame(frame(3))
    assert timeline.first_frame is not None
    assert (timeline.first_frame.seq, timeline.mask_bytes, timeline.frames_waiting) == (3, 12, 1)
