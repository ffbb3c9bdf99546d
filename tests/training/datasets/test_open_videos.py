"""However many videos are read from, few are open."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.training.datasets.samples import SIZE, picture, write_sav, write_video

from masklet.cli import main
from masklet.training.assets import AssetBank
from masklet.training.datasets import open_dataset
from masklet.training.datasets.video_frames import MOST_OPEN, VideoFrames
from masklet.training.parallel import Processes
from masklet.training.recipe import parse_recipe
from masklet.training.source import StepSource

VIDEOS = 40
DESCRIPTORS = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="tells open files by /proc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 videos as in SA-V's training set; no clip reaches their last frame, which has no masks."""
    first = write_sav(tmp_path, frames=12) / "sav_000"
    for number in range(2, VIDEOS + 1):
        for path in sorted(first.glob("sav_000001*")):
            shutil.copy(path, path.with_name(path.name.replace("000001", f"{number:06d}")))
    return tmp_path


def open_videos(folder: Path) -> int:
    return sum(target.startswith(str(folder)) and target.endswith(".mp4") for target in _open_files())


def _open_files() -> Iterator[str]:
    for descriptor in DESCRIPTORS.iterdir():
        try:
            yield os.readlink(descriptor)
        except FileNotFoundError:  # the listing's own
            continue


def test_reading_a_little_of_every_video_leaves_few_open(folder: Path) -> None:
    sequences = open_dataset(folder)
    for sequence in sequences:
        assert np.abs(sequence.frame(4).astype(int) - picture(4)).mean() < 6
    assert len(sequences) == VIDEOS and open_videos(folder) <= MOST_OPEN


def test_training_leaves_few_videos_open(folder: Path) -> None:
    stage = {"steps": VIDEOS, "frames": 2, "size": 64, "clips": 2, "real_share": 1.0}
    recipe = parse_recipe({"variant": "mini", "stages": [stage]})
    source = StepSource(recipe, AssetBank.procedural(), open_dataset(folder), Processes())
    for step in range(VIDEOS):
        _ = source[step]
    assert open_videos(folder) <= MOST_OPEN


def test_scoring_first_frames_leaves_few_videos_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    read = VideoFrames.read

    def watched(video: VideoFrames, index: int, size: tuple[int, int]):
        nonlocal most
        found = read(video, index, size)
        most = max(most, open_videos(folder))
        return found

    monkeypatch.setattr(VideoFrames, "read", watched)
    assert main(["evaluate", "--data", str(folder), "--mode", "clicks", "--clicks", "1", "--backend", "fake"]) == 0
    assert 1 <= most <= MOST_OPEN


def test_a_video_that_was_closed_goes_on_where_it_was(tmp_path: Path) -> None:
    for number in range(MOST_OPEN + 1):
        write_video(tmp_path / f"{number}.mp4", 12)
    videos = [VideoFrames(tmp_path / f"{number}.mp4") for number in range(MOST_OPEN + 1)]
    for index in (0, 5, 3, 11):  # one more than stay open: each is closed before it is its turn again
        for video in videos:
            assert np.abs(video.read(index, SIZE).astype(int) - picture(index)).mean() < 6
    assert open_videos(tmp_path) <= MOST_OPEN


def test_videos_that_are_read_in_turns_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = 0
    decode = VideoFrames._decode

    def watched(video: VideoFrames, first: int):
        nonlocal opened
        opened += 1
        return decode(video, first)

    monkeypatch.setattr(VideoFrames, "_decode", watched)
    for number in range(MOST_OPEN):
        write_video(tmp_path / f"{number}.mp4", 6)
    videos = [VideoFrames(tmp_path / f"{number}.mp4") for number in range(MOST_OPEN)]
    for index in range(6):
        for video in videos:
            video.read(index, SIZE)
    assert opened == MOST_OPEN
