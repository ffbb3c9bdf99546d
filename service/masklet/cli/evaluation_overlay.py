"""Videos to look at: what was answered beside what is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from typing import Self

import numpy as np

from masklet.errors import ConfigError
from masklet.training.evaluation import View
from masklet.types import ImageArray
from masklet_client.command_error import CommandError
from masklet_client.overlay import draw_masks
from masklet_client.video_file import VideoFile

_RATE = Fraction(8)


class OverlayFiles:
    """One video per run (sequence, or object and pass); leaving the `with` block finishes the last one.

    Raises:
        ConfigError: on leaving, if the last one cannot be finished and nothing else went wrong.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing is written before something is shown."""
        self._folder = folder
        self._run = ""
        self._file: VideoFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with nullcontext() if error is None else suppress(ConfigError):
            self._finish()

    def show(self, view: View) -> None:
        """Append one frame: the answer on the left, the truth (or the bare frame) on the right.

        Raises:
            ConfigError: the video cannot be written.
        """
        truth = [] if view.truth is None else list(zip(view.object_ids, view.truth, strict=True))
        answer = list(zip(view.object_ids, view.answer, strict=True))
        sides = (
            draw_masks(view.image, answer, note=view.note),
            draw_masks(view.image, truth, note="not annotated" if view.truth is None else "truth"),
        )
        picture: ImageArray = np.concatenate(sides, axis=1)
        if self._file is None or view.run != self._run:
            self._finish()
            self._file, self._run = self._begun(view.run, picture), view.run
        with _reported():
            self._file.write(picture)

    def _begun(self, run: str, picture: ImageArray) -> VideoFile:
        path = self._folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', run)}.mp4"
        with _reported():
            return VideoFile(path, (picture.shape[0], picture.shape[1]), _RATE)

    def _finish(self) -> None:
        if self._file is not None:
            with _reported():
                self._file.close()
            self._file = None


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        raise ConfigError(str(error)) from error
