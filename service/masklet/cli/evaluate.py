"""`masklet evaluate`: how good are the masks on annotated video?"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from masklet.cli.evaluation_backend import add_model_arguments, open_backend
from masklet.cli.evaluation_data import add_data_arguments, min_area_px, open_data
from masklet.errors import ConfigError
from masklet.training.datasets import VideoSequence
from masklet.training.evaluation import MODES, EvaluationSettings, Report, evaluate, format_table
from masklet.training.evaluation.report import format_measures
from masklet.training.evaluation.scores import SequenceScore
from masklet.training.evaluation.settings import unwatched
from masklet.types import ModelDescription

_INTERACTIVE = EvaluationSettings()


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `masklet evaluate`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="score masks on annotated video",
        description="Score masks on annotated video, through any backend. Modes: semi: the first mask of every object "
        "is given (J, F as in DAVIS); clicks: IoU on single frames after some clicks; online: one pass that pauses to "
        "correct poor frames; offline: several passes that each correct the poorest frame of the one before, with "
        "prompted frames shown first; truth: the truth itself.",
    )
    parser.add_argument("--mode", choices=MODES, default="semi", help="default: %(default)s")
    add_data_arguments(parser)
    _add_prompt_arguments(parser)
    add_model_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores there, object by object")
    parser.add_argument("--save-overlays", type=Path, metavar="DIR", help="write videos there: answer beside truth")
    parser.set_defaults(run=run)


def _add_prompt_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("simulated clicks")
    shown = ",".join(map(str, _INTERACTIVE.clicks))
    group.add_argument("--clicks", default=shown, metavar="N,N,...", help="mode clicks (default: %(default)s)")
    group.add_argument("--clicks-per-frame", type=int, default=_INTERACTIVE.clicks_per_frame, metavar="N")
    group.add_argument(
        "--prompted-frames",
        type=int,
        default=_INTERACTIVE.prompted_frames,
        metavar="N",
        help="modes online and offline (default: %(default)s; the SAM 2 paper: 8)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate; raises DatasetError, WeightsError, ConfigError or whatever the backend raises."""
    settings = EvaluationSettings(
        min_area_px=min_area_px(args),
        clicks=_numbers(args.clicks),
        clicks_per_frame=args.clicks_per_frame,
        prompted_frames=args.prompted_frames,
    )
    sequences = open_data(args)
    if args.json is not None:
        _write(args.json, "")  # now, and not after hours, is the time to find that it cannot be written
    report, model = asyncio.run(_evaluate(args, sequences, settings))
    print(format_table(report))
    if model is not None and not model.trained:
        print("The weights are untrained: these numbers say nothing about SAM 2.")
    if args.json is not None:
        said = {"data": args.data, "model": None if model is None else asdict(model), **report.to_json()}
        _write(args.json, json.dumps(said, indent=1) + "\n")
    return 0


async def _evaluate(
    args: argparse.Namespace, sequences: Sequence[VideoSequence], settings: EvaluationSettings
) -> tuple[Report, ModelDescription | None]:
    progress = _Progress(len(sequences))
    with ExitStack() as held:
        watch = unwatched
        if args.save_overlays is not None:
            from masklet.cli.evaluation_overlay import OverlayFiles

            watch = held.enter_context(OverlayFiles(args.save_overlays)).show
        async with open_backend(args) as backend:
            report = await evaluate(
                backend, sequences, args.mode, settings=settings, progress=progress.show, watch=watch
            )
            return report, None if args.mode == "truth" else backend.describe()


class _Progress:
    """A line for every sequence that is done."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def show(self, score: SequenceScore) -> None:
        self._done += 1
        found = format_measures(score.measures) or "no object to be scored"
        print(f"[{self._done}/{self._total}] {score.name}: {found}  ({score.seconds:.1f} s)", flush=True)


def _numbers(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise ConfigError(f"--clicks is {text}, must be whole numbers with commas between, for example 1,3,5")
    return tuple(int(word) for word in words)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
