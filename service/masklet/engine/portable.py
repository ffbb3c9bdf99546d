"""A session's state as bytes: a safetensors file whose metadata holds the structure. No pickle, bit for bit."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from masklet.engine.bank import Entry
from masklet.engine.forward import Pools
from masklet.engine.track import Answer, ObjectTrack, PastFrame, Said, SessionState
from masklet.errors import BackendError
from masklet.model import SAM2Config
from masklet.types import Profile, TrackSettings

FORMAT = 1
METADATA_KEY = "masklet"
MAX_HEADER_BYTES = 8 * 1024 * 1024


def dump_session(session: SessionState, pools: Pools, config: SAM2Config) -> bytes:
    """The whole state, settings included."""
    tensors: dict[str, Tensor] = {}
    structure = {
        "format": FORMAT,
        "model": _model_id(config),
        "settings": asdict(session.settings),
        "next_index": session.next_index,
        "past": [_dump_frame(index, frame, tensors) for index, frame in session.past.items()],
        "objects": [_dump_track(object_id, track, pools, tensors) for object_id, track in session.objects.items()],
    }
    stored = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    return save(stored, metadata={METADATA_KEY: json.dumps(structure)})


def _model_id(config: SAM2Config) -> str:
    return f"{config.name}@{config.input_size}"


def _dump_frame(index: int, frame: PastFrame, tensors: dict[str, Tensor]) -> list[object]:
    tensors[f"frame/{index}"] = frame.pixels
    return [index, frame.frame_seq, *frame.size]


def _dump_track(object_id: int, track: ObjectTrack, pools: Pools, tensors: dict[str, Tensor]) -> dict[str, object]:
    for index, entry in (track.bank.conditioning | track.bank.recent).items():
        key = f"{object_id}/{index}"
        tensors[f"pointer/{key}"] = pools.pointers.read([[entry.pointer]])[0, 0]
        if entry.memory is not None:
            tensors[f"memory/{key}"] = pools.memories.read([[entry.memory]])[0, 0]
    for index, answer in track.answers.items():
        key = f"{object_id}/{index}"
        tensors[f"logits/{key}"] = answer.logits
        if answer.said is not None:
            tensors[f"points/{key}"], tensors[f"labels/{key}"] = answer.said.points, answer.said.labels
    return {
        "id": object_id,
        "conditioning": list(track.bank.conditioning),
        "recent": list(track.bank.recent),
        "answers": [[index, answer.initial] for index, answer in track.answers.items()],
    }


def load_session(state: bytes, pools: Pools, config: SAM2Config, device: torch.device) -> SessionState:
    """Undo `dump_session`; memories go to fresh pages.

    Raises:
        BackendError: not an exported state, or one of another model.
    """
    try:
        structure = _structure(state)
        tensors = load(state)
        if structure["model"] != _model_id(config):
            raise BackendError(f"exported state is of model {structure['model']!r}, this is {_model_id(config)!r}")
        tensors = {key: tensor.to(device) for key, tensor in tensors.items()}
        _check_shapes(tensors, config)
        return _load(structure, tensors, pools)
    except (KeyError, TypeError, ValueError, struct.error, SafetensorError) as error:
        raise BackendError(f"not an exported session state ({len(state)} bytes): {error}") from error


def _structure(state: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", state[:8])
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"header of {length} bytes, at most {MAX_HEADER_BYTES} are allowed")
    structure = json.loads(json.loads(state[8 : 8 + length])["__metadata__"][METADATA_KEY])
    if structure["format"] != FORMAT:
        raise ValueError(f"format {structure['format']}, this version reads {FORMAT}")
    return dict(structure)


def _check_shapes(tensors: dict[str, Tensor], config: SAM2Config) -> None:
    """Nothing that does not fit may reach the pools."""
    expected = {
        "frame": (3, config.input_size, config.input_size),
        "pointer": (config.dim,),
        "memory": (config.grid**2, config.memory_dim),
        "logits": (config.logits_size, config.logits_size),
    }
    for key, tensor in tensors.items():
        shape = expected.get(key.split("/")[0])
        if shape is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{key} has shape {tuple(tensor.shape)}, expected {shape}")


def _load(structure: dict[str, Any], tensors: dict[str, Tensor], pools: Pools) -> SessionState:
    settings = structure["settings"] | {"profile": Profile(structure["settings"]["profile"])}
    session = SessionState(TrackSettings(**settings))
    session.next_index = int(structure["next_index"])
    for index, frame_seq, height, width in structure["past"]:
        session.past[index] = PastFrame(frame_seq, (height, width), tensors[f"frame/{index}"])
    _require(structure, tensors)
    for described in structure["objects"]:
        session.objects[described["id"]] = _load_track(described, session, tensors, pools)
    return session


def _require(structure: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """All tensors must be there before a page is taken."""
    for described in structure["objects"]:
        keys = [f"pointer/{described['id']}/{i}" for i in described["conditioning"] + described["recent"]]
        keys += [f"logits/{described['id']}/{i}" for i, _ in described["answers"]]
        missing = [key for key in keys if key not in tensors]
        if missing:
            raise ValueError(f"{len(missing)} tensors are missing, the first is {missing[0]}")


def _load_track(
    described: dict[str, Any], session: SessionState, tensors: dict[str, Tensor], pools: Pools
) -> ObjectTrack:
    track, object_id = session.new_track(), described["id"]
    for name in ("conditioning", "recent"):
        for index in described[name]:
            key = f"{object_id}/{index}"
            memory = tensors.get(f"memory/{key}")
            page = None if memory is None else pools.memories.write(memory[None])[0]
            entry = Entry(page, pools.pointers.write(tensors[f"pointer/{key}"][None])[0])
            getattr(track.bank, name)[index] = entry
    for index, initial in described["answers"]:
        key = f"{object_id}/{index}"
        points = tensors.get(f"points/{key}")
        said = None if points is None else Said(points, tensors[f"labels/{key}"])
        track.answers[index] = Answer(tensors[f"logits/{key}"], said, bool(initial))
    return track
