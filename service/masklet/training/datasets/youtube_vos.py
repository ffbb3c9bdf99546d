"""YouTube-VOS folders (and MOSE's, LVOS's): `JPEGImages/<video>/*.jpg`, `Annotations/<video>/*.png`, `meta.json`."""

from __future__ import annotations

import json
from pathlib import Path

from masklet.errors import DatasetError
from masklet.training.datasets.folder_sequence import FolderSequence, folders_in


def open_youtube_vos(folder: Path, *, split: str = "") -> list[FolderSequence]:
    """The annotated videos of one split; frames may be annotated in part, objects may come later.

    Args:
        folder: holds `JPEGImages` and `Annotations`; or splits that do.
        split: name of the folder of a split ("train", "valid"); "": `folder` itself.

    Raises:
        DatasetError: no videos, an unreadable `meta.json`, or a video whose frames, annotations or objects are missing.
    """
    root = folder / split if split else folder
    frames, annotations = root / "JPEGImages", root / "Annotations"
    names = [path.name for path in folders_in(annotations)]
    meta = root / "meta.json"
    ids = _ids_by_video(meta)
    bare = [name for name in names if ids.get(name) == ()]
    if bare:
        raise DatasetError(f"{meta} lists no objects for the video {bare[0]}")
    return [FolderSequence(frames / name, annotations / name, object_ids=ids.get(name)) for name in names]


def _ids_by_video(meta: Path) -> dict[str, tuple[int, ...]]:
    """Object ids as `meta.json` lists them; empty without the file: the annotations are then searched for ids."""
    if not meta.is_file():
        return {}
    try:
        videos = json.loads(meta.read_text())["videos"]
        return {name: tuple(sorted(int(key) for key in video["objects"])) for name, video in videos.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{meta} does not list objects by video: {type(error).__name__}: {error}") from error
