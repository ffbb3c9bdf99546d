import numpy as np
import pytest
from tests.training.evaluation.drawn import ForgetfulTracker, clip_of, forgets_after, sequence_of

from masklet.backends.fake import FakeBackend
from masklet.training.clicks import corrective_click, first_click
from masklet.training.datasets.clip_sequence import ClipSequence
from masklet.training.evaluation import EvaluationSettings, View, evaluate
from masklet.training.metrics import region_similarity

PATHS: tuple[list[int | None], ...] = ([4, 4, 4], [None, 30, 30], [50, 1, 1])


def disc(point: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """What the fake backend makes of a click."""
    y, x = np.mgrid[0.5 : size[0], 0.5 : size[1]]
    mask: np.ndarray = (x - point[0]) ** 2 + (y - point[1]) ** 2 <= (min(size) / 8) ** 2
    return mask


async def test_iou_after_one_click_is_that_of_a_click_on_the_centre():
    clip = clip_of([20, 20, 20])
    sequence, truth = ClipSequence("c", lambda: clip), clip.masks[0, 0]
    async with FakeBackend() as backend:
        report = await evaluate(backend, [sequence], "clicks", settings=EvaluationSettings(clicks=(1,)))
    expected = region_similarity(truth, disc(first_click(truth, None), truth.shape))
    assert 0.3 < expected < 1
    assert report.measures["IoU@1"].value == pytest.approx(expected)


async def test_the_next_click_corrects_the_answer_so_far():
    clip = clip_of([20, 20, 20])
    sequence, truth = ClipSequence("c", lambda: clip), clip.masks[0, 0]
    async with FakeBackend() as backend:
        report = await evaluate(backend, [sequence], "clicks", settings=EvaluationSettings(clicks=(1, 2)))
    answer = disc(first_click(truth, None), truth.shape)
    point, label = corrective_click(truth, answer, None) or ((0, 0), -1)
    assert label == 1
    assert report.measures["IoU@2"].value == pytest.approx(region_similarity(truth, disc(point, truth.shape)))


@pytest.mark.parametrize(("needed", "expected"), [(1, [1, 1, 1]), (2, [0, 1, 1]), (4, [0, 0, 1]), (6, [0, 0, 0])])
async def test_clicks_are_counted_as_a_person_makes_them(needed: int, expected: list[float]):
    clip = clip_of(PATHS[0])
    tracker = ForgetfulTracker(clip, forgets_after(1), clicks_needed=needed)
    report = await evaluate(tracker, [ClipSequence("c", lambda: clip)], "clicks")
    assert [report.measures[f"IoU@{count}"].value for count in (1, 3, 5)] == expected
    assert len(tracker.told) == min(needed, 5)


async def test_objects_are_clicked_on_their_own_first_frames_in_sessions_of_their_own():
    views: list[View] = []
    async with FakeBackend() as backend:
        report = await evaluate(backend, [sequence_of(*PATHS)], "clicks", watch=views.append)
        assert backend.stats().sessions == 0
    assert [score.object_id for score in report.sequences[0].objects] == [1, 2, 3]
    assert [(view.run, view.object_ids) for view in views[::5]] == [("drawn-frame0", (1, 3)), ("drawn-frame1", (2,))]
    assert [view.note for view in views[:5]] == [f"clicks: {count}" for count in range(1, 6)]
