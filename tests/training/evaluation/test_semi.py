from typing import Any

import numpy as np
import pytest
from tests.training.evaluation.drawn import SparseSequence, clip_of, sequence_of

from masklet.backends.fake import FakeBackend
from masklet.training.evaluation import EvaluationSettings, View, evaluate
from masklet.training.metrics import boundary_accuracy, region_similarity

RIGHT: list[int | None] = list(range(5, 13))
STILL: list[int | None] = [20] * 8


async def scored(sequence, mode="semi", **settings):
    views: list[View] = []
    async with FakeBackend() as backend:
        report = await evaluate(backend, [sequence], mode, settings=EvaluationSettings(**settings), watch=views.append)
        assert backend.stats().sessions == 0
    return report, views


def values(report) -> dict[str, Any]:
    return {name: tally.value for name, tally in report.measures.items()}


async def test_an_object_that_moves_as_the_backend_says_scores_one():
    report, _ = await scored(sequence_of(RIGHT, RIGHT))
    found = values(report)
    assert (found["J"], found["F"], found["J&F"]) == (1, 1, 1)
    assert found["absent"] is None and found["found"] is None


async def test_first_and_last_frame_are_left_out_of_j_and_f():
    report, views = await scored(sequence_of(STILL))
    shifts = range(1, 7)  # the fake moves right by one pixel a frame
    assert values(report)["J"] == pytest.approx(np.mean([(10 - k) / (10 + k) for k in shifts]))
    answers = [(view.truth[0], view.answer[0]) for view in views[1:-1] if view.truth is not None]
    assert values(report)["F"] == pytest.approx(np.mean([boundary_accuracy(*pair) for pair in answers]))
    assert values(report)["J&F"] == pytest.approx((values(report)["J"] + values(report)["F"]) / 2)


async def test_every_object_counts_the_same_over_all_sequences():
    async with FakeBackend() as backend:
        report = await evaluate(backend, [sequence_of(RIGHT, RIGHT, name="a"), sequence_of(STILL, name="b")], "semi")
    still = report.sequences[1].measures["J"].value
    assert still is not None and still < 1
    assert values(report)["J"] == pytest.approx((1 + 1 + still) / 3)
    assert report.sequences[0].measures["J"].value == 1


async def test_an_object_that_comes_later_is_given_on_its_first_frame():
    late = [None, None, *RIGHT[2:]]
    report, views = await scored(sequence_of(RIGHT, late))
    assert values(report)["J"] == 1
    assert not views[1].answer[1].any() and views[2].answer[1].any()


async def test_frames_that_are_not_annotated_are_tracked_but_not_scored():
    clip = clip_of(STILL)
    report, views = await scored(SparseSequence("sparse", lambda: clip))
    assert [view.truth is None for view in views] == [False, True] * 4
    kept = [2, 4]  # 0 is given, 6 is the last annotated
    assert values(report)["J"] == pytest.approx(np.mean([(10 - k) / (10 + k) for k in kept]))


async def test_frames_before_the_first_object_are_not_sent():
    _, views = await scored(sequence_of([None, None, *RIGHT]))
    assert [view.note for view in views] == [f"frame {index}" for index in range(2, 10)]


async def test_an_object_starts_when_it_shows_enough():
    clip = clip_of(RIGHT)
    clip.masks[0, 0, 4:] = False
    report, views = await scored(SparseSequence("few", lambda: clip), min_area_px=64)
    assert views[0].note == "frame 2"
    assert report.sequences[0].objects[0].measures["J"].value == 1


async def test_vanishing_is_reported_and_reappearing_found_where_it_was():
    hidden = [5, 6, None, None, 9, 10, 11, 12]
    report, _ = await scored(sequence_of(hidden))
    assert values(report)["absent"] == 0  # the fake goes on where nothing is to be seen
    assert values(report)["found"] == 1
    assert (report.measures["absent"].count, report.measures["found"].count) == (2, 1)


async def test_leaving_the_frame_is_reported_absent():
    leaving = [50, 51, 52, 53, 54, *range(55, 66)]
    report, _ = await scored(sequence_of(leaving))
    assert report.measures["absent"].count == 2
    assert values(report)["absent"] == 1


@pytest.mark.parametrize("make", [sequence_of, lambda *paths: SparseSequence("s", lambda: clip_of(*paths))])
async def test_the_truth_itself_scores_one(make):
    coming_and_going = [None, None, 5, 9, None, None, 7, 8, 3, 2, 2]
    report, views = await scored(make(coming_and_going, [30, 1, 2, 30, 5, 7, 20, 1, 2, 3, None]), mode="truth")
    found = values(report)
    assert {found[name] for name in ("J&F", "J", "F", "J-recall", "F-recall", "absent", "found")} == {1.0}
    assert all(np.array_equal(view.truth, view.answer) for view in views[2:] if view.truth is not None)


async def test_iou_is_what_the_views_say():
    report, views = await scored(sequence_of(STILL))
    again = [region_similarity(view.truth[0], view.answer[0]) for view in views[1:-1] if view.truth is not None]
    assert values(report)["J"] == pytest.approx(np.mean(again))
