"""What has happened to a session since its last checkpoint: enough to do it again, within bounds."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from enum import StrEnum

from masklet.types import ImageArray, ObjectMask, Prompt, PromptMode, StepRequest, StepResult


class Base(StrEnum):
    """What a replay starts from."""

    NOTHING = "nothing"  # attached to, and no checkpoint yet
    OPENING = "opening"
    CHECKPOINT = "checkpoint"


class Replay:
    """Requests that were carried out, in order, since `base`.

    Attributes:
        base: what they come on top of.
        byte_count: bytes of their frames and mask prompts.
        edited: whether there are prompts, removals or a reset among them.
    """

    def __init__(self, base: Base) -> None:
        self._requests: deque[StepRequest] = deque()
        self.rebase(base)

    def __len__(self) -> int:
        """Requests."""
        return len(self._requests)

    def rebase(self, base: Base) -> None:
        """Start again from here."""
        self._requests.clear()
        self.base = base
        self.byte_count = 0
        self.edited = False

    def add(self, request: StepRequest, *, max_requests: int, max_bytes: int) -> None:
        """A request that was carried out. Beyond the bounds nothing is left to start from, and frames are let go."""
        if self.base is Base.NOTHING:
            return
        self._requests.append(replace(request, with_logits=False, with_pointers=False))
        self.byte_count += 0 if request.image is None else request.image.nbytes
        self.byte_count += sum(prompt.mask.nbytes for prompt in request.prompts if prompt.mask is not None)
        self.edited |= bool(request.prompts or request.remove or request.reset)
        if len(self._requests) > max_requests or self.byte_count > max_bytes:
            self.rebase(Base.NOTHING)

    def requests(self) -> tuple[StepRequest, ...]:
        """All of them, oldest first."""
        return tuple(self._requests)


class LastAnswer:
    """The newest answered frame and the masks on it, to go on from when all else is gone."""

    def __init__(self) -> None:
        self._frame_seq = 0
        self._image: ImageArray | None = None
        self._masks: dict[int, ObjectMask] = {}

    def note(self, request: StepRequest, result: StepResult) -> None:
        """A request and its answer. Of a correction of an older frame only objects count that are not known yet."""
        if request.image is not None:
            self._frame_seq, self._image = request.frame_seq, request.image
            self._masks = {one.object_id: one for one in result.objects}
        elif request.frame_seq == self._frame_seq:
            self._masks |= {one.object_id: one for one in result.objects}
        elif self._image is not None:
            fitting = [one for one in result.objects if one.mask.shape == self._image.shape[:2]]
            self._masks = {one.object_id: one for one in fitting} | self._masks
        for object_id in request.remove:
            if object_id not in {one.object_id for one in result.objects}:
                self._masks.pop(object_id, None)

    def as_request(self) -> StepRequest | None:
        """The newest frame with its masks as prompts; None if no frame was answered.

        An absent object has an empty mask, which says that it is not there.
        """
        if self._image is None:
            return None
        prompts = tuple(
            Prompt(object_id=one.object_id, mask=one.mask, mode=PromptMode.RESTART) for one in self._masks.values()
        )
        return StepRequest(self._frame_seq, self._image, prompts)
