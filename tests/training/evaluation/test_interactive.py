"""Where the simulated person clicks, and what is counted, with a tracker whose answers are known."""

import numpy as np
import pytest
from tests.training.conftest import drifting_squares
from tests.training.evaluation.drawn import ForgetfulTracker, clip_of, forgets_after

from masklet.backends.embedded import EmbeddedBackend
from masklet.config import ModelConfig
from masklet.errors import BackendError
from masklet.training.datasets.clip_sequence import ClipSequence
from masklet.training.evaluation import EvaluationSettings, View, evaluate
from masklet.training.evaluation.one_object import Clicks, Pass, Target
from masklet.training.evaluation.tracking import OFFLINE

TWELVE: list[int | None] = [20] * 12


async def run(mode, clip, tracker, **settings):
    views: list[View] = []
    sequence = ClipSequence("c", lambda: clip)
    chosen = EvaluationSettings(**settings)
    report = await evaluate(tracker, [sequence], mode, settings=chosen, watch=views.append)
    assert tracker.open_sessions == 0
    return report, views


def curve(report) -> list[float]:
    return [tally.value for name, tally in report.measures.items() if name.startswith("J&F@")]


def prompted(tracker) -> dict[int, list[int]]:
    """Prompted frames by session, each once."""
    found: dict[int, list[int]] = {}
    for session, frame, _ in tracker.told:
        if frame not in found.setdefault(session, []):
            found[session].append(frame)
    return found


@pytest.mark.parametrize("mode", ["online", "offline"])
async def test_each_prompted_frame_makes_the_tracker_remember_four_more(mode):
    clip = clip_of(TWELVE)
    tracker = ForgetfulTracker(clip, forgets_after(4))
    report, _ = await run(mode, clip, tracker)
    assert curve(report) == pytest.approx([4 / 12, 8 / 12, 12 / 12])
    assert prompted(tracker) == {1: [0], 2: [0, 4], 3: [0, 4, 8]}


async def test_online_goes_on_as_it_was_once_frames_are_good():
    clip = clip_of(TWELVE)
    tracker = ForgetfulTracker(clip, forgets_after(8))
    report, _ = await run("online", clip, tracker, prompted_frames=5)
    assert curve(report) == pytest.approx([8 / 12, 1, 1, 1, 1])
    assert tracker.sessions == 3  # the third pass finds nothing more to do, the others would be the same


def rows(count: int, *, of: int = 10):
    """Loses `count` of the square's ten rows on one frame of an age, none on others."""
    return lambda truth: truth & (np.arange(truth.shape[0]) < 2 + of - count)[:, None]


def worse_at(frames: dict[int, int]):
    """By age: how many rows are lost."""
    return lambda truth, age: rows(frames.get(age, 0))(truth)


async def test_online_pauses_below_three_quarters_and_offline_at_the_lowest():
    clip = clip_of(TWELVE)
    ages = {2: 2, 5: 3, 7: 6}  # IoU 0.8, 0.7, 0.4
    online, offline = (ForgetfulTracker(clip, worse_at(ages)) for _ in range(2))
    await run("online", clip, online, prompted_frames=2)
    await run("offline", clip, offline, prompted_frames=2)
    assert prompted(online)[2] == [0, 5]
    assert prompted(offline)[2] == [0, 7]


def shown(tracker, session: int) -> list[int]:
    return [frame for one, frame in tracker.shown if one == session]


async def test_offline_shows_prompted_frames_first_so_that_they_help_earlier_ones():
    clip = clip_of([20] * 7)
    tracker = ForgetfulTracker(clip, worse_at({4: 4, 5: 6, 6: 5}))  # frame 5 is the worst, 3 frames around are good
    report, views = await run("offline", clip, tracker, prompted_frames=3)
    assert [shown(tracker, session) for session in (1, 2, 3)] == [
        [0, 1, 2, 3, 4, 5, 6],
        [0, 5, 1, 2, 3, 4, 6],
        [0, 5, 1, 2, 3, 4, 6],  # nothing is wrong any more, so no further frame is prompted
    ]
    assert curve(report)[1:] == [1, 1]
    assert [view.note.split(",")[0] for view in views[7:14]] == [f"frame {index}" for index in range(7)]


