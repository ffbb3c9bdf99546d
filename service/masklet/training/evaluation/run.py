"""Evaluation from end to end: sequence after sequence, in one mode, over one tracker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from masklet.errors import DatasetError
from masklet.training.datasets.base import VideoSequence
from masklet.training.evaluation.interactive import evaluate_offline, evaluate_online
from masklet.training.evaluation.report import Report
from masklet.training.evaluation.scores import ObjectScore, SequenceScore
from masklet.training.evaluation.semi import evaluate_semi, evaluate_truth
from masklet.training.evaluation.settings import EvaluationSettings, Watch, unwatched
from masklet.training.evaluation.stills import evaluate_clicks
from masklet.training.evaluation.tracking import Tracker

_Mode = Callable[[Tracker, VideoSequence, EvaluationSettings, Watch], Awaitable[tuple[ObjectScore, ...]]]
_MODES: dict[str, _Mode] = {
    "semi": evaluate_semi,
    "clicks": evaluate_clicks,
    "online": evaluate_online,
    "offline": evaluate_offline,
    "truth": evaluate_truth,
}
MODES = tuple(_MODES)


def _silent(score: SequenceScore) -> None:
    return


async def evaluate(
    tracker: Tracker,
    sequences: Iterable[VideoSequence],
    mode: str,
    *,
    settings: EvaluationSettings | None = None,
    progress: Callable[[SequenceScore], None] = _silent,
    watch: Watch = unwatched,
) -> Report:
    """Score a tracker; masks are scored frame by frame and not kept.

    Args:
        tracker: a backend that was entered; mode "truth" does not use it.
        sequences: annotated videos.
        mode: one of `MODES`.
        settings: how objects are prompted.
        progress: is told of every sequence when it is done.
        watch: is shown every answered frame.

    Raises:
        DatasetError: a sequence cannot be read, or no sequence has an object that can be scored.
        MaskletError: whatever the tracker raises.
    """
    chosen = settings or EvaluationSettings()
    done: list[SequenceScore] = []
    for sequence in sequences:
        await asyncio.sleep(0)  # else Ctrl-C would not arrive with a tracker that never waits
        started_s = time.perf_counter()
        objects = await _MODES[mode](tracker, sequence, chosen, watch)
        done.append(SequenceScore(sequence.name, sequence.frame_count, time.perf_counter() - started_s, objects))
        progress(done[-1])
    if not any(score.objects for score in done):
        raise DatasetError(
            f"none of {len(done)} sequences has an object of {chosen.min_area_px} pixels or more"
            " with a later annotated frame to be scored"
        )
    return Report(mode, tuple(done))
