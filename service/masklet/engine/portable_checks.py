"""Is an exported state whole and sane? Checked before anything of it is used: one bad number could stop the engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from masklet.engine.bank import RECENT_FRAMES, RECENT_POINTERS
from masklet.model import SAM2Config
from masklet.model.prompt_encoder import BOX_MAX, EXCLUDE
from masklet.types import Profile, TrackSettings

MAX_SIDE = 16384
MAX_HISTORY_FRAMES = 1024
MAX_CONDITIONING_FRAMES = 65535
MAX_FILL_HOLE_AREA = 1024
MAX_POINTS = 65535
_MAX_INT = 2**63 - 1


def check_structure(structure: Mapping[str, Any]) -> None:
    """Types and ranges of everything but the tensors. Raises ValueError, KeyError or TypeError."""
    settings = structure["settings"]
    _check_settings(settings)
    _check_int("next_index", structure["next_index"], 0, _MAX_INT)
    for index, frame_seq, height, width in structure["past"]:
        oldest = max(0, structure["next_index"] - settings["history_frames"])
        _check_int("past frame", index, oldest, structure["next_index"] - 1)
        _check_int("frame_seq", frame_seq, 0, _MAX_INT)
        _check_int("frame height", height, 1, MAX_SIDE)
        _check_int("frame width", width, 1, MAX_SIDE)
    past = [frame[0] for frame in structure["past"]]
    _check_distinct("past frames", past)
    _check_distinct("frame numbers", [frame[1] for frame in structure["past"]])
    _check_distinct("objects", [described["id"] for described in structure["objects"]])
    for described in structure["objects"]:
        _check_object(described, structure, set(past))


def check_tensors(structure: Mapping[str, Any], tensors: Mapping[str, Tensor], config: SAM2Config) -> None:
    """Exactly the tensors that the structure speaks of, each of its shape and type. Raises ValueError."""
    required, optional = _tensor_keys(structure)
    missing, extra = required - tensors.keys(), tensors.keys() - required - optional
    if missing or extra:
        raise ValueError(f"{len(missing)} tensors missing, {len(extra)} unknown: {sorted(missing | extra)[:3]}")
    for key, tensor in tensors.items():
        kind, _, place = key.partition("/")
        if kind in ("points", "labels"):
            _check_said(place, tensors)
        else:
            _check_tensor(key, tensor, *_expected(kind, config))


def _check_settings(settings: Mapping[str, Any]) -> None:
    names = {field.name for field in fields(TrackSettings)}
    if settings.keys() | {"frame_rate_hz"} != names:  # states of older versions do not have it
        raise ValueError(f"settings are {sorted(settings)}, expected {sorted(names)}")
    Profile(settings["profile"])
    _check_int("history_frames", settings["history_frames"], 0, MAX_HISTORY_FRAMES)
    _check_int("fill_hole_area", settings["fill_hole_area"], 0, MAX_FILL_HOLE_AREA)
    _check_bool("corrections_as_conditioning", settings["corrections_as_conditioning"])
    if settings["max_conditioning_frames"] is not None:
        _check_int("max_conditioning_frames", settings["max_conditioning_frames"], 0, MAX_CONDITIONING_FRAMES)
    if settings["video_frames"] is not None:
        _check_int("video_frames", settings["video_frames"], 1, _MAX_INT)
    _check_rate("frame_rate_hz", settings.get("frame_rate_hz", 0.0))


def _check_object(described: Mapping[str, Any], structure: Mapping[str, Any], past: set[int]) -> None:
    _check_int("object id", described["id"], 0, 2**31 - 1)
    oldest = max(0, _oldest_reader(structure) - RECENT_POINTERS)
    for name, first in (("conditioning", 0), ("recent", oldest)):
        for index in described[name]:
            _check_int(f"{name} frame of object {described['id']}", index, first, structure["next_index"] - 1)
    _check_distinct("remembered frames", described["conditioning"] + described["recent"])
    answered = [index for index, _ in described["answers"]]
    _check_distinct("answers", answered)
    if not past.issuperset(answered):
        raise ValueError(f"object {described['id']} has answers on frames outside the history window")
    for _, initial in described["answers"]:
        _check_bool("initial", initial)
    if "scores" in described:  # states of older versions do not have them
        _check_scores(described["scores"], len(answered))


def _oldest_reader(structure: Mapping[str, Any]) -> int:
    """The oldest frame that may still be corrected; the next one if none may."""
    oldest: int = structure["next_index"] - structure["settings"]["history_frames"]
    return oldest


def _tensor_keys(structure: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Keys that must be there, and keys that may be."""
    required, optional = {f"frame/{frame[0]}" for frame in structure["past"]}, set()
    read = _oldest_reader(structure) - RECENT_FRAMES
    for described in structure["objects"]:
        name, conditioning, recent = described["id"], described["conditioning"], described["recent"]
        required |= {f"pointer/{name}/{index}" for index in conditioning + recent}
        required |= {f"memory/{name}/{index}" for index in conditioning + [i for i in recent if i >= read]}
        optional |= {f"memory/{name}/{index}" for index in recent if index < read}
        required |= {f"logits/{name}/{index}" for index, _ in described["answers"]}
        optional |= {f"{kind}/{name}/{index}" for index, _ in described["answers"] for kind in ("points", "labels")}
    return required, optional


