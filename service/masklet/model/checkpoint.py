"""Weights from a file into a network and back, with one clear `WeightsError` for everything that can be wrong.

Files: the published torch zips of `{"model": state_dict}`, bare state dicts, and safetensors, in official or
`transformers` naming. Nothing pickled is ever executed.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from masklet.errors import WeightsError
from masklet.model.published import identify
from masklet.model.transformers_naming import is_transformers_naming, to_official

MAX_CHECKPOINT_BYTES = 4 * 2**30
OBJECT_SCORE_BIAS = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
WEIGHT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LISTED = 10
_ZIP_MAGIC = b"PK\x03\x04"


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint into a state dict with official keys; tensors stay memory-mapped where the format allows.

    Raises:
        WeightsError: no such file, a directory, truncated, not a checkpoint, too large, or pickled code inside; or
            a tensor that is no dense one of `WEIGHT_TYPES`.
    """
    state = read_as_stored(path)
    return to_official(state) if is_transformers_naming(state) else state


def read_as_stored(path: str | Path) -> dict[str, Tensor]:
    """Like `read_checkpoint`, but with the keys as they are in the file."""
    file = Path(path)
    magic = _check_file(file)
    if magic.startswith(_ZIP_MAGIC):
        state = _unwrap(_read_torch_zip(file), file)
    elif magic[8:9] == b"{":
        state = _read_safetensors(file)
    else:
        raise WeightsError(f"{file}: neither a torch zip nor safetensors (it begins with {magic[:8]!r})")
    _check_dense(state, str(file))
    return state


def load_weights(network: nn.Module, source: str | Path | Mapping[str, Tensor], *, variant: str) -> str:
    """Load a checkpoint file, or a state dict with official keys, into `network`, every tensor of it.

    Args:
        network: its parameters are named like the official checkpoint's.
        source: a path, or a state dict.
        variant: what `network` is, for messages.

    Returns:
        The sha256 of the file in hex; for a state dict that of its keys, types, shapes and values.

    Raises:
        WeightsError: unreadable, or keys or shapes are not those of `network`, or a weight is not finite, or a tensor
            is no dense one of `WEIGHT_TYPES` in the CPU's memory.
    """
    state = source if isinstance(source, Mapping) else read_checkpoint(source)
    name = "state dict" if isinstance(source, Mapping) else str(source)
    check_fits(network.state_dict(), state, variant=variant, name=name)
    _check_dense(state, name)
    _check_finite(state, name)
    network.load_state_dict(state, strict=True)
    return state_sha256(source) if isinstance(source, Mapping) else file_sha256(source)


