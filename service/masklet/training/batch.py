"""Clips become tensors: which objects of a clip are targets, and what a training step sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masklet.training.clip import Clip
from masklet.types import Size

_MIN_TARGET_SHARE = 0.002
_MIN_TARGET_SIDE_PX = 16


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """B clips of T frames with R targets in all; frames and targets of all clips go through the network together.

    Attributes:
        frames: [T, B, 3, S, S] uint8 RGB.
        masks: [T, R, S, S] bool, the visible part of each target.
        clip_of_row: [R] long, the clip that each target is in.
    """

    frames: Tensor
    masks: Tensor
    clip_of_row: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        """The batch on `device`."""
        return TrainingBatch(
            self.frames.to(device, non_blocking=True),
            self.masks.to(device, non_blocking=True),
            self.clip_of_row.to(device, non_blocking=True),
        )


def collate_clips(clips: Sequence[Clip], *, max_targets: int, random: np.random.Generator) -> TrainingBatch:
    """Choose up to `max_targets` objects per clip that show on its first frame.

    Args:
        clips: of equal length and square frames of equal size; each has an object that shows on the first frame.
        max_targets: objects per clip at most.
        random: chooses the objects.
    """
    frames = np.stack([clip.frames for clip in clips], axis=1)
    chosen = [choose_targets(clip, max_targets, random) for clip in clips]
    masks = np.concatenate([clip.masks[:, rows] for clip, rows in zip(clips, chosen, strict=True)], axis=1)
    return TrainingBatch(
        frames=torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3))),
        masks=torch.from_numpy(np.ascontiguousarray(masks)),
        clip_of_row=torch.repeat_interleave(torch.arange(len(clips)), torch.tensor([len(rows) for rows in chosen])),
    )


def least_target_area(size: Size) -> float:
    """Pixels that a target fills of a frame of `size` to begin with: a cell of the features, or 0.2 % if less."""
    return min(_MIN_TARGET_SIDE_PX**2, _MIN_TARGET_SHARE * size[0] * size[1])


def choose_targets(clip: Clip, limit: int, random: np.random.Generator) -> list[int]:
    """Indices of up to `limit` objects that fill enough of the first frame; the largest one if none does."""
    area = clip.masks[0].reshape(clip.masks.shape[1], -1).sum(axis=1)
    large = np.flatnonzero(area >= least_target_area(clip.size))
    if not len(large):
        return [int(area.argmax())]
    return sorted(int(i) for i in random.permutation(large)[:limit])