def _expected(kind: str, config: SAM2Config) -> tuple[tuple[int, ...], tuple[torch.dtype, ...]]:
    """Shape and allowed types."""
    return {
        "frame": ((3, config.input_size, config.input_size), (torch.uint8,)),
        "pointer": ((config.dim,), (torch.float32,)),
        "memory": ((config.grid**2, config.memory_dim), (torch.float32, torch.bfloat16)),
        "logits": ((config.logits_size, config.logits_size), (torch.float32,)),
    }[kind]


def _check_tensor(key: str, tensor: Tensor, shape: tuple[int, ...], types: tuple[torch.dtype, ...]) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype not in types:
        raise ValueError(f"{key} is {tensor.dtype} {tuple(tensor.shape)}, expected {types[0]} {shape}")
    if not bool(torch.isfinite(tensor).all()):  # every later frame would be as unfit
        raise ValueError(f"{key} is not finite throughout")


def _check_said(place: str, tensors: Mapping[str, Tensor]) -> None:
    points, labels = tensors[f"points/{place}"], tensors[f"labels/{place}"]
    count = len(labels) if labels.ndim else 0
    _check_int(f"points of {place}", count, 1, MAX_POINTS)
    _check_tensor(f"points/{place}", points, (count, 2), (torch.float32,))
    _check_tensor(f"labels/{place}", labels, (count,), (torch.int64,))
    if not bool(((labels >= EXCLUDE) & (labels <= BOX_MAX)).all()):
        raise ValueError(f"labels/{place} are not all {EXCLUDE} to {BOX_MAX}")


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {value!r:.40}, expected {low} to {high}")


def _check_bool(name: str, value: object) -> None:
    if type(value) is not bool:
        raise ValueError(f"{name} is {value!r:.40}, expected true or false")


def _check_rate(name: str, value: object) -> None:
    if type(value) not in (int, float) or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name} is {value!r}, must be finite and at least 0")


def _check_scores(scores: list[list[object]], count: int) -> None:
    if len(scores) != count:
        raise ValueError(f"{len(scores)} scores for {count} answers")
    for score, iou in scores:
        if not all(type(one) is float and math.isfinite(one) for one in (score, iou)):
            raise ValueError(f"scores are {score!r:.40} and {iou!r:.40}, must be finite floats")


def _check_distinct(name: str, values: list[int]) -> None:
    if len(set(values)) != len(values):
        raise ValueError(f"{name} are listed twice")
