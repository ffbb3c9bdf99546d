"""Masks as JSON lines, one line per frame; run lengths are those of pycocotools."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Self

from masklet.codecs.masks import encode_mask
from masklet.types import MaskEncoding
from masklet_client.command_error import CommandError
from masklet_client.events import ObjectResult


class MaskLines:
    """A JSON-lines file being written; what was there is replaced by the first line, without one it stays."""

    def __init__(self, path: Path) -> None:
        """Raises CommandError if the file cannot be written."""
        self._fresh, self._empty = not os.path.lexists(path), True
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{path}: cannot be written ({error.strerror})") from None
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Close; raises CommandError if what was written cannot be kept and nothing else went wrong."""
        with nullcontext() if error is None else suppress(CommandError), self._writing():
            self._file.close()
            if self._empty and self._fresh:
                self._path.unlink(missing_ok=True)

    def write(self, frame: int, pts_s: float, objects: Iterable[ObjectResult], *, dropped: str | None = None) -> None:
        """Append the line of one frame; `dropped` says why it has no masks. Raises CommandError (a full disk)."""
        line: dict[str, Any] = {"frame": frame, "pts_s": round(pts_s, 6), "objects": [object_line(o) for o in objects]}
        if dropped is not None:
            line["dropped"] = dropped
        with self._writing():
            if self._empty and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                self._file.truncate(0)
            self._empty = False
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CommandError(f"{self._path}: cannot be written ({error.strerror})") from error


def object_line(found: ObjectResult) -> dict[str, Any]:
    """One object as plain values; `rle` is what `pycocotools.mask.decode` takes."""
    counts = found.mask_bytes if found.mask_encoding is MaskEncoding.RLE else b""
    return {
        "id": found.object_id,
        "state": found.state.value,
        "score": round(found.score, 4),
        "iou": round(found.iou, 4),
        "box": None if found.box is None else [round(edge, 2) for edge in found.box],
        "rle": {
            "size": list(found.size),
            "counts": (counts or encode_mask(found.mask, MaskEncoding.RLE)).decode("ascii"),
        },
    }
