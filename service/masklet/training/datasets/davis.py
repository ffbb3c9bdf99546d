"""DAVIS 2016 and 2017 folders: `JPEGImages/480p/<video>/*.jpg`, `Annotations/480p/<video>/*.png`, `ImageSets/`.

2017 numbers the objects of a video and lists videos by name, in `ImageSets/<year>/<split>.txt`. 2016 has one object in
a video, of the value 255, and lists the files of every frame, in `ImageSets/480p/<split>.txt`.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from masklet.errors import DatasetError
from masklet.training.datasets.folder_sequence import FolderSequence, folders_in

_RESOLUTION = "480p"


def open_davis(folder: Path, *, split: str = "") -> list[FolderSequence]:
    """The videos of a DAVIS folder at 480p, or at whatever resolution there is.

    Args:
        folder: holds `JPEGImages` and `Annotations`.
        split: name of a list in `ImageSets` ("val", "train"), of the newest year that has it, else of the resolution;
            "": all annotated videos.

    Raises:
        DatasetError: no videos, no such list, or a video whose frames or annotations are missing.
    """
    frames = _resolution(folder / "JPEGImages")
    annotations = folder / "Annotations" / frames.name
    names = _listed(folder, split, frames.name) if split else [path.name for path in folders_in(annotations)]
    return [FolderSequence(frames / name, annotations / name, may_be_binary=True) for name in names]


def _resolution(images: Path) -> Path:
    found = folders_in(images)
    return next((path for path in found if path.name == _RESOLUTION), found[0])


def _listed(folder: Path, split: str, resolution: str) -> list[str]:
    """The videos of a list of names, or of files `/JPEGImages/480p/<video>/00000.jpg`; each once, in its order."""
    lists = folder / "ImageSets"
    years = sorted(path for path in lists.glob(f"*/{split}.txt") if path.parent.name.isdecimal())
    found = [lists / resolution / f"{split}.txt", *years][-1]
    if not found.is_file():
        raise DatasetError(f"{lists} holds no list {split}.txt in a folder of a year or in {resolution}")
    return list(dict.fromkeys(PurePosixPath(word).parent.name or word for word in found.read_text().split()))
