"""Regions of photographs."""

import numpy as np

from masklet.training.segments import segment


def _picture() -> np.ndarray:
    """A red disc and a blue box on noisy grey."""
    y, x = np.mgrid[0:120, 0:160]
    picture = np.full((120, 160, 3), 128.0)
    picture[(y - 60) ** 2 + (x - 50) ** 2 < 30**2] = (200, 40, 40)
    picture[40:90, 100:140] = (40, 60, 200)
    return np.clip(picture + np.random.default_rng(0).normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def _best_overlap(labels: np.ndarray, truth: np.ndarray) -> float:
    masks = [labels == number for number in range(1, labels.max() + 1)]
    return max(float((mask & truth).sum() / (mask | truth).sum()) for mask in masks)


def test_things_of_one_colour_are_regions() -> None:
    labels = segment(_picture(), regions=3)
    y, x = np.mgrid[0:120, 0:160]
    assert labels.shape == (120, 160) and labels.dtype == np.uint8
    assert _best_overlap(labels, (y - 60) ** 2 + (x - 50) ** 2 < 30**2) > 0.9
    assert _best_overlap(labels, (y >= 40) & (y < 90) & (x >= 100) & (x < 140)) > 0.9


def test_what_fades_into_its_surroundings_is_no_region() -> None:
    slope = np.linspace(60, 180, 160)[None, :, None]
    assert segment(np.broadcast_to(slope, (120, 160, 3)).astype(np.uint8)).max() == 0


def test_a_picture_of_one_colour_has_no_regions() -> None:
    assert segment(np.full((60, 80, 3), 90, np.uint8)).max() == 0


def test_same_picture_same_regions() -> None:
    assert np.array_equal(segment(_picture()), segment(_picture()))
