"""A clip in memory as a video sequence, so that drawn clips are scored like those on disk."""

from __future__ import annotations

from collections.abc import Callable

from masklet.training.clip import Clip
from masklet.types import ImageArray, MaskArray


class ClipSequence:
    """One clip, annotated on every frame; object ids are 1 to N.

    Args:
        name: of the sequence.
        clip: gives the clip, each time it is asked for: whoever makes it decides how long it is kept.
    """

    def __init__(self, name: str, clip: Callable[[], Clip]) -> None:
        self.name = name
        self._clip = clip

    @property
    def frame_count(self) -> int:
        """Frames of the clip."""
        return len(self._clip().frames)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """1 to N."""
        return tuple(range(1, self._clip().masks.shape[1] + 1))

    @property
    def annotated_frames(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(range(self.frame_count))

    @property
    def annotated_count(self) -> int:
        """How many those are."""
        return len(self.annotated_frames)

    def frame(self, index: int) -> ImageArray:
        """[H, W, 3] uint8 RGB."""
        frame: ImageArray = self._clip().frames[index]
        return frame

    def masks(self, index: int) -> MaskArray | None:
        """[N, H, W] bool."""
        masks: MaskArray = self._clip().masks[index]
        return masks
