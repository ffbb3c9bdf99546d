"""Calls to the Triton model and its answers, to envelopes and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from masklet.backends.triton_tensors import AnyArray, Fields, Operation, pack, unpack
from masklet.errors import BackendError, BackendUncertain, MaskletError, error_classes
from masklet.types import (
    BackendStats,
    BankSummary,
    FloatArray,
    FrameCodec,
    MaskArray,
    ModelDescription,
    ObjectMask,
    Profile,
    Prompt,
    PromptMode,
    Size,
    StateOrigin,
    StepRequest,
    StepResult,
    TrackSettings,
)

MAX_EPOCH = 2**62
_MAX_ID = 2**31 - 1
_MAX_COUNT = 2**62
_MAX_SIDE = 16384
_NO_MASKS: MaskArray = np.zeros((0, 0, 0), bool)


@dataclass(frozen=True, slots=True)
class SentFrame:
    """A frame on its way to the model.

    Attributes:
        codec: raw RGB or JPEG.
        size: (height, width).
        payload: its bytes, or None if they are in shared memory.
        shared: name of that memory (`triton_frames`), or empty.
    """

    codec: FrameCodec
    size: Size
    payload: AnyArray | None = None
    shared: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call; which of the optional parts are there depends on the operation.

    Attributes:
        operation: what is asked.
        epoch: the caller's ownership of the session, from 1; OPEN, IMPORT and ATTACH set it.
        settings: of OPEN.
        step: of STEP, without its image.
        frame: of STEP; None: a correction.
        state: of IMPORT.
        probe: of STAT: name of shared memory; can the model see it?
    """

    operation: Operation
    epoch: int = 1
    settings: TrackSettings | None = None
    step: StepRequest | None = None
    frame: SentFrame | None = None
    state: bytes = b""
    probe: str = ""

    def to_bytes(self) -> bytes:
        """As the CALL tensor."""
        fields: dict[str, object] = {"operation": self.operation, "epoch": self.epoch}
        arrays: dict[str, AnyArray] = {}
        if self.settings:
            fields["settings"] = asdict(self.settings)
        if self.step:
            fields["step"] = _step_fields(self.step, arrays)
        if self.frame:
            fields["frame"] = _frame_fields(self.frame, arrays)
        if self.operation is Operation.IMPORT:
            arrays["state"] = np.frombuffer(self.state, np.uint8)
        if self.probe:
            fields["probe"] = self.probe
        return pack(fields, arrays, padded=True)

    @classmethod
    def from_bytes(cls, envelope: bytes | memoryview) -> Call:
        """Undo `to_bytes`. Raises BackendError if it is none."""
        fields, arrays = unpack(envelope)
        operation = fields.choice("operation", Operation)
        frame = fields.inner("frame")
        return cls(
            operation=operation,
            epoch=fields.integer("epoch", 1, MAX_EPOCH),
            settings=_settings(fields.needed("settings")) if operation is Operation.OPEN else None,
            step=_step(fields.needed("step"), arrays) if operation is Operation.STEP else None,
            frame=_frame(frame, arrays) if frame else None,
            state=_taken(arrays, "state", "uint8", (None,)).tobytes() if operation is Operation.IMPORT else b"",
            probe=fields.optional_text("probe") or "",
        )


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the model runs and how much it takes: the answer to STAT.

    Attributes:
        description: what runs.
        max_sessions: sessions it takes at a time.
        idle_timeout_s: a session without requests for this long is forgotten.
        sees_probe: whether the model sees the shared memory of the call's `probe`.
        capacity: objects times frames per second it was measured to make; 0: not measured.
    """

    description: ModelDescription
    max_sessions: int
    idle_timeout_s: float
    sees_probe: bool = False
    capacity: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a call led to; `stats` are the model's right after it."""

    stats: BackendStats
    error: MaskletError | None = None
    result: StepResult | None = None
    state: bytes | None = None
    facts: ModelFacts | None = None
    bank: BankSummary | None = None

    def to_bytes(self) -> bytes:
        """As the ANSWER tensor."""
        fields: dict[str, object] = {"stats": asdict(self.stats)}
        arrays: dict[str, AnyArray] = {}
        if self.error:
            fields["error"] = _error_fields(self.error)
        if self.result:
            fields["result"] = _result_fields(self.result, arrays)
        if self.facts:
            fields["facts"] = asdict(self.facts)
        if self.bank:
            fields["bank"] = asdict(self.bank)
        if self.state is not None:
            arrays["state"] = np.frombuffer(self.state, np.uint8)
        return pack(fields, arrays)

    @classmethod
    def from_bytes(cls, envelope: bytes | memoryview) -> Answer:
        """Undo `to_bytes`. Raises BackendError if it is none."""
        fields, arrays = unpack(envelope)
        error, result = fields.inner("error"), fields.inner("result")
        facts, bank = fields.inner("facts"), fields.inner("bank")
        return cls(
            stats=_stats(fields.needed("stats")),
            error=_error(error) if error else None,
            result=_result(result, arrays) if result else None,
            state=_taken(arrays, "state", "uint8", (None,)).tobytes() if "state" in arrays else None,
            facts=_facts(facts) if facts else None,
            bank=_bank(bank) if bank else None,
        )


