"""What the steps of a stage are made of."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from masklet.training.assets import AssetBank
from masklet.training.clip import Clip
from masklet.training.parallel import Processes
from masklet.training.recipe import Stage, parse_recipe
from masklet.training.source import StepSource
from masklet.training.synthetic import SyntheticVideo

STAGE = {"steps": 4, "frames": 3, "size": 64, "clips": 2}


def source(assets: AssetBank | None = None, **stage: object) -> tuple[StepSource, Stage]:
    recipe = parse_recipe({"variant": "mini", "stages": [STAGE | stage]})
    return StepSource(recipe, assets or AssetBank.procedural(), [], Processes()), recipe.stages[0]


def places(clip: Clip, whole: Clip) -> list[int]:
    """Which of the whole's frames the clip's frames are, but for the camera's noise."""
    seen = whole.frames.astype(float)
    return [int(np.abs(seen - own).mean(axis=(1, 2, 3)).argmin()) for own in clip.frames]


def test_frames_are_picked_in_order_from_a_longer_span():
    steps, stage = source(span=10)
    spreads = []
    for seed in range(20):
        whole = SyntheticVideo(AssetBank.procedural(), stage.synthetic_settings(10)).clip(seed)
        clip = steps._synthetic_clip(stage, 3, seed, np.random.default_rng(seed))
        found = places(clip, whole)
        assert found in (sorted(set(found)), sorted(set(found), reverse=True)) and len(set(found)) == 3
        there = whole.masks[found[1]]
        assert all(any(np.array_equal(mask, other) for other in there) for mask in clip.masks[1])
        assert clip.masks[0].any()
        spreads.append(abs(found[2] - found[0]))
    assert max(spreads) >= 7 and np.mean(spreads) > 3


def test_without_a_span_frames_follow_each_other_and_images_stay_single():
    steps, stage = source()
    whole = SyntheticVideo(AssetBank.procedural(), stage.synthetic_settings(3)).clip(5)
    assert sorted(places(steps._synthetic_clip(stage, 3, 5, np.random.default_rng(0)), whole)) == [0, 1, 2]
    spread, stage = source(span=10)
    assert len(spread._synthetic_clip(stage, 1, 5, np.random.default_rng(0)).frames) == 1


def test_videos_are_burnt_in_and_images_as_many_as_frames_are_trained_on():
    steps, _ = source(steps=20, frames=5, burn_in=3, image_share=0.5)
    shapes = {(steps[step].batch.frames.shape[:2], steps[step].plan.burn_in) for step in range(20)}
    assert shapes == {((5, 2), 3), ((1, 4), 0)}


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 10)])
def test_a_share_of_clips_is_drawn_without_the_assets(share, expected, monkeypatch):
    photo = AssetBank([Image.new("RGB", (320, 320), "red")])
    used: list[AssetBank] = []
    plain = SyntheticVideo.__init__

    def watched(self, assets, settings):
        used.append(assets)
        plain(self, assets, settings)

    monkeypatch.setattr(SyntheticVideo, "__init__", watched)
    steps, stage = source(photo, procedural_share=share)
    for seed in range(10):
        steps._synthetic_clip(stage, 1, seed, np.random.default_rng(seed))
    assert sum(bank is not photo for bank in used) == expected


def test_a_share_of_clips_is_drawn_coarsely_and_enlarged(monkeypatch):
    drawn = []
    draw = SyntheticVideo.clip

    def seen(self, seed, frames=None):
        clip = draw(self, seed, frames)
        drawn.append(clip)
        return clip

    monkeypatch.setattr(SyntheticVideo, "clip", seen)
    steps, stage = source(coarse_share=0.5)
    clips = [steps._synthetic_clip(stage, 3, seed, np.random.default_rng(seed)) for seed in range(12)]
    assert {clip.size for clip in clips} == {(64, 64)}
    assert {clip.size for clip in drawn} == {(42, 42), (64, 64)}
    for clip, original in zip(clips, drawn, strict=True):
        small = clip.resized(original.size)
        order = 1 if np.abs(small.frames[0].astype(int) - original.frames[0]).mean() < 8 else -1  # some run backwards
        assert np.abs(small.frames[::order].astype(int) - original.frames).mean() < 8
        assert (small.masks[::order] != original.masks).mean() < 0.02
