"""From a folder to its videos: which kind of dataset is it?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from masklet.errors import DatasetError
from masklet.training.datasets.base import VideoSequence
from masklet.training.datasets.davis import open_davis
from masklet.training.datasets.sav import open_sav, sav_annotations
from masklet.training.datasets.sav_stills import FRAMES_FOLDER
from masklet.training.datasets.stills import FRAME_SUFFIXES
from masklet.training.datasets.youtube_vos import open_youtube_vos

_OPENERS: dict[str, Callable[..., Sequence[VideoSequence]]] = {
    "davis": open_davis,
    "youtube-vos": open_youtube_vos,
    "sav": open_sav,
}
KINDS = tuple(_OPENERS)


def open_dataset(folder: Path, *, kind: str = "auto", split: str = "") -> list[VideoSequence]:
    """The annotated videos in a folder, by name; frames and masks are read when asked for.

    Args:
        folder: of one dataset.
        kind: "davis", "youtube-vos", "sav", or "auto": told by the layout.
        split: a part of the dataset, by the dataset's own name for it; "": all there is.

    Raises:
        DatasetError: unknown kind or layout, an empty folder, or a video whose frames or masks are missing.
    """
    if kind not in ("auto", *KINDS):
        raise DatasetError(f"dataset kind is {kind!r}, must be auto, {', '.join(KINDS)}")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    if not any(folder.iterdir()):
        raise DatasetError(f"{folder} is empty: no dataset")
    return list(_OPENERS[_told_by(folder, split) if kind == "auto" else kind](folder, split=split))


def _told_by(folder: Path, split: str) -> str:
    for root in (folder, folder / split):
        inside = [path for path in _entries(root / "JPEGImages") if path.is_dir()]
        if any(_has_frames(path) for path in inside):
            return "youtube-vos"
        if any(_has_frames(video) for path in inside for video in _entries(path)):
            return "davis"
        if (root / FRAMES_FOLDER).is_dir() or sav_annotations(root):
            return "sav"
        if (root / "Annotations").is_dir():
            raise DatasetError(f"{root / 'Annotations'} has no frames: there are none in {root / 'JPEGImages'}")
    raise DatasetError(
        f"{folder} is no dataset known here: neither JPEGImages/<resolution>/<video>/*.jpg (davis),"
        " JPEGImages/<video>/*.jpg (youtube-vos), nor <video>.mp4 with <video>_manual.json"
        f" or _auto.json, or {FRAMES_FOLDER} (sav)"
    )


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _has_frames(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix.lower() in FRAME_SUFFIXES for path in folder.iterdir())
