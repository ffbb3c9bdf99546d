"""Clips that look elsewhere for a while, or look on from another view: what targets are found by is then their looks.

Objects that leave on their own come back after a few frames of a short clip, near where they were. In service they come
back after so many that all recent memories and pointers are of their absence, turned, nearer, and somewhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from masklet.training.batch import least_target_area
from masklet.training.clip import Clip
from masklet.types import ImageArray

_OTHER_VIEW_SHARE = 0.6
_BACKWARDS_SHARE = 0.5
_SMALLEST_VIEW = 0.5


def cut_away(clips: Sequence[Clip], share: float, random: np.random.Generator) -> list[Clip]:
    """Some of the clips with a stretch of the next clip's frames in between, where none of their objects is.

    In part of them the frames before or after are a turned window of what they were, and in part of these what comes
    after are the frames of before, backwards, so that targets are there again.

    Args:
        clips: of equal length and square frames of equal size; each has an object that shows on the first frame. With
            fewer than two, or fewer than two frames, nothing is changed.
        share: odds of each clip.
        random: which, and which frames: any number from none to all but the first and the last, each as likely.
    """
    if len(clips) < 2 or len(clips[0].frames) < 2:
        return list(clips)
    return [
        _cut(clip, clips[(number + 1) % len(clips)], random) if random.random() < share else clip
        for number, clip in enumerate(clips)
    ]


def _cut(clip: Clip, other: Clip, random: np.random.Generator) -> Clip:
    length = len(clip.frames)
    elsewhere = int(random.integers(0, length - 1))
    start = int(random.integers(1, length - elsewhere))
    stretch = slice(start, start + elsewhere)
    frames, masks = clip.frames.copy(), clip.masks.copy()
    frames[stretch], masks[stretch] = other.frames[stretch], False
    cut = Clip(frames, masks)
    if elsewhere and random.random() >= _OTHER_VIEW_SHARE:
        return cut
    after = slice(stretch.stop, length)
    if random.random() < _BACKWARDS_SHARE:
        back = [max(0, start - 1 - step) for step in range(length - stretch.stop)]
        frames[after], masks[after] = clip.frames[back], clip.masks[back]
    part = slice(0, start) if random.random() < 0.5 else after
    moved = _seen_otherwise(cut, part, np.random.default_rng(view := int(random.integers(1 << 32))))
    largest = moved.masks[0].sum(axis=(1, 2)).max()
    if largest >= least_target_area(moved.size):
        return moved
    return _seen_otherwise(cut, after, np.random.default_rng(view))  # else nothing would be left to point at


def _seen_otherwise(clip: Clip, part: slice, random: np.random.Generator) -> Clip:
    """Some of the frames by quarters turned, perhaps mirrored, and no more of them than a window, enlarged."""
    side, _ = clip.size
    window = max(1, round(side * random.uniform(_SMALLEST_VIEW, 1.0)))
    top, left = (int(place) for place in random.integers(0, side - window + 1, 2))
    turns, mirrored = int(random.integers(4)), bool(random.random() < 0.5)

    def seen(pixels: ImageArray) -> ImageArray:
        """[H, W] or [H, W, 3] -> uint8."""
        turned = np.rot90(pixels[top : top + window, left : left + window], turns)
        facing = Image.fromarray(np.ascontiguousarray(turned[:, ::-1] if mirrored else turned))
        return np.asarray(facing.resize((side, side), Image.Resampling.BILINEAR))

    frames, masks = clip.frames.copy(), clip.masks.copy()
    for index in range(len(frames))[part]:
        frames[index] = seen(frames[index])
        for mask in masks[index]:
            if mask.any():
                mask[:] = seen(mask.astype(np.uint8) * 255) > 127
    return Clip(frames, masks)
