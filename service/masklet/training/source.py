"""What a step trains on, as a function of the step alone: clips from the generator, or from real data.

Nothing is drawn from a state that runs along, so a resumed run sees the very clips it would have seen.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from masklet.errors import DatasetError
from masklet.training.assets import AssetBank
from masklet.training.augment import augment
from masklet.training.batch import TrainingBatch, collate_clips, least_target_area
from masklet.training.clip import Clip
from masklet.training.cutaway import cut_away
from masklet.training.datasets import VideoSequence, sample_clip
from masklet.training.interaction import Plan, draw_plan
from masklet.training.parallel import Processes
from masklet.training.recipe import Recipe, Stage
from masklet.training.synthetic import SyntheticVideo

FIRST_TRAINING_SEED = 1_000_000
_TRIES = 20
_NO_ASSETS = AssetBank.procedural()


@dataclass(frozen=True, slots=True)
class StepInput:
    """One step of one process: the batch, and what the simulated user does (the same in all processes)."""

    batch: TrainingBatch
    plan: Plan


class StepSource(Dataset[StepInput]):
    """Steps by index.

    A clip of a real video comes from those with enough annotated frames for it, each as likely as the others. How many
    they have is looked up once, here. A synthetic clip takes the place of a real one only if videos show no object on
    any of 20 stretches in a row, or turn out to be shorter than they say.

    Raises:
        DatasetError: there are videos, but all are too short for the recipe; or one cannot be read.
    """

    def __init__(
        self, recipe: Recipe, assets: AssetBank, sequences: Sequence[VideoSequence], processes: Processes
    ) -> None:
        self.recipe = recipe
        self.assets = assets
        self.sequences = sequences
        self.processes = processes
        self._long_enough = _by_length(recipe, sequences, shown=processes.leads)

    def __len__(self) -> int:
        return self.recipe.steps

    def notes(self) -> list[str]:
        """For people, a line for each length of clips that some videos are too short for: how many are passed over."""
        total = len(self.sequences)
        return [
            f"{total - len(enough)} of {total} videos have fewer than {frames} annotated frames and are passed over"
            f" for clips of {frames}"
            for frames, enough in self._long_enough.items()
            if len(enough) < total
        ]

    def __getitem__(self, step: int) -> StepInput:
        """The input of a step."""
        _, stage = self.recipe.stage_at(step)
        shared = np.random.default_rng((self.recipe.seed, step))
        images = stage.frames > 1 and shared.random() < stage.image_share
        real = bool(self.sequences) and shared.random() < stage.real_share
        frames = 1 if images else stage.frames
        clips = stage.clips * (stage.frames - stage.burn_in) if images else stage.clips
        plan = draw_plan(shared, frames, self.recipe.interaction, burn_in=0 if images else stage.burn_in)
        own = np.random.default_rng((self.recipe.seed, step, 1 + self.processes.rank))
        make = self._real_clip if real else self._synthetic_clip
        drawn = [make(stage, frames, self._seed(step, index, clips), own) for index in range(clips)]
        if stage.cutaways:
            drawn = cut_away(drawn, stage.cutaways, own)
        return StepInput(collate_clips(drawn, max_targets=stage.targets, random=own), plan)

    def _seed(self, step: int, index: int, clips: int) -> int:
        position = (step * self.processes.count + self.processes.rank) * clips + index
        return FIRST_TRAINING_SEED * (1 + self.recipe.seed) + position

    def _synthetic_clip(self, stage: Stage, frames: int, seed: int, random: np.random.Generator) -> Clip:
        span = max(frames, stage.span) if frames > 1 else 1
        assets = _NO_ASSETS if random.random() < stage.procedural_share else self.assets
        picked = np.sort(random.choice(span, frames, replace=False)).tolist() if span > frames else None
        coarse = stage.coarse_share > 0 and random.random() < stage.coarse_share
        clip = SyntheticVideo(assets, stage.synthetic_settings(span, coarse=coarse)).clip(seed, picked)
        clip = clip.resized((stage.size, stage.size)) if coarse else clip
        return _reversed(clip) if random.random() < 0.5 else clip

    def _real_clip(self, stage: Stage, frames: int, seed: int, random: np.random.Generator) -> Clip:
        """A stretch of a real video that is long enough, augmented; drawn again if its first frame shows nothing then.

        A synthetic clip after so many tries in vain: of data whose objects hardly ever show, or are tiny.
        """
        enough = self._long_enough[frames]
        for _ in range(_TRIES):
            sequence = enough[int(random.integers(len(enough)))]
            annotated = len(sequence.annotated_frames)
            if annotated < frames:  # fewer than its head says
                continue
            stride = int(random.integers(1, 4)) if frames > 1 else 1
            stride = max(1, min(stride, (annotated - 1) // max(1, frames - 1)))
            start = int(random.integers(0, annotated - stride * (frames - 1)))
            clip = sample_clip(sequence, start=start, stride=stride, frames=frames)
            clip = augment(clip, random, size=(stage.size, stage.size), settings=self.recipe.augmentation)
            if _shows(clip):
                return clip
        return self._synthetic_clip(stage, frames, seed, random)


def _by_length(
    recipe: Recipe, sequences: Sequence[VideoSequence], *, shown: bool
) -> dict[int, tuple[VideoSequence, ...]]:
    """By the length of real clips that the recipe wants, rising: the videos with so many annotated frames.

    Args:
        recipe: says which lengths.
        sequences: all there are.
        shown: show a progress bar if it takes long: some datasets say in a file for each video.

    Raises:
        DatasetError: there are videos, but none long enough, so that synthetic ones would take their place.
    """
    lengths = sorted({frames for stage in recipe.stages for frames in _real_lengths(stage)})
    if not sequences or not lengths:
        return {}
    looked_at = tqdm(sequences, "lengths of videos", delay=2, leave=False, unit="video", disable=not shown)
    annotated = [sequence.annotated_count for sequence in looked_at]
    if max(annotated) < lengths[-1]:
        raise DatasetError(
            f"the recipe wants clips of {lengths[-1]} annotated frames, the longest of {len(sequences)} videos has"
            f" {max(annotated)}"
        )
    counted = list(zip(sequences, annotated, strict=True))
    return {frames: tuple(one for one, count in counted if count >= frames) for frames in lengths}


def _real_lengths(stage: Stage) -> set[int]:
    """The numbers of frames of the real clips that a stage may draw."""
    if not stage.real_share:
        return set()
    return {stage.frames, 1} if stage.image_share else {stage.frames}


def _shows(clip: Clip) -> bool:
    return bool((clip.masks[0].sum(axis=(1, 2)) >= least_target_area(clip.size)).any())


def _reversed(clip: Clip) -> Clip:
    """The clip backwards, if something shows on its last frame."""
    backwards = Clip(clip.frames[::-1], clip.masks[::-1])
    return backwards if _shows(backwards) else clip


def load_steps(source: StepSource, *, first: int, last: int, workers: int) -> Iterator[StepInput]:
    """Steps `first` to `last` - 1 in order, prepared ahead by `workers` processes (0: by this one).

    Raises:
        DatasetError: a video cannot be read.
    """
    loader = DataLoader(
        _Faults(source),
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread if workers else None,
    )
    for found in loader:
        if isinstance(found, DatasetError):
            raise found
        yield found


class _Faults(Dataset[StepInput | DatasetError]):
    """Hands faults of the data over as values: raised in a worker, they would come with the worker's whole trace."""

    def __init__(self, source: StepSource) -> None:
        self._source = source

    def __getitem__(self, step: int) -> StepInput | DatasetError:
        try:
            return self._source[step]
        except DatasetError as error:
            return error


def _one_thread(worker: int) -> None:
    """Ctrl-C, and torchrun's SIGTERM, go to all processes; this one ends with the one that trains, which saves."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
