"""One session of a tracker, frame by frame: what every mode of evaluation drives."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

import numpy as np

from masklet.training.datasets.base import VideoSequence
from masklet.types import ImageArray, MaskArray, ObjectMask, Profile, Prompt, StepRequest, StepResult, TrackSettings

SEMI_SUPERVISED = TrackSettings(
    profile=Profile.VOS, corrections_as_conditioning=False, fill_hole_area=0, history_frames=1
)
"""As a stream with profile `vos` is tracked: live, so that the length of the video is not known."""
INTERACTIVE = TrackSettings(profile=Profile.INTERACTIVE, history_frames=1)
"""As a stream with profile `interactive` is tracked."""
OFFLINE = replace(INTERACTIVE, max_conditioning_frames=None)
"""The same for a client that has the whole video and wants all prompted frames attended to, as the paper does."""


class Tracker(Protocol):
    """The part of a backend (`masklet.backends.base.Backend`) that evaluation needs."""

    async def open(self, session_id: str, settings: TrackSettings) -> None:
        """Start an empty memory bank."""
        ...

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        """Track one frame, or correct one."""
        ...

    async def close(self, session_id: str) -> None:
        """Forget a session."""
        ...


class Session:
    """An open session. Objects are numbered from 0 here, so that no dataset's ids matter."""

    def __init__(self, tracker: Tracker, session_id: str) -> None:
        self._tracker = tracker
        self._id = session_id
        self._frame_seq = 0

    async def step(self, image: ImageArray, prompts: Sequence[Prompt] = ()) -> dict[int, MaskArray]:
        """Track the next frame [H, W, 3]: the objects' masks [H, W], by number."""
        self._frame_seq += 1
        return await self._ask(StepRequest(self._frame_seq, image, tuple(prompts)))

    async def correct(self, prompts: Sequence[Prompt]) -> dict[int, MaskArray]:
        """Say more about the frame just tracked: the corrected objects' masks."""
        return await self._ask(StepRequest(self._frame_seq, None, tuple(prompts)))

    async def _ask(self, request: StepRequest) -> dict[int, MaskArray]:
        result = await self._tracker.step(self._id, request)
        return {found.object_id - 1: found.mask for found in result.objects}


@asynccontextmanager
async def opened(tracker: Tracker, settings: TrackSettings) -> AsyncIterator[Session]:
    """A session that is closed however the block ends."""
    session_id = f"evaluation-{uuid.uuid4().hex}"
    await tracker.open(session_id, settings)
    try:
        yield Session(tracker, session_id)
    finally:
        await tracker.close(session_id)


def mask_prompt(number: int, mask: MaskArray) -> Prompt:
    """Object `number` (from 0) is this mask [H, W]."""
    return Prompt(object_id=number + 1, mask=mask)


def click_prompt(number: int, point: tuple[int, int], label: int) -> Prompt:
    """A click (x, y) on object `number` (from 0), added to those on the same frame."""
    return Prompt.clicks(number + 1, [point], [label], keep_old_points=True)


class TruthTracker:
    """Answers every frame of one sequence with its truth; the session must be shown all frames from `start` on."""

    def __init__(self, sequence: VideoSequence, *, start: int) -> None:
        self._sequence = sequence
        self._start = start
        self._prompted: set[int] = set()

    async def open(self, session_id: str, settings: TrackSettings) -> None:
        """Forget the objects."""
        self._prompted.clear()

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        """The truth about the objects prompted so far; empty masks on frames that are not annotated."""
        self._prompted |= {prompt.object_id for prompt in request.prompts}
        truth = self._sequence.masks(self._start + request.frame_seq - 1)
        if truth is None:
            assert request.image is not None
            truth = np.zeros((len(self._sequence.object_ids), *request.image.shape[:2]), np.bool_)
        objects = (ObjectMask(one, truth[one - 1], 1.0, 1.0) for one in sorted(self._prompted))
        return StepResult(request.frame_seq, tuple(objects))

    async def close(self, session_id: str) -> None:
        """Nothing is held."""
