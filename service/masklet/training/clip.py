"""A clip and the truth about it: what training and evaluation are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from masklet.types import ImageArray, MaskArray, Size


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A clip and the truth about it.

    Attributes:
        frames: [T, H, W, 3] uint8 RGB.
        masks: [T, N, H, W] bool, the visible part of each object; object ids are 1 to N along the second axis.
    """

    frames: ImageArray
    masks: MaskArray

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.frames.shape[1], self.frames.shape[2]

    def resized(self, size: Size) -> Clip:
        """The same in another size: frames bicubic, as the engine resizes them, masks where half a pixel is covered."""
        sides = size[::-1]
        frames = [np.asarray(Image.fromarray(frame).resize(sides, Image.Resampling.BICUBIC)) for frame in self.frames]
        flat = self.masks.reshape(-1, *self.size).astype(np.uint8) * 255
        covered = [np.asarray(Image.fromarray(mask).resize(sides, Image.Resampling.BILINEAR)) > 127 for mask in flat]
        return Clip(np.stack(frames), np.reshape(covered, (*self.masks.shape[:2], *size)))

    def first_visible(self, index: int, *, min_area_px: int = 64) -> int | None:
        """First frame on which object `index` (from 0) shows at least `min_area_px`, or None."""
        shown = np.flatnonzero(self.masks[:, index].sum(axis=(1, 2)) >= min_area_px)
        return int(shown[0]) if len(shown) else None
