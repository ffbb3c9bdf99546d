from __future__ import annotations

import numpy as np
import pytest

from masklet.config import LimitsConfig
from masklet.errors import BackendError, LimitExceeded, MaskletError, UnknownFrame, UnknownObject
from masklet.session.edits import Edit, PendingEdits
from masklet.session.messages import RemoveObject, Reset
from masklet.types import Prompt


def edits(*, tracked: tuple[int, ...] = (), max_objects: int = 3, max_points: int = 4) -> PendingEdits:
    limits = LimitsConfig(max_objects=max_objects, max_points_per_prompt=max_points)
    pending = PendingEdits(limits, history_frames=2)
    pending.answered(1, 11, tracked)
    return pending


def prompt(object_id: int = 1, clicks: int = 1, *, keep: bool = False) -> Prompt:
    return Prompt.clicks(object_id, [(1, 1)] * clicks, keep_old_points=keep)


def refused(pending: PendingEdits, seq: int, change: Prompt | RemoveObject | Reset) -> dict[int, type[MaskletError]]:
    return {refusal.seq: type(refusal.error) for refusal in pending.fold(Edit(seq, change))}


def test_prompts_wait_in_order() -> None:
    pending = edits()
    assert refused(pending, 2, prompt(2)) == refused(pending, 3, prompt(1)) == {}
    assert [waiting.seq for waiting in pending.prompts] == [2, 3]


def test_removing_a_tracked_object_waits_for_the_next_step() -> None:
    pending = edits(tracked=(1, 2))
    assert refused(pending, 2, RemoveObject(1)) == {}
    assert pending.remove == {1}
    assert refused(pending, 3, RemoveObject(1)) == {3: UnknownObject}


def test_removing_an_object_only_prompted_refuses_its_prompts_and_needs_no_step() -> None:
    pending = edits()
    refused(pending, 2, prompt(7))
    refused(pending, 3, prompt(8))
    assert refused(pending, 4, RemoveObject(7)) == {2: UnknownObject}
    assert (pending.remove, [waiting.seq for waiting in pending.prompts]) == (set(), [3])


def test_removing_and_prompting_again_makes_a_new_object() -> None:
    pending = edits(tracked=(1,))
    refused(pending, 2, RemoveObject(1))
    assert refused(pending, 3, prompt(1)) == {}
    assert (pending.remove, [waiting.seq for waiting in pending.prompts]) == ({1}, [3])


def test_reset_refuses_waiting_prompts_and_forgets_history() -> None:
    pending = edits(tracked=(1,))
    refused(pending, 2, prompt(2))
    assert refused(pending, 3, Reset()) == {2: UnknownObject}
    assert pending.reset
    assert not pending.history
    assert refused(pending, 4, RemoveObject(1)) == {4: UnknownObject}


def test_objects_tracked_and_waiting_count_together() -> None:
    pending = edits(tracked=(1, 2))
    assert refused(pending, 2, prompt(3)) == {}
    assert refused(pending, 3, prompt(4)) == {3: LimitExceeded}
    assert refused(pending, 4, prompt(2)) == {}
    refused(pending, 5, RemoveObject(1))
    assert refused(pending, 6, prompt(4)) == {}


def test_points_kept_count_towards_the_limit() -> None:
    pending = edits()
    assert refused(pending, 2, prompt(1, 3)) == {}
    assert refused(pending, 3, prompt(1, 2, keep=True)) == {3: LimitExceeded}
    assert refused(pending, 4, prompt(1, 4)) == {}


def test_points_kept_count_across_corrections() -> None:
    pending = edits(tracked=(1,))
    pending.corrected(1, 1, pending.check_correction(prompt(1, 3, keep=True), 1))
    with pytest.raises(LimitExceeded, match="5 points"):
        pending.check_correction(prompt(1, 2, keep=True), 1)


def test_only_the_last_frames_may_be_corrected() -> None:
    pending = edits(tracked=(1,))
    pending.answered(5, None, (1,))
    pending.answered(6, None, (1,))
    assert list(pending.history) == [5, 6]
    for frame_seq in (1, 4, 7):
        with pytest.raises(UnknownFrame, match=r"\(5 to 6\)"):
            pending.check_correction(prompt(), frame_seq)


def test_an_answer_clears_what_it_took() -> None:
    pending = edits(tracked=(1,))
    refused(pending, 2, Reset())
    refused(pending, 3, prompt(2))
    assert len(pending) == 2
    pending.answered(4, 44, (2,))
    assert (len(pending), pending.tracked, pending.history[4].points) == (0, frozenset({2}), {2: 1})


def test_giving_up_refuses_prompts_and_forgets_removals() -> None:
    pending = edits(tracked=(1,))
    refused(pending, 2, RemoveObject(1))
    refused(pending, 3, prompt(2))
    refusals = pending.refuse_all(BackendError("broken"))
    assert [(refusal.seq, str(refusal.error)) for refusal in refusals] == [(3, "broken")]
    assert len(pending) == 0


def test_masks_waiting_are_counted_in_bytes() -> None:
    pending = edits()
    refused(pending, 2, Prompt(1, mask=np.ones((4, 5), bool)))
    refused(pending, 3, prompt(2))
    assert pending.mask_bytes == 20


def test_prompts_of_one_object_for_one_frame_are_bounded() -> None:
    pending = PendingEdits(LimitsConfig(max_prompts_per_object=2), history_frames=2)
    assert [refused(pending, seq, prompt(1)) for seq in (1, 2, 3)] == [{}, {}, {3: LimitExceeded}]
    assert refused(pending, 4, prompt(2)) == {}
    pending.answered(7, None, (1, 2))
    assert refused(pending, 5, prompt(1)) == {}
