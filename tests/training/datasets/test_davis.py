from pathlib import Path

import numpy as np
import pytest
from tests.training.datasets.samples import labels, picture, write_annotation, write_davis, write_frame

from masklet.errors import DatasetError
from masklet.training.datasets import open_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_davis(tmp_path)


def test_videos_are_listed_by_name_with_their_objects(folder: Path) -> None:
    found = open_dataset(folder, kind="davis")
    assert [(one.name, one.frame_count, one.object_ids) for one in found] == [("bear", 5, (1, 2)), ("dogs", 5, (1, 2))]
    assert found[0].annotated_frames == (0, 1, 2, 3, 4)


def test_frames_and_masks_are_those_written(folder: Path) -> None:
    sequence = open_dataset(folder)[1]
    masks = sequence.masks(3)
    assert masks is not None and masks.dtype == np.bool_
    assert np.array_equal(masks, np.stack([labels(3) == 1, labels(3) == 2]))
    assert np.abs(sequence.frame(3).astype(int) - picture(3)).mean() < 4


def test_frames_of_unpadded_names_are_in_the_order_of_their_numbers(folder: Path) -> None:
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        for index in range(5):
            video = folder / kind / "480p/bear"
            (video / f"{index:05d}.{suffix}").rename(video / f"{index + 8}.{suffix}")
    sequence = open_dataset(folder)[0]
    assert sequence.annotated_frames == (0, 1, 2, 3, 4)
    assert all(np.abs(sequence.frame(index).astype(int) - picture(index)).mean() < 4 for index in range(5))


def test_a_split_is_the_newest_years_list(folder: Path) -> None:
    assert [one.name for one in open_dataset(folder, split="val")] == ["bear"]
    with pytest.raises(DatasetError, match=r"holds no list train.txt"):
        open_dataset(folder, split="train")


def test_void_pixels_are_background(folder: Path) -> None:
    marked = labels(0)
    marked[40:, 40:] = 255
    write_annotation(folder / "Annotations/480p/bear/00000.png", marked)
    sequence = open_dataset(folder)[0]
    masks = sequence.masks(0)
    assert sequence.object_ids == (1, 2) and masks is not None
    assert masks[:, 40:, 40:].sum() == 0


def test_frames_without_annotation_are_none(folder: Path) -> None:
    for index in range(1, 5):
        (folder / f"Annotations/480p/bear/{index:05d}.png").unlink()
    sequence = open_dataset(folder)[0]
    assert sequence.annotated_frames == (0,)
    assert sequence.masks(1) is None and sequence.frame(1).shape == (48, 64, 3)


def test_another_resolution_is_taken_if_it_is_the_only_one(folder: Path) -> None:
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind / "480p").rename(folder / kind / "Full-Resolution")
    assert len(open_dataset(folder)) == 2


def test_masks_without_frames_are_an_error(folder: Path) -> None:
    (folder / "JPEGImages/480p/bear/00002.jpg").unlink()
    with pytest.raises(DatasetError, match=r"00002.png has no frame of its name: 1 of 5 .* holds 4 frames"):
        open_dataset(folder)


def test_a_video_without_any_frame_is_an_error(folder: Path) -> None:
    for path in (folder / "JPEGImages/480p/bear").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"bear holds no frames"):
        open_dataset(folder)


def test_an_annotation_of_another_size_is_an_error(folder: Path) -> None:
    write_annotation(folder / "Annotations/480p/bear/00001.png", labels(1, size=(48, 60)))
    sequence = open_dataset(folder)[0]
    with pytest.raises(DatasetError, match=r"00001.png is 48 x 60 .* first frame is 48 x 64"):
        sequence.masks(1)


def test_a_frame_of_another_size_is_an_error(folder: Path) -> None:
    write_frame(folder / "JPEGImages/480p/bear/00001.jpg", 1, size=(50, 64))
    with pytest.raises(DatasetError, match=r"00001.jpg is 50 x 64 .* first frame is 48 x 64"):
        open_dataset(folder)[0].frame(1)


def test_annotations_without_objects_are_an_error(folder: Path) -> None:
    for path in (folder / "Annotations/480p/bear").iterdir():
        write_annotation(path, np.zeros((48, 64), np.uint8))
    with pytest.raises(DatasetError, match=r"no object in 5 annotations from .*00000.png on"):
        _ = open_dataset(folder)[0].object_ids


def test_a_file_that_is_no_image_is_an_error(folder: Path) -> None:
    (folder / "Annotations/480p/bear/00001.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match=r"00001.png cannot be read: it does not start with a PNG header|cannot be"):
        open_dataset(folder)[0].masks(1)


def test_coloured_annotations_are_an_error(folder: Path) -> None:
    write_frame(folder / "Annotations/480p/bear/00001.png", 1)
    with pytest.raises(DatasetError, match=r"00001.png has pixels of mode RGB"):
        open_dataset(folder)[0].masks(1)
