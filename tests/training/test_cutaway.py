from __future__ import annotations

from itertools import pairwise
from unittest import mock

import numpy as np
import pytest
from tests.training.test_source import source

from masklet.training.clip import Clip
from masklet.training.cutaway import cut_away

SIDE = 64


def clips(count: int = 2, frames: int = 8) -> list[Clip]:
    """Clip `n` is of brightness 50 `n`; each of its frames has a square of its own brightness, which is its object."""
    made = []
    for number in range(1, count + 1):
        pictures = np.full((frames, SIDE, SIDE, 3), 50 * number, np.uint8)
        masks = np.zeros((frames, 1, SIDE, SIDE), bool)
        for index in range(frames):
            pictures[index, 20:40, 8:28] += np.uint8(3 * index + 5)
            masks[index, 0, 20:40, 8:28] = True
        made.append(Clip(pictures, masks))
    return made


def of_clip(frame: np.ndarray) -> int:
    """Which clip's frame it is, as far as can be told of one that shows its object alone."""
    return int(np.median(frame)) // 50 if np.median(frame) % 50 == 0 else int(frame.min()) // 50


def elsewhere(clip: Clip, own: int) -> list[int]:
    """The frames that another clip shows."""
    return [index for index, frame in enumerate(clip.frames) if of_clip(frame) != own]


def test_a_stretch_between_first_and_last_frame_shows_the_next_clip_without_the_objects():
    lengths = set()
    for seed in range(80):
        for number, clip in enumerate(cut_away(clips(3), 1.0, np.random.default_rng(seed)), 1):
            away = elsewhere(clip, number)
            lengths.add(len(away))
            if away:
                assert away == list(range(away[0], away[-1] + 1))
                assert away[0] >= 1
                assert away[-1] <= 6
                assert {of_clip(frame) for frame in clip.frames[away]} == {number % 3 + 1}
                assert not clip.masks[away].any()
    assert lengths == {0, 1, 2, 3, 4, 5, 6}


def test_masks_go_where_their_objects_go():
    """Bar the rim, which is blended when a window is enlarged."""
    moved = back = 0
    for seed in range(80):
        for number, clip in enumerate(cut_away(clips(), 1.0, np.random.default_rng(seed)), 1):
            own = [index for index in range(8) if index not in elsewhere(clip, number)]
            levels = []
            for index in own:
                bright = clip.frames[index, :, :, 0].astype(int) - 50 * number
                if bright.max() > 0:
                    assert ((bright > bright.max() / 2) != clip.masks[index, 0]).sum() < 90
                moved += not np.array_equal(clip.masks[index], clips()[0].masks[0])
                levels.append(bright.max())
            assert clip.masks[0].sum() >= 64
            back += any(later < earlier for earlier, later in pairwise(levels) if later > 0)
    assert moved > 100
    assert back > 10


def test_the_clips_given_stay_as_they_are():
    given = clips()
    cut_away(given, 1.0, np.random.default_rng(0))
    for one, other in zip(given, clips(), strict=True):
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.masks, other.masks)


@pytest.mark.parametrize(("count", "frames"), [(1, 8), (2, 1)])
def test_what_is_too_few_is_left_alone(count, frames):
    cut = cut_away(clips(count, frames), 1.0, np.random.default_rng(0))
    assert all(np.array_equal(one.frames, other.frames) for one, other in zip(cut, clips(count, frames), strict=True))


def test_a_share_of_the_clips_is_cut():
    random = np.random.default_rng(0)
    cut = [
        bool(elsewhere(clip, number))
        for _ in range(200)
        for number, clip in enumerate(cut_away(clips(), 0.3, random), 1)
    ]
    assert 0.2 < np.mean(cut) < 0.4


def test_steps_are_cut_as_their_stage_says_and_images_are_not(monkeypatch):
    cutting = mock.Mock(side_effect=cut_away)
    monkeypatch.setattr("masklet.training.source.cut_away", cutting)
    steps, _ = source(steps=12, frames=6, image_share=0.4, cutaways=0.7)
    drawn = [len(steps[step].batch.frames) for step in range(12)]
    assert set(drawn) == {1, 6}
    given = [(share, len(clips[0].frames)) for clips, share, _ in (call.args for call in cutting.call_args_list)]
    assert given == [(0.7, frames) for frames in drawn]
    without, _ = source(steps=12, frames=6)
    _ = without[0]
    assert cutting.call_count == 12