def _taken(arrays: Mapping[str, AnyArray], name: str, kind: str, shape: tuple[int | None, ...]) -> AnyArray:
    """An array of this type and shape; None: any length."""
    found = arrays.get(name)
    wanted = f"{kind} {list(shape)}".replace("None", "any")
    if found is None:
        raise BackendError(f"Triton message lacks the array {name!r}, {wanted}")
    fits = len(found.shape) == len(shape) and all(s in (None, f) for s, f in zip(shape, found.shape, strict=True))
    if found.dtype.name != kind or not fits:
        raise BackendError(f"array {name!r} is {found.dtype.name} {list(found.shape)}, must be {wanted}")
    return found


def _size(fields: Fields) -> Size:
    return fields.integer("height", 1, _MAX_SIDE), fields.integer("width", 1, _MAX_SIDE)


def _pace(fields: Fields, name: str) -> float:
    """Per second, at least 0; 0 if it is not there, as from an older version."""
    value = fields.optional_number(name) or 0.0
    if value < 0:
        raise BackendError(f"{name} is {value}, must be at least 0")
    return value


def _frame_fields(frame: SentFrame, arrays: dict[str, AnyArray]) -> dict[str, object]:
    if frame.payload is not None:
        arrays["frame"] = frame.payload
    return {"codec": frame.codec, "height": frame.size[0], "width": frame.size[1], "shared": frame.shared}


def _frame(fields: Fields, arrays: Mapping[str, AnyArray]) -> SentFrame:
    shared = fields.text("shared")
    payload = None if shared else _taken(arrays, "frame", "uint8", (None,))
    return SentFrame(fields.choice("codec", FrameCodec), _size(fields), payload, shared)


def _settings(fields: Fields) -> TrackSettings:
    return TrackSettings(
        profile=fields.choice("profile", Profile),
        corrections_as_conditioning=fields.flag("corrections_as_conditioning"),
        max_conditioning_frames=fields.optional_integer("max_conditioning_frames", 0, _MAX_COUNT),
        fill_hole_area=fields.integer("fill_hole_area", 0, _MAX_COUNT),
        history_frames=fields.integer("history_frames", 0, _MAX_COUNT),
        video_frames=fields.optional_integer("video_frames", 1, _MAX_COUNT),
        frame_rate_hz=_pace(fields, "frame_rate_hz"),
    )


def _step_fields(step: StepRequest, arrays: dict[str, AnyArray]) -> dict[str, object]:
    prompts = []
    for index, prompt in enumerate(step.prompts):
        given = {"points": prompt.points, "labels": prompt.labels, "box": prompt.box, "mask": prompt.mask}
        arrays.update({f"{index}/{name}": array for name, array in given.items() if array is not None})
        kept = {"object_id": prompt.object_id, "mode": prompt.mode, "keep_old_points": prompt.keep_old_points}
        prompts.append(kept | {"box": prompt.box is not None, "mask": prompt.mask is not None})
    return {
        "frame_seq": step.frame_seq,
        "prompts": prompts,
        "remove": list(step.remove),
        "reset": step.reset,
        "with_logits": step.with_logits,
        "with_pointers": step.with_pointers,
    }


def _step(fields: Fields, arrays: Mapping[str, AnyArray]) -> StepRequest:
    prompts = (_prompt(inner, index, arrays) for index, inner in enumerate(fields.many("prompts")))
    return StepRequest(
        frame_seq=fields.integer("frame_seq", 0, _MAX_COUNT),
        image=None,
        prompts=tuple(prompts),
        remove=fields.integers("remove", 0, _MAX_ID),
        reset=fields.flag("reset"),
        with_logits=fields.flag("with_logits"),
        with_pointers=fields.flag("with_pointers"),
    )


def _prompt(fields: Fields, index: int, arrays: Mapping[str, AnyArray]) -> Prompt:
    points = _taken(arrays, f"{index}/points", "float32", (None, 2))
    return Prompt(
        object_id=fields.integer("object_id", 0, _MAX_ID),
        points=points,
        labels=_taken(arrays, f"{index}/labels", "int32", (len(points),)),
        box=_taken(arrays, f"{index}/box", "float32", (4,)) if fields.flag("box") else None,
        mask=_taken(arrays, f"{index}/mask", "bool", (None, None)) if fields.flag("mask") else None,
        keep_old_points=fields.flag("keep_old_points"),
        mode=fields.choice("mode", PromptMode),
    )


