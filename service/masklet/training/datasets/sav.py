"""SA-V's training set (SAM 2, section 4.2): `<video>.mp4` at 24 frames/s, masks at 6 in `<video>_{manual,auto}.json`.

The files that are read here have, of the published keys, `video_id`, `video_frame_count`, `video_height`,
`video_width`, `masklet_id` [N] and `masklet` [T / 4][N] of COCO run lengths (`size`, `counts`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from masklet.codecs.masks import decode_mask
from masklet.errors import DatasetError, InvalidPrompt
from masklet.training.datasets.sav_stills import FRAMES_FOLDER, SavStillsSequence, open_sav_stills
from masklet.training.datasets.video_frames import VideoFrames
from masklet.types import ImageArray, MaskArray, MaskEncoding, Size

FRAMES_PER_ANNOTATION = 4
_HEAD_BYTES = 4096
_FRAME_COUNT = re.compile(rb'"video_frame_count"\s*:\s*(\d+)')
_KINDS = ("_manual.json", "_auto.json")


def sav_annotations(folder: Path) -> list[Path]:
    """Annotation files in a folder and below, one for each video; manual ones before automatic ones."""
    found: dict[Path, Path] = {}
    for ending in _KINDS:
        for path in sorted(folder.rglob(f"*{ending}")):
            found.setdefault(path.with_name(path.name.removesuffix(ending) + ".mp4"), path)
    return [found[video] for video in sorted(found)]


def open_sav(folder: Path, *, split: str = "") -> Sequence[SavSequence | SavStillsSequence]:
    """The annotated videos of an SA-V folder, or of its subfolder `split`; of the training set or of val and test.

    Raises:
        DatasetError: no annotations, or one without its video.
    """
    root = folder / split
    if (root / FRAMES_FOLDER).is_dir():
        return open_sav_stills(root)
    annotations = sav_annotations(root)
    if not annotations:
        raise DatasetError(f"{root} holds no annotations (<video>{' or <video>'.join(_KINDS)})")
    return [SavSequence(path) for path in annotations]


class SavSequence:
    """One video; its annotation is read when it is first needed.

    Raises:
        DatasetError: the annotation has no video beside it.
    """

    def __init__(self, annotation: Path) -> None:
        self.name = annotation.stem.rpartition("_")[0]
        video = annotation.with_name(f"{self.name}.mp4")
        if not video.is_file():
            raise DatasetError(f"{annotation} has no frames: there is no {video.name} beside it")
        self._annotation = annotation
        self._frames = VideoFrames(video)

    @property
    def frame_count(self) -> int:
        """Frames of the video, as the annotation says."""
        return _read(self._annotation).frame_count

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the masklets."""
        return _read(self._annotation).object_ids

    @property
    def annotated_frames(self) -> tuple[int, ...]:
        """Every fourth frame."""
        return tuple(range(0, len(_read(self._annotation).masklets) * FRAMES_PER_ANNOTATION, FRAMES_PER_ANNOTATION))

    @property
    def annotated_count(self) -> int:
        """Every fourth frame of those that the head of the annotation names: some datasets have 50,000 such files."""
        found = _FRAME_COUNT.search(_head(self._annotation))
        return -(-int(found[1]) // FRAMES_PER_ANNOTATION) if found else len(self.annotated_frames)

    def frame(self, index: int) -> ImageArray:
        """[H, W, 3] uint8 RGB."""
        return self._frames.read(index, _read(self._annotation).size)

    def masks(self, index: int) -> MaskArray | None:
        """[N, H, W] bool, or None."""
        content = _read(self._annotation)
        place, between = divmod(index, FRAMES_PER_ANNOTATION)
        if between or place >= len(content.masklets):
            return None
        row = content.masklets[place]
        masks = [self._decode(row[column], content.size, index) for column in content.columns]
        return np.stack(masks)

    def _decode(self, lengths: Any, size: Size, index: int) -> MaskArray:
        if not lengths:
            return np.zeros(size, np.bool_)
        try:
            found = tuple(int(side) for side in lengths["size"])
            if found != size:
                raise DatasetError(f"{self._annotation}: a mask of frame {index} is {found}, the video {size} [H, W]")
            return decode_mask(lengths["counts"].encode(), MaskEncoding.RLE, size)
        except (InvalidPrompt, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"{self._annotation}: a mask of frame {index} cannot be decoded: {error}") from error


class _Content:
    """What an annotation file says; `columns` are the places of the masklets in the order of their ids."""

    def __init__(self, said: dict[str, Any]) -> None:
        ids = [int(value) for value in said["masklet_id"]]
        self.columns = sorted(range(len(ids)), key=ids.__getitem__)
        self.object_ids = tuple(ids[column] for column in self.columns)
        self.size: Size = (int(said["video_height"]), int(said["video_width"]))
        self.frame_count = int(said["video_frame_count"])
        self.masklets: Sequence[Sequence[Any]] = said["masklet"]
        if not self.object_ids or not self.masklets:
            raise ValueError(f"{len(self.object_ids)} masklets on {len(self.masklets)} frames")
        if any(len(row) != len(ids) for row in self.masklets):
            raise ValueError(f"not every frame has {len(ids)} masks, one for each masklet")


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from error


@lru_cache(maxsize=8)  # a file is read frame by frame, and large: megabytes for each video
def _read(path: Path) -> _Content:
    try:
        content = _Content(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is no SA-V annotation: {type(error).__name__}: {error}") from error
    last = (len(content.masklets) - 1) * FRAMES_PER_ANNOTATION
    if last >= content.frame_count:
        raise DatasetError(f"{path} has masks up to frame {last}, the video has {content.frame_count} frames")
    return content
