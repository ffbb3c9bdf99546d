"""Frames of a video file by index: going forward decodes on, any other way starts at the nearest key frame."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import av
import numpy as np

from masklet.errors import DatasetError
from masklet.types import ImageArray, Size

_Numbered = tuple[int, av.VideoFrame]


@dataclass(frozen=True, slots=True)
class _Places:
    """Where frames are: their times in display order, and the indices of those that decoding can start at."""

    times: tuple[int, ...]
    keys: tuple[int, ...]

    def key_before(self, index: int) -> int:
        """The last key frame up to `index`; 0 if there is none."""
        place = bisect_right(self.keys, index)
        return self.keys[place - 1] if place else 0


class VideoFrames:
    """Frames by index from 0, in display order. The file is opened when the first frame is asked for."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._decoded: Generator[_Numbered, None, None] | None = None
        self._next = 0

    def read(self, index: int, size: Size) -> ImageArray:
        """[H, W, 3] uint8 RGB.

        Raises:
            DatasetError: not a video, fewer frames, or frames not of `size` (height, width).
        """
        if index >= len(self._places.times):
            raise DatasetError(
                f"{self._path} has {len(self._places.times)} frames, number {index} (from 0) was asked for"
            )
        if self._decoded is None or not self._next <= index or self._places.key_before(index) > self._next:
            self._start(self._places.key_before(index))
        frame = self._advance(index)
        if frame is None:  # seeking went too far, which some files make it do
            self._start(0)
            frame = self._advance(index)
        if frame is None:
            raise DatasetError(f"{self._path}: frame number {index} (from 0) cannot be decoded")
        return self._checked(np.ascontiguousarray(frame.to_ndarray(format="rgb24")), size)

    def close(self) -> None:
        """Close the file; the next frame opens it again."""
        if self._decoded is not None:
            self._decoded.close()
            self._decoded = None

    @cached_property
    def _places(self) -> _Places:
        """Read from the packets, without decoding."""
        with self._opened() as container:
            packets = [packet for packet in container.demux(video=0) if packet.size and not packet.is_discard]
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        index_of = {time: index for index, time in enumerate(times)}
        keys = sorted(index_of[packet.pts] for packet in packets if packet.is_keyframe and packet.pts is not None)
        return _Places(tuple(times), tuple(keys))

    def _start(self, index: int) -> None:
        self.close()
        self._decoded, self._next = self._decode(index), index

    def _advance(self, index: int) -> av.VideoFrame | None:
        """Decode on to that frame; None if it does not come."""
        assert self._decoded is not None
        for found, frame in self._decoded:
            self._next = found + 1
            if found == index:
                return frame
            if found > index:
                return None
        self.close()
        return None

    def _decode(self, first: int) -> Generator[_Numbered, None, None]:
        index_of = {time: index for index, time in enumerate(self._places.times)}
        with self._opened() as container:
            if first:
                container.seek(self._places.times[first], stream=container.streams.video[0])
            for frame in container.decode(video=0):
                if frame.pts in index_of:
                    yield index_of[frame.pts], frame

    @contextmanager
    def _opened(self) -> Iterator[av.container.InputContainer]:
        try:
            with closing(av.open(str(self._path))) as container:
                if not container.streams.video:
                    raise DatasetError(f"{self._path} has no video in it")
                yield container
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
