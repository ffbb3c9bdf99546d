from pathlib import Path

import numpy as np
import pytest
from tests.training.datasets.samples import labels, write_davis, write_youtube_vos

from masklet.errors import DatasetError
from masklet.training.clip import Clip
from masklet.training.datasets import open_dataset, sample_clip
from masklet.training.datasets.clip_sequence import ClipSequence


def test_a_clip_takes_every_nth_annotated_frame(tmp_path: Path) -> None:
    sequence = open_dataset(write_davis(tmp_path))[0]
    clip = sample_clip(sequence, start=1, stride=3, frames=2)
    assert np.array_equal(clip.masks[:, 0], np.stack([labels(1) == 1, labels(4) == 1]))
    assert np.array_equal(clip.frames[1], sequence.frame(4))


def test_frames_that_are_not_annotated_do_not_count(tmp_path: Path) -> None:
    (sequence,) = open_dataset(write_youtube_vos(tmp_path))
    clip = sample_clip(sequence, start=0, stride=1, frames=3)
    assert clip.masks.shape == (3, 2, 48, 64)
    assert np.array_equal(clip.frames[2], sequence.frame(10))


def test_too_short_a_sequence_is_an_error(tmp_path: Path) -> None:
    sequence = open_dataset(write_davis(tmp_path))[0]
    with pytest.raises(DatasetError, match="bear has 5 annotated frames, number 5 was asked for"):
        sample_clip(sequence, start=1, stride=2, frames=3)


@pytest.mark.parametrize("wrong", [{"start": -1}, {"stride": 0}, {"frames": 0}])
def test_senseless_numbers_are_an_error(tmp_path: Path, wrong: dict) -> None:
    sequence = open_dataset(write_davis(tmp_path))[0]
    with pytest.raises(DatasetError, match="must be at least 0, 1 and 1"):
        sample_clip(sequence, **{"start": 0, "stride": 1, "frames": 1} | wrong)


def test_a_clip_in_memory_is_a_sequence() -> None:
    masks = np.stack([np.stack([labels(index) == key for key in (1, 2)]) for index in range(3)])
    clip = Clip(np.zeros((3, 48, 64, 3), np.uint8), masks)
    sequence = ClipSequence("drawn", lambda: clip)
    assert (sequence.frame_count, sequence.object_ids, sequence.annotated_frames) == (3, (1, 2), (0, 1, 2))
    assert np.array_equal(sample_clip(sequence, start=0, stride=1, frames=3).masks, masks)
