"""`masklet.v1` requests -> `session.messages`. What cannot be mapped becomes a MaskletError, never another exception.

What is well formed is not judged here: `session.validation` does that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from masklet.codecs.masks import decode_mask
from masklet.config import LimitsConfig
from masklet.errors import InvalidFrame, InvalidOpen, InvalidPrompt, LimitExceeded, MaskletError, ProtocolViolation
from masklet.server.enums import DROP_POLICIES, FRAME_CODECS, MASK_ENCODINGS, PROFILES, PROMPT_MODES
from masklet.session.intake import MAX_WAITING_MASK_BYTES
from masklet.session.messages import (
    ClientBody,
    ClientMessage,
    Close,
    Frame,
    Malformed,
    Open,
    Ping,
    PromptFor,
    RemoveObject,
    Reset,
)
from masklet.session.ring import LOST_FRAMES
from masklet.types import (
    DropPolicy,
    FloatArray,
    FrameCodec,
    IntArray,
    MaskArray,
    MaskEncoding,
    Profile,
    Prompt,
    PromptMode,
    Size,
)
from masklet.v1 import mask_pb2, prompt_pb2
from masklet.v1 import segmentation_pb2 as pb

_TIMESTAMP_SECONDS = (-62_135_596_800, 253_402_300_799)  # years 1 to 9999: timestamp.proto
_LABELS = {prompt_pb2.POINT_LABEL_INCLUDE: 1, prompt_pb2.POINT_LABEL_EXCLUDE: 0}


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What `SegmentImage` asks for; `size` is (height, width) or None where the client gave none."""

    codec: FrameCodec
    payload: bytes
    size: Size | None
    prompts: tuple[Prompt, ...]
    mask_encoding: MaskEncoding
    with_logits: bool
    profile: Profile | None


def from_track_request(
    request: pb.TrackRequest, limits: LimitsConfig, *, received_s: float, size: Size | None = None
) -> ClientMessage:
    """One message of a stream; content that makes no sense becomes `Malformed`.

    Args:
        request: what came.
        limits: what may come.
        received_s: when, on the context's clock.
        size: (height, width) of the stream's frames, so that a mask of another size is not decoded; None: not known.
    """
    body: ClientBody
    try:
        body = _body(request, limits, size)
    except MaskletError as error:
        body = Malformed(error, frame=request.HasField("frame"))
    return ClientMessage(request.seq, body, received_s)


def from_image_request(request: pb.SegmentImageRequest, limits: LimitsConfig) -> ImageRequest:
    """One image and its prompts.

    Raises:
        InvalidFrame: codec or size make no sense.
        InvalidPrompt: a prompt makes no sense.
        LimitExceeded: too many prompts, points, or pixels of a mask or of all.
    """
    _check_at_most(len(request.prompts), limits.max_prompts_per_frame, "prompts")
    unpacked = sum(one.mask.height * one.mask.width for one in request.prompts)
    _check_at_most(unpacked, MAX_WAITING_MASK_BYTES, "prompts", unit=" bytes of unpacked masks")
    size = _image_size(request)
    return ImageRequest(
        codec=FRAME_CODECS.from_wire(request.codec, "codec", error=InvalidFrame),
        payload=request.payload,
        size=size,
        prompts=tuple(
            _prompt(prompt, limits, size, field=f"prompts[{index}]") for index, prompt in enumerate(request.prompts)
        ),
        mask_encoding=_mask_encoding(request.mask_encoding, "mask_encoding", error=InvalidFrame),
        with_logits=request.with_logits,
        profile=_profile(request.profile, "profile", error=InvalidFrame),
    )


def _body(request: pb.TrackRequest, limits: LimitsConfig, size: Size | None) -> ClientBody:
    match request.WhichOneof("message"):
        case "open":
            return _open(request.open)
        case "frame":
            return _frame(request.frame)
        case "prompt":
            return PromptFor(_prompt(request.prompt, limits, size, field="prompt"), request.prompt.frame_seq)
        case "remove_object":
            return RemoveObject(request.remove_object.object_id)
        case "reset":
            return Reset()
        case "ping":
            return Ping(request.ping.nonce)
        case "close":
            return Close()
    raise ProtocolViolation(f"request {request.seq} holds no message", field="message")


