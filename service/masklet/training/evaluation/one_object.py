"""One pass over a video that follows one object and is clicked on: what the interactive modes repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from masklet.training.clicks import INCLUDE, Point, corrective_click, first_click
from masklet.training.datasets.base import VideoSequence
from masklet.training.evaluation.scores import FrameScores
from masklet.training.evaluation.settings import View, Watch
from masklet.training.evaluation.tracking import Session, Tracker, click_prompt, opened
from masklet.training.metrics import region_similarity
from masklet.types import ImageArray, MaskArray, TrackSettings

Clicks = dict[int, list[tuple[Point, int]]]
"""By frame: (x, y) and label, in the order they were made."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Object `number` (from 0) of a sequence, to be followed from frame `start`, and how it is clicked on."""

    sequence: VideoSequence
    number: int
    start: int
    clicks_per_frame: int

    def truth(self, index: int) -> MaskArray | None:
        """[H, W]; None: the frame is not annotated."""
        masks = self.sequence.masks(index)
        return None if masks is None else masks[self.number]


@dataclass(slots=True, eq=False)
class Pass:
    """One pass.

    Attributes:
        target: what is followed.
        shown_first: frames that are shown before all others, in this order, and then not again; their answers count in
            their places.
        wants: whether to add corrective clicks to a frame, from its index and the IoU of its answer; the first frame
            gets its clicks in any case, frames on which the object does not show never do.
        clicks: those to repeat; then also those that were added.
        ious: by annotated frame on which the object shows.
        scores: of all annotated frames.
    """

    target: Target
    wants: Callable[[int, float], bool]
    shown_first: tuple[int, ...] = ()
    clicks: Clicks = field(default_factory=dict)
    ious: dict[int, float] = field(default_factory=dict)
    scores: FrameScores = field(default_factory=FrameScores)

    async def run(self, tracker: Tracker, name: str, *, settings: TrackSettings, watch: Watch) -> None:
        """Follow the object to the end of the video, in a session of its own; `name` is for `watch`."""
        sequence = self.target.sequence
        async with opened(tracker, settings) as session:
            early = {index: await self._frame(session, sequence.frame(index), index) for index in self.shown_first}
            for index in range(self.target.start, sequence.frame_count):
                image, truth = sequence.frame(index), self.target.truth(index)
                answer = early.pop(index) if index in early else await self._frame(session, image, index)
                if truth is not None:
                    self._score(truth, answer, index)
                watch(self._view(name, image, truth, answer, index))

    async def _frame(self, session: Session, image: ImageArray, index: int) -> MaskArray:
        truth = self.target.truth(index)
        begins = index == self.target.start and index not in self.clicks
        if begins:
            assert truth is not None
            self.clicks[index] = [(first_click(truth, None), INCLUDE)]
        answer = await self._repeat(session, image, index)
        if truth is None or not truth.any():
            return answer
        if begins:
            return await self._correct(session, truth, answer, index, self.target.clicks_per_frame - 1)
        if self.wants(index, region_similarity(truth, answer)):
            return await self._correct(session, truth, answer, index, self.target.clicks_per_frame)
        return answer

    async def _repeat(self, session: Session, image: ImageArray, index: int) -> MaskArray:
        """The frame with the clicks on record, one after another as they were made."""
        number, said = self.target.number, self.clicks.get(index, [])
        starts = index == self.target.start
        answers = await session.step(image, [click_prompt(number, *said[0])] if starts else [])
        for click in said[1 if starts else 0 :]:
            answers = await session.correct([click_prompt(number, *click)])
        return answers[number]

    async def _correct(
        self, session: Session, truth: MaskArray, answer: MaskArray, index: int, count: int
    ) -> MaskArray:
        """Up to `count` more clicks, each on the larger error of the answer so far."""
        for _ in range(count):
            click = corrective_click(truth, answer, None)
            if click is None:
                break
            self.clicks.setdefault(index, []).append(click)
            answer = (await session.correct([click_prompt(self.target.number, *click)]))[self.target.number]
        return answer

    def _score(self, truth: MaskArray, answer: MaskArray, index: int) -> None:
        iou = self.scores.add(truth, answer)
        if truth.any():
            self.ious[index] = iou

    def _view(self, name: str, image: ImageArray, truth: MaskArray | None, answer: MaskArray, index: int) -> View:
        sequence, number = self.target.sequence, self.target.number
        ids = (sequence.object_ids[number],)
        clicked = len(self.clicks.get(index, ()))
        note = f"frame {index}, clicks: {clicked}" if clicked else f"frame {index}"
        run = f"{sequence.name}-object{ids[0]}-{name}"
        return View(run, note, image, ids, None if truth is None else truth[None], answer[None])
