"""What a scene is planned of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from masklet.training.assets import AssetBank
from masklet.training.plan import plan
from masklet.training.scene import Scene, SyntheticSettings

CORNERS = {1: (200, 40, 40), 4: (40, 200, 40), 7: (40, 40, 200), 9: (200, 200, 40)}
"""Region numbers of the quarters of a picture, and their colours."""


class Quarters(AssetBank):
    """One picture of four plain quarters, each a region."""

    def __init__(self) -> None:
        picture = np.zeros((160, 200, 3), np.uint8)
        self.labels = np.zeros((160, 200), np.uint8)
        for (number, colour), (y, x) in zip(CORNERS.items(), ((0, 0), (0, 100), (80, 0), (80, 100)), strict=True):
            picture[y : y + 80, x : x + 100], self.labels[y : y + 80, x : x + 100] = colour, number
        super().__init__([Image.fromarray(picture)])

    def segments(self, photo: int) -> np.ndarray:
        assert photo == 0
        return self.labels


def scenes() -> Iterator[Scene]:
    settings = SyntheticSettings(frames=1, size=(96, 96), regions=1.0)
    for seed in range(40):
        scene = plan(np.random.default_rng(seed), Quarters(), settings)
        if scene.regions is not None:
            yield scene


def test_between_two_regions_there_is_no_third() -> None:
    found = [set(np.unique(np.asarray(scene.regions)).tolist()) for scene in scenes()]
    assert len(found) > 20 and any(len(numbers) > 1 for numbers in found)
    assert all(numbers <= set(CORNERS) for numbers in found)


def test_regions_are_where_the_picture_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masklet.training.plan._RECOLOURED_SHARE", 0.0)
    for scene in scenes():
        picture, regions = np.asarray(scene.backdrops[0]).astype(int), np.asarray(scene.regions)
        for number, colour in CORNERS.items():
            alike = np.abs(picture - colour).sum(axis=2) < 60
            assert np.count_nonzero(alike ^ (regions == number)) < 6 * sum(regions.shape)  # rims are blurred
