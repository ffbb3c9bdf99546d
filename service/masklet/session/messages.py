"""What travels on a stream, as plain values: the server maps these to and from `masklet.v1`, one to one."""

from __future__ import annotations

from dataclasses import dataclass

from masklet.errors import MaskletError
from masklet.types import (
    DropPolicy,
    DropReason,
    FloatArray,
    FrameCodec,
    MaskEncoding,
    ObjectState,
    Profile,
    Prompt,
    Size,
    StateOrigin,
)


@dataclass(frozen=True, slots=True)
class Open:
    """Opens a session; `size` is that of every frame. None or 0 where the client left the choice to the server."""

    codec: FrameCodec
    size: Size
    target_frame_rate_hz: float = 0.0
    mask_encoding: MaskEncoding = MaskEncoding.RLE
    drop_policy: DropPolicy = DropPolicy.LATEST
    max_staleness_s: float | None = None
    profile: Profile | None = None
    resume_token: bytes = b""
    with_logits: bool = False
    corrections_as_conditioning: bool | None = None
    max_conditioning_frames: int = 0
    last_server_seq: int = 0
    unanswered_seqs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """One encoded frame. `capture_time_ns`: client clock, nanoseconds since the epoch, None if not given."""

    payload: bytes
    capture_time_ns: int | None = None
    keyframe: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class PromptFor:
    """A prompt for the next frame (`frame_seq` 0) or for an answered one."""

    prompt: Prompt
    frame_seq: int = 0


@dataclass(frozen=True, slots=True)
class RemoveObject:
    """Forgets one object."""

    object_id: int


@dataclass(frozen=True, slots=True)
class Reset:
    """Forgets all objects."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a `Pong`."""

    nonce: int = 0


@dataclass(frozen=True, slots=True)
class Close:
    """Ends the stream once the frames already sent are answered."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message whose content could not be mapped (unset oneof, undecodable mask, ...); answered with its error.

    `frame`: it was one, and so is owed a `Dropped` as well.
    """

    error: MaskletError
    frame: bool = False


ClientBody = Open | Frame | PromptFor | RemoveObject | Reset | Ping | Close | Malformed


@dataclass(frozen=True, slots=True)
class ClientMessage:
    """One message from the client; `received_s` is the server's monotonic clock."""

    seq: int
    body: ClientBody
    received_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server allows; see `masklet.config.LimitsConfig`."""

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
class Opened:
    """The session is open."""

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
    """Where the time of one frame went, in seconds."""

    queue_s: float = 0.0
    decode_s: float = 0.0
    inference_s: float = 0.0
    encode_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class ObjectResult:
    """One object on one frame; `mask` is encoded as `mask_encoding`, `box` is (x_min, y_min, x_max, y_max) or None."""

    object_id: int
    state: ObjectState
    mask_encoding: MaskEncoding
    mask_size: Size
    mask: bytes
    box: tuple[int, int, int, int] | None
    area_px: int
    object_score: float
    predicted_iou: float
    logits: FloatArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Masks for one frame. `recovered`: where the memory comes from, if it was recovered since the result before."""

    frame_seq: int
    capture_time_ns: int | None
    objects: tuple[ObjectResult, ...]
    timing: Timing
    revised: bool = False
    recovered: StateOrigin | None = None
    recovery_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that is not going to be answered."""

    frame_seq: int
    reason: DropReason


@dataclass(frozen=True, slots=True)
class PromptApplied:
    """A prompt took effect on a frame."""

    prompt_seq: int
    frame_seq: int
    object_id: int


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request could not be carried out; the stream goes on."""

    request_seq: int
    error: MaskletError


@dataclass(frozen=True, slots=True)
class GoAway:
    """The server is draining; it ends the stream in `deadline_s` seconds."""

    resume_token: bytes
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers `Ping`."""

    nonce: int


@dataclass(frozen=True, slots=True)
class TokenRenewed:
    """A fresh resume token."""

    resume_token: bytes


ServerBody = Opened | Result | Dropped | PromptApplied | RequestFailed | GoAway | Pong | TokenRenewed


@dataclass(frozen=True, slots=True)
class ServerMessage:
    """One message from the server."""

    server_seq: int
    acked_seq: int
    body: ServerBody
