"""What is said about frames already answered, and about objects already tracked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from tests.engine.driver import (
    SIZE,
    box,
    click,
    correction,
    distance,
    frame,
    identical,
    numbers,
    only,
    pages_used,
    painted,
    present,
    step,
    steps,
)

from masklet.engine import Engine
from masklet.errors import InvalidPrompt, UnknownFrame
from masklet.types import ObjectMask, Prompt, PromptMode, StepResult, TrackSettings

TOLERANCE = 1e-3


def opened(engine: Engine, name: str, **changes: Any) -> str:
    engine.open(name, replace(TrackSettings(history_frames=4, fill_hole_area=0), **changes))
    return name


def conditioning(engine: Engine, name: str, object_id: int = 1) -> list[int]:
    return sorted(engine.sessions[name].objects[object_id].bank.conditioning)


def far(one: StepResult, other: StepResult) -> bool:
    """Whether two answers are clearly not the same."""
    return distance(one, other) > 100 * TOLERANCE


def two_clicks(*, restart: bool = False) -> Prompt:
    mode = PromptMode.RESTART if restart else PromptMode.REFINE
    return Prompt.clicks(1, [(12, 16), (30, 20)], [1, 0], mode=mode)


def test_a_click_on_a_tracked_object_is_a_correction_of_that_frame(engine):
    at_once, after = opened(engine, "at once"), opened(engine, "after")
    for name in (at_once, after):
        steps(engine, name, [frame(1, click()), frame(2)])
    found = step(engine, at_once, frame(3, click(1, 30, 12)))
    step(engine, after, frame(3))
    assert distance(found, step(engine, after, correction(3, click(1, 30, 12)))) < TOLERANCE
    assert distance(step(engine, at_once, frame(4)), step(engine, after, frame(4))) < TOLERANCE


def test_a_correction_changes_that_frame_and_the_next_one(engine):
    corrected, left = opened(engine, "corrected"), opened(engine, "left")
    for name in (corrected, left):
        before = step(engine, name, frame(1, click())), step(engine, name, frame(2))
    revised = step(engine, corrected, correction(2, click(1, 40, 30)))
    assert present([revised])
    assert revised.revised
    assert far(revised, before[1])
    assert far(step(engine, corrected, frame(3)), step(engine, left, frame(3)))


def test_the_frame_an_object_started_on_goes_on_without_memory(engine):
    """Two clicks one after the other are as good as in one request, whatever was tracked since."""
    apart, together = opened(engine, "apart"), opened(engine, "together")
    steps(engine, apart, [frame(1, click()), frame(2)])
    found = step(engine, apart, correction(1, click(1, 30, 20, keep=True)))
    assert distance(found, step(engine, together, frame(1, click(), click(1, 30, 20, keep=True)))) < TOLERANCE
    assert conditioning(engine, apart) == conditioning(engine, together) == [0]


@pytest.mark.parametrize("stays", [True, False])
def test_corrections_become_conditioning_frames_if_the_session_wants_it(engine, stays):
    name = opened(engine, "c", corrections_as_conditioning=stays)
    steps(engine, name, [frame(1, click()), frame(2), correction(2, click(1, 20, 20)), frame(3, click(1, 9, 9))])
    assert conditioning(engine, name) == ([0, 1, 2] if stays else [0])
    steps(engine, name, [frame(seq) for seq in range(4, 12)])
    assert conditioning(engine, name) == ([0, 1, 2] if stays else [0])


def test_a_correction_that_does_not_stay_is_forgotten(engine):
    """Its memory after 6 frames; its pointer after 15."""
    kept, forgotten = (opened(engine, n, corrections_as_conditioning=n == "kept") for n in ("kept", "forgotten"))
    for name in (kept, forgotten):
        steps(engine, name, [frame(1, click()), frame(2), correction(2, click(1, 40, 30))])
        steps(engine, name, [frame(seq) for seq in range(3, 9)])
    reads = [engine.sessions[name].objects[1].bank.read(8) for name in (kept, forgotten)]
    assert [read.slots for read in reads] == [[6, 6, 5, 4, 3, 2, 1, 0], [6, 5, 4, 3, 2, 1, 0]]
    assert [sorted(read.distances) for read in reads] == [[*range(1, 9)]] * 2


def test_a_restart_forgets_nothing_but_reads_no_memory(engine):
    restarted, fresh = opened(engine, "restarted"), opened(engine, "fresh")
    steps(engine, restarted, [frame(1, click()), frame(2)])
    found = step(engine, restarted, frame(3, two_clicks(restart=True)))
    assert distance(found, step(engine, fresh, frame(3, two_clicks()))) < TOLERANCE
    assert conditioning(engine, restarted) == [0, 2]
    assert far(step(engine, restarted, frame(4)), step(engine, fresh, frame(4)))


def test_an_answered_frame_may_be_restarted_too(engine):
    restarted, fresh = opened(engine, "restarted"), opened(engine, "fresh")
    steps(engine, restarted, [frame(1, click()), frame(2)])
    found = step(engine, restarted, correction(2, two_clicks(restart=True)))
    expected = step(engine, fresh, frame(2, two_clicks()))
    assert distance(found, expected) < TOLERANCE
    assert conditioning(engine, restarted) == [0, 1]
    assert far(found, step(engine, fresh, correction(2, click())))


def test_an_object_may_start_on_an_answered_frame(engine):
    late, in_time = opened(engine, "late"), opened(engine, "in time")
    steps(engine, late, [frame(1, click(7)), frame(2), frame(3)])
    found = step(engine, late, correction(2, click(2, 20, 20)))
    steps(engine, in_time, [frame(1)])
    assert distance(found, step(engine, in_time, frame(2, click(2, 20, 20)))) < TOLERANCE
    assert [o.object_id for o in step(engine, late, frame(4)).objects] == [2, 7]
    assert conditioning(engine, late, 2) == [1]
    read = engine.sessions[late].objects[2].bank.read(4)
    assert (read.slots, read.distances) == ([6, 0], [3, 1])


def test_a_mask_is_taken_as_given(engine):
    name = opened(engine, "m")
    steps(engine, name, [frame(1, click()), frame(2)])
    given = painted(1, slice(8, 24), slice(16, 40))
    for result in (step(engine, name, correction(2, given)), step(engine, name, frame(3, given))):
        found = only(result)
        assert np.mean(found.mask == given.mask) > 0.97
        assert (found.object_score, found.predicted_iou) == (10.0, 1.0)
        said = numbers(found)[: 16 * 16]
        assert (said.min(), said.max()) == (-10.0, 10.0)


def test_a_mask_of_nothing_says_the_object_is_absent(engine):
    found = only(step(engine, "s", frame(1, painted(1, slice(0, 0), slice(0, 0)))))
    assert (found.object_score, bool(found.mask.any())) == (-10.0, False)
    assert found.pointer is not None
    assert np.array_equal(found.pointer, engine.network.no_obj_ptr[0].numpy())


def test_clicks_refine_a_mask_given_before(engine):
    name, without = opened(engine, "with"), opened(engine, "without")
    step(engine, name, frame(1, painted(1, slice(8, 24), slice(16, 40))))
    step(engine, without, frame(1))
    refined = step(engine, name, correction(1, two_clicks()))
    assert far(refined, step(engine, without, correction(1, two_clicks())))


def test_kept_points_add_up_across_requests_and_replaced_ones_do_not(engine):
    names = [opened(engine, name) for name in ("kept", "at once", "replaced")]
    for name in names:
        steps(engine, name, [frame(1, click()), frame(2)])
    first, second = click(1, 20, 20), click(1, 30, 12)
    kept = steps(engine, "kept", [correction(2, first), correction(2, replace(second, keep_old_points=True))])
    at_once = step(engine, "at once", correction(2, first, replace(second, keep_old_points=True)))
    replaced = steps(engine, "replaced", [correction(2, first), correction(2, second)])
    assert distance(kept[0], replaced[0]) < TOLERANCE
    assert distance(kept[1], at_once) < TOLERANCE
    assert far(kept[1], replaced[1])
    said = {name: engine.sessions[name].objects[1].answers[1].said for name in names}
    assert {name: s.count for name, s in said.items() if s} == {"kept": 2, "at once": 2, "replaced": 1}


def test_a_box_or_a_mask_ends_the_points_said_before(engine):
    name = opened(engine, "b")
    kept = replace(box(1, 5, 5, 30, 30), keep_old_points=True)  # a box begins anew all the same
    step(engine, name, frame(1, click(), kept))
    assert labels_said(engine, name) == [2, 3]
    step(engine, name, correction(1, click(1, 9, 9, keep=True)))
    assert labels_said(engine, name) == [2, 3, 1]
    step(engine, name, correction(1, painted(1, slice(5, 9), slice(5, 9))))
    assert labels_said(engine, name) is None
    step(engine, name, correction(1, click(1, 9, 9, keep=True)))
    assert labels_said(engine, name) == [1]


def labels_said(engine: Engine, name: str) -> list[int] | None:
    said = engine.sessions[name].objects[1].answers[0].said
    return None if said is None else said.labels.tolist()


def test_old_points_are_those_of_the_same_frame_and_object(engine):
    name = opened(engine, "o")
    steps(engine, name, [frame(1, click(1), click(2, 20, 20)), frame(2, click(1, 30, 20, keep=True))])
    assert engine.sessions[name].objects[1].answers[1].said.count == 1


def test_points_and_boxes_are_scaled_to_the_model_s_input(engine):
    name = opened(engine, "p")
    step(engine, name, frame(1, box(1, 0, 10, SIZE[1], SIZE[0]), click(2, SIZE[1] / 2, SIZE[0] / 4)))
    answers = {key: track.answers[0].said.points.tolist() for key, track in engine.sessions[name].objects.items()}
    assert answers == {1: [[0, 16], [64, 64]], 2: [[32, 16]]}


def test_prompts_may_be_read_only(engine):
    prompt = Prompt.clicks(1, [(5, 5)])
    mask = painted(2, slice(3, 9), slice(3, 9))
    for array in (prompt.points, prompt.labels, mask.mask):
        assert array is not None
        array.flags.writeable = False
    assert len(step(engine, "s", frame(1, prompt, mask)).objects) == 2


def test_the_window_is_named_to_who_asks_for_a_frame_outside_it(engine):
    name = opened(engine, "w", history_frames=2)
    steps(engine, name, [frame(10, click()), frame(20), frame(30)])
    for seq in (10, 25, 40):
        with pytest.raises(UnknownFrame, match=f"frame {seq} .* frames 20 to 30"):
            step(engine, name, correction(seq, click()))
    assert step(engine, name, correction(20, click())).revised


def test_without_history_no_frame_can_be_corrected(engine):
    name = opened(engine, "n", history_frames=0)
    steps(engine, name, [frame(1, click()), frame(2)])
    with pytest.raises(UnknownFrame, match="no frames"):
        step(engine, name, correction(2, click()))
    assert present([step(engine, name, frame(3))])


def test_history_changes_nothing_about_later_frames(engine):
    names = [opened(engine, f"h{history}", history_frames=history) for history in (0, 1, 4)]
    for request in (frame(1, click()), frame(2, click(1, 30, 20)), *(frame(seq) for seq in range(3, 12))):
        results = [step(engine, name, request) for name in names]
        assert identical(results[0], results[1])
        assert identical(results[0], results[2])
    banks = [engine.sessions[name].objects[1].bank for name in names]
    assert [sum(e.memory is not None for e in bank.entries()) for bank in banks] == [8, 9, 11]


def test_an_older_frame_is_corrected_with_what_was_remembered_then(engine):
    """What a correction of frame 2 reads does not depend on the frames after it."""
    late, in_time = opened(engine, "late"), opened(engine, "in time")
    steps(engine, late, [frame(1, click()), *(frame(seq) for seq in range(2, 5))])
    steps(engine, in_time, [frame(1, click()), frame(2)])
    one, other = (step(engine, name, correction(2, click(1, 30, 20))) for name in (late, in_time))
    assert distance(one, other) < TOLERANCE


def test_a_correction_without_prompts_answers_nothing_and_changes_nothing(engine):
    steps(engine, "s", [frame(1, click()), frame(2)])
    state = engine.export_state("s")
    empty = step(engine, "s", correction(2))
    assert (empty.objects, empty.revised) == ((), True)
    assert engine.export_state("s") == state


def test_repeated_corrections_take_no_more_pages(engine):
    steps(engine, "s", [frame(1, click()), frame(2)])
    used = pages_used(engine)
    for x in range(5, 15):
        step(engine, "s", correction(2, click(1, x, 10)))
        step(engine, "s", correction(1, click(1, x, 12, keep=True)))
    assert pages_used(engine) == used


def test_a_prompt_that_says_nothing_is_refused(engine):
    with pytest.raises(InvalidPrompt, match="object 5 has no point, box or mask"):
        step(engine, "s", frame(1, Prompt(5)))


def test_a_mask_of_another_size_is_refused_with_both_sizes(engine):
    with pytest.raises(InvalidPrompt, match=r"mask of object 5 is \(9, 8\), the frame is \(40, 56\)"):
        step(engine, "s", frame(1, painted(5, slice(1, 3), slice(1, 3), (9, 8))))


def test_frames_of_one_session_may_differ_in_size(engine):
    steps(engine, "s", [frame(1, click()), frame(2, size=(30, 90))])
    masks: list[ObjectMask] = [only(step(engine, "s", correction(seq, click()))) for seq in (1, 2)]
    assert [found.mask.shape for found in masks] == [SIZE, (30, 90)]
    assert np.isfinite(numbers(masks[1])).all()


def test_a_restart_that_keeps_points_adds_to_them_whether_in_one_request_or_in_two(engine):
    apart, together = opened(engine, "apart"), opened(engine, "together")
    for name in (apart, together):
        steps(engine, name, [frame(1, click()), frame(2)])
    step(engine, apart, correction(2, click(1, 12, 16, restart=True)))
    found = step(engine, apart, correction(2, click(1, 30, 20, restart=True, keep=True)))
    assert [len(engine.sessions[apart].objects[1].answers[1].said.points)] == [2]
    at_once = step(engine, together, correction(2, two_clicks(restart=True)))
    assert distance(found, at_once) > TOLERANCE  # one label differs
    same = Prompt.clicks(1, [(12, 16), (30, 20)], [1, 1], mode=PromptMode.RESTART)
    assert distance(found, step(engine, together, correction(2, same))) < TOLERANCE


@pytest.mark.parametrize(
    ("said", "as_good_as"),
    [
        ([click(1, 30, 20), click(1, 12, 16, restart=True)], [click(1, 12, 16, restart=True)]),
        ([click(1, 30, 20), painted(1, slice(5, 20), slice(8, 30))], [painted(1, slice(5, 20), slice(8, 30))]),
    ],
    ids=["restart", "mask"],
)
def test_what_a_later_prompt_makes_void_is_not_carried_out(engine, monkeypatch, said, as_good_as):
    decode = mock.Mock(side_effect=engine.network.decode)
    monkeypatch.setattr(engine.network, "decode", decode)
    answers, counts = [], []
    for name, prompts in (("all", said), ("last", as_good_as)):
        opened(engine, name)
        steps(engine, name, [frame(1, click()), frame(2)])
        decode.reset_mock()
        answers.append(step(engine, name, frame(3, *prompts)))
        counts.append(decode.call_count)
    assert identical(*answers)
    assert counts[0] == counts[1]


def test_a_restart_before_a_mask_is_still_one(engine):
    name = opened(engine, "marked")
    steps(engine, name, [frame(1, click()), frame(2)])
    step(engine, name, frame(3, click(1, restart=True), painted(1, slice(5, 20), slice(8, 30))))
    assert engine.sessions[name].objects[1].answers[2].initial
