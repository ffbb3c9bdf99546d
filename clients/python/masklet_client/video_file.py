"""Writing video: H.264 that plays everywhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.container import OutputContainer

from masklet.types import ImageArray, Size
from masklet_client.command_error import CommandError

_OPTIONS = {"crf": "20", "preset": "veryfast"}
_FASTSTART_SUFFIXES = (".mp4", ".mov", ".m4v")
_SUFFIXES = (*_FASTSTART_SUFFIXES, ".mkv", ".avi", ".ts", ".flv")
_CONSTANT_RATE_SUFFIXES = (".avi",)
_TICKS_PER_S = 90_000
_LEAST_TICKS = 90  # a millisecond, the unit of Matroska and Flash


class VideoFile:
    """A video file being written; leaving the `with` block finishes it, whatever happened inside.

    What was there is replaced by the first frame; without one it stays, or nothing is left.

    Raises:
        CommandError: from `write`, `close` and on leaving, if the file cannot be written (a full disk); on leaving only
            if nothing else went wrong.
    """

    def __init__(self, path: Path, size: Size, rate: Fraction, *, pixel_aspect: Fraction = Fraction(1)) -> None:
        """`size` (height, width) may be odd: a row or column is then repeated, since 4:2:0 needs even sides.

        Raises:
            CommandError: the file cannot be written, or its name ends in no video format that takes H.264.
        """
        self._path = path
        self._begin_s: float | None = None
        self._ticks = -_LEAST_TICKS
        self._empty = True
        self._fresh = not os.path.lexists(path)
        self._pad = (size[0] % 2, size[1] % 2)
        options = {"movflags": "+faststart"} if path.suffix.lower() in _FASTSTART_SUFFIXES else {}
        try:
            if path.suffix.lower() not in _SUFFIXES:
                raise ValueError(f"no H.264 in {path.suffix or 'a file without suffix'}")
            path.parent.mkdir(parents=True, exist_ok=True)
            container = av.open(str(path), "w", options=options)
            self._stream = container.add_stream("libx264", rate=rate, options=_OPTIONS)
            path.open("ab").close()  # FFmpeg finds out at the first packet only
        except (av.FFmpegError, ValueError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CommandError(f"{path}: cannot be written as video ({reason}); try a name that ends in .mp4") from None
        self._container: OutputContainer | None = container
        self._stream.height, self._stream.width = size[0] + self._pad[0], size[1] + self._pad[1]
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.sample_aspect_ratio = pixel_aspect

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with nullcontext() if error is None else suppress(CommandError):
            self.close()

    def write(self, image: ImageArray, pts_s: float | None = None) -> None:
        """Append [H, W, 3] uint8 RGB, to be shown at `pts_s`, seconds from any beginning; None: at the constant rate.

        Either all frames of a file have times or none. Those that do not rise by a millisecond are moved.
        """
        if any(self._pad):
            image = np.pad(image, ((0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if pts_s is not None and self._path.suffix.lower() not in _CONSTANT_RATE_SUFFIXES:
            self._show_at(frame, pts_s)
        self._empty = False
        with self._writing() as container:
            container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder still holds, and the index; nothing if that was done, or writing has failed before."""
        if self._container is not None:
            with self._writing() as container:
                if not self._empty:
                    container.mux(self._stream.encode(None))
                container.close()
            self._container = None
            if self._empty and self._fresh:
                self._path.unlink(missing_ok=True)

    def _show_at(self, frame: av.VideoFrame, pts_s: float) -> None:
        time_base = Fraction(1, _TICKS_PER_S)
        if self._begin_s is None:
            self._begin_s = pts_s
            self._stream.codec_context.time_base = time_base
        self._ticks = max(round((pts_s - self._begin_s) * _TICKS_PER_S), self._ticks + _LEAST_TICKS)
        frame.pts, frame.time_base = self._ticks, time_base

    @contextmanager
    def _writing(self) -> Iterator[OutputContainer]:
        """The container; forgotten if it fails, because what failed once must not be closed: libav may crash then."""
        if self._container is None:
            raise CommandError(f"{self._path}: is closed")
        try:
            yield self._container
        except (av.FFmpegError, OSError) as error:
            self._container = None
            raise CommandError(f"{self._path}: cannot be written: {error.strerror or error}") from error
