"""The nouns every room shares: frames, prompts, settings and results. numpy only, no I/O, no torch, no protobuf.

Sizes are (height, width); points are (x, y) in pixels of the frame as sent; boxes are (x_min, y_min, x_max, y_max).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Size = tuple[int, int]
ImageArray = npt.NDArray[np.uint8]
MaskArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]


class FrameCodec(StrEnum):
    """How a frame's payload is encoded."""

    JPEG = "jpeg"
    PNG = "png"
    RGB8 = "rgb8"
    NV12 = "nv12"
    H264 = "h264"
    HEVC = "hevc"
    AV1 = "av1"


class MaskEncoding(StrEnum):
    """How a mask is put on the wire."""

    RLE = "rle"
    PNG = "png"
    BITS = "bits"
    NONE = "none"


class DropPolicy(StrEnum):
    """What happens to frames that arrive faster than they can be answered."""

    LATEST = "latest"
    BLOCK = "block"


class Profile(StrEnum):
    """SAM 2's two parameter sets: for people who click, and for benchmarks."""

    INTERACTIVE = "interactive"
    VOS = "vos"


class PromptMode(StrEnum):
    """What a prompt does to an object that is already tracked."""

    REFINE = "refine"
    RESTART = "restart"


class StateOrigin(StrEnum):
    """Where the memory of an opened session comes from."""

    NEW = "new"
    INTACT = "intact"
    MIGRATED = "migrated"
    RESTORED = "restored"
    RESEEDED = "reseeded"


class ObjectState(StrEnum):
    """What has become of an object."""

    VISIBLE = "visible"
    ABSENT = "absent"
    REAPPEARED = "reappeared"
    LOST = "lost"


class DropReason(StrEnum):
    """Why a frame was not answered."""

    STALE = "stale"
    QUEUE_FULL = "queue_full"
    DECODE_ERROR = "decode_error"
    DRAINING = "draining"
    BACKEND_ERROR = "backend_error"
    CONNECTION_LOST = "connection_lost"


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """What a client says about one object on one frame: clicks, a box, or a mask.

    Attributes:
        object_id: the client's id, 1 to 2**31 - 1.
        points: [P, 2] float32, (x, y) pixels of the frame as sent.
        labels: [P] int32, 1 include, 0 exclude.
        box: [4] float32 (x_min, y_min, x_max, y_max), or None.
        mask: [H, W] bool of the frame's size, or None; excludes points and box.
        keep_old_points: add to what was said about the object on this frame before, instead of replacing it.
        mode: what to do if the object is already tracked.
    """

    object_id: int
    points: FloatArray = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    labels: IntArray = field(default_factory=lambda: np.zeros((0,), np.int32))
    box: FloatArray | None = None
    mask: MaskArray | None = None
    keep_old_points: bool = False
    mode: PromptMode = PromptMode.REFINE

    @classmethod
    def clicks(
        cls,
        object_id: int,
        points: Sequence[tuple[float, float]],
        labels: Sequence[int] | None = None,
        *,
        keep_old_points: bool = False,
        mode: PromptMode = PromptMode.REFINE,
    ) -> Prompt:
        """Clicks at `points` (x, y); `labels` 1 include (default) or 0 exclude."""
        marks = [1] * len(points) if labels is None else list(labels)
        return cls(
            object_id=object_id,
            points=np.asarray(points, np.float32).reshape(-1, 2),
            labels=np.asarray(marks, np.int32),
            keep_old_points=keep_old_points,
            mode=mode,
        )


