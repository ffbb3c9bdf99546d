"""Semi-supervised: every object's first mask is given, the others are asked for."""

from __future__ import annotations

import numpy as np

from masklet.training.datasets.base import VideoSequence
from masklet.training.evaluation.scores import FrameScores, ObjectScore
from masklet.training.evaluation.settings import EvaluationSettings, View, Watch
from masklet.training.evaluation.tracking import SEMI_SUPERVISED, Session, Tracker, TruthTracker, mask_prompt, opened
from masklet.types import MaskArray, Prompt


def first_frames(sequence: VideoSequence, min_area_px: int) -> dict[int, int]:
    """Objects by number (from 0), and the first annotated frame on which each shows `min_area_px` or more.

    Objects that never do are left out.
    """
    found: dict[int, int] = {}
    for index in sequence.annotated_frames:
        masks = sequence.masks(index)
        assert masks is not None
        for number in np.flatnonzero(masks.sum(axis=(1, 2)) >= min_area_px).tolist():
            found.setdefault(number, index)
        if len(found) == len(sequence.object_ids):
            break
    return found


async def evaluate_semi(
    tracker: Tracker, sequence: VideoSequence, settings: EvaluationSettings, watch: Watch
) -> tuple[ObjectScore, ...]:
    """One pass over a sequence, all objects at a time.

    As in the DAVIS benchmark, the frame on which an object's mask is given and the sequence's last annotated frame
    are left out of J and F. Frames that are not annotated are tracked, not scored; those before the first object are
    not even sent. Objects that start too late to be scored are left out.
    """
    starts = first_frames(sequence, settings.min_area_px)
    run = _Run(sequence, starts, watch)
    if starts:
        async with opened(tracker, SEMI_SUPERVISED) as session:
            for index in range(min(starts.values()), sequence.frame_count):
                await run.frame(session, index)
    return run.scores()


async def evaluate_truth(
    tracker: Tracker | None, sequence: VideoSequence, settings: EvaluationSettings, watch: Watch
) -> tuple[ObjectScore, ...]:
    """The truth scored like an answer: everything is 1, or the scores or the data are wrong."""
    starts = first_frames(sequence, settings.min_area_px)
    truth = TruthTracker(sequence, start=min(starts.values(), default=0))
    return await evaluate_semi(truth, sequence, settings, watch)


class _Run:
    """One sequence on its way through a tracker."""

    def __init__(self, sequence: VideoSequence, starts: dict[int, int], watch: Watch) -> None:
        self._sequence = sequence
        self._starts = starts
        self._watch = watch
        self._last = max(sequence.annotated_frames, default=0)
        self._found = {number: FrameScores() for number in sorted(starts)}

    async def frame(self, session: Session, index: int) -> None:
        image, truth = self._sequence.frame(index), self._sequence.masks(index)
        answers = await session.step(image, self._prompts(truth, index))
        answer = np.zeros((len(self._sequence.object_ids), *image.shape[:2]), np.bool_)
        for number, mask in answers.items():
            answer[number] = mask
        if truth is not None:
            self._score(truth, answer, index)
        ids = self._sequence.object_ids
        self._watch(View(self._sequence.name, f"frame {index}", image, ids, truth, answer))

    def scores(self) -> tuple[ObjectScore, ...]:
        ids = self._sequence.object_ids
        return tuple(
            ObjectScore(ids[number], scores.measures()) for number, scores in self._found.items() if scores.regions
        )

    def _prompts(self, truth: MaskArray | None, index: int) -> list[Prompt]:
        starting = [number for number, start in self._starts.items() if start == index]
        return [mask_prompt(number, truth[number]) for number in starting] if truth is not None else []

    def _score(self, truth: MaskArray, answer: MaskArray, index: int) -> None:
        for number, scores in self._found.items():
            if index > self._starts[number]:
                scores.add(truth[number], answer[number], averaged=index < self._last)
