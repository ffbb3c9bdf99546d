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
from masklet.engine.pool import write_all
from masklet.engine.portable_checks import check_structure, check_tensors
from masklet.engine.track import Answer, ObjectTrack, PastFrame, Said, SessionState
from masklet.errors import BackendError
from masklet.model import SAM2Config
from masklet.types import Profile, TrackSettings

FORMAT = 1
METADATA_KEY = "masklet"
MAX_HEADER_BYTES = 8 * 1024 * 1024
_DAMAGE = (
    KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, RuntimeError, struct.error,
    SafetensorError,
)  # fmt: skip


def dump_session(session: SessionState, pools: Pools, config: SAM2Config, *, weights: str) -> bytes:
    """The whole state, settings included; `weights` names those it was tracked with, empty: not known."""
    tensors: dict[str, Tensor] = {}
    structure = {
        "format": FORMAT,
        "model": _model_id(config),
        "weights": weights,
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
        "scores": [[answer.object_score, answer.predicted_iou] for answer in track.answers.values()],
    }


def load_session(state: bytes, pools: Pools, config: SAM2Config, *, weights: str, device: torch.device) -> SessionState:
    """Undo `dump_session`; memories go to fresh pages, once everything has been checked.

    Raises:
        BackendError: not an exported state, or one of another model or other weights.
    """
    try:
        structure, tensors = _structure(state), load(state)
        _check_origin(structure, config, weights)
        check_structure(structure)
        check_tensors(structure, tensors, config)
    except _DAMAGE as error:
        reason = f"{type(error).__name__}: {error}"
        raise BackendError(f"not an exported session state ({len(state)} bytes): {reason}") from error
    return _restore(structure, {key: tensor.to(device) for key, tensor in tensors.items()}, pools)


def _check_origin(structure: dict[str, Any], config: SAM2Config, weights: str) -> None:
    if structure["model"] != _model_id(config):
        raise BackendError(f"exported state is of model {structure['model']!r:.80}, this is {_model_id(config)!r}")
    theirs = structure.get("weights") or weights  # states of older versions do not say
    if weights and theirs != weights:
        raise BackendError(f"exported state is of weights {theirs!r:.80}, these are {weights!r}")


def _structure(state: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", state[:8])
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"header of {length} bytes, at most {MAX_HEADER_BYTES} are allowed")
    structure = json.loads(json.loads(state[8 : 8 + length])["__metadata__"][METADATA_KEY])
    if structure["format"] != FORMAT:
        raise ValueError(f"format {structure['format']!r:.80}, this version reads {FORMAT}")
    return dict(structure)


def _restore(structure: dict[str, Any], tensors: dict[str, Tensor], pools: Pools) -> SessionState:
    settings = structure["settings"] | {"profile": Profile(structure["settings"]["profile"])}
    session = SessionState(TrackSettings(**settings))
    session.next_index = structure["next_index"]
    for index, frame_seq, height, width in structure["past"]:
        session.past[index] = PastFrame(frame_seq, (height, width), tensors[f"frame/{index}"])
    pages = _write_pages(tensors, pools)
    for described in structure["objects"]:
        session.objects[described["id"]] = _restore_track(described, session.new_track(), tensors, pages)
    return session


def _write_pages(tensors: dict[str, Tensor], pools: Pools) -> dict[str, int]:
    """Page numbers by tensor key; all pages are taken or none."""
    kinds = (("memory/", pools.memories), ("pointer/", pools.pointers))
    found = [(pool, keys) for kind, pool in kinds if (keys := [key for key in tensors if key.startswith(kind)])]
    written = write_all(*((pool, torch.stack([tensors[key] for key in keys])) for pool, keys in found))
    pages: dict[str, int] = {}
    for (_, keys), numbers in zip(found, written, strict=True):
        pages.update(zip(keys, numbers, strict=True))
    return pages


def _restore_track(
    described: dict[str, Any], track: ObjectTrack, tensors: dict[str, Tensor], pages: dict[str, int]
) -> ObjectTrack:
    for indices, entries in (
        (described["conditioning"], track.bank.conditioning),
        (described["recent"], track.bank.recent),
    ):
        for index in indices:
            key = f"{described['id']}/{index}"
            entries[index] = Entry(pages.get(f"memory/{key}"), pages[f"pointer/{key}"])
    for number, (index, initial) in enumerate(described["answers"]):
        key = f"{described['id']}/{index}"
        logits, points = tensors[f"logits/{key}"], tensors.get(f"points/{key}")
        said = None if points is None else Said(points, tensors[f"labels/{key}"])
        scores = described["scores"][number] if "scores" in described else _scores_of_older(logits)
        track.answers[index] = Answer(logits, said, initial, *scores)
    return track


def _scores_of_older(logits: Tensor) -> tuple[float, float]:
    """States of older versions do not have scores: as if the mask had been given as a prompt."""
    return 10.0 if bool((logits > 0).any()) else -10.0, 1.0