def _open(wire: pb.Open) -> Open:
    _check_at_most(len(wire.unanswered_seqs), LOST_FRAMES, "open.unanswered_seqs")
    corrections = wire.corrections_as_conditioning if wire.HasField("corrections_as_conditioning") else None
    return Open(
        codec=FRAME_CODECS.from_wire(wire.codec, "open.codec", error=InvalidOpen),
        size=(wire.height, wire.width),
        target_frame_rate_hz=wire.target_frame_rate_hz,
        mask_encoding=_mask_encoding(wire.mask_encoding, "open.mask_encoding", error=InvalidOpen),
        drop_policy=DROP_POLICIES.from_wire(
            wire.drop_policy, "open.drop_policy", error=InvalidOpen, unset=DropPolicy.LATEST
        ),
        max_staleness_s=_seconds(wire.max_staleness) if wire.HasField("max_staleness") else None,
        profile=_profile(wire.profile, "open.profile", error=InvalidOpen),
        resume_token=wire.resume_token,
        with_logits=wire.with_logits,
        corrections_as_conditioning=corrections,
        max_conditioning_frames=wire.max_conditioning_frames,
        last_server_seq=wire.last_server_seq,
        unanswered_seqs=tuple(wire.unanswered_seqs),
    )


def _mask_encoding(number: int, field: str, *, error: type[MaskletError]) -> MaskEncoding:
    return MASK_ENCODINGS.from_wire(number, field, error=error, unset=MaskEncoding.RLE)


def _profile(number: int, field: str, *, error: type[MaskletError]) -> Profile | None:
    return PROFILES.from_wire(number, field, error=error) if number else None


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _frame(wire: pb.Frame) -> Frame:
    captured_ns = _nanoseconds(wire.capture_time) if wire.HasField("capture_time") else None
    return Frame(wire.payload, captured_ns, wire.keyframe)


def _nanoseconds(time: Timestamp) -> int:
    low, high = _TIMESTAMP_SECONDS
    if not (low <= time.seconds <= high and 0 <= time.nanos < 1_000_000_000):
        message = f"capture_time is {time.seconds} s and {time.nanos} ns, must lie in the years 1 to 9999"
        raise InvalidFrame(message, field="frame.capture_time")
    return time.seconds * 1_000_000_000 + time.nanos


def _prompt(wire: prompt_pb2.Prompt, limits: LimitsConfig, size: Size | None, *, field: str) -> Prompt:
    points, labels = _points(wire.points, limits, field=f"{field}.points")
    kind = wire.WhichOneof("kind")
    if kind is None:
        raise InvalidPrompt(f"{field} of object {wire.object_id} holds no points, box or mask", field=f"{field}.kind")
    return Prompt(
        object_id=wire.object_id,
        points=points,
        labels=labels,
        box=_box(wire.box) if kind == "box" else None,
        mask=_mask(wire.mask, limits, size, field=f"{field}.mask") if kind == "mask" else None,
        keep_old_points=wire.keep_old_points,
        mode=PROMPT_MODES.from_wire(wire.mode, f"{field}.mode", error=InvalidPrompt, unset=PromptMode.REFINE),
    )


def _points(wire: prompt_pb2.Points, limits: LimitsConfig, *, field: str) -> tuple[FloatArray, IntArray]:
    _check_at_most(len(wire.points), limits.max_points_per_prompt, field)
    for index, point in enumerate(wire.points):
        if point.label not in _LABELS:
            message = f"{field}[{index}].label is {point.label}, must be include (1) or exclude (2)"
            raise InvalidPrompt(message, field=f"{field}.points[{index}].label")
    places = np.array([(point.x, point.y) for point in wire.points], np.float32).reshape(-1, 2)
    return places, np.array([_LABELS[point.label] for point in wire.points], np.int32)


def _box(wire: mask_pb2.Box) -> FloatArray:
    return np.array([wire.x_min, wire.y_min, wire.x_max, wire.y_max], np.float32)


def _mask(wire: mask_pb2.Mask, limits: LimitsConfig, size: Size | None, *, field: str) -> MaskArray:
    encoding = MASK_ENCODINGS.from_wire(wire.encoding, f"{field}.encoding", error=InvalidPrompt)
    _check_at_most(wire.height, limits.max_frame_height, f"{field}.height")
    _check_at_most(wire.width, limits.max_frame_width, f"{field}.width")
    _check_at_most(wire.height * wire.width, limits.max_frame_pixels, field, unit=" pixels")
    found = (wire.height, wire.width)
    if size and found != size:
        raise InvalidPrompt(f"mask is {list(found)}, the frame is {list(size)} [H, W]", field=field)
    try:
        return decode_mask(wire.data, encoding, found)
    except InvalidPrompt as error:
        raise InvalidPrompt(str(error), field=f"{field}.data") from error


def _image_size(request: pb.SegmentImageRequest) -> Size | None:
    size = (request.height, request.width)
    if size == (0, 0):
        return None
    if 0 in size:
        raise InvalidFrame(f"size is {size[0]} x {size[1]}, give height and width or neither", field="height")
    return size


def _check_at_most(value: int, limit: int, field: str, *, unit: str = "") -> None:
    if value > limit:
        raise LimitExceeded(f"{field} is {value}{unit}, at most {limit}", field=field)
