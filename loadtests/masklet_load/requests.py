"""What a camera says, as messages."""

from __future__ import annotations

import time

from google.protobuf.timestamp_pb2 import Timestamp

from masklet.v1 import mask_pb2, prompt_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet_load.scenario import Scenario


def open_request(scenario: Scenario, size: tuple[int, int]) -> pb.Open:
    """The first message of a new session, for frames of `size` (height, width)."""
    message = pb.Open(
        codec=pb.FRAME_CODEC_JPEG,
        height=size[0],
        width=size[1],
        target_frame_rate_hz=scenario.rate_hz,
        mask_encoding=mask_pb2.MaskEncoding.Value(f"MASK_ENCODING_{scenario.mask_encoding.upper()}"),
        drop_policy=pb.DropPolicy.Value(f"DROP_POLICY_{scenario.policy.upper()}"),
    )
    if scenario.max_staleness_s:
        message.max_staleness.FromNanoseconds(round(scenario.max_staleness_s * 1e9))
    return message


def frame_request(payload: bytes) -> pb.TrackRequest:
    """A frame, captured now."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    captured = Timestamp(seconds=seconds, nanos=nanos)
    return pb.TrackRequest(frame=pb.Frame(payload=payload, capture_time=captured, keyframe=True))


def click_request(object_id: int, point: tuple[float, float]) -> pb.TrackRequest:
    """A click at (x, y) pixels on the next frame."""
    click = prompt_pb2.Point(x=point[0], y=point[1], label=prompt_pb2.POINT_LABEL_INCLUDE)
    return pb.TrackRequest(prompt=prompt_pb2.Prompt(object_id=object_id, points=prompt_pb2.Points(points=[click])))


def close_request() -> pb.TrackRequest:
    """The last message."""
    return pb.TrackRequest(close=pb.Close())


def drop_reason(reason: pb.DropReason.ValueType) -> str:
    """As in the protocol, without its prefix."""
    return _short(pb.DropReason.Name(reason) if reason in pb.DropReason.values() else str(reason), "DROP_REASON_")


def origin(value: pb.StateOrigin.ValueType) -> str:
    """As in the protocol, without its prefix."""
    return _short(pb.StateOrigin.Name(value) if value in pb.StateOrigin.values() else str(value), "STATE_ORIGIN_")


def _short(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()
