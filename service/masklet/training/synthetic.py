"""Endless synthetic video with exact masks; every clip is a function of its seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from masklet.errors import DatasetError
from masklet.training.assets import AssetBank
from masklet.training.clip import Clip
from masklet.training.look import Look
from masklet.training.plan import plan
from masklet.training.render import draw_frame
from masklet.training.scene import SyntheticSettings

__all__ = ["SyntheticSettings", "SyntheticVideo"]

_MIN_SHARE = 0.01
_MIN_VISIBLE_PX = 24
_ATTEMPTS = 50


class SyntheticVideo:
    """Draws clips from a bank of pictures."""

    def __init__(self, assets: AssetBank, settings: SyntheticSettings) -> None:
        self._assets = assets
        self._settings = settings

    def clip(self, seed: int, frames: Sequence[int] | None = None) -> Clip:
        """The clip number `seed`, or only those of its frames, which are then all that is drawn.

        At least one object shows 1 % of the frame on the first of them.

        Raises:
            DatasetError: the settings, of very small objects, leave no chance of that.
        """
        wanted = range(self._settings.frames) if frames is None else frames
        for attempt in range(_ATTEMPTS):
            clip = self._draw(np.random.default_rng((seed, attempt)), wanted)
            if clip is not None:
                return clip
        raise DatasetError(
            f"no object fills {_MIN_SHARE:.0%} of a synthetic clip's first frame in {_ATTEMPTS} attempts: "
            f"max_share is {self._settings.max_share}, larger objects are needed"
        )

    def _draw(self, random: np.random.Generator, wanted: Sequence[int]) -> Clip | None:
        """A clip, or None if no object shows enough on its first frame."""
        size = self._settings.size
        scene = plan(random, self._assets, self._settings)
        look = Look.draw(random, self._settings.frames, size)
        pictures = np.empty((len(wanted), *size, 3), np.uint8)
        masks = np.empty((len(wanted), scene.targets, *size), np.bool_)
        for index, frame in enumerate(wanted):
            canvas, masks[index] = draw_frame(scene, frame, size)
            if index == 0 and masks[0].sum(axis=(1, 2)).max() < _MIN_SHARE * size[0] * size[1]:
                return None
            pictures[index] = look.taken(random, canvas, frame)
        areas = masks.sum(axis=(2, 3))
        visible_px = min(_MIN_VISIBLE_PX, _MIN_SHARE * size[0] * size[1])
        seen = [i for i in np.argsort(-areas[0]) if areas[:, i].max() >= visible_px]
        return Clip(pictures, masks[:, seen])
