import json
from pathlib import Path

import numpy as np
import pytest
from tests.training.datasets.samples import labels, picture, sav_annotation, write_sav, write_video

from masklet.errors import DatasetError
from masklet.training.datasets import open_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sav(tmp_path)


def rewrite(folder: Path, **changes: object) -> None:
    (folder / "sav_000/sav_000001_manual.json").write_text(json.dumps(sav_annotation() | changes))


def test_objects_are_sorted_by_id_and_every_fourth_frame_has_masks(folder: Path) -> None:
    (sequence,) = open_dataset(folder)
    assert (sequence.name, sequence.frame_count, sequence.object_ids) == ("sav_000001", 9, (0, 7))
    assert sequence.annotated_frames == (0, 4, 8)
    assert sequence.masks(3) is None


def test_masks_are_those_that_were_encoded(folder: Path) -> None:
    (sequence,) = open_dataset(folder, kind="sav")
    middle, last = sequence.masks(4), sequence.masks(8)
    assert middle is not None and last is not None
    assert np.array_equal(middle, np.stack([labels(4) == 1, labels(4) == 2]))
    assert last[0].any() and not last[1].any()


@pytest.mark.parametrize("order", [(0, 4, 8), (5, 2, 2, 8, 0)])
def test_frames_come_in_any_order(folder: Path, order: tuple[int, ...]) -> None:
    (sequence,) = open_dataset(folder)
    for index in order:
        assert np.abs(sequence.frame(index).astype(int) - picture(index)).mean() < 6


def test_automatic_masks_are_read_where_there_are_no_manual_ones(folder: Path) -> None:
    (folder / "sav_000/sav_000001_manual.json").unlink()
    assert [one.object_ids for one in open_dataset(folder)] == [(0, 7)]


def test_masks_without_video_are_an_error(folder: Path) -> None:
    (folder / "sav_000/sav_000001.mp4").unlink()
    with pytest.raises(DatasetError, match=r"sav_000001_manual.json has no frames: there is no sav_000001.mp4"):
        open_dataset(folder)


def test_how_many_frames_have_masks_is_told_by_the_head_of_the_file(folder: Path) -> None:
    path, whole = folder / "sav_000/sav_000001_manual.json", json.dumps(sav_annotation())
    (sequence,) = open_dataset(folder)
    for frames, annotated in ((9, 3), (8, 2), (5, 2), (4, 1), (1, 1)):
        path.write_text(whole.replace('"video_frame_count": 9,', f'"video_frame_count": {frames}.0, broken here'))
        assert sequence.annotated_count == annotated
    path.write_text(" " * 5000 + whole)
    assert open_dataset(folder)[0].annotated_count == 3


def test_masks_beyond_the_videos_end_are_an_error(folder: Path) -> None:
    rewrite(folder, video_frame_count=8)
    with pytest.raises(DatasetError, match=r"has masks up to frame 8, the video has 8 frames"):
        _ = open_dataset(folder)[0].frame_count


def test_a_video_shorter_than_claimed_is_an_error(folder: Path) -> None:
    write_video(folder / "sav_000/sav_000001.mp4", 6)
    with pytest.raises(DatasetError, match=r"sav_000001.mp4 has 6 frames, number 8 \(from 0\) was asked for"):
        open_dataset(folder)[0].frame(8)


def test_a_video_of_another_size_is_an_error(folder: Path) -> None:
    write_video(folder / "sav_000/sav_000001.mp4", 9, size=(64, 64))
    with pytest.raises(DatasetError, match=r"has frames of 64 x 64 .* annotation says 48 x 64"):
        open_dataset(folder)[0].frame(0)


def test_a_mask_of_another_size_is_an_error(folder: Path) -> None:
    rewrite(folder, video_height=50)
    with pytest.raises(DatasetError, match=r"a mask of frame 0 is \(48, 64\), the video \(50, 64\)"):
        open_dataset(folder)[0].masks(0)


@pytest.mark.parametrize("counts", ["", "~~~", 5])
def test_run_lengths_that_are_none_are_an_error(folder: Path, counts: object) -> None:
    row = [{"size": [48, 64], "counts": counts}] * 2
    rewrite(folder, masklet=[row])
    with pytest.raises(DatasetError, match=r"a mask of frame 0 cannot be decoded"):
        open_dataset(folder)[0].masks(0)


@pytest.mark.parametrize(
    "changes", [{"masklet": []}, {"masklet_id": []}, {"masklet_id": [1]}, {"masklet": [[]]}, {"video_width": None}]
)
def test_an_annotation_that_does_not_agree_with_itself_is_an_error(folder: Path, changes: dict) -> None:
    rewrite(folder, **changes)
    with pytest.raises(DatasetError, match=r"_manual.json is no SA-V annotation"):
        _ = open_dataset(folder)[0].object_ids


def test_a_file_that_is_no_video_is_an_error(folder: Path) -> None:
    (folder / "sav_000/sav_000001.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(DatasetError, match=r"sav_000001.mp4 cannot be read"):
        open_dataset(folder)[0].frame(0)
