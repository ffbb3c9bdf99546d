"""What `masklet track` writes: an overlay video, JSON lines, or both."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from masklet.types import ImageArray
from masklet_client.command_error import CommandError
from masklet_client.events import Dropped, Result
from masklet_client.mask_lines import MaskLines
from masklet_client.overlay import draw_masks, draw_note
from masklet_client.source import Source, SourceFrame
from masklet_client.video_file import VideoFile


@dataclass(slots=True)
class Outputs:
    """Open files; leaving the `with` block finishes them, whatever happened inside.

    Attributes:
        timed: whether frames of the video are shown at their times in the source, not at a constant rate.
        failed: whether one of them could not be written or finished.
    """

    video: VideoFile | None
    lines: MaskLines | None
    timed: bool = False
    _held: ExitStack = field(default_factory=ExitStack)
    failed: bool = False

    @classmethod
    def create(cls, video: Path | None, lines: Path | None, source: Source, *, constant_rate: bool = False) -> Self:
        """For frames of `source`. Raises CommandError if a file cannot be written."""
        with ExitStack() as held:
            video_file = line_file = None
            if video is not None:
                made = VideoFile(video, source.size, source.frame_rate, pixel_aspect=source.pixel_aspect)
                video_file = held.enter_context(made)
            if lines is not None:
                line_file = held.enter_context(MaskLines(lines))
            return cls(video_file, line_file, source.timed and not constant_rate, held.pop_all())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish them; raises CommandError if that fails and nothing else went wrong."""
        with self._noted():
            self._held.__exit__(kind, error, trace)

    def write(self, frame: SourceFrame, answer: Result | Dropped) -> None:
        """Append one frame; one that was not answered shows no masks and says so. Raises CommandError."""
        with self._noted():
            if isinstance(answer, Dropped):
                self._write_dropped(frame, answer)
            else:
                self._write_result(frame, answer)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except CommandError:
            self.failed = True
            raise

    def _write_result(self, frame: SourceFrame, answer: Result) -> None:
        if self.lines is not None:
            self.lines.write(frame.index, frame.pts_s, answer.objects)
        if self.video is not None:
            self._show(frame, draw_masks(frame.image, [(found.object_id, found.mask) for found in answer.objects]))

    def _write_dropped(self, frame: SourceFrame, answer: Dropped) -> None:
        if self.lines is not None:
            self.lines.write(frame.index, frame.pts_s, (), dropped=answer.reason.value)
        if self.video is not None:
            self._show(frame, draw_note(frame.image, "not answered"))

    def _show(self, frame: SourceFrame, drawn: ImageArray) -> None:
        assert self.video is not None
        self.video.write(drawn, frame.pts_s if self.timed else None)


def check_outputs(outputs: Iterable[Path | None], source: Path) -> None:
    """Raises CommandError if two of the files to be written are the same, one is the source, or standard output."""
    seen: list[Path] = []
    for path in outputs:
        if path is None:
            continue
        if str(path) == "-":
            raise CommandError("- is no file: the summary goes to standard output, so give a name")
        if _same(path, source):
            raise CommandError(f"{path} is the source: writing would destroy it")
        if any(_same(path, other) for other in seen):
            raise CommandError(f"{path} cannot be both outputs: give -o and --json different names")
        seen.append(path)


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other) or one.resolve() == other.resolve()
    except OSError:  # one of them is not there, or may not be looked at
        return one.absolute() == other.absolute()
