"""Endless synthetic video: a function of its seed, with exact masks, fast enough for training."""

import time
from dataclasses import replace

import numpy as np
import pytest

from masklet.errors import ConfigError, DatasetError
from masklet.training.assets import AssetBank
from masklet.training.synthetic import SyntheticSettings, SyntheticVideo

SMALL = SyntheticSettings(frames=4, size=(64, 96))


@pytest.fixture(scope="module")
def bank() -> AssetBank:
    return AssetBank.procedural()


def test_same_seed_same_clip_and_other_seed_other_clip(bank: AssetBank) -> None:
    first, again, other = (SyntheticVideo(bank, SMALL).clip(seed) for seed in (5, 5, 6))
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize("frames", [1, 2, 3, 9])
def test_shapes_and_types(bank: AssetBank, frames: int) -> None:
    clip = SyntheticVideo(bank, replace(SMALL, frames=frames)).clip(1)
    assert clip.frames.shape == (frames, 64, 96, 3) and clip.frames.dtype == np.uint8
    assert clip.masks.shape[0] == frames and clip.masks.shape[2:] == (64, 96) and clip.masks.dtype == np.bool_


def test_number_of_objects_is_between_one_and_the_limit(bank: AssetBank) -> None:
    video = SyntheticVideo(bank, replace(SMALL, frames=1, max_objects=3))
    numbers = {video.clip(seed).masks.shape[1] for seed in range(40)}
    assert numbers == {1, 2, 3}


def test_every_clip_shows_an_object_on_its_first_frame(bank: AssetBank) -> None:
    video = SyntheticVideo(bank, replace(SMALL, frames=2))
    assert all(video.clip(seed).masks[0].mean(axis=(1, 2)).max() >= 0.01 for seed in range(40))


def test_every_object_shows_on_some_frame_and_no_two_share_a_pixel(bank: AssetBank) -> None:
    for seed in range(15):
        masks = SyntheticVideo(bank, SMALL).clip(seed).masks
        assert masks.any(axis=(0, 2, 3)).all() and masks.sum(axis=1).max() == 1


def test_the_smallest_frames_show_objects_too() -> None:
    video = SyntheticVideo(AssetBank.procedural(), SyntheticSettings(frames=1, size=(32, 32)))
    assert all(video.clip(seed).masks.shape[1] for seed in range(300))


def test_objects_leave_and_come_back(bank: AssetBank) -> None:
    video = SyntheticVideo(bank, replace(SMALL, frames=10, excursion=1.0, max_objects=1))
    shown = [video.clip(seed).masks.max(axis=(1, 2, 3)).tolist() for seed in range(20)]
    assert sum(not all(s) and s[-1] for s in shown) >= 5


def test_copies_that_are_targets_have_masks_of_their_own(bank: AssetBank) -> None:
    settings = replace(SMALL, max_objects=1, regions=0.0, distractor=1.0, look_alikes=3, copied_targets=1.0)
    counts = [SyntheticVideo(bank, settings).clip(seed).masks.shape[1] for seed in range(15)]
    assert max(counts) == 4 and sum(count > 1 for count in counts) >= 10


def test_objects_move(bank: AssetBank) -> None:
    video = SyntheticVideo(bank, replace(SMALL, frames=6))
    clips = [video.clip(seed) for seed in range(8)]
    assert all((clip.masks[0] != clip.masks[-1]).any() for clip in clips)


@pytest.mark.parametrize(
    "bad",
    [
        {"frames": 0},
        {"max_objects": 0},
        {"look_alikes": 0},
        {"size": (16, 100)},
        {"min_share": 0.6},
        {"max_share": 1.0},
    ],
)
def test_senseless_settings_are_named(bad: dict) -> None:
    with pytest.raises(ConfigError, match=r"need|too small"):
        SyntheticSettings(**bad)


def test_objects_too_small_to_start_with_are_one_clear_error(bank: AssetBank) -> None:
    tiny = SyntheticSettings(1, (128, 128), min_share=0.001, max_share=0.002, regions=0.0)
    with pytest.raises(DatasetError, match=r"no object fills 1% .* max_share is 0\.002"):
        SyntheticVideo(bank, tiny).clip(0)


def test_draws_faster_than_training_eats(bank: AssetBank) -> None:
    video = SyntheticVideo(bank, SyntheticSettings())
    for seed in range(5):
        video.clip(seed)
    started = time.process_time()
    for seed in range(10):
        video.clip(seed)
    assert 80 / (time.process_time() - started) > 25
