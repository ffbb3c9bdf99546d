"""What an annotated video is, whatever it is stored as."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from masklet.errors import DatasetError
from masklet.training.clip import Clip
from masklet.types import ImageArray, MaskArray


class VideoSequence(Protocol):
    """One video with masks on some or all of its frames; reads from disk when asked."""

    @property
    def name(self) -> str:
        """Of the video, unique in its dataset."""
        ...

    @property
    def frame_count(self) -> int:
        """Frames of the video."""
        ...

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The dataset's own ids, rising."""
        ...

    @property
    def annotated_frames(self) -> tuple[int, ...]:
        """Indices of the frames that have masks, rising."""
        ...

    @property
    def annotated_count(self) -> int:
        """How many frames have masks, told without reading much; `annotated_frames` decides where it disagrees."""
        ...

    def frame(self, index: int) -> ImageArray:
        """[H, W, 3] uint8 RGB; the same size for all frames.

        Raises:
            DatasetError: the frame cannot be decoded, or is of another size than the first.
        """
        ...

    def masks(self, index: int) -> MaskArray | None:
        """[N, H, W] bool in the order of `object_ids`; None: the frame is not annotated.

        Raises:
            DatasetError: the annotation cannot be decoded, or is of another size than the frames.
        """
        ...


def sample_clip(sequence: VideoSequence, *, start: int, stride: int, frames: int) -> Clip:
    """Annotated frames `start`, `start` + `stride`, ... of a sequence; other frames do not count.

    Args:
        sequence: where from.
        start: place among the annotated frames, from 0.
        stride: steps between frames, at least 1.
        frames: how many, at least 1.

    Raises:
        DatasetError: the sequence has fewer annotated frames, or cannot be read.
    """
    if start < 0 or stride < 1 or frames < 1:
        raise DatasetError(f"start {start}, stride {stride} and frames {frames} must be at least 0, 1 and 1")
    available = sequence.annotated_frames
    last = start + (frames - 1) * stride
    if last >= len(available):
        raise DatasetError(f"{sequence.name} has {len(available)} annotated frames, number {last} was asked for")
    chosen = available[start : last + 1 : stride]
    masks = [found for index in chosen if (found := sequence.masks(index)) is not None]
    return Clip(np.stack([sequence.frame(index) for index in chosen]), np.stack(masks))
