"""Simulated clicks: where a person would click first, and where to correct (SAM 2, section 5 and appendix F.1)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from masklet.codecs.masks import mask_box
from masklet.types import MaskArray

Point = tuple[int, int]
INCLUDE, EXCLUDE = 1, 0


def first_click(mask: MaskArray, random: np.random.Generator | None) -> Point:
    """A click that starts an object.

    Args:
        mask: [H, W], the object.
        random: draws the pixel uniformly; None: the pixel farthest from the boundary, the frame's edge included.

    Returns:
        (x, y) of a pixel inside the mask.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError(f"mask of {mask.shape[0]} x {mask.shape[1]} pixels is empty, so there is nothing to click on")
    return _centre(mask)[0] if random is None else _drawn(mask, random)


def corrective_click(
    truth: MaskArray, answer: MaskArray, random: np.random.Generator | None
) -> tuple[Point, int] | None:
    """A click that corrects an answer, in the larger of two regions: missing pixels and pixels too many.

    Args:
        truth: [H, W], the object.
        answer: [H, W].
        random: draws the pixel uniformly from the region of more pixels. None: the centre (the pixel farthest from the
            boundary) of the region whose centre lies deeper.

    Returns:
        (x, y) and 1 (include) or 0 (exclude); None if nothing is wrong.
    """
    missing, extra = truth & ~answer, answer & ~truth
    if random is not None:
        missed, added = int(np.count_nonzero(missing)), int(np.count_nonzero(extra))
        if not missed + added:
            return None
        return (_drawn(missing, random), INCLUDE) if missed > added else (_drawn(extra, random), EXCLUDE)
    (inside, depth), (outside, excess) = _centre(missing), _centre(extra)
    if not depth + excess:
        return None
    return (inside, INCLUDE) if depth > excess else (outside, EXCLUDE)


def _drawn(mask: MaskArray, random: np.random.Generator) -> Point:
    inside = np.flatnonzero(mask)
    row, column = divmod(int(inside[random.integers(len(inside))]), mask.shape[1])
    return column, row


def _centre(mask: MaskArray) -> tuple[Point, float]:
    """The pixel farthest from the background, and how far that is; depth 0 for an empty mask."""
    box = mask_box(mask)
    if box is None:
        return (0, 0), 0.0
    x_min, y_min, x_max, y_max = box
    padded = np.pad(mask[y_min:y_max, x_min:x_max], 1)
    depth: npt.NDArray[np.float64] = distance_transform_edt(padded)
    row, column = divmod(int(depth.argmax()), padded.shape[1])
    return (column - 1 + x_min, row - 1 + y_min), float(depth[row, column])
