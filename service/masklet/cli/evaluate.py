"""`masklet evaluate`: how good are the masks on annotated video?"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Self

from masklet.cli.evaluation_backend import add_model_arguments, open_backend
from masklet.cli.evaluation_data import add_data_arguments, min_area_px, open_data
from masklet.config import ModelConfig
from masklet.errors import ConfigError, MaskletError
from masklet.terminable import leaving_on_sigterm
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
    text = "write the scores there, object by object; those of a run that does not end stay in FILE.part"
    parser.add_argument("--json", type=Path, metavar="FILE", help=text)
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
    _check_model(args)
    settings = EvaluationSettings(
        min_area_px=min_area_px(args),
        clicks=_numbers(args.clicks),
        clicks_per_frame=args.clicks_per_frame,
        prompted_frames=args.prompted_frames,
    )
    sequences = open_data(args)
    with nullcontext() if args.json is None else _ScoreFile(args.json, args, len(sequences)) as scores:
        with leaving_on_sigterm():
            report, model = asyncio.run(_evaluate(args, sequences, settings, scores))
        print(format_table(report))
        if model is not None and not model.trained:
            print("The weights are untrained: these numbers say nothing about SAM 2.")
        if scores is not None:
            scores.finish(report)
    return 0


def _check_model(args: argparse.Namespace) -> None:
    """Raises ConfigError for an option of the model where there is none."""
    for key, usual in asdict(ModelConfig()).items():
        if args.backend == "fake" and getattr(args, key, usual) != usual:
            raise ConfigError(f"--{key.replace('_', '-')} is {getattr(args, key)}, which --backend fake does not use")


async def _evaluate(
    args: argparse.Namespace,
    sequences: Sequence[VideoSequence],
    settings: EvaluationSettings,
    scores: _ScoreFile | None,
) -> tuple[Report, ModelDescription | None]:
    progress = _Progress(len(sequences), scores)
    with ExitStack() as held:
        watch = unwatched
        if args.save_overlays is not None:
            from masklet.cli.evaluation_overlay import OverlayFiles

            watch = held.enter_context(OverlayFiles(args.save_overlays)).show
        async with open_backend(args) as backend:
            model = None if args.mode == "truth" else backend.describe()
            if scores is not None:
                scores.model = model
            report = await evaluate(
                backend, sequences, args.mode, settings=settings, progress=progress.show, watch=watch
            )
            return report, model


class _Progress:
    """A line for every sequence that is done, when its scores are safe."""

    def __init__(self, total: int, scores: _ScoreFile | None) -> None:
        self._total = total
        self._scores = scores
        self._done = 0

    def show(self, score: SequenceScore) -> None:
        if self._scores is not None:
            self._scores.add(score)
        self._done += 1
        found = format_measures(score.measures) or "no object to be scored"
        print(f"[{self._done}/{self._total}] {score.name}: {found}  ({score.seconds:.1f} s)", flush=True)


def _numbers(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() for word in words):
        raise ConfigError(f"--clicks is {text}, must be whole numbers with commas between, for example 1,3,5")
    return tuple(int(word) for word in words)


class _ScoreFile:
    """The file of `--json`: replaced when all scores are there, or left as it was.

    Until then those of the sequences that are done are beside it, in FILE.part. There they stay if the run does not get
    to its end, and the error (after an interrupt a line) says so. What is no file (a pipe, /dev/null) is written to in
    the end.

    Raises:
        ConfigError: on entering, and whenever scores are written: they cannot be.
    """

    def __init__(self, path: Path, args: argparse.Namespace, total: int) -> None:
        """`args`: what was asked for; `total`: how many sequences. Nothing is written yet."""
        self.model: ModelDescription | None = None
        self._plain = os.path.isfile(path) or not os.path.exists(path)  # pathlib's raise where one may not look
        self._path = path.resolve() if self._plain and os.path.islink(path) else path  # a link stays one
        self._part = self._path.with_name(f"{self._path.name}.part")
        self._args = args
        self._total = total
        self._done: list[SequenceScore] = []
        self._kept = False

    def __enter__(self) -> Self:
        """Now, and not after hours, is the time to find that it cannot be written."""
        if os.path.isdir(self._path):
            raise ConfigError(f"{self._path}: cannot be written: Is a directory")
        if self._plain:
            self._try()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if error is None or not self._kept:
            return
        note = f"the scores of {len(self._done)} of {self._total} sequences are in {self._part}"
        if isinstance(error, MaskletError):
            error.args = (f"{error}; {note}",)
        else:
            print(note, file=sys.stderr)

    def add(self, score: SequenceScore) -> None:
        """Keep one more sequence, if there is anything to be kept yet."""
        done = [*self._done, score]
        if self._plain and any(one.objects for one in done):
            self._replace(self._part, self._said(Report(self._args.mode, tuple(done)), partial=True))
            self._kept = True
        self._done = done

    def finish(self, report: Report) -> None:
        """Write all scores."""
        if self._plain:
            self._replace(self._path, self._said(report))
            _remove(self._part)
            return
        try:
            self._path.write_text(self._said(report))
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _said(self, report: Report, *, partial: bool = False) -> str:
        model = None if self.model is None else asdict(self.model)
        said = {"data": self._args.data, "model": model, **({"partial": True} if partial else {}), **report.to_json()}
        return json.dumps(said, indent=1) + "\n"

    def _try(self) -> None:
        """Create what is going to be written, without harm to what is there."""
        fresh = _beside(self._part)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                self._path.open("ab").close()
            fresh.write_text("")
            fresh.unlink()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _replace(self, path: Path, text: str) -> None:
        """All of the new or all of the old content, whatever happens."""
        fresh = _beside(path)
        try:
            fresh.write_text(text)
            os.replace(fresh, path)
        except OSError as error:
            raise _unwritable(path, error) from error
        finally:
            _remove(fresh)


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _remove(path: Path) -> None:
    """If it is there and can be."""
    with suppress(OSError):
        path.unlink()


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: cannot be written: {error.strerror}")
