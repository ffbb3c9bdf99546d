"""Clicks on still frames: how good is a mask after one click, and after a few more?"""

from __future__ import annotations

import numpy as np

from masklet.training.clicks import INCLUDE, corrective_click, first_click
from masklet.training.datasets.base import VideoSequence
from masklet.training.evaluation.scores import ObjectScore, Tally
from masklet.training.evaluation.semi import first_frames
from masklet.training.evaluation.settings import EvaluationSettings, View, Watch
from masklet.training.evaluation.tracking import INTERACTIVE, Session, Tracker, click_prompt, opened
from masklet.training.metrics import region_similarity
from masklet.types import ImageArray, MaskArray


async def evaluate_clicks(
    tracker: Tracker, sequence: VideoSequence, settings: EvaluationSettings, watch: Watch
) -> tuple[ObjectScore, ...]:
    """IoU after some clicks on each object's first frame, every frame a session of its own.

    The first click is the object's centre, each next one the centre of the larger error of the answer so far.
    An answer without error is not clicked on any more.
    """
    starts = first_frames(sequence, settings.min_area_px)
    found: list[ObjectScore] = []
    for index in sorted(set(starts.values())):
        numbers = sorted(number for number, start in starts.items() if start == index)
        truth = sequence.masks(index)
        assert truth is not None
        async with opened(tracker, INTERACTIVE) as session:
            still = _Still(session, sequence.frame(index), truth, numbers)
            for click in range(settings.clicks[-1]):
                await still.click()
                watch(_view(sequence, still, index, click + 1))
        found += [_score(sequence.object_ids[number], still.ious[number], settings.clicks) for number in numbers]
    return tuple(sorted(found, key=lambda score: score.object_id))


class _Still:
    """One frame that is clicked on; `ious` by object, one after each click, `answer` [N, H, W] the newest masks."""

    def __init__(self, session: Session, image: ImageArray, truth: MaskArray, numbers: list[int]) -> None:
        self._session = session
        self.image, self.truth = image, truth
        self.ious: dict[int, list[float]] = {number: [] for number in numbers}
        self.answer = np.zeros_like(truth)
        self._begun = False

    async def click(self) -> None:
        """One more click on every object that is not yet perfect."""
        prompts = []
        for number in self.ious:
            click = self._next_click(number)
            if click is not None:
                prompts.append(click_prompt(number, *click))
        if not self._begun:
            answers = await self._session.step(self.image, prompts)
        else:
            answers = await self._session.correct(prompts) if prompts else {}
        self._begun = True
        for number, mask in answers.items():
            self.answer[number] = mask
        for number, ious in self.ious.items():
            ious.append(region_similarity(self.truth[number], self.answer[number]))

    def _next_click(self, number: int) -> tuple[tuple[int, int], int] | None:
        if not self._begun:
            return first_click(self.truth[number], None), INCLUDE
        return corrective_click(self.truth[number], self.answer[number], None)


def _score(object_id: int, ious: list[float], clicks: tuple[int, ...]) -> ObjectScore:
    return ObjectScore(object_id, {f"IoU@{count}": Tally(ious[count - 1], 1) for count in clicks})


def _view(sequence: VideoSequence, still: _Still, index: int, clicks: int) -> View:
    run, numbers = f"{sequence.name}-frame{index}", list(still.ious)
    ids = tuple(sequence.object_ids[number] for number in numbers)
    return View(run, f"clicks: {clicks}", still.image, ids, still.truth[numbers], still.answer[numbers])
