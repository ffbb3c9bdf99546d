"""The fake backend's memory bank: where each object was last settled, and which frames may be corrected."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from masklet.errors import BackendError, UnknownFrame, UnknownObject
from masklet.types import (
    FloatArray,
    IntArray,
    MaskArray,
    ObjectMask,
    Profile,
    Prompt,
    Size,
    StepRequest,
    StepResult,
    TrackSettings,
)

_FORMAT = "masklet-fake-1"
_NO_OBJECT_LOGIT = -1024.0
_MASK_LOGIT = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """An object's mask on the frame with this index (0: the first tracked)."""

    mask: MaskArray
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Clicks:
    """All clicks on one object on one frame: [P, 2] and [P]."""

    points: FloatArray
    labels: IntArray


@dataclass(frozen=True, slots=True)
class Answered:
    """A frame in the history window, and the clicks made on it by object id."""

    index: int
    size: Size
    clicks: dict[int, Clicks]


class Bank:
    """One session's state. A step that raises leaves it in disorder: step a copy."""

    def __init__(self, settings: TrackSettings) -> None:
        self.settings = settings
        self.frames = 0
        self.last_seq = 0
        self.objects: dict[int, Settled] = {}
        self.history: dict[int, Answered] = {}

    @property
    def byte_count(self) -> int:
        """Bytes of the masks held."""
        return sum(settled.mask.nbytes for settled in self.objects.values())

    def copy(self) -> Bank:
        """A bank that may be changed without changing this one."""
        twin = Bank(self.settings)
        twin.frames, twin.last_seq = self.frames, self.last_seq
        twin.objects = dict(self.objects)
        twin.history = {
            seq: Answered(frame.index, frame.size, dict(frame.clicks)) for seq, frame in self.history.items()
        }
        return twin

    def step(self, request: StepRequest, *, logits_size: int) -> StepResult:
        """One frame, or one correction."""
        if request.reset:
            self.objects.clear()
            self.history.clear()
        for object_id in request.remove:
            if object_id not in self.objects:
                raise UnknownObject(f"object {object_id} is not tracked; {len(self.objects)} are")
            del self.objects[object_id]
        frame = self._new_frame(request) if request.image is not None else self._old_frame(request.frame_seq)
        for prompt in request.prompts:
            self._settle(prompt, frame)
        shown = set(self.objects) if request.image is not None else {prompt.object_id for prompt in request.prompts}
        answers = (_answer(key, self.objects[key], frame, request, logits_size) for key in sorted(shown))
        return StepResult(request.frame_seq, tuple(answers), revised=request.image is None)

    def _new_frame(self, request: StepRequest) -> Answered:
        assert request.image is not None
        if request.frame_seq <= self.last_seq:
            raise BackendError(f"frame {request.frame_seq} comes after frame {self.last_seq}")
        height, width = request.image.shape[:2]
        frame = Answered(self.frames, (height, width), {})
        self.history[request.frame_seq] = frame
        while len(self.history) > self.settings.history_frames:
            del self.history[next(iter(self.history))]
        self.frames += 1
        self.last_seq = request.frame_seq
        return frame

    def _old_frame(self, frame_seq: int) -> Answered:
        if frame_seq not in self.history:
            raise UnknownFrame(f"frame {frame_seq} is not among the last {self.settings.history_frames} answered")
        return self.history[frame_seq]

    def _settle(self, prompt: Prompt, frame: Answered) -> None:
        frame.clicks[prompt.object_id] = _clicks(prompt, frame.clicks.get(prompt.object_id))
        mask = _draw(prompt, frame.clicks[prompt.object_id], frame.size)
        self.objects[prompt.object_id] = Settled(mask, frame.index)