def _error_fields(error: MaskletError) -> dict[str, object]:
    return {
        "reason": error.reason,
        "message": str(error),
        "retry_after_s": error.retry_after_s,
        "field": error.field,
    }


def _error(fields: Fields) -> MaskletError:
    """The very same leaf; BackendError for a reason that this version does not know."""
    kind = error_classes().get(fields.text("reason"), BackendError)
    after, field = fields.optional_number("retry_after_s"), fields.optional_text("field")
    return kind(fields.text("message"), retry_after_s=after, field=field)


def _result_fields(result: StepResult, arrays: dict[str, AnyArray]) -> dict[str, object]:
    objects = result.objects
    if objects:
        arrays["masks"] = np.stack([found.mask for found in objects])
        _stack_optional(arrays, "logits", [found.logits for found in objects])
        _stack_optional(arrays, "pointers", [found.pointer for found in objects])
    return {
        "frame_seq": result.frame_seq,
        "revised": result.revised,
        "objects": [
            {"object_id": o.object_id, "object_score": o.object_score, "predicted_iou": o.predicted_iou}
            for o in objects
        ],
    }


def _stack_optional(arrays: dict[str, AnyArray], name: str, rows: list[FloatArray | None]) -> None:
    given = [row for row in rows if row is not None]
    if given:
        arrays[name] = np.stack(given)


def _result(fields: Fields, arrays: Mapping[str, AnyArray]) -> StepResult:
    listed = fields.many("objects")
    masks = _taken(arrays, "masks", "bool", (len(listed), None, None)) if listed else _NO_MASKS
    logits = _taken(arrays, "logits", "float32", (len(listed), None, None)) if "logits" in arrays else None
    pointers = _taken(arrays, "pointers", "float32", (len(listed), None)) if "pointers" in arrays else None
    objects = tuple(
        ObjectMask(
            object_id=inner.integer("object_id", 0, _MAX_ID),
            mask=masks[index],
            object_score=inner.number("object_score"),
            predicted_iou=inner.number("predicted_iou"),
            logits=None if logits is None else logits[index],
            pointer=None if pointers is None else pointers[index],
        )
        for index, inner in enumerate(listed)
    )
    ids = [found.object_id for found in objects]
    if ids != sorted(set(ids)):
        raise BackendError(f"objects {ids[:8]} are answered, their ids must rise")
    return StepResult(fields.integer("frame_seq", 0, _MAX_COUNT), objects, fields.flag("revised"))


def check_result(result: StepResult, request: StepRequest, input_size: int) -> None:
    """Whether `result` can be the answer to `request` by a model of this input size. Raises BackendUncertain if not."""
    revised = request.image is None
    if (result.frame_seq, result.revised) != (request.frame_seq, revised):
        raise BackendUncertain(f"frame {request.frame_seq} was asked for, Triton answered frame {result.frame_seq}")
    if not result.objects:
        return
    found = result.objects[0]
    if request.image is not None and found.mask.shape != request.image.shape[:2]:
        raise BackendUncertain(f"Triton's masks are {found.mask.shape}, the frame is {request.image.shape[:2]}")
    if (found.logits is not None, found.pointer is not None) != (request.with_logits, request.with_pointers):
        raise BackendUncertain("Triton's answer lacks the logits or pointers asked for, or has some not asked for")
    side = input_size // 4
    if found.logits is not None and found.logits.shape != (side, side):
        raise BackendUncertain(f"Triton's logits are {found.logits.shape}, must be {(side, side)}")


def _stats(fields: Fields) -> BackendStats:
    names = ("sessions", "bank_bytes", "batches", "batched_steps")
    counts = (fields.integer(name, 0, _MAX_COUNT) for name in names)
    return BackendStats(*counts, *(_pace(fields, name) for name in ("load", "capacity")))


def _bank(fields: Fields) -> BankSummary:
    settings = fields.inner("settings")
    return BankSummary(
        last_frame_seq=fields.integer("last_frame_seq", 0, _MAX_COUNT),
        object_ids=fields.integers("object_ids", 0, _MAX_ID),
        history=fields.integers("history", 0, _MAX_COUNT),
        origin=fields.choice("origin", StateOrigin),
        settings=_settings(settings) if settings else None,
    )


def _facts(fields: Fields) -> ModelFacts:
    found = fields.needed("description")
    description = ModelDescription(
        model=found.text("model"),
        weights_sha256=found.text("weights_sha256"),
        trained=found.flag("trained"),
        input_size=found.integer("input_size", 32, _MAX_SIDE),
        backend=found.text("backend"),
        device=found.text("device"),
        precision=found.text("precision"),
    )
    return ModelFacts(
        description,
        fields.integer("max_sessions", 1, _MAX_COUNT),
        fields.number("idle_timeout_s"),
        fields.flag("sees_probe"),
        _pace(fields, "capacity"),
    )
