"""The procedural clip: deterministic, exact masks, real occlusion, fast enough."""

import time

import numpy as np
import pytest

from masklet.training.clip import Clip
from masklet.training.showcase import synthesize


@pytest.fixture(scope="module")
def clip() -> Clip:
    return synthesize(7, frames=96, size=(180, 320), objects=4)


def test_shapes_and_types(clip: Clip) -> None:
    assert clip.frames.shape == (96, 180, 320, 3) and clip.frames.dtype == np.uint8
    assert clip.masks.shape == (96, 4, 180, 320) and clip.masks.dtype == np.bool_


def test_same_seed_same_clip_and_other_seed_other_clip() -> None:
    first, again, other = (synthesize(seed, frames=3, size=(64, 96), objects=2) for seed in (1, 1, 2))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.frames, other.frames)


def test_visible_masks_never_overlap(clip: Clip) -> None:
    assert clip.masks.sum(axis=1).max() == 1


def test_every_object_shows_on_the_first_frame(clip: Clip) -> None:
    assert [clip.first_visible(index) for index in range(4)] == [0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(6))
def test_rear_object_is_hidden_halfway_and_seen_before_and_after(seed: int) -> None:
    area = synthesize(seed, frames=48, size=(120, 200), objects=3).masks[:, 0].sum(axis=(1, 2))
    assert area[24] == 0
    assert area[:20].max() > 200 and area[28:].max() > 200


def test_objects_move(clip: Clip) -> None:
    columns = np.arange(320)
    centres = [(clip.masks[t, 2].sum(axis=0) * columns).sum() / clip.masks[t, 2].sum() for t in (0, 12, 24)]
    assert np.abs(np.diff(centres)).min() > 2


def test_mask_marks_pixels_that_differ_from_the_background(clip: Clip) -> None:
    frame, mask = clip.frames[0].astype(float), clip.masks[0, 1]
    saturation = frame.max(-1) - frame.min(-1)
    assert saturation[mask].mean() > 2 * saturation[~clip.masks[0].any(0)].mean()


def test_object_that_never_shows_has_no_first_frame() -> None:
    clip = Clip(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 1, 8, 8), np.bool_))
    assert clip.first_visible(0) is None


@pytest.mark.parametrize("bad", [{"frames": 0}, {"objects": 0}, {"size": (8, 100)}])
def test_senseless_arguments_are_named(bad: dict) -> None:
    with pytest.raises(ValueError, match="need frames >= 1"):
        synthesize(0, **bad)


def test_draws_far_faster_than_ten_frames_a_second() -> None:
    started = time.process_time()
    synthesize(3, frames=24, size=(360, 640))
    assert 24 / (time.process_time() - started) > 10