def save_checkpoint(state: Mapping[str, Tensor], path: str | Path) -> None:
    """Write a state dict; `.safetensors` by suffix, otherwise a torch zip of `{"model": state}`. Replaces atomically.

    Raises:
        WeightsError: the file cannot be written.
    """
    file = Path(path)
    part = file.with_name(f"{file.name}.part")
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    try:
        part.touch()
        mode = part.stat().st_mode  # safetensors writes for the owner alone, and services run as somebody else
        if file.suffix == ".safetensors":
            save_file(tensors, str(part), metadata={"format": "pt"})
        else:
            torch.save({"model": tensors}, part)
        part.chmod(mode)
        os.replace(part, file)
    except (OSError, RuntimeError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise WeightsError(f"{file}: cannot be written: {error}") from error


def shift_object_score(state: Mapping[str, Tensor], by: float) -> dict[str, Tensor]:
    """The weights, changed so that every object score, the logit above 0 of which an object is present, rises by `by`.

    For weights that are too sure that an object is present, or absent.

    Raises:
        WeightsError: the state, of official keys, is of no SAM 2; or `by` or the outcome is not finite.
    """
    if not math.isfinite(by):
        raise WeightsError(f"the object score cannot be shifted by {by}: must be finite")
    if OBJECT_SCORE_BIAS not in state:
        raise WeightsError(f"no object score to shift: there is no {OBJECT_SCORE_BIAS}")
    bias = state[OBJECT_SCORE_BIAS] + by
    if not bias.isfinite().all():
        raise WeightsError(f"the object score cannot be shifted by {by}: {OBJECT_SCORE_BIAS} would not be finite")
    return {**state, OBJECT_SCORE_BIAS: bias}


def half_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float16; what is no floating point number stays as it is.

    Raises:
        WeightsError: a weight is too large for it.
    """
    halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    for key, value in halved.items():
        if not value.isfinite().all() and state[key].isfinite().all():
            largest = state[key].abs().max().item()
            raise WeightsError(f"{key}: {largest:.6g} does not fit into float16, whose largest number is 65504")
    return halved


def mean_weights(states: Sequence[tuple[str, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """The mean of several states' weights, float32 (model soups, Wortsman et al. 2022).

    Args:
        states: file names and states of official keys, at least one.

    Raises:
        WeightsError: they are none, or not of one variant: names missing, extra and misshapen keys.
    """
    if not states:
        raise WeightsError("there are no weights to take the mean of")
    (first_name, first), *rest = states
    for name, state in rest:
        check_fits(first, state, variant=f"{first_name}, which it is to be averaged with", name=name)
    return {key: torch.stack([state[key].float() for _, state in states]).mean(dim=0) for key in first}


def check_fits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], *, variant: str, name: str) -> None:
    """Compare keys and shapes.

    Raises:
        WeightsError: names missing, extra and misshapen keys (ten of each), and the variant they look like.
    """
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    misshapen = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    faults = [("missing", missing), ("extra", extra), ("of another shape", misshapen)]
    listed = "; ".join(f"{len(keys)} {what}: {_first(keys)}" for what, keys in faults if keys)
    if listed:
        raise WeightsError(f"{name} does not fit {variant}{_guess(state, variant)}: {listed}")


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """The sha256 of keys, types, shapes and values in hex; the order of keys does not matter."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_file(file: Path) -> bytes:
    try:
        if file.is_dir():
            raise WeightsError(f"{file} is a directory, not a checkpoint")
        size = file.stat().st_size
        with file.open("rb") as opened:
            magic = opened.read(16)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from error
    if size > MAX_CHECKPOINT_BYTES:
        raise WeightsError(f"{file} has {size} bytes, more than the {MAX_CHECKPOINT_BYTES} a checkpoint may have")
    return magic


def _read_torch_zip(file: Path) -> object:
    _check_zip(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise WeightsError(f"{file} holds more than tensors, and pickled code is never run: {reason}") from error
    except Exception as error:  # a damaged file can raise almost anything from inside the parser
        raise WeightsError(f"{file} is a zip, but not a whole torch checkpoint: {error}") from error


def _check_zip(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise WeightsError(f"{file} is truncated or damaged: {error}") from error
    unpacked, size = sum(entry.file_size for entry in entries), file.stat().st_size
    if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(f"{file} is compressed ({unpacked} bytes in {size}), which no torch checkpoint is")


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(str(file), device="cpu"))
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise WeightsError(f"{file} is not a whole safetensors file: {error}") from error


def _unwrap(loaded: object, file: Path) -> dict[str, Tensor]:
    inner: Any = loaded.get("model", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(inner, dict) or not inner:
        raise WeightsError(f"{file} holds a {type(inner).__name__}, not a state dict")
    strangers = [str(key) for key, value in inner.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strangers:
        raise WeightsError(f"{file} is not a state dict: {len(strangers)} entries are no tensors: {_first(strangers)}")
    return inner


def _check_dense(state: Mapping[str, Tensor], name: str) -> None:
    """Others fail in the middle of loading, or are turned into weights that nobody meant."""
    strange = [f"{key} ({fault})" for key, value in state.items() if (fault := _not_dense(value))]
    if strange:
        types = ", ".join(_type_name(dtype) for dtype in WEIGHT_TYPES)
        raise WeightsError(f"{name}: {len(strange)} tensors are not dense ones of {types}: {_first(strange)}")


def _not_dense(value: Tensor) -> str:
    if value.dtype not in WEIGHT_TYPES:
        return _type_name(value.dtype)
    if value.layout is not torch.strided:
        return _type_name(value.layout)
    if value.device.type != "cpu":
        return f"on {value.device}"
    stored = value.untyped_storage().nbytes() // value.element_size()
    return f"{value.numel()} numbers, {stored} stored" if stored < value.numel() else ""


def _type_name(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")


def _check_finite(state: Mapping[str, Tensor], name: str) -> None:
    broken = [key for key, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise WeightsError(f"{name}: {len(broken)} weights are not finite: {_first(broken)}")


def _guess(state: Mapping[str, Tensor], variant: str) -> str:
    found = identify({key: tuple(value.shape) for key, value in state.items()})
    return f" (this looks like {found})" if found and found != variant else ""


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:_LISTED]) + (", ..." if len(keys) > _LISTED else "")
