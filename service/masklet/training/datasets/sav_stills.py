"""SA-V's val and test sets: `JPEGImages_24fps/<video>/*.jpg`, `Annotations_6fps/<video>/<object>/*.png`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from masklet.errors import DatasetError
from masklet.training.datasets.folder_sequence import folders_in, frames_in, place_by_frame
from masklet.training.datasets.stills import read_annotation, read_frame, still_size
from masklet.types import ImageArray, MaskArray, Size

FRAMES_FOLDER = "JPEGImages_24fps"
_ANNOTATIONS_FOLDER = "Annotations_6fps"


def open_sav_stills(root: Path) -> list[SavStillsSequence]:
    """The annotated videos below `root`.

    Raises:
        DatasetError: no videos, or one whose frames or annotations are missing.
    """
    found = folders_in(root / _ANNOTATIONS_FOLDER)
    return [SavStillsSequence(root / FRAMES_FOLDER / folder.name, folder) for folder in found]


class SavStillsSequence:
    """One video; every object has a folder of binary masks of its own.

    Args:
        frames: folder of frames.
        annotations: folder of the objects' folders, named by their ids.

    Raises:
        DatasetError: no frames, an object without masks, or a mask without its frame.
    """

    def __init__(self, frames: Path, annotations: Path) -> None:
        self.name = frames.name
        self._frames = frames_in(frames)
        self._masks = {_object_id(one): place_by_frame(self._frames, one) for one in folders_in(annotations)}
        self._size: Size | None = None

    @property
    def frame_count(self) -> int:
        """Frames of the video."""
        return len(self._frames)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The names of the objects' folders, rising."""
        return tuple(sorted(self._masks))

    @property
    def annotated_frames(self) -> tuple[int, ...]:
        """Frames on which any object has a mask, empty ones included."""
        return tuple(sorted(set().union(*self._masks.values())))

    @property
    def annotated_count(self) -> int:
        """How many those are."""
        return len(self.annotated_frames)

    @property
    def size(self) -> Size:
        """(height, width) of the first frame."""
        if self._size is None:
            self._size = still_size(self._frames[0])
        return self._size

    def frame(self, index: int) -> ImageArray:
        """[H, W, 3] uint8 RGB."""
        return read_frame(self._frames[index], self.size)

    def masks(self, index: int) -> MaskArray | None:
        """[N, H, W] bool; an object without a file for this frame is absent. None: no object has one."""
        paths = [self._masks[object_id].get(index) for object_id in self.object_ids]
        if not any(paths):
            return None
        return np.stack([self._mask(path) for path in paths])

    def _mask(self, path: Path | None) -> MaskArray:
        if path is None:
            return np.zeros(self.size, np.bool_)
        return read_annotation(path, self.size, void=None) > 0


def _object_id(folder: Path) -> int:
    if not folder.name.isdecimal():
        raise DatasetError(f"{folder} is not named by an object's number")
    return int(folder.name)
