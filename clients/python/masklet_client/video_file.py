"""Writing video: H.264 that plays everywhere."""

from __future__ import annotations

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


class VideoFile:
    """A video file being written; leaving the `with` block finishes it, whatever happened inside.

    Raises:
        CommandError: from `write`, `close` and on leaving, if the file cannot be written (a full disk); on leaving only
            if nothing else went wrong.
    """

    def __init__(self, path: Path, size: Size, rate: Fraction) -> None:
        """`size` (height, width) may be odd: a row or column is then repeated, since 4:2:0 needs even sides.

        Raises:
            CommandError: the file cannot be written, or its name ends in no video format that takes H.264.
        """
        self._path = path
        self._pad = (size[0] % 2, size[1] % 2)
        options = {"movflags": "+faststart"} if path.suffix.lower() in _FASTSTART_SUFFIXES else {}
        try:
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with nullcontext() if error is None else suppress(CommandError):
            self.close()

    def write(self, image: ImageArray) -> None:
        """Append [H, W, 3] uint8 RGB."""
        if any(self._pad):
            image = np.pad(image, ((0, self._pad[0]), (0, self._pad[1]), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        with self._writing() as container:
            container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder still holds, and the index; nothing if that was done, or writing has failed before."""
        if self._container is not None:
            with self._writing() as container:
                container.mux(self._stream.encode(None))
                container.close()
            self._container = None

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
