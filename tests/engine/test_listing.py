"""Which objects a correction lists: in `vos`, where objects do not overlap, those that it changes besides its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.engine.driver import box, click, correction, distance, frame, identical, numbers, painted, step, steps

from masklet.engine import Engine
from masklet.types import MaskArray, Profile, StepResult, TrackSettings

VOS = TrackSettings(Profile.VOS, corrections_as_conditioning=False, fill_hole_area=0, history_frames=4)
ROWS, LEFT, RIGHT, WIDE = slice(8, 32), slice(0, 24), slice(32, 56), slice(0, 40)
TOLERANCE = 1e-3


@pytest.fixture
def vos(engine: Engine) -> Engine:
    """One answered frame in session "v": object 5 to the left, 7 to the right."""
    engine.open("v", VOS)
    return engine


def begun(engine: Engine, name: str = "v") -> StepResult:
    return step(engine, name, frame(1, painted(5, ROWS, LEFT), painted(7, ROWS, RIGHT)))


def ids(result: StepResult) -> list[int]:
    return [found.object_id for found in result.objects]


def shown(*results: StepResult) -> dict[int, MaskArray]:
    """What a client holds that has seen an answer and its revisions."""
    return {found.object_id: found.mask for result in results for found in result.objects}


def overlap(masks: dict[int, MaskArray]) -> int:
    return int((np.sum(list(masks.values()), axis=0) > 1).sum())


def test_an_object_that_loses_pixels_to_a_correction_is_listed_with_it(vos):
    first = begun(vos)
    revised = step(vos, "v", correction(1, painted(5, ROWS, WIDE)))
    assert (ids(revised), revised.revised) == ([5, 7], True)
    now = shown(first, revised)
    assert overlap(now) == 0
    assert now[5][20, 36]
    assert not now[7][20, 36]
    assert shown(first)[7][20, 36]


def test_an_object_that_wins_pixels_by_a_correction_is_listed_with_it(vos):
    before = begun(vos)
    steps(vos, "v", [correction(1, painted(5, ROWS, WIDE))])
    back = step(vos, "v", correction(1, painted(5, ROWS, LEFT)))
    assert ids(back) == [5, 7]
    assert all(np.array_equal(mask, shown(before)[one]) for one, mask in shown(back).items())


def test_a_correction_takes_no_pixels_from_an_object_that_is_surer_of_them(vos):
    first = begun(vos)
    revised = step(vos, "v", correction(1, painted(7, ROWS, slice(16, 56))))  # as sure: the lower id keeps them
    now = shown(first, revised)
    assert overlap(now) == 0
    assert now[5][20, 18]
    assert not now[7][20, 18]
    assert now[7][20, 28]


def test_an_object_that_starts_on_an_answered_frame_is_no_exception(vos):
    first = begun(vos)
    revised = step(vos, "v", correction(1, painted(3, ROWS, slice(16, 28))))
    assert ids(revised) == [3, 5]
    assert overlap(shown(first, revised)) == 0


def test_objects_that_a_correction_does_not_change_are_not_listed(vos):
    begun(vos)
    assert ids(step(vos, "v", correction(1, painted(5, ROWS, slice(0, 16))))) == [5]
    assert ids(step(vos, "v", correction(1))) == []


def test_where_objects_may_overlap_a_correction_lists_only_its_own(vos):
    first = begun(vos, "s")
    revised = step(vos, "s", correction(1, painted(5, ROWS, WIDE)))
    assert ids(revised) == [5]
    assert overlap(shown(first, revised)) > 0


def test_what_is_said_about_objects_listed_along_is_what_was_said_before(vos):
    begun(vos)
    tracked = step(vos, "v", frame(2))
    revised = step(vos, "v", correction(2, painted(5, slice(0, 40), slice(0, 56))))
    assert ids(revised) == [5, 7]
    assert np.array_equal(numbers(revised.objects[1]), numbers(tracked.objects[1]))
    assert not np.array_equal(revised.objects[1].mask, tracked.objects[1].mask)
    assert overlap(shown(tracked, revised)) == 0


def test_revised_answers_do_not_overlap_however_often_a_frame_is_corrected(vos):
    steps(vos, "v", [frame(1, click(1), box(2, 5, 5, 50, 36), click(3, 30, 20)), frame(2)])
    answers = [step(vos, "v", frame(3))]
    for prompt in (box(1, 0, 0, 40, 40), box(3, 10, 0, 56, 40), painted(2, ROWS, WIDE), click(1, 40, 30, restart=True)):
        answers.append(step(vos, "v", correction(3, prompt)))
        assert overlap(shown(*answers)) == 0
    assert any(len(answer.objects) > 1 for answer in answers[1:])


def test_removed_objects_leave_their_pixels(vos):
    begun(vos)
    step(vos, "v", correction(1, painted(5, ROWS, WIDE)))
    left = step(vos, "v", replace(correction(1, painted(9, slice(0, 4), slice(0, 4))), remove=(5,)))
    assert ids(left) == [7, 9]
    assert left.objects[0].mask[20, 36]


def test_what_others_answered_changes_no_memory(vos):
    vos.open("alone", VOS)
    begun(vos)
    step(vos, "alone", frame(1, painted(5, ROWS, LEFT)))
    for request in (correction(1, painted(5, ROWS, WIDE)), frame(2)):
        together, alone = step(vos, "v", request), step(vos, "alone", request)
        assert distance(replace(together, objects=together.objects[:1]), alone) < TOLERANCE


def test_a_moved_session_lists_the_same(vos, make_engine):
    begun(vos)
    step(vos, "v", frame(2))
    there = make_engine()
    there.import_state("v", vos.export_state("v"))
    wanted = correction(2, painted(5, slice(0, 40), slice(0, 56)))
    moved, stayed = step(there, "v", wanted), step(vos, "v", wanted)
    assert ids(stayed) == [5, 7]
    assert identical(moved, stayed)
