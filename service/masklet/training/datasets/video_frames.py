"""Frames of a video file by index, for readers that mostly go forward."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import av
import numpy as np

from masklet.errors import DatasetError
from masklet.types import ImageArray, Size


class VideoFrames:
    """Frames by index from 0, in display order; going forward decodes on, going back starts anew.

    The file is opened when the first frame is asked for.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._decoded: Generator[ImageArray, None, None] | None = None
        self._next = 0

    def read(self, index: int, size: Size) -> ImageArray:
        """[H, W, 3] uint8 RGB.

        Raises:
            DatasetError: not a video, fewer frames, or frames not of `size` (height, width).
        """
        if self._decoded is None or index < self._next:
            self.close()
            self._decoded, self._next = self._decode(), 0
        for image in self._decoded:
            self._next += 1
            if self._next > index:
                return self._checked(image, size)
        self._decoded = None
        raise DatasetError(f"{self._path} has {self._next} frames, number {index} (from 0) was asked for")

    def close(self) -> None:
        """Close the file; the next frame opens it again."""
        if self._decoded is not None:
            self._decoded.close()
            self._decoded = None

    def _decode(self) -> Generator[ImageArray, None, None]:
        try:
            with closing(av.open(str(self._path))) as container:
                if not container.streams.video:
                    raise DatasetError(f"{self._path} has no video in it")
                for frame in container.decode(video=0):
                    yield np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
        except (av.FFmpegError, OSError) as error:
            raise DatasetError(f"{self._path} cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def _checked(self, image: ImageArray, size: Size) -> ImageArray:
        height, width = image.shape[:2]
        if (height, width) != size:
            raise DatasetError(
                f"{self._path} has frames of {height} x {width} (height x width), its annotation says"
                f" {size[0]} x {size[1]}"
            )
        return image
