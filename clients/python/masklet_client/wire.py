"""Between `masklet.v1` messages and plain values. Enumerations are mapped by name: both sides share them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import TypeVar

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from masklet.codecs.masks import encode_mask
from masklet.errors import MaskletError
from masklet.types import (
    DropPolicy,
    DropReason,
    FrameCodec,
    MaskEncoding,
    ModelDescription,
    ObjectState,
    Profile,
    Prompt,
    PromptMode,
    StateOrigin,
)
from masklet.v1 import mask_pb2, prompt_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.events import (
    BoxEdges,
    ImageResult,
    Limits,
    ObjectResult,
    Opened,
    Result,
    ServerDescription,
    Timing,
)
from masklet_client.settings import StreamSettings

_CODECS = {codec: pb.FrameCodec.Value(f"FRAME_CODEC_{codec.name}") for codec in FrameCodec}
_POLICIES = {policy: pb.DropPolicy.Value(f"DROP_POLICY_{policy.name}") for policy in DropPolicy}
_PROFILES = {profile: pb.Profile.Value(f"PROFILE_{profile.name}") for profile in Profile}
_ENCODINGS = {e: mask_pb2.MaskEncoding.Value(f"MASK_ENCODING_{e.name}") for e in MaskEncoding}
_MODES = {mode: prompt_pb2.PromptMode.Value(f"PROMPT_MODE_{mode.name}") for mode in PromptMode}
_STATES = {state: pb.ObjectState.Value(f"OBJECT_STATE_{state.name}") for state in ObjectState}
_REASONS = {reason: pb.DropReason.Value(f"DROP_REASON_{reason.name}") for reason in DropReason}
_ORIGINS = {origin: pb.StateOrigin.Value(f"STATE_ORIGIN_{origin.name}") for origin in StateOrigin}
_LABELS = {1: prompt_pb2.POINT_LABEL_INCLUDE, 0: prompt_pb2.POINT_LABEL_EXCLUDE}
Member = TypeVar("Member", bound=StrEnum)


def codec_to_proto(codec: FrameCodec) -> pb.FrameCodec.ValueType:
    """The codec's number."""
    return _CODECS[codec]


def encoding_to_proto(encoding: MaskEncoding) -> mask_pb2.MaskEncoding.ValueType:
    """The mask encoding's number."""
    return _ENCODINGS[encoding]


def profile_to_proto(profile: Profile | None) -> pb.Profile.ValueType:
    """The profile's number; None leaves the choice to the server."""
    return pb.PROFILE_UNSPECIFIED if profile is None else _PROFILES[profile]


def open_to_proto(settings: StreamSettings) -> pb.Open:
    """The first message of a stream."""
    message = pb.Open(
        codec=_CODECS[settings.codec],
        height=settings.size[0],
        width=settings.size[1],
        target_frame_rate_hz=settings.frame_rate_hz,
        mask_encoding=_ENCODINGS[settings.mask_encoding],
        drop_policy=_POLICIES[settings.policy],
        profile=profile_to_proto(settings.profile),
        with_logits=settings.with_logits,
        max_conditioning_frames=settings.max_conditioning_frames,
        corrections_as_conditioning=settings.corrections_as_conditioning,
    )
    if settings.max_staleness_s is not None:
        message.max_staleness.FromNanoseconds(round(settings.max_staleness_s * 1e9))
    return message


def frame_to_proto(payload: bytes, capture_time_ns: int) -> pb.Frame:
    """One frame that can be decoded by itself."""
    seconds, nanos = divmod(capture_time_ns, 1_000_000_000)
    return pb.Frame(payload=payload, capture_time=Timestamp(seconds=seconds, nanos=nanos), keyframe=True)


def prompts_to_proto(prompt: Prompt, frame_seq: int = 0) -> Iterator[prompt_pb2.Prompt]:
    """One message per kind: a box comes before points that add to it."""
    common = {"object_id": prompt.object_id, "frame_seq": frame_seq, "mode": _MODES[prompt.mode]}
    if prompt.mask is not None:
        yield prompt_pb2.Prompt(mask=_mask_to_proto(prompt), **common)  # type: ignore[arg-type]
        return
    if prompt.box is not None:
        x_min, y_min, x_max, y_max = (float(v) for v in prompt.box)
        box = mask_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)
        yield prompt_pb2.Prompt(box=box, **common)  # type: ignore[arg-type]
    if len(prompt.points):
        keep = prompt.keep_old_points or prompt.box is not None
        yield prompt_pb2.Prompt(points=_points_to_proto(prompt), keep_old_points=keep, **common)  # type: ignore[arg-type]


def box_prompt(object_id: int, edges: BoxEdges) -> prompt_pb2.Prompt:
    """A box (x_min, y_min, x_max, y_max) around an object on the next frame."""
    x_min, y_min, x_max, y_max = edges
    return prompt_pb2.Prompt(object_id=object_id, box=mask_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max))