@dataclass(frozen=True, slots=True)
class TrackSettings:
    """How one session is tracked.

    Attributes:
        profile: parameter set.
        corrections_as_conditioning: a correction on a tracked frame makes it a conditioning frame.
        max_conditioning_frames: at most so many prompted frames are attended to; None: no limit.
        fill_hole_area: background specks of at most so many low-resolution cells are filled; 0: off.
        history_frames: answered frames that may still be corrected.
        video_frames: length of the whole video if it is known. The reference spreads the distances of object pointers
            over min(video_frames, 16) frames, so a shorter clip is tracked a little differently. None: a live stream.
        frame_rate_hz: frames per second its client means to send; 0: it did not say. For admission only: tracking does
            not depend on it, hence equality does not.
    """

    profile: Profile = Profile.INTERACTIVE
    corrections_as_conditioning: bool = True
    max_conditioning_frames: int | None = 4
    fill_hole_area: int = 8
    history_frames: int = 1
    video_frames: int | None = None
    frame_rate_hz: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True, eq=False)
class StepRequest:
    """One frame of one session, or a correction of a frame already answered.

    Applied in this order: `reset`, `remove`, then `prompts` as listed.

    Attributes:
        frame_seq: the client's number of the frame, rising within a session.
        image: [H, W, 3] uint8 RGB; None: correct the answered frame `frame_seq` (it must be in the history window).
        prompts: what was said about objects on this frame.
        remove: objects to forget.
        reset: forget everything first.
        with_logits: return low-resolution logits.
        with_pointers: return object pointers (for verification).
        begun: what `Backend.begin` gave for the image, if it was asked.
    """

    frame_seq: int
    image: ImageArray | None
    prompts: tuple[Prompt, ...] = ()
    remove: tuple[int, ...] = ()
    reset: bool = False
    with_logits: bool = False
    with_pointers: bool = False
    begun: Future[Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ObjectMask:
    """The model's answer for one object on one frame.

    Attributes:
        object_id: the client's id.
        mask: [H, W] bool of the frame's size; all False when absent.
        object_score: logit; above 0 the object is present.
        predicted_iou: the model's own estimate of the mask's IoU, 0 to 1.
        logits: [S/4, S/4] float32 low-resolution logits if asked for.
        pointer: [256] float32 object pointer if asked for.
    """

    object_id: int
    mask: MaskArray
    object_score: float
    predicted_iou: float
    logits: FloatArray | None = None
    pointer: FloatArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """The answer to one `StepRequest`: one entry per object, by rising object id.

    After a correction (`image` None) only the corrected objects are listed, and in `vos` those whose masks it changes.

    Attributes:
        frame_seq: of the request.
        objects: the objects.
        revised: it answers a correction.
        recovered: where the session's memory comes from, if it had to be recovered since the last result.
        recovery_s: how long that took.
    """

    frame_seq: int
    objects: tuple[ObjectMask, ...]
    revised: bool = False
    recovered: StateOrigin | None = None
    recovery_s: float = 0.0


@dataclass(frozen=True, slots=True)
class BankSummary:
    """What a memory bank holds, as told to its new owner.

    Attributes:
        last_frame_seq: the newest frame answered; 0: none.
        object_ids: the objects tracked, rising.
        history: the frames that may still be corrected, oldest first.
        origin: how the bank came to be where it is.
        settings: how the session is tracked; None: not said.
    """

    last_frame_seq: int = 0
    object_ids: tuple[int, ...] = ()
    history: tuple[int, ...] = ()
    origin: StateOrigin = StateOrigin.INTACT
    settings: TrackSettings | None = None


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a backend runs."""

    model: str
    weights_sha256: str
    trained: bool
    input_size: int
    backend: str
    device: str
    precision: str


@dataclass(frozen=True, slots=True)
class BackendStats:
    """What a backend holds and has done.

    Attributes:
        sessions: memory banks held.
        bank_bytes: of all of them.
        batches: engine batches so far.
        batched_steps: steps in them.
        load: objects times frames per second of all sessions: made or reserved, whichever is more.
        capacity: how much of that it takes; 0: not known, or not limited.
    """

    sessions: int
    bank_bytes: int
    batches: int
    batched_steps: int
    load: float = 0.0
    capacity: float = 0.0
