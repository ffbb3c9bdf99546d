"""Small datasets in the published formats, written with other libraries than those that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from pycocotools import mask as coco

SIZE = (48, 64)
PALETTE = [channel for index in range(256) for channel in (index * 37 % 256, index * 91 % 256, index * 13 % 256)]


def labels(index: int, *, ids: tuple[int, ...] = (1, 2), size: tuple[int, int] = SIZE) -> np.ndarray:
    """A square per object, moving right by 2 pixels a frame."""
    found = np.zeros(size, np.uint8)
    for place, object_id in enumerate(ids):
        top, left = 4 + 20 * place, 3 + 2 * index
        found[top : top + 12, left : left + 12] = object_id
    return found


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Smooth, so that a lossy codec keeps it."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([y * 4, x * 3, np.full(size, 20 * index)], axis=-1).astype(np.uint8)


def write_frame(path: Path, index: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(index, size)).save(path, quality=95)


def write_annotation(path: Path, marked: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(marked)
    image.putpalette(PALETTE)
    image.save(path)


def write_davis(root: Path, names: tuple[str, ...] = ("bear", "dogs"), frames: int = 5) -> Path:
    for name in names:
        for index in range(frames):
            write_frame(root / "JPEGImages/480p" / name / f"{index:05d}.jpg", index)
            write_annotation(root / "Annotations/480p" / name / f"{index:05d}.png", labels(index))
    for year, listed in (("2016", names), ("2017", names[:1])):
        path = root / "ImageSets" / year / "val.txt"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{name}\n" for name in listed))
    return root


def write_youtube_vos(root: Path, *, meta: bool = True) -> Path:
    """Frames 0 to 10 in steps of 5 are annotated; object 4 comes on frame 5."""
    for index in range(11):
        write_frame(root / "JPEGImages/a1b2" / f"{index:05d}.jpg", index)
    for index in (0, 5, 10):
        write_annotation(root / "Annotations/a1b2" / f"{index:05d}.png", labels(index, ids=(2, 4) if index else (2,)))
    if meta:
        objects = {"4": {"category": "cat", "frames": ["00005"]}, "2": {"category": "dog", "frames": ["00000"]}}
        (root / "meta.json").write_text(json.dumps({"videos": {"a1b2": {"objects": objects}}}))
    return root


def sav_annotation(frames: int = 9) -> dict[str, Any]:
    """Two masklets, the second listed first and absent on the last annotated frame."""
    rows = []
    for index in range(0, frames, 4):
        marked = labels(index)
        if index + 4 >= frames:
            marked[marked == 2] = 0
        rows.append([_lengths(marked == object_id) for object_id in (2, 1)])
    return {
        "video_id": "sav_000001",
        "video_frame_count": frames,
        "video_height": SIZE[0],
        "video_width": SIZE[1],
        "masklet": rows,
        "masklet_id": [7, 0],
        "masklet_num": 2,
    }


def write_sav(root: Path, frames: int = 9) -> Path:
    (root / "sav_000").mkdir(parents=True)
    write_video(root / "sav_000/sav_000001.mp4", frames)
    for ending in ("manual", "auto"):
        (root / f"sav_000/sav_000001_{ending}.json").write_text(json.dumps(sav_annotation(frames)))
    return root


def write_sav_stills(root: Path) -> Path:
    """Objects 0 and 3; the second has no mask on frame 4."""
    for index in range(9):
        write_frame(root / "JPEGImages_24fps/sav_000002" / f"{index:05d}.jpg", index)
    for object_id, indices in ((1, (0, 4, 8)), (2, (0, 8))):
        for index in indices:
            path = root / f"Annotations_6fps/sav_000002/{(0, 3)[object_id - 1]:03d}/{index:05d}.png"
            write_annotation(path, np.where(labels(index) == object_id, 255, 0).astype(np.uint8))
    return root


def write_video(path: Path, frames: int, size: tuple[int, int] = SIZE) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "10"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index, size), format="rgb24")))
        container.mux(stream.encode(None))


def _lengths(mask: np.ndarray) -> dict[str, Any]:
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode()}
