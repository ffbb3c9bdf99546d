"""A video as a folder of frames beside a folder of annotations: what DAVIS and YouTube-VOS have in common."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from masklet.errors import DatasetError
from masklet.file_order import frame_order
from masklet.training.datasets.stills import (
    FRAME_SUFFIXES,
    are_binary,
    read_annotation,
    read_binary_annotation,
    read_frame,
    still_size,
)
from masklet.types import ImageArray, MaskArray, Size


class FolderSequence:
    """One video: `frames/00000.jpg`, ... and `annotations/00000.png`, ... of the same stems.

    Args:
        frames: folder of frames, in the order of their names.
        annotations: folder of annotations, of some or all frames.
        object_ids: the ids; None: those in all annotations, read when first asked for.
        may_be_binary: annotations of nothing but 0 and 255 show one object, 1; else 255 is void. Which it is, the first
            annotation that shows anything says.

    Raises:
        DatasetError: no frames, no annotations, or an annotation without its frame.
    """

    def __init__(
        self,
        frames: Path,
        annotations: Path,
        *,
        object_ids: tuple[int, ...] | None = None,
        may_be_binary: bool = False,
    ) -> None:
        if annotations.is_dir() and not frames.is_dir():
            raise DatasetError(f"{annotations} has no frames: there is no folder {frames}")
        self._frames = frames_in(frames)
        self.name = frames.name
        self._annotations = place_by_frame(self._frames, annotations)
        self._ids = object_ids
        self._may_be_binary = may_be_binary
        self._size: Size | None = None

    @property
    def frame_count(self) -> int:
        """Frames of the video."""
        return len(self._frames)

    @property
    def size(self) -> Size:
        """(height, width) of the first frame."""
        if self._size is None:
            self._size = still_size(self._frames[0])
        return self._size

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The ids, rising. Raises DatasetError if no annotation has any."""
        if self._ids is None:
            self._ids = (1,) if self._binary else ids_in(self._annotations.values(), self.size)
        return self._ids

    @property
    def annotated_frames(self) -> tuple[int, ...]:
        """Indices of the frames that have an annotation."""
        return tuple(self._annotations)

    @property
    def annotated_count(self) -> int:
        """How many those are."""
        return len(self._annotations)

    def frame(self, index: int) -> ImageArray:
        """[H, W, 3] uint8 RGB."""
        return read_frame(self._frames[index], self.size)

    def masks(self, index: int) -> MaskArray | None:
        """[N, H, W] bool, or None."""
        if index not in self._annotations:
            return None
        read = read_binary_annotation if self._binary else read_annotation
        labels = read(self._annotations[index], self.size)
        return np.stack([labels == object_id for object_id in self.object_ids])

    @cached_property
    def _binary(self) -> bool:
        return self._may_be_binary and are_binary(self._annotations.values(), self.size)


def ids_in(annotations: Iterable[Path], size: Size) -> tuple[int, ...]:
    """All object ids in some annotations, rising.

    Raises:
        DatasetError: there are none, or a file cannot be read or is not of `size`.
    """
    listed = list(annotations)
    found = np.unique(np.concatenate([np.unique(read_annotation(path, size)) for path in listed]))
    ids = tuple(int(value) for value in found if value)
    if not ids:
        raise DatasetError(f"no object in {len(listed)} annotations from {listed[0]} on: all pixels are 0 or void")
    return ids


def frames_in(folder: Path) -> list[Path]:
    """A video's frames by name, numbers as numbers. Raises DatasetError if there are none."""
    found = _stills(folder, FRAME_SUFFIXES)
    if not found:
        raise DatasetError(f"{folder} holds no frames ({', '.join(FRAME_SUFFIXES)})")
    return found


def place_by_frame(frames: list[Path], folder: Path) -> dict[int, Path]:
    """The annotations in a folder by the index of the frame of the same stem, rising.

    Raises:
        DatasetError: there are none, or one has no frame.
    """
    annotations = _stills(folder, (".png",))
    if not annotations:
        raise DatasetError(f"{folder} holds no annotations (.png) for the {len(frames)} frames")
    places = {frame.stem: index for index, frame in enumerate(frames)}
    lost = [path for path in annotations if path.stem not in places]
    if lost:
        raise DatasetError(
            f"{lost[0]} has no frame of its name: {len(lost)} of {len(annotations)} annotations are without,"
            f" {frames[0].parent} holds {len(frames)} frames"
        )
    return {places[path.stem]: path for path in annotations}


def folders_in(folder: Path) -> list[Path]:
    """By name. Raises DatasetError if there is no such folder, or none in it."""
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    found = sorted(path for path in folder.iterdir() if path.is_dir())
    if not found:
        raise DatasetError(f"{folder} holds no folders")
    return found


def _stills(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in suffixes), key=frame_order)
