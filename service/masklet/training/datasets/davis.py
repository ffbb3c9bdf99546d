"""DAVIS 2016 and 2017 folders: `JPEGImages/480p/<video>/*.jpg`, `Annotations/480p/<video>/*.png`, `ImageSets/`."""

from __future__ import annotations

from pathlib import Path

from masklet.errors import DatasetError
from masklet.training.datasets.folder_sequence import FolderSequence, folders_in

_RESOLUTION = "480p"


def open_davis(folder: Path, *, split: str = "") -> list[FolderSequence]:
    """The videos of a DAVIS folder at 480p, or at whatever resolution there is.

    Args:
        folder: holds `JPEGImages` and `Annotations`.
        split: name of a list in `ImageSets` ("val", "train"), of the newest year that has it; "": all annotated videos.

    Raises:
        DatasetError: no videos, no such list, or a video whose frames or annotations are missing.
    """
    frames = _resolution(folder / "JPEGImages")
    annotations = folder / "Annotations" / frames.name
    names = _listed(folder, split) if split else [path.name for path in folders_in(annotations)]
    return [FolderSequence(frames / name, annotations / name) for name in names]


def _resolution(images: Path) -> Path:
    found = folders_in(images)
    return next((path for path in found if path.name == _RESOLUTION), found[0])


def _listed(folder: Path, split: str) -> list[str]:
    lists = sorted(path for path in (folder / "ImageSets").glob(f"*/{split}.txt") if path.parent.name.isdecimal())
    if not lists:
        raise DatasetError(f"{folder / 'ImageSets'} holds no list {split}.txt in a folder of a year")
    return lists[-1].read_text().split()
