"""What an engine knows of one session: its objects, their memory, and the frames that may still be corrected."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from masklet.engine.bank import BankRules, MemoryBank
from masklet.errors import UnknownFrame
from masklet.types import Size, TrackSettings


@dataclass(frozen=True, slots=True)
class Said:
    """Clicks and box corners given for one object on one frame, in pixels of the model input: [P, 2] and [P]."""

    points: Tensor
    labels: Tensor

    @property
    def count(self) -> int:
        """How many points."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Answer:
    """The last answer for one object on one frame.

    Attributes:
        logits: [4h, 4w] float32.
        said: what it answers; None if the object was only tracked, or given as a mask.
        initial: the frame started the object, or restarted it: memory was not read.
        object_score: logit; above 0 the object is present.
        predicted_iou: the model's own estimate of the mask's IoU, 0 to 1.
    """

    logits: Tensor
    said: Said | None
    initial: bool
    object_score: float
    predicted_iou: float


@dataclass(slots=True)
class ObjectTrack:
    """One object: its memory bank and its answers inside the history window, by frame index."""

    bank: MemoryBank
    answers: dict[int, Answer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PastFrame:
    """An answered frame: its number, its own size, and its pixels at model size [3, S, S] uint8."""

    frame_seq: int
    size: Size
    pixels: Tensor


class SessionState:
    """One session. Frame indices count the frames that were tracked: dropped frames leave no gap."""

    def __init__(self, settings: TrackSettings) -> None:
        self.settings = settings
        self.next_index = 0
        self.objects: dict[int, ObjectTrack] = {}
        self.past: dict[int, PastFrame] = {}

    def new_track(self) -> ObjectTrack:
        """An object without memory."""
        rules = BankRules(self.settings.max_conditioning_frames, self.settings.history_frames)
        return ObjectTrack(MemoryBank(rules))

    def past_index(self, frame_seq: int) -> int:
        """The index of an answered frame. Raises UnknownFrame if it is not in the history window."""
        for index, frame in self.past.items():
            if frame.frame_seq == frame_seq:
                return index
        known = [frame.frame_seq for frame in self.past.values()]
        window = f"frames {known[0]} to {known[-1]}" if known else "no frames"
        raise UnknownFrame(f"frame {frame_seq} is not in the history window, which holds {window}")

    def forget_history(self) -> None:
        """Drop frames and answers that have left the history window."""
        oldest = self.next_index - self.settings.history_frames
        for index in [i for i in self.past if i < oldest]:
            del self.past[index]
        for track in self.objects.values():
            for index in [i for i in track.answers if i < oldest]:
                del track.answers[index]