async def test_online_shows_every_frame_once_and_in_order():
    clip = clip_of([20] * 7)
    tracker = ForgetfulTracker(clip, worse_at({4: 4, 5: 6}))
    await run("online", clip, tracker, prompted_frames=2)
    assert shown(tracker, 1) == shown(tracker, 2) == list(range(7))


async def offline_pass(backend, target: Target, first: tuple[int, ...], clicks: Clicks) -> tuple[Clicks, np.ndarray]:
    """One that adds clicks on the last of the frames shown first: all clicks, and the answers, [T, H, W]."""
    one = Pass(target, lambda index, iou: index == first[-1] != 0, first, dict(clicks))
    views: list[View] = []
    await one.run(backend, "pass", settings=OFFLINE, watch=views.append)
    return one.clicks, np.concatenate([view.answer for view in views])


async def test_what_a_network_answered_on_prompted_frames_stays_in_later_passes():
    clip = drifting_squares(3, frames=6, objects=1)
    target = Target(ClipSequence("c", lambda: clip), 0, 0, clicks_per_frame=3)
    config = ModelConfig("mini", "random", seed=2, device="cpu", precision="float32", threads=1)
    async with EmbeddedBackend(config) as real:
        clicks, first = await offline_pass(real, target, (0,), {})
        clicks, second = await offline_pass(real, target, (0, 4), clicks)
        clicks, third = await offline_pass(real, target, (0, 4, 2), clicks)
    assert {index: len(made) for index, made in clicks.items()} == {0: 3, 4: 3, 2: 3}
    assert np.array_equal(first[0], second[0]) and np.array_equal(second[[0, 4]], third[[0, 4]])
    assert not np.array_equal(first[1:4], second[1:4])  # what was said on frame 4 was heard on those before


async def test_a_frame_gets_no_more_clicks_than_allowed():
    clip = clip_of(TWELVE)
    tracker = ForgetfulTracker(clip, forgets_after(4), clicks_needed=9)
    report, views = await run("offline", clip, tracker, clicks_per_frame=3, prompted_frames=1)
    assert tracker.told == [(1, 0, 1)] * 3
    assert views[0].note == "frame 0, clicks: 3"
    assert curve(report) == pytest.approx([3 / 12])  # frame 0 stays wrong, 1 to 3 are remembered


async def test_clicks_are_repeated_in_every_pass_as_they_were_made():
    clip = clip_of(TWELVE)
    tracker = ForgetfulTracker(clip, forgets_after(4), clicks_needed=2)
    report, _ = await run("offline", clip, tracker)
    assert [frame for session, frame, _ in tracker.told if session == 3] == [0, 0, 4, 4, 8, 8]
    assert curve(report)[-1] == pytest.approx(1)


@pytest.mark.parametrize("mode", ["online", "offline"])
async def test_nothing_is_clicked_where_the_object_is_not(mode):
    path: list[int | None] = [20, 20, None, None, 20, 20]
    clip = clip_of(path)
    stubborn = ForgetfulTracker(clip, lambda truth, age: np.ones_like(truth))
    report, _ = await run(mode, clip, stubborn)
    assert {frame for _, frame, _ in stubborn.told} <= {0, 1, 4, 5}
    assert report.measures["absent"].value == 0


async def test_objects_are_followed_one_by_one_from_their_own_first_frame():
    clip = clip_of([20] * 6, [None, None, 20, 20, 20, 20])

    class Shifted(ForgetfulTracker):
        async def step(self, session_id, request):
            answer = await super().step(session_id, request)
            assert len({prompt.object_id for prompt in request.prompts}) <= 1
            return answer

    tracker = Shifted(clip, forgets_after(9))
    report, views = await run("offline", clip, tracker, prompted_frames=1)
    assert [view.run for view in views] == ["c-object1-pass1"] * 6 + ["c-object2-pass1"] * 4
    assert len(report.sequences[0].objects) == 2


async def test_a_session_is_closed_when_the_backend_fails():
    clip = clip_of(TWELVE)

    class Failing(ForgetfulTracker):
        async def step(self, session_id, request):
            if request.frame_seq == 3:
                raise BackendError("out of memory on frame 3")
            return await super().step(session_id, request)

    tracker = Failing(clip, forgets_after(4))
    with pytest.raises(BackendError, match="out of memory"):
        await run("online", clip, tracker)
    assert tracker.open_sessions == 0
