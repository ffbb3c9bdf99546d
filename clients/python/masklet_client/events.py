"""What a stream answers, as plain frozen values.

Result          masks for one frame
Dropped         a frame that is not going to be answered
PromptApplied   a prompt took effect
RequestFailed   a request could not be carried out; the stream goes on
GoAway          the server is draining
Resumed         a lost connection was replaced
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from masklet.codecs.masks import decode_mask
from masklet.errors import InvalidOpen, MaskletError, UnknownObject
from masklet.types import (
    DropPolicy,
    DropReason,
    FloatArray,
    MaskArray,
    MaskEncoding,
    ModelDescription,
    ObjectState,
    Profile,
    Size,
    StateOrigin,
)

BoxEdges = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server allows."""

    max_frame_bytes: int
    max_frame_height: int
    max_frame_width: int
    max_frame_pixels: int
    max_objects: int
    max_points_per_prompt: int
    max_prompts_per_frame: int
    max_prompts_per_object: int
    history_frames: int
    idle_timeout_s: float
    resume_ttl_s: float


@dataclass(frozen=True, slots=True)
class ServerDescription:
    """The model behind a server, what it accepts, and its version."""

    model: ModelDescription
    limits: Limits
    version: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The session is open; policy, profile and encoding are those in force."""

    session_id: str
    limits: Limits
    state_origin: StateOrigin
    resume_token: bytes
    next_seq: int
    drop_policy: DropPolicy
    profile: Profile
    mask_encoding: MaskEncoding


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one frame went in the server, in seconds."""

    queue_s: float
    decode_s: float
    inference_s: float
    encode_s: float


@dataclass(frozen=True, eq=False)
class ObjectResult:
    """One object on one frame.

    Attributes:
        object_id: the id given in the prompt.
        state: visible, absent, reappeared or lost.
        box: (x_min, y_min, x_max, y_max) pixels, maxima exclusive; None where no pixel is set, as when absent.
        area_px: pixels set in the mask.
        score: object score logit; above 0 the object is present.
        iou: the model's own estimate of the mask's IoU, 0 to 1.
        size: (height, width) of the mask.
        mask_encoding: how `mask_bytes` is encoded.
        mask_bytes: the mask as sent.
        logits: [h, w] float32 low-resolution logits, if asked for.
    """

    object_id: int
    state: ObjectState
    box: BoxEdges | None
    area_px: int
    score: float
    iou: float
    size: Size
    mask_encoding: MaskEncoding
    mask_bytes: bytes
    logits: FloatArray | None = None

    @property
    def visible(self) -> bool:
        """Whether the object is seen on this frame."""
        return self.state in (ObjectState.VISIBLE, ObjectState.REAPPEARED)

    @cached_property
    def mask(self) -> MaskArray:
        """[H, W] bool of the frame's size, read-only; decoded when first asked for.

        Raises:
            InvalidOpen: the stream was opened with mask encoding "none".
        """
        if self.mask_encoding is MaskEncoding.NONE:
            raise InvalidOpen('there are no masks: the stream was opened with mask encoding "none"')
        empty = not self.mask_bytes
        decoded = (
            np.zeros(self.size, np.bool_) if empty else decode_mask(self.mask_bytes, self.mask_encoding, self.size)
        )
        decoded.flags.writeable = False
        return decoded


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Masks for one frame.

    Attributes:
        frame_seq: what `send` returned for the frame.
        frame_index: the frame's place among all frames sent on this stream, from 0.
        capture_time_ns: as given to `send`, nanoseconds since the epoch.
        received_time_ns: when the answer arrived, by the same clock.
        objects: one per object, by rising object id; if revised, those that were corrected and those it changes.
        timing: where the time went in the server.
        revised: whether this replaces an earlier answer for the same frame.
        recovered: where the session's memory comes from, if the server had to recover it since the result before.
        recovery_s: how long that took.
    """

    frame_seq: int
    frame_index: int
    capture_time_ns: int
    received_time_ns: int
    objects: tuple[ObjectResult, ...]
    timing: Timing
    revised: bool
    recovered: StateOrigin | None = None
    recovery_s: float = 0.0

    def __getitem__(self, object_id: int) -> ObjectResult:
        """The object with this id; KeyError if it is not tracked."""
        found = self.get(object_id)
        if found is None:
            raise KeyError(f"object {object_id} is not tracked; ids: {[o.object_id for o in self.objects]}")
        return found

    def get(self, object_id: int) -> ObjectResult | None:
        """The object with this id; None if it is not tracked, as after `Resumed.lost_objects`."""
        return next((found for found in self.objects if found.object_id == object_id), None)

    def __contains__(self, object_id: object) -> bool:
        """Whether an object has this id."""
        return any(found.object_id == object_id for found in self.objects)

    def __iter__(self) -> Iterator[ObjectResult]:
        """The objects, by rising id."""
        return iter(self.objects)

    @property
    def latency_s(self) -> float:
        """Seconds from capture to arrival of the answer."""
        return (self.received_time_ns - self.capture_time_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that is not going to be answered."""

    frame_seq: int
    frame_index: int
    reason: DropReason


@dataclass(frozen=True, slots=True)
class PromptApplied:
    """A prompt took effect on a frame; the numbers are what `click` (or `box`, ...) and `send` returned."""

    prompt_seq: int
    frame_seq: int
    object_id: int


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request could not be carried out; `error` is one of `masklet.errors`. The stream goes on.

    `request_seq` is 0 if it is none of yours: a session begun anew could not take over the object that `error` names.
    """

    request_seq: int
    error: MaskletError


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server is draining and ends the stream at `deadline_ns` (nanoseconds since the epoch)."""

    resume_token: bytes
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """A lost connection was replaced; results go on as if nothing had happened, but for what `origin` says.

    Attributes:
        origin: where the session's memory comes from now: INTACT is the same as before, RESEEDED began anew with the
            last masks seen, NEW with nothing.
        address: the server that has it.
        attempts: how many connections it took.
        seconds: how long it took.
        lost_objects: objects that are no longer followed, since they were not to be seen when the session began anew.
            With `raise_request_errors` iterating over results raises then.
    """

    origin: StateOrigin
    address: str
    attempts: int
    seconds: float
    lost_objects: tuple[int, ...] = ()

    @property
    def error(self) -> MaskletError | None:
        """What that means for the objects lost; None if there is none."""
        if not self.lost_objects:
            return None
        names = "object " if len(self.lost_objects) == 1 else "objects "
        names += ", ".join(map(str, self.lost_objects))
        return UnknownObject(f"no longer followed: {names}, out of sight when {self.address} began the session anew")


Event = Result | Dropped | PromptApplied | RequestFailed | GoAway | Resumed


@dataclass(frozen=True, slots=True, eq=False)
class ImageResult:
    """Masks for one image, one per object, by rising object id."""

    objects: tuple[ObjectResult, ...]
    timing: Timing
