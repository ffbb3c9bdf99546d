"""Clips drawn by hand, and a tracker whose answers can be worked out: it knows the truth, but forgets it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from masklet.training.clip import Clip
from masklet.training.datasets.clip_sequence import ClipSequence
from masklet.types import ObjectMask, StepRequest, StepResult, TrackSettings

SIZE = (40, 64)


def clip_of(*paths: list[int | None]) -> Clip:
    """One 10 x 10 square per path: its left edge on every frame, None where hidden. Pixels say which frame it is."""
    masks = np.zeros((len(paths[0]), len(paths), *SIZE), bool)
    for number, path in enumerate(paths):
        for index, left in enumerate(path):
            if left is not None:
                masks[index, number, 2 + 13 * number : 12 + 13 * number, left : left + 10] = True
    frames = np.zeros((len(masks), *SIZE, 3), np.uint8)
    frames[:] = np.arange(len(masks))[:, None, None, None]
    return Clip(frames, masks)


def sequence_of(*paths: list[int | None], name: str = "drawn") -> ClipSequence:
    clip = clip_of(*paths)
    return ClipSequence(name, lambda: clip)


class SparseSequence(ClipSequence):
    """Annotated on every second frame only."""

    @property
    def annotated_frames(self) -> tuple[int, ...]:
        return tuple(range(0, self.frame_count, 2))

    def masks(self, index: int):
        return None if index % 2 else super().masks(index)


class ForgetfulTracker:
    """Answers frames it was told something about with the truth, and others with what `recall` makes of it.

    `recall(truth, age)`: [H, W] of the frame, frames from the nearest that the object was prompted on so far. Clicks
    below `clicks_needed` on a frame are answered with nothing. `told` lists (session, frame, object id) of every
    prompt, `shown` (session, frame) of every frame.
    """

    def __init__(self, clip: Clip, recall: Callable[[np.ndarray, int], np.ndarray], *, clicks_needed: int = 1) -> None:
        self._clip, self._recall, self._clicks_needed = clip, recall, clicks_needed
        self._prompted: dict[int, set[int]] = {}
        self._clicks: dict[tuple[int, int], int] = {}
        self.told: list[tuple[int, int, int]] = []
        self.shown: list[tuple[int, int]] = []
        self.sessions = self.open_sessions = 0

    async def open(self, session_id: str, settings: TrackSettings) -> None:
        self._prompted, self._clicks = {}, {}
        self.sessions += 1
        self.open_sessions += 1

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        if request.image is not None:
            self.shown.append((self.sessions, int(request.image[0, 0, 0])))
        index = self.shown[-1][1]
        for prompt in request.prompts:
            self.told.append((self.sessions, index, prompt.object_id))
            key = (index, prompt.object_id)
            self._clicks[key] = self._clicks.get(key, 0) + 1
            self._prompted.setdefault(prompt.object_id, set()).add(index)
        shown = self._prompted if request.image is not None else {prompt.object_id for prompt in request.prompts}
        return StepResult(request.frame_seq, tuple(self._answer(one, index) for one in sorted(shown)))

    async def close(self, session_id: str) -> None:
        self.open_sessions -= 1

    def _answer(self, object_id: int, index: int) -> ObjectMask:
        truth = self._clip.masks[index, object_id - 1]
        age = min(abs(index - prompted) for prompted in self._prompted[object_id])
        if not age and self._clicks.get((index, object_id), self._clicks_needed) < self._clicks_needed:
            return ObjectMask(object_id, np.zeros_like(truth), -1.0, 0.0)
        return ObjectMask(object_id, self._recall(truth, age), 1.0, 1.0)


def forgets_after(frames: int) -> Callable[[np.ndarray, int], np.ndarray]:
    """The truth up to that age, then nothing."""
    return lambda truth, age: truth if age < frames else np.zeros_like(truth)
