"""Frames of a video file by index: going forward decodes on, any other way starts at the nearest key frame.

An open video costs a file descriptor, decoder threads and memory, and datasets have tens of thousands: the few that
were read last stay open, whoever reads them, and the others are closed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from masklet.errors import DatasetError
from masklet.types import ImageArray, Size

MOST_OPEN = 4
"""Videos of one process that are open at a time."""
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
    """Frames by index from 0, in display order. The file is opened when a frame is asked for.

    It is closed when `MOST_OPEN` others have been read from since; the next frame opens it again.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._located: _Places | None = None
        self._decoded: Generator[_Numbered, None, None] | None = None
        self._next = 0

    def read(self, index: int, size: Size) -> ImageArray:
        """[H, W, 3] uint8 RGB.

        Raises:
            DatasetError: not a video, fewer frames, or frames not of `size` (height, width).
        """
        _read_last(self)
        places = self._places()
        if index >= len(places.times):
            raise DatasetError(f"{self._path} has {len(places.times)} frames, number {index} (from 0) was asked for")
        if self._decoded is None or not self._next <= index or places.key_before(index) > self._next:
            self._start(places.key_before(index))
        frame = self._advance(index)
        if frame is None:  # seeking went too far, which some files make it do
            self._start(0)
            frame = self._advance(index)
        if frame is None:
            raise DatasetError(f"{self._path}: frame number {index} (from 0) cannot be decoded")
        return self._checked(np.ascontiguousarray(frame.to_ndarray(format="rgb24")), size)

    def close(self) -> None:
        """Close the file and forget where its frames are; the next frame opens it again."""
        self._stop()
        self._located = None

    def _places(self) -> _Places:
        if self._located is None:
            self._located = self._locate()
        return self._located

    def _locate(self) -> _Places:
        """Read from the packets, without decoding."""
        with self._opened() as container:
            packets = [packet for packet in container.demux(video=0) if packet.size and not packet.is_discard]
        times = sorted(packet.pts for packet in packets if packet.pts is not None)
        index_of = {time: index for index, time in enumerate(times)}
        keys = sorted(index_of[packet.pts] for packet in packets if packet.is_keyframe and packet.pts is not None)
        return _Places(tuple(times), tuple(keys))

    def _stop(self) -> None:
        if self._decoded is not None:
            self._decoded.close()
            self._decoded = None

    def _start(self, index: int) -> None:
        self._stop()
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
        self._stop()
        return None

    def _decode(self, first: int) -> Generator[_Numbered, None, None]:
        places = self._places()
        index_of = {time: index for index, time in enumerate(places.times)}
        with self._opened() as container:
            if first:
                container.seek(places.times[first], stream=container.streams.video[0])
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


_open: OrderedDict[VideoFrames, None] = OrderedDict()  # the one that was read last comes last


def _read_last(video: VideoFrames) -> None:
    _open[video] = None
    _open.move_to_end(video)
    while len(_open) > MOST_OPEN:
        longest_ago, _ = _open.popitem(last=False)
        longest_ago.close()
