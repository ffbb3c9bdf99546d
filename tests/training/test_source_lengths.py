"""Real clips come from the videos that are long enough for them, and from no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.training.conftest import drifting_squares

from masklet.errors import DatasetError
from masklet.training.assets import AssetBank
from masklet.training.augment import Augmentation
from masklet.training.datasets.clip_sequence import ClipSequence
from masklet.training.parallel import Processes
from masklet.training.recipe import Recipe, parse_recipe
from masklet.training.source import StepSource

SHORT, LONG = 59, 1


class Counted(ClipSequence):
    """Counts how often its length is asked for."""

    asked = 0

    @property
    def annotated_frames(self) -> tuple[int, ...]:
        self.asked += 1
        return super().annotated_frames


def videos(*, short: int = SHORT, long: int = LONG) -> list[Counted]:
    """Of 2 frames, then of 6."""
    clips = [drifting_squares(seed, frames=2 if seed < short else 6) for seed in range(short + long)]
    return [Counted(f"video{index}", _kept(clip)) for index, clip in enumerate(clips)]


def _kept(clip) -> Callable:
    return lambda: clip


def recipe(*stages: dict[str, object]) -> Recipe:
    base = {"steps": 10, "frames": 4, "size": 64, "clips": 2, "real_share": 1.0}
    return parse_recipe({"variant": "mini", "stages": [base | stage for stage in stages or ({},)]})


def source(sequences: list[Counted], *stages: dict[str, object]) -> StepSource:
    return StepSource(recipe(*stages), AssetBank.procedural(), sequences, Processes())


def test_one_long_video_among_many_short_ones_makes_all_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*_: object) -> None:
        raise AssertionError("a synthetic clip was drawn")

    monkeypatch.setattr(StepSource, "_synthetic_clip", drawn)
    steps = source(videos())
    for step in range(10):
        assert steps[step].batch.frames.shape[:2] == (4, 2)


def test_lengths_are_looked_up_once() -> None:
    sequences = videos(short=5, long=2)
    steps = source(sequences, {}, {"frames": 6})
    for step in range(20):
        _ = steps[step]
    assert [one.asked for one in sequences[:5]] == [1] * 5


def test_a_video_that_is_shorter_than_it_says_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "annotated_count", 6)
    steps, stage = source(videos(short=1, long=1)), recipe().stages[0]
    for seed in range(20):
        clip = steps._real_clip(stage, 4, seed, np.random.default_rng(seed))
        assert len(clip.frames) == 4


def test_a_step_is_a_function_of_its_number_alone() -> None:
    first, second = source(videos(short=3, long=3)), source(videos(short=3, long=3))
    _ = second[7], second[2]
    for step in (2, 7):
        assert torch.equal(first[step].batch.frames, second[step].batch.frames)


def test_every_video_that_is_long_enough_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = videos(short=4, long=4)
    steps, stage = source(sequences), recipe().stages[0]
    used: set[str] = set()
    frame = ClipSequence.frame

    def watched(sequence: ClipSequence, index: int) -> np.ndarray:
        used.add(sequence.name)
        return frame(sequence, index)

    monkeypatch.setattr(ClipSequence, "frame", watched)
    for seed in range(40):
        steps._real_clip(stage, 4, seed, np.random.default_rng(seed))
    assert used == {f"video{index}" for index in range(4, 8)}


def test_what_is_passed_over_is_said_by_length() -> None:
    longer: list[dict[str, object]] = [{"frames": 2}, {"frames": 6, "image_share": 0.5}]
    steps = source(videos(short=5, long=2), {}, *longer, {"frames": 40, "real_share": 0.0})
    assert steps.notes() == [
        "5 of 7 videos have fewer than 4 annotated frames and are passed over for clips of 4",
        "5 of 7 videos have fewer than 6 annotated frames and are passed over for clips of 6",
    ]
    assert source(videos(short=0, long=2)).notes() == []
    assert source([]).notes() == []


def test_none_long_enough_is_an_error() -> None:
    with pytest.raises(DatasetError, match="clips of 7 annotated frames, the longest of 3 videos has 6"):
        source(videos(short=2, long=1), {}, {"frames": 7})


def test_videos_that_show_no_object_are_replaced_after_some_tries() -> None:
    bare = drifting_squares(0, frames=6)
    bare.masks[:] = False
    steps, stage = source([Counted("bare", _kept(bare))]), recipe().stages[0]
    clip = steps._real_clip(stage, 4, 1, np.random.default_rng(0))
    assert clip.masks.any() and clip.frames.shape == (4, 64, 64, 3)


def test_a_recipe_says_how_much_real_clips_are_changed() -> None:
    still = {"flip": 0.0, "reverse": 0.0, "min_window": 1.0, "turn": 0.0, "stretch": 0.0, "colour": 0.0, "grey": 0.0}
    plan = recipe({"clips": 1, "frames": 2})
    (video,) = videos(short=0, long=1)
    for worsen, same in ((0.0, True), (1.0, False)):
        changed = replace(plan, augmentation=Augmentation(**still, worsen=worsen))
        steps = StepSource(changed, AssetBank.procedural(), [video], Processes())
        drawn = [steps[step].batch.frames[0, 0].permute(1, 2, 0).numpy() for step in range(12)]
        whole = [video.frame(index) for index in range(6)]
        near = [min(np.abs(one.astype(int) - frame).mean() for frame in whole) < 3 for one in drawn]
        assert all(near) is same
