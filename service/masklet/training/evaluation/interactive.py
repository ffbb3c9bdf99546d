"""Promptable video segmentation (SAM 2, section 6.1 and appendix F.1.2): a simulated person clicks and corrects.

Each object is followed on its own, from the first frame on which it shows. J&F is the mean over all annotated frames
from there on, prompted ones included. Where the object is absent there is nothing to click on: such frames are scored,
but never prompted. Clicks change the frames they are made on and later ones, as in a live stream; in the paper's
offline setting they change earlier ones too.
"""

from __future__ import annotations

from collections.abc import Callable

from masklet.training.datasets.base import VideoSequence
from masklet.training.evaluation.one_object import Clicks, Pass, Target
from masklet.training.evaluation.scores import ObjectScore, Tally, presence_measures
from masklet.training.evaluation.semi import first_frames
from masklet.training.evaluation.settings import EvaluationSettings, Watch
from masklet.training.evaluation.tracking import Tracker


async def evaluate_online(
    tracker: Tracker, sequence: VideoSequence, settings: EvaluationSettings, watch: Watch
) -> tuple[ObjectScore, ...]:
    """One pass; it pauses to correct frames of an IoU below `pause_below_iou`, while prompted frames are left.

    J&F is reported for every limit of prompted frames from 1 on: a pass for each, as long as passes use up their limit.
    """
    found = []
    for target in _targets(sequence, settings):
        passes: list[Pass] = []
        for limit in range(1, settings.prompted_frames + 1):
            if passes and len(passes[-1].clicks) < limit - 1:
                passes.append(passes[-1])
                continue
            clicks: Clicks = {}
            one = Pass(target, _pausing(clicks, limit, settings.pause_below_iou), clicks)
            await one.run(tracker, f"limit{limit}", watch)
            passes.append(one)
        found.append(_score(target, passes))
    return tuple(found)


async def evaluate_offline(
    tracker: Tracker, sequence: VideoSequence, settings: EvaluationSettings, watch: Watch
) -> tuple[ObjectScore, ...]:
    """Several passes; each but the first repeats all clicks and adds some on the frame of the lowest IoU of the last.

    J&F is reported for every pass.
    """
    found = []
    for target in _targets(sequence, settings):
        passes: list[Pass] = []
        for count in range(1, settings.prompted_frames + 1):
            one = _next_pass(passes[-1]) if passes else Pass(target, lambda index, iou: False)
            await one.run(tracker, f"pass{count}", watch)
            passes.append(one)
        found.append(_score(target, passes))
    return tuple(found)


def _targets(sequence: VideoSequence, settings: EvaluationSettings) -> list[Target]:
    starts = first_frames(sequence, settings.min_area_px)
    return [Target(sequence, number, start, settings.clicks_per_frame) for number, start in sorted(starts.items())]


def _pausing(clicks: Clicks, limit: int, below_iou: float) -> Callable[[int, float], bool]:
    return lambda index, iou: len(clicks) < limit and iou < below_iou


def _next_pass(last: Pass) -> Pass:
    worst = min(last.ious, key=last.ious.__getitem__)
    clicks = {index: list(made) for index, made in last.clicks.items()}
    return Pass(last.target, lambda index, iou: index == worst, clicks)


def _score(target: Target, passes: list[Pass]) -> ObjectScore:
    curve = {f"J&F@{count}": Tally(one.scores.mean, 1) for count, one in enumerate(passes, start=1)}
    presence = presence_measures(passes[-1].scores.presence)
    return ObjectScore(target.sequence.object_ids[target.number], curve | presence)
