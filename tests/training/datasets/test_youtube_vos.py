from pathlib import Path

import numpy as np
import pytest
from tests.training.datasets.samples import labels, write_annotation, write_youtube_vos

from masklet.errors import DatasetError
from masklet.training.datasets import open_dataset


@pytest.mark.parametrize("meta", [True, False])
def test_objects_that_come_later_have_their_place_from_the_start(tmp_path: Path, meta: bool) -> None:
    (sequence,) = open_dataset(write_youtube_vos(tmp_path, meta=meta))
    assert (sequence.name, sequence.frame_count, sequence.object_ids) == ("a1b2", 11, (2, 4))
    first, later = sequence.masks(0), sequence.masks(5)
    assert first is not None and later is not None
    assert first.any(axis=(1, 2)).tolist() == [True, False]
    assert np.array_equal(later[1], labels(5, ids=(2, 4)) == 4)


def test_only_some_frames_are_annotated(tmp_path: Path) -> None:
    (sequence,) = open_dataset(write_youtube_vos(tmp_path), kind="youtube-vos")
    assert sequence.annotated_frames == (0, 5, 10)
    assert sequence.masks(1) is None and sequence.frame(1).shape == (48, 64, 3)


def test_splits_are_folders(tmp_path: Path) -> None:
    write_youtube_vos(tmp_path / "valid")
    assert [one.name for one in open_dataset(tmp_path, split="valid")] == ["a1b2"]


def test_an_unreadable_list_of_objects_is_an_error(tmp_path: Path) -> None:
    write_youtube_vos(tmp_path)
    (tmp_path / "meta.json").write_text('{"videos": {"a1b2": {}}}')
    with pytest.raises(DatasetError, match=r"meta.json does not list objects by video: KeyError: 'objects'"):
        open_dataset(tmp_path)


def test_missing_frames_folder_of_a_video_is_an_error(tmp_path: Path) -> None:
    write_youtube_vos(tmp_path)
    write_annotation(tmp_path / "Annotations/c3d4/00000.png", labels(0))
    with pytest.raises(DatasetError, match=r"c3d4 has no frames: there is no folder"):
        open_dataset(tmp_path)
