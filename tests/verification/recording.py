"""Small recordings, made of the golden ones or out of nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
Arrays = dict[str, np.ndarray[Any, Any]]


def golden(name: str, frames: int) -> tuple[dict[str, Any], Arrays]:
    """The beginning of a golden scenario."""
    described = json.loads((GOLDEN / f"{name}.json").read_text())
    described["events"] = [event for event in described["events"] if event["frame"] < frames]
    with np.load(GOLDEN / f"{name}.npz") as stored:
        arrays = {key: stored[key] for key in stored.files if key == "frames" or int(key.split("/")[1]) < frames}
    arrays["frames"] = arrays["frames"][:frames]
    return described, arrays


def blank(frames: int = 2) -> tuple[dict[str, Any], Arrays]:
    """Black frames, one click, and nothing recorded."""
    click = {"object_id": 1, "points": [[20.0, 20.0]], "labels": [1]}
    described = {
        "variant": "sam2.1_hiera_tiny",
        "weights_seed": 3,
        "profile": "interactive",
        "image_size": 64,
        "max_cond_frames": None,
        "corrections_as_conditioning": False,
        "events": [{"frame": 0, "when": "before", "prompts": [click]}],
    }
    return described, {"frames": np.zeros((frames, 64, 64, 3), np.uint8)}


def write(folder: Path, name: str, described: object, arrays: Arrays) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(described))
    np.savez(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    return path
