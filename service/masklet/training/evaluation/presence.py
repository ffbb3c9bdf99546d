"""Objects that vanish and come back: are they reported absent, and found again?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from masklet.types import MaskArray

REAPPEARED_AREA_PX = 64
FOUND_ABOVE_IOU = 0.5
FOUND_WITHIN_FRAMES = 5


@dataclass(slots=True)
class Presence:
    """One object's annotated frames, from the one it was prompted on, in order.

    It is absent on a frame if not one pixel of it is visible, and reported absent if the answer has no pixel. It
    reappears on the first frame with `REAPPEARED_AREA_PX` visible pixels or more after it was absent on at least one;
    frames with fewer pixels in between count as neither. It is found again if on that frame or one of the next four
    annotated ones (five in all), before it vanishes once more, its IoU is above `FOUND_ABOVE_IOU`.

    Attributes:
        absent_frames: frames on which it is absent.
        reported_absent: of these, how many are reported absent.
        reappearances: how often it reappears.
        found_again: of these, how often it is found again.
    """

    absent_frames: int = 0
    reported_absent: int = 0
    reappearances: int = 0
    found_again: int = 0
    _gone: bool = False
    _frames_left: int = 0

    def add(self, truth: MaskArray, answer: MaskArray, *, iou: float) -> None:
        """Count the next frame: [H, W] both, and their IoU."""
        area = int(np.count_nonzero(truth))
        if not area:
            self.absent_frames += 1
            self.reported_absent += not answer.any()
            self._gone, self._frames_left = True, 0
            return
        if self._gone and area >= REAPPEARED_AREA_PX:
            self.reappearances += 1
            self._gone, self._frames_left = False, FOUND_WITHIN_FRAMES
        if self._frames_left:
            self._look(iou)

    def _look(self, iou: float) -> None:
        self._frames_left -= 1
        if iou > FOUND_ABOVE_IOU:
            self.found_again += 1
            self._frames_left = 0
