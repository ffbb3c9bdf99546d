"""`session.messages` -> `masklet.v1` responses, one to one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from masklet.server.enums import (
    DROP_POLICIES,
    DROP_REASONS,
    FRAME_CODECS,
    MASK_ENCODINGS,
    OBJECT_STATES,
    PROFILES,
    STATE_ORIGINS,
)
from masklet.server.status import public_error, to_status
from masklet.session.messages import (
    Dropped,
    GoAway,
    Limits,
    ObjectResult,
    Opened,
    Pong,
    PromptApplied,
    RequestFailed,
    Result,
    ServerMessage,
    Timing,
    TokenRenewed,
)
from masklet.types import FloatArray, FrameCodec, MaskEncoding, ModelDescription
from masklet.v1 import mask_pb2
from masklet.v1 import segmentation_pb2 as pb


def to_track_response(message: ServerMessage, *, wall_s: float) -> pb.TrackResponse:
    """One message of a stream; `wall_s` is the time of day, seconds since the epoch."""
    response = pb.TrackResponse(server_seq=message.server_seq, acked_seq=message.acked_seq)
    match message.body:
        case Opened() as body:
            response.opened.CopyFrom(_opened(body))
        case Result() as body:
            response.result.CopyFrom(_result(body))
        case Dropped(frame_seq, reason):
            response.dropped.CopyFrom(pb.Dropped(frame_seq=frame_seq, reason=DROP_REASONS.to_wire(reason)))
        case PromptApplied(prompt_seq, frame_seq, object_id):
            applied = pb.PromptApplied(prompt_seq=prompt_seq, frame_seq=frame_seq, object_id=object_id)
            response.prompt_applied.CopyFrom(applied)
        case RequestFailed(request_seq, error):
            response.error.CopyFrom(pb.RequestError(request_seq=request_seq, status=to_status(public_error(error))))
        case GoAway(token, deadline_s):
            response.go_away.CopyFrom(
                pb.GoAway(resume_token=token, deadline=_timestamp(round((wall_s + deadline_s) * 1e9)))
            )
        case Pong(nonce):
            response.pong.CopyFrom(pb.Pong(nonce=nonce))
        case TokenRenewed(token):
            response.token_renewed.CopyFrom(pb.TokenRenewed(resume_token=token))
        case _:
            assert_never(message.body)
    return response


def to_image_response(objects: Iterable[ObjectResult], timing: Timing) -> pb.SegmentImageResponse:
    """The answer of `SegmentImage`."""
    return pb.SegmentImageResponse(objects=[_object(item) for item in objects], timing=_timing(timing))


def to_description(
    model: ModelDescription, limits: Limits, *, codecs: Iterable[FrameCodec], version: str
) -> pb.DescribeModelResponse:
    """The answer of `DescribeModel`."""
    return pb.DescribeModelResponse(
        model=model.model,
        weights_sha256=model.weights_sha256,
        trained=model.trained,
        input_size=model.input_size,
        backend=model.backend,
        device=model.device,
        precision=model.precision,
        codecs=[FRAME_CODECS.to_wire(codec) for codec in codecs],
        mask_encodings=[MASK_ENCODINGS.to_wire(encoding) for encoding in MaskEncoding],
        limits=_limits(limits),
        version=version,
    )


def to_duration(seconds: float) -> Duration:
    """`seconds` to the nearest nanosecond."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _timestamp(nanoseconds: int) -> Timestamp:
    time = Timestamp()
    time.FromNanoseconds(nanoseconds)
    return time


def _opened(body: Opened) -> pb.Opened:
    return pb.Opened(
        session_id=body.session_id,
        limits=_limits(body.limits),
        state_origin=STATE_ORIGINS.to_wire(body.state_origin),
        resume_token=body.resume_token,
        next_seq=body.next_seq,
        drop_policy=DROP_POLICIES.to_wire(body.drop_policy),
        profile=PROFILES.to_wire(body.profile),
        mask_encoding=MASK_ENCODINGS.to_wire(body.mask_encoding),
    )


def _limits(limits: Limits) -> pb.Limits:
    return pb.Limits(
        max_frame_bytes=limits.max_frame_bytes,
        max_frame_height=limits.max_frame_height,
        max_frame_width=limits.max_frame_width,
        max_frame_pixels=limits.max_frame_pixels,
        max_objects=limits.max_objects,
        max_points_per_prompt=limits.max_points_per_prompt,
        max_prompts_per_frame=limits.max_prompts_per_frame,
        max_prompts_per_object=limits.max_prompts_per_object,
        history_frames=limits.history_frames,
        idle_timeout=to_duration(limits.idle_timeout_s),
        resume_ttl=to_duration(limits.resume_ttl_s),
    )


def _result(body: Result) -> pb.Result:
    return pb.Result(
        frame_seq=body.frame_seq,
        capture_time=None if body.capture_time_ns is None else _timestamp(body.capture_time_ns),
        objects=[_object(item) for item in body.objects],
        timing=_timing(body.timing),
        revised=body.revised,
        recovered=pb.STATE_ORIGIN_UNSPECIFIED if body.recovered is None else STATE_ORIGINS.to_wire(body.recovered),
        recovery=None if body.recovered is None else to_duration(body.recovery_s),
    )


def _object(item: ObjectResult) -> pb.ObjectResult:
    return pb.ObjectResult(
        object_id=item.object_id,
        state=OBJECT_STATES.to_wire(item.state),
        mask=_mask(item),
        box=None if item.box is None else _box(item.box),
        area_px=item.area_px,
        object_score=item.object_score,
        predicted_iou=item.predicted_iou,
        logits=None if item.logits is None else _logits(item.logits),
    )


def _mask(item: ObjectResult) -> mask_pb2.Mask | None:
    if item.mask_encoding is MaskEncoding.NONE:
        return None
    height, width = item.mask_size
    return mask_pb2.Mask(
        encoding=MASK_ENCODINGS.to_wire(item.mask_encoding), height=height, width=width, data=item.mask
    )


def _box(box: tuple[int, int, int, int]) -> mask_pb2.Box:
    x_min, y_min, x_max, y_max = box
    return mask_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max)


def _logits(logits: FloatArray) -> mask_pb2.Logits:
    height, width = logits.shape
    return mask_pb2.Logits(height=height, width=width, data=np.ascontiguousarray(logits, "<f4").tobytes())


def _timing(timing: Timing) -> pb.Timing:
    return pb.Timing(
        queue=to_duration(timing.queue_s),
        decode=to_duration(timing.decode_s),
        inference=to_duration(timing.inference_s),
        encode=to_duration(timing.encode_s),
    )
