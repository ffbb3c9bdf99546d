"""Promptable video segmentation (SAM 2, section 6.1 and appendix F.1.2): a simulated person clicks and corrects.

Each object is followed on its own, from the first frame on which it shows. J&F is the mean over all annotated frames
from there on, prompted ones included. Where the object is absent there is nothing to click on: such frames are scored,
but never prompted.

Online, clicks change the frames they are made on and later ones, as in a live stream. Offline, a person has the whole
video and goes through it again and again; clicks on a frame help the frames before it as well, because in the paper
every frame attends to all prompted frames, past and future. A streaming service knows no future, but a client that has
the whole video may choose the order: here every pass is a stream that shows the prompted frames first, in the order in
which they were prompted, and then all others in the order of the video. As the streams of all passes begin alike, what
was answered on a prompted frame stays. It differs from the reference in three ways, all of them small: object pointers
of prompted frames carry their distance in the stream, not in the video; those of frames further on in the video are
attended to as well; and a frame that was shown first leaves no gap among the recent frames. Nothing is propagated
backwards, since the first prompt is on an object's first frame.
"""

from __future__ import annotations

from collections.abc import Callable

from masklet.training.datasets.base import VideoSequence
from masklet.training.evaluation.one_object import Clicks, Pass, Target
from masklet.training.evaluation.scores import ObjectScore, Tally, presence_measures
from masklet.training.evaluation.semi import first_frames
from masklet.training.evaluation.settings import EvaluationSettings, Watch
from masklet.training.evaluation.tracking import INTERACTIVE, OFFLINE, Tracker


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
            one = Pass(target, _pausing(clicks, limit, settings.pause_below_iou), clicks=clicks)
            await one.run(tracker, f"limit{limit}", settings=INTERACTIVE, watch=watch)
            passes.append(one)
        found.append(_score(target, passes))
    return tuple(found)


async def evaluate_offline(
    tracker: Tracker, sequence: VideoSequence, settings: EvaluationSettings, watch: Watch
) -> tuple[ObjectScore, ...]:
    """Several passes; each but the first adds clicks on the frame of the lowest IoU of the one before.

    A pass begins with the prompted frames, clicked on as before, then that frame; the other frames follow in order.
    J&F is reported for every pass.
    """
    found = []
    for target in _targets(sequence, settings):
        passes: list[Pass] = []
        for count in range(1, settings.prompted_frames + 1):
            one = _next_pass(passes[-1]) if passes else Pass(target, lambda index, iou: False, (target.start,))
            await one.run(tracker, f"pass{count}", settings=OFFLINE, watch=watch)
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
    shown_first = tuple(dict.fromkeys((*last.shown_first, worst)))
    return Pass(last.target, lambda index, iou: index == worst, shown_first, clicks)


def _score(target: Target, passes: list[Pass]) -> ObjectScore:
    curve = {f"J&F@{count}": Tally(one.scores.mean, 1) for count, one in enumerate(passes, start=1)}
    presence = presence_measures(passes[-1].scores.presence)
    return ObjectScore(target.sequence.object_ids[target.number], curve | presence)