def pack(bank: Bank) -> bytes:
    """A bank as bytes; equal banks give equal bytes."""
    arrays: dict[str, np.ndarray[Any, Any]] = {f"mask {key}": settled.mask for key, settled in bank.objects.items()}
    for seq, frame in bank.history.items():
        for key, clicks in frame.clicks.items():
            arrays[f"points {seq} {key}"] = clicks.points
            arrays[f"labels {seq} {key}"] = clicks.labels
    header = {
        "format": _FORMAT,
        "settings": asdict(bank.settings),
        "frames": bank.frames,
        "last_seq": bank.last_seq,
        "objects": [[key, settled.index] for key, settled in bank.objects.items()],
        "history": [[seq, frame.index, frame.size, list(frame.clicks)] for seq, frame in bank.history.items()],
    }
    sink = io.BytesIO()
    np.savez_compressed(sink, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    return sink.getvalue()


def unpack(state: bytes) -> Bank:
    """The bank that was packed. Raises BackendError for anything else."""
    try:
        with np.load(io.BytesIO(state), allow_pickle=False) as arrays:
            return _restore(json.loads(arrays["header"].tobytes()), arrays)
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BackendError(f"{len(state)} bytes are not an exported state of the fake backend") from error


def _restore(header: Any, arrays: Any) -> Bank:
    if header["format"] != _FORMAT:
        raise ValueError(f"format is {header['format']}, must be {_FORMAT}")
    settings = dict(header["settings"])
    bank = Bank(TrackSettings(**settings | {"profile": Profile(settings["profile"])}))
    bank.frames, bank.last_seq = header["frames"], header["last_seq"]
    bank.objects = {key: Settled(arrays[f"mask {key}"], index) for key, index in header["objects"]}
    for seq, index, (height, width), keys in header["history"]:
        clicks = {key: Clicks(arrays[f"points {seq} {key}"], arrays[f"labels {seq} {key}"]) for key in keys}
        bank.history[seq] = Answered(index, (height, width), clicks)
    return bank


def _clicks(prompt: Prompt, before: Clicks | None) -> Clicks:
    if before is None or not prompt.keep_old_points or prompt.box is not None or prompt.mask is not None:
        return Clicks(prompt.points, prompt.labels)
    return Clicks(
        np.concatenate([before.points, prompt.points]),
        np.concatenate([before.labels, prompt.labels]),
    )


def _draw(prompt: Prompt, clicks: Clicks, size: Size) -> MaskArray:
    if prompt.mask is not None:
        return prompt.mask.copy()
    height, width = size
    y, x = np.mgrid[0.5:height, 0.5:width]
    if prompt.box is not None:
        x_min, y_min, x_max, y_max = prompt.box
        return np.asarray((x >= x_min) & (x < x_max) & (y >= y_min) & (y < y_max))
    included = clicks.points[clicks.labels == 1]
    if len(included) == 0:
        return np.zeros(size, bool)
    centre_x, centre_y = included[-1]
    radius = max(0.5, min(size) / 8)
    return np.asarray((x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2)


def _moved(settled: Settled, index: int) -> MaskArray:
    """The mask as many pixels to the right as frames have passed; to the left for frames before it was settled."""
    shift = index - settled.index
    moved = np.zeros_like(settled.mask)
    width = settled.mask.shape[1]
    if abs(shift) < width:
        moved[:, max(0, shift) : width + min(0, shift)] = settled.mask[:, max(0, -shift) : width - max(0, shift)]
    return moved


def _answer(object_id: int, settled: Settled, frame: Answered, request: StepRequest, logits_size: int) -> ObjectMask:
    mask = _moved(settled, frame.index)
    seen = bool(mask.any())
    return ObjectMask(
        object_id=object_id,
        mask=mask,
        object_score=1.0 if seen else -1.0,
        predicted_iou=1.0 if seen else 0.0,
        logits=_logits(mask, logits_size) if request.with_logits else None,
        pointer=np.full(256, object_id, np.float32) if request.with_pointers else None,
    )


def _logits(mask: MaskArray, side: int) -> FloatArray:
    if not mask.any():
        return np.full((side, side), _NO_OBJECT_LOGIT, np.float32)
    rows = np.arange(side) * mask.shape[0] // side
    columns = np.arange(side) * mask.shape[1] // side
    return np.where(mask[np.ix_(rows, columns)], _MASK_LOGIT, -_MASK_LOGIT).astype(np.float32)
