"""Changes of a clip that leave its truth true."""

from dataclasses import replace

import numpy as np
import pytest

from masklet.errors import ConfigError
from masklet.training.augment import Augmentation, augment
from masklet.training.clip import Clip

STILL = Augmentation(flip=0, reverse=0, min_window=1.0, turn=0, stretch=0, colour=0, grey=0, worsen=0)


def _but(**changes: float) -> Augmentation:
    return replace(STILL, **changes)


@pytest.fixture
def clip() -> Clip:
    """A red box that walks right over dark ground, and a second object that is never there."""
    frames, masks = np.full((5, 90, 120, 3), 20, np.uint8), np.zeros((5, 2, 90, 120), np.bool_)
    for t in range(5):
        masks[t, 0, 30:60, 10 + 15 * t : 40 + 15 * t] = True
        frames[t][masks[t, 0]] = (230, 20, 20)
    return Clip(frames, masks)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


@pytest.mark.parametrize("seed", range(20))
def test_masks_go_where_the_object_goes(clip: Clip, seed: int) -> None:
    settings = Augmentation(colour=0, grey=0, worsen=0)
    changed = augment(clip, np.random.default_rng(seed), size=(64, 80), settings=settings)
    assert changed.frames.shape == (5, 64, 80, 3) and changed.masks.shape == (5, 2, 64, 80)
    for frame, masks in zip(changed.frames, changed.masks, strict=True):
        assert not masks[0].any() or _overlap(frame[..., 0] > 125, masks[0]) > 0.85


def test_an_object_still_shows_on_the_first_frame(clip: Clip) -> None:
    for seed in range(40):
        assert augment(clip, np.random.default_rng(seed), size=(48, 48)).masks[0, 0].mean() > 0.005


def test_same_random_state_same_result(clip: Clip) -> None:
    one, two = (augment(clip, np.random.default_rng(4), size=(48, 64)) for _ in range(2))
    assert np.array_equal(one.frames, two.frames) and np.array_equal(one.masks, two.masks)


def test_reversal_swaps_the_ends(clip: Clip) -> None:
    changed = augment(clip, np.random.default_rng(0), size=(90, 90), settings=_but(reverse=1.0))
    columns = [np.flatnonzero(masks[0].any(axis=0)).mean() for masks in changed.masks]
    assert columns == sorted(columns, reverse=True)


def test_a_flip_turns_the_direction_of_travel(clip: Clip) -> None:
    changed = augment(clip, np.random.default_rng(0), size=(90, 90), settings=_but(flip=1.0))
    columns = [np.flatnonzero(masks[0].any(axis=0)).mean() for masks in changed.masks]
    assert columns == sorted(columns, reverse=True)


def test_grey_has_no_colour_left(clip: Clip) -> None:
    changed = augment(clip, np.random.default_rng(0), size=(64, 64), settings=_but(grey=1.0))
    assert np.ptp(changed.frames.astype(int), axis=-1).max() <= 1


def test_large_sources_are_averaged_and_not_skipped_over() -> None:
    stripes = np.zeros((1, 256, 256, 3), np.uint8)
    stripes[:, :, ::2] = 200
    changed = augment(
        Clip(stripes, np.ones((1, 1, 256, 256), np.bool_)), np.random.default_rng(0), size=(32, 32), settings=STILL
    )
    assert np.abs(changed.frames.astype(int) - 100).max() < 25


def test_a_clip_without_frames_is_refused() -> None:
    empty = Clip(np.zeros((0, 9, 9, 3), np.uint8), np.zeros((0, 1, 9, 9), np.bool_))
    with pytest.raises(ConfigError, match="0 frames"):
        augment(empty, np.random.default_rng(0), size=(32, 32))