def _points_to_proto(prompt: Prompt) -> prompt_pb2.Points:
    pairs = zip(prompt.points, prompt.labels, strict=True)
    return prompt_pb2.Points(
        points=[prompt_pb2.Point(x=float(p[0]), y=float(p[1]), label=_LABELS[int(k)]) for p, k in pairs]
    )


def _mask_to_proto(prompt: Prompt) -> mask_pb2.Mask:
    mask = np.asarray(prompt.mask, np.bool_)
    data = encode_mask(mask, MaskEncoding.RLE)
    return mask_pb2.Mask(encoding=_ENCODINGS[MaskEncoding.RLE], height=mask.shape[0], width=mask.shape[1], data=data)


def opened_from_proto(message: pb.Opened) -> Opened:
    """What the server granted."""
    return Opened(
        session_id=message.session_id,
        limits=_limits(message.limits),
        state_origin=_member(_ORIGINS, message.state_origin, "opened.state_origin"),
        resume_token=message.resume_token,
        next_seq=message.next_seq,
        drop_policy=_member(_POLICIES, message.drop_policy, "opened.drop_policy"),
        profile=_member(_PROFILES, message.profile, "opened.profile"),
        mask_encoding=_member(_ENCODINGS, message.mask_encoding, "opened.mask_encoding"),
    )


def result_from_proto(message: pb.Result, frame_seq: int, frame_index: int, capture_time_ns: int) -> Result:
    """Masks for one frame, by the caller's numbers, stamped with the time now; masks stay encoded."""
    return Result(
        frame_seq=frame_seq,
        frame_index=frame_index,
        capture_time_ns=capture_time_ns,
        received_time_ns=time.time_ns(),
        objects=_objects(message.objects),
        timing=_timing(message.timing),
        revised=message.revised,
        recovered=_member(_ORIGINS, message.recovered, "result.recovered") if message.recovered else None,
        recovery_s=_seconds(message.recovery),
    )


def image_result_from_proto(message: pb.SegmentImageResponse) -> ImageResult:
    """Masks for one image; masks stay encoded."""
    return ImageResult(objects=_objects(message.objects), timing=_timing(message.timing))


def reason_from_proto(reason: pb.DropReason.ValueType) -> DropReason:
    """Why a frame was not answered."""
    return _member(_REASONS, reason, "dropped.reason")


def description_from_proto(message: pb.DescribeModelResponse) -> ServerDescription:
    """What runs on the server."""
    model = ModelDescription(
        model=message.model,
        weights_sha256=message.weights_sha256,
        trained=message.trained,
        input_size=message.input_size,
        backend=message.backend,
        device=message.device,
        precision=message.precision,
    )
    return ServerDescription(model=model, limits=_limits(message.limits), version=message.version)


def _objects(messages: Iterable[pb.ObjectResult]) -> tuple[ObjectResult, ...]:
    return tuple(_object(message) for message in messages)


def _object(message: pb.ObjectResult) -> ObjectResult:
    box = message.box
    edges: BoxEdges | None = (box.x_min, box.y_min, box.x_max, box.y_max) if message.HasField("box") else None
    sent = message.HasField("mask")
    return ObjectResult(
        object_id=message.object_id,
        state=_member(_STATES, message.state, "object.state"),
        box=edges,
        area_px=message.area_px,
        score=message.object_score,
        iou=message.predicted_iou,
        size=(message.mask.height, message.mask.width),
        mask_encoding=_member(_ENCODINGS, message.mask.encoding, "mask.encoding") if sent else MaskEncoding.NONE,
        mask_bytes=message.mask.data,
        logits=_logits(message.logits) if message.HasField("logits") else None,
    )


def _logits(message: mask_pb2.Logits) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.frombuffer(message.data, "<f4").reshape(message.height, message.width)


def _limits(message: pb.Limits) -> Limits:
    return Limits(
        max_frame_bytes=message.max_frame_bytes,
        max_frame_height=message.max_frame_height,
        max_frame_width=message.max_frame_width,
        max_frame_pixels=message.max_frame_pixels,
        max_objects=message.max_objects,
        max_points_per_prompt=message.max_points_per_prompt,
        max_prompts_per_frame=message.max_prompts_per_frame,
        max_prompts_per_object=message.max_prompts_per_object,
        history_frames=message.history_frames,
        idle_timeout_s=_seconds(message.idle_timeout),
        resume_ttl_s=_seconds(message.resume_ttl),
    )


def _timing(message: pb.Timing) -> Timing:
    return Timing(
        queue_s=_seconds(message.queue),
        decode_s=_seconds(message.decode),
        inference_s=_seconds(message.inference),
        encode_s=_seconds(message.encode),
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _member(table: Mapping[Member, int], number: int, field: str) -> Member:
    for member, value in table.items():
        if value == number:
            return member
    raise MaskletError(f"the server says {field} is {number}, which this client does not know: it may be too old")
