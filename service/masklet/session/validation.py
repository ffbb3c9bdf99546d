"""Checks of what clients ask for, all before any work is done; messages name the value and the limit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from masklet.codecs.frames import SUPPORTED, check_frame
from masklet.config import LimitsConfig
from masklet.errors import InvalidFrame, InvalidOpen, InvalidPrompt, LimitExceeded
from masklet.session.messages import Open
from masklet.session.protocol import MAX_SEQ
from masklet.session.ring import LOST_FRAMES
from masklet.types import FloatArray, FrameCodec, IntArray, MaskArray, Prompt, Size

MAX_OBJECT_ID = 2**31 - 1
MAX_CONDITIONING_FRAMES = 64
"""Far above what SAM 2 was trained with (4); each more costs memory and time."""


def check_open(wanted: Open, limits: LimitsConfig) -> None:
    """Whether a session as described can be served.

    Raises:
        InvalidOpen: unsupported codec, empty size, or a number that is negative or not finite.
        LimitExceeded: frames larger or more frequent than allowed, too many conditioning frames, too many frames
            unanswered, or a number of the last answer that leaves no room for the next.
    """
    check_codec(wanted.codec, field="open.codec")
    check_size(wanted.size, limits, field="open")
    _check_number("target_frame_rate_hz", wanted.target_frame_rate_hz)
    if wanted.target_frame_rate_hz > limits.max_frame_rate_hz and not wanted.resume_token:  # was admitted once
        raise LimitExceeded(
            f"target_frame_rate_hz is {wanted.target_frame_rate_hz:g}, the limit is {limits.max_frame_rate_hz:g}",
            field="open.target_frame_rate_hz",
        )
    _check_number("max_staleness", 0.0 if wanted.max_staleness_s is None else wanted.max_staleness_s)
    if not 0 <= wanted.max_conditioning_frames <= MAX_CONDITIONING_FRAMES:
        raise LimitExceeded(
            f"max_conditioning_frames is {wanted.max_conditioning_frames}, the limit is {MAX_CONDITIONING_FRAMES}",
            field="open.max_conditioning_frames",
        )
    if wanted.last_server_seq > MAX_SEQ:
        text = f"last_server_seq is {wanted.last_server_seq}, the limit is {MAX_SEQ}"
        raise LimitExceeded(text, field="open.last_server_seq")
    if len(wanted.unanswered_seqs) > LOST_FRAMES:
        text = f"unanswered_seqs has {len(wanted.unanswered_seqs)} frames, the limit is {LOST_FRAMES}"
        raise LimitExceeded(text, field="open.unanswered_seqs")


def limits_of_frames(limits: LimitsConfig, size: Size) -> LimitsConfig:
    """The limits of a session whose frames have `size` (height, width): at least one object, no more than have room."""
    room = limits.max_mask_pixels // max(1, size[0] * size[1])
    return replace(limits, max_objects=max(1, min(limits.max_objects, room)))


def check_codec(codec: FrameCodec, *, field: str) -> None:
    """Raises InvalidOpen if frames of this codec cannot be decoded here."""
    if codec not in SUPPORTED:
        raise InvalidOpen(f"frame codec {codec} is not supported; supported: {', '.join(SUPPORTED)}", field=field)


def check_size(size: Size, limits: LimitsConfig, *, field: str) -> None:
    """Whether frames of `size` (height, width) are accepted.

    Raises:
        InvalidOpen: a side is below 1.
        LimitExceeded: a side or the area is above its limit.
    """
    height, width = size
    if height < 1 or width < 1:
        raise InvalidOpen(f"frame size {height} x {width} (height x width) is empty", field=f"{field}.height")
    bounds = (("height", height, limits.max_frame_height), ("width", width, limits.max_frame_width))
    for name, value, limit in bounds:
        if value > limit:
            raise LimitExceeded(f"frame {name} is {value} pixels, the limit is {limit}", field=f"{field}.{name}")
    if height * width > limits.max_frame_pixels:
        raise LimitExceeded(
            f"frames of {height} x {width} have {height * width} pixels, the limit is {limits.max_frame_pixels}",
            field=f"{field}.height",
        )


def check_payload(codec: FrameCodec, payload: bytes, size: Size, limits: LimitsConfig) -> None:
    """Whether an encoded frame may be decoded; reads no more than its header.

    Raises:
        LimitExceeded: more bytes than allowed.
        InvalidFrame: not of this codec, or not of this size.
    """
    check_payload_length(payload, limits)
    check_frame(codec, payload, size)


def check_payload_length(payload: bytes, limits: LimitsConfig) -> None:
    """Raises LimitExceeded for more bytes than allowed, InvalidFrame for none."""
    if not payload:
        raise InvalidFrame("the frame's payload is empty", field="frame.payload")
    if len(payload) > limits.max_frame_bytes:
        raise LimitExceeded(
            f"the frame has {len(payload)} bytes, the limit is {limits.max_frame_bytes}", field="frame.payload"
        )


def check_prompt(prompt: Prompt, size: Size, limits: LimitsConfig) -> None:
    """Whether a prompt makes sense on a frame of `size` (height, width).

    Raises:
        InvalidPrompt: nothing said, or something outside the frame, inside out, of the wrong size, not finite.
        LimitExceeded: more points than allowed.
    """
    check_object_id(prompt.object_id, field="prompt.object_id")
    if prompt.mask is not None:
        _check_mask(prompt, prompt.mask, size)
        return
    if prompt.box is None and len(prompt.points) == 0:
        raise InvalidPrompt(f"the prompt for object {prompt.object_id} has no points, box or mask", field="prompt.kind")
    _check_points(prompt.points, prompt.labels, size, limits)
    if prompt.box is not None:
        _check_box(prompt.box, size)


def check_object_id(object_id: int, *, field: str) -> None:
    """Raises InvalidPrompt if the id is out of range."""
    if not 1 <= object_id <= MAX_OBJECT_ID:
        raise InvalidPrompt(f"object id is {object_id}, must be 1 to {MAX_OBJECT_ID}", field=field)


def _check_number(name: str, value: float) -> None:
    if not math.isfinite(value) or value < 0:
        raise InvalidOpen(f"{name} is {value}, must be finite and at least 0", field=f"open.{name}")


def _check_points(points: FloatArray, labels: IntArray, size: Size, limits: LimitsConfig) -> None:
    if len(points) > limits.max_points_per_prompt:
        raise LimitExceeded(
            f"the prompt has {len(points)} points, the limit is {limits.max_points_per_prompt}", field="prompt.points"
        )
    if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
        raise InvalidPrompt(
            f"points {list(points.shape)} and labels {list(labels.shape)} must be [P, 2] and [P]", field="prompt.points"
        )
    height, width = size
    inside = (points >= 0).all(axis=1) & (points <= (width, height)).all(axis=1)  # False for NaN too
    if not inside.all():
        x, y = points[int(np.argmin(inside))]
        raise InvalidPrompt(
            f"point ({x}, {y}) is outside the frame, width {width}, height {height}", field="prompt.points"
        )
    wrong = labels[(labels != 0) & (labels != 1)]
    if len(wrong):
        raise InvalidPrompt(f"point label is {wrong[0]}, must be 0 (exclude) or 1 (include)", field="prompt.points")


def _check_box(box: FloatArray, size: Size) -> None:
    if box.shape != (4,):
        raise InvalidPrompt(f"box has shape {list(box.shape)}, must be [4]", field="prompt.box")
    height, width = size
    x_min, y_min, x_max, y_max = (float(value) for value in box)
    if not (0 <= x_min < x_max <= width and 0 <= y_min < y_max <= height):
        raise InvalidPrompt(
            f"box ({x_min}, {y_min}, {x_max}, {y_max}) must have 0 <= x_min < x_max <= {width}"
            f" and 0 <= y_min < y_max <= {height}",
            field="prompt.box",
        )


def _check_mask(prompt: Prompt, mask: MaskArray, size: Size) -> None:
    if len(prompt.points) or prompt.box is not None:
        raise InvalidPrompt("a mask excludes points and box", field="prompt.mask")
    if mask.shape != size:
        raise InvalidPrompt(f"mask is {list(mask.shape)}, the frame is {list(size)} [H, W]", field="prompt.mask")
    if not mask.any():
        raise InvalidPrompt(f"the mask for object {prompt.object_id} is empty", field="prompt.mask")
