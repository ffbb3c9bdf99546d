"""Where frames come from: a video file, a folder of images, a camera, or a stream on the network."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av
import av.container
import numpy as np
from PIL import Image, ImageOps

from masklet.codecs.frames import to_rgb
from masklet.file_order import frame_order
from masklet.types import ImageArray, Size
from masklet_client.command_error import CommandError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
_DEFAULT_RATE = Fraction(30)
_MAX_RATE = 240
_OPEN_TIMEOUT_S = 10.0
_LAST_READ_S = 1.0
_MOST_DAMAGED = 1000  # packets in a row
_CAMERAS = {"linux": ("/dev/video{}", "v4l2"), "darwin": ("{}", "avfoundation"), "win32": ("video={}", "dshow")}
logger = logging.getLogger("masklet_client")


@dataclass(frozen=True, slots=True, eq=False)
class SourceFrame:
    """One frame: its place from 0, its time in the source, and [H, W, 3] uint8 RGB."""

    index: int
    pts_s: float
    image: ImageArray


class Source(Protocol):
    """Frames, all of one size.

    Attributes:
        size: (height, width).
        pixel_aspect: width of a pixel in terms of its height; 1 but for old television and tape.
        frame_rate: per second, on average.
        frame_count: what the container claims, None if it does not say.
        timed: whether frames have times of their own, as in a container; else they are files, and all counted.
        live: whether frames are lost that are not taken in time.
    """

    size: Size
    pixel_aspect: Fraction
    frame_rate: Fraction
    frame_count: int | None
    timed: bool
    live: bool

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def frames(self) -> Iterator[SourceFrame]:
        """All frames, once. Raises CommandError where one cannot be read."""
        ...


def open_source(name: str, *, frame_rate: float | None = None) -> Source:
    """Open `name`: file, folder, camera number, or URL. `frame_rate` overrides what the source says.

    Raises:
        CommandError: no such file, not a video, an empty folder, a camera or URL that cannot be opened.
    """
    rate = None if frame_rate is None else Fraction(frame_rate).limit_denominator(1001)
    if "://" in name:
        options = {"rtsp_transport": "tcp"} if name.startswith("rtsp") else {}
        return VideoSource(shown(name), _opened(name, options=options), rate=rate, live=name.startswith("rtsp"))
    path = Path(name)
    try:
        if name.isdecimal() and not path.exists():
            return _camera(int(name), rate)
        if not path.exists():
            raise CommandError(f"{name}: no such file or folder")
        if path.is_dir():
            return FolderSource(path, rate=rate)
    except OSError as error:
        raise CommandError(f"{name}: cannot be read ({error.strerror})") from None
    return VideoSource(name, _opened(name), rate=rate)


def shown(name: str) -> str:
    """`name` as it may be printed: a URL without user and password, whatever may be part of them."""
    scheme, mark, rest = name.partition("://")
    return scheme + mark + rest.rpartition("@")[2] if mark else name


class VideoSource:
    """Frames of anything FFmpeg reads, turned upright as its metadata says; what cannot be decoded is passed over.

    Attributes:
        damaged: packets that could not be decoded.
    """

    timed = True

    def __init__(
        self, name: str, container: av.container.InputContainer, *, rate: Fraction | None = None, live: bool = False
    ) -> None:
        """Reads the first frame to learn the size."""
        self._name, self._container, self.live = name, container, live
        if not container.streams.video:
            container.close()
            raise CommandError(f"{name}: has no video in it")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        self.damaged = 0
        self._decoded: Iterator[av.VideoFrame] = self._decode(stream)
        self._turn = threading.Lock()
        self._first = self._next()
        if self._first is None:
            container.close()
            why = f"cannot be decoded ({self.damaged} damaged packets)" if self.damaged else "has no frame in it"
            raise CommandError(f"{name}: {why}")
        self.size = _upright(self._first).shape[:2]
        aspect = stream.sample_aspect_ratio or Fraction(1)
        self.pixel_aspect = 1 / aspect if _quarter_turns(self._first) % 2 else aspect
        found = stream.average_rate or stream.guessed_rate
        usable = found if found and 0 < found <= _MAX_RATE else _DEFAULT_RATE
        self.frame_rate = rate or Fraction(usable)
        self.frame_count = stream.frames or None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close, unless a thread reads from a source that stalls: that would crash, so the process's end has to do."""
        if self._turn.acquire(timeout=_LAST_READ_S):
            self._decoded = iter(())
            self._container.close()
            self._turn.release()

    def frames(self) -> Iterator[SourceFrame]:
        """All frames, once; those of another size than the first are an error."""
        frame, index = self._first, 0
        while frame is not None:
            image = _upright(frame)
            if image.shape[:2] != self.size:
                found, first = _named(image), _named_size(self.size)
                raise CommandError(f"{self._name}: frame {index} is {found}, the first is {first}")
            pts_s = float(index / self.frame_rate) if frame.time is None else frame.time
            yield SourceFrame(index, pts_s, image)
            frame, index = self._next(), index + 1

    def _decode(self, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        """One damaged packet must not end an hour of tracking. Raises CommandError after a thousand in a row."""
        in_a_row = 0
        for packet in self._container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self.damaged, in_a_row = self.damaged + 1, in_a_row + 1
                if str(self.damaged).strip("0") == "1":
                    logger.warning("%s: damaged packets passed over: %d so far", self._name, self.damaged)
                if in_a_row == _MOST_DAMAGED:
                    raise CommandError(f"{self._name}: cannot be decoded ({error.strerror})") from None
            else:
                in_a_row = 0
                yield from frames

    def _next(self) -> av.VideoFrame | None:
        try:
            with self._turn:
                return next(self._decoded, None)
        except av.FFmpegError as error:
            raise CommandError(f"{self._name}: cannot be decoded ({error.strerror})") from None


class FolderSource:
    """Images of a folder, by name."""

    live = timed = False
    pixel_aspect = Fraction(1)

    def __init__(self, folder: Path, *, rate: Fraction | None = None) -> None:
        """Lists the folder and reads the first image's size."""
        images = (path for path in folder.iterdir() if _is_image(path))
        self._paths = sorted(images, key=frame_order)
        if not self._paths:
            raise CommandError(f"{folder}: has no image in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
        first = read_image(self._paths[0])
        self.size: Size = (first.shape[0], first.shape[1])
        self.frame_rate = rate or _DEFAULT_RATE
        self.frame_count: int | None = len(self._paths)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def frames(self) -> Iterator[SourceFrame]:
        """All images, once; those of another size than the first are an error."""
        for index, path in enumerate(self._paths):
            image = read_image(path)
            if image.shape[:2] != self.size:
                raise CommandError(f"{path}: is {_named(image)}, the first image is {_named_size(self.size)}")
            yield SourceFrame(index, float(index / self.frame_rate), image)


def _is_image(path: Path) -> bool:
    """By its name; macOS puts files of its own beside others, `._1.jpg`."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_image(path: Path) -> ImageArray:
    """[H, W, 3] uint8 RGB, upright; 16-bit grey as the service reads it.

    Raises:
        CommandError: no such file, not an image, or a huge one.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise CommandError(f"{path}: no such file") from None
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged files
        raise CommandError(f"{path}: cannot be read as an image ({error})") from None


def _camera(number: int, rate: Fraction | None) -> VideoSource:
    pattern, driver = _CAMERAS.get(sys.platform, _CAMERAS["linux"])
    options = {} if rate is None else {"framerate": str(rate)}
    container = _opened(pattern.format(number), driver=driver, options=options)
    return VideoSource(f"camera {number}", container, rate=rate, live=True)


def _opened(
    name: str, *, driver: str | None = None, options: dict[str, str] | None = None
) -> av.container.InputContainer:
    try:
        return av.open(name, format=driver, options=options or {}, timeout=_OPEN_TIMEOUT_S)
    except av.InvalidDataError:
        raise CommandError(f"{shown(name)}: not a video that FFmpeg can read") from None
    except (av.FFmpegError, ValueError) as error:
        raise CommandError(f"{shown(name)}: cannot be opened ({getattr(error, 'strerror', None) or error})") from None


def _upright(frame: av.VideoFrame) -> ImageArray:
    """RGB pixels, turned as a phone's display matrix asks for."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    quarter_turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def _quarter_turns(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) % 4


def _named(image: ImageArray) -> str:
    return _named_size((image.shape[0], image.shape[1]))


def _named_size(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
